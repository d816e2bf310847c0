"""What the vote of `fit` is held against on validation: the base, and stand-ins for the generator."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bend_jax import metrics
from bend_jax.ensemble import Ensemble, choose_vote
from bend_jax.generate.average import Average
from bend_jax.generate.gaussian import Gaussian
from bend_jax.subset import Subset

NULLS = (Gaussian(), Average())  # as many members, and a single one


class Judged(NamedTuple):
    """The vote and temperature of least NLL on validation images, and what they give and reach there."""

    vote: str
    temperature: float
    accuracy: float
    nll: float
    probabilities: Any  # [n, classes], after temperature scaling


def judge(members: Ensemble, validation: tuple[Any, Any], votes: Sequence[str]) -> Judged:
    """The choice of `choose_vote` and its measures."""
    images, labels = validation
    found = members.votes(images, votes)
    vote, temperature = choose_vote(found, labels)
    p = metrics.scale_temperature(jnp.asarray(found[vote]), temperature)
    y = jnp.asarray(labels)
    return Judged(vote, temperature, float(metrics.accuracy(jnp.argmax(p, axis=1), y)), float(metrics.nll(p, y)), p)


def closing_line(
    made: Ensemble,
    own: Judged,
    validation: tuple[Any, Any],
    votes: Sequence[str],
    generate: Any,
    draw: Callable[[Any], Any],
) -> str:
    """Base, vote and best null on validation, each after its own choice of vote and temperature.

    generate: the settings of the ensemble's generator; draw(settings) -> members of a null from the same checkpoints.
    The nulls are a Gaussian for each number, with as many members, and the average of the checkpoints. Of those that
    are not the generator itself the best is the one of least NLL.
    """

    def other(vectors: Any, subset: Subset) -> Judged:
        ensemble = made.replace(subset=subset, vectors=np.asarray(vectors), weights=np.ones(len(vectors)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a temperature at the end of its range: the ensemble's own has warned
            return judge(ensemble, validation, votes)

    base = other(np.zeros((1, 0), np.float32), Subset((), ()))
    nulls = {type(s).__name__: other(draw(s), made.subset) for s in NULLS if type(s) is not type(generate)}
    name = min(nulls, key=lambda name: nulls[name].nll)
    words = [("base", base), (f"vote of {len(made.vectors)}", own), (f"best null ({name})", nulls[name])]
    rows = ", ".join(f"{what} {found.accuracy:.2%} (NLL {found.nll:.4f})" for what, found in words)
    return f"on {len(validation[1]):,} validation images: {rows}"
