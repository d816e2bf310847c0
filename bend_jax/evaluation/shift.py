"""How well scores of a vote tell other images from the test images."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bend_jax import metrics
from bend_jax.evaluation import scores, uncertainty
from bend_jax.evaluation.predict import Outputs


def uncertainties(
    found: dict[str, Outputs], main: str, num_classes: int
) -> dict[str, dict[str, Float[np.ndarray, " n"]]]:
    """By vote and score, how unsure each image leaves it: the larger, the less like what it was trained on.

    max_probability is minus the largest probability, entropy the probabilities' own. energy and max_logit (minus the
    largest) are of the mean logits, of the base and of all members. The members' vote disagreement and mutual
    information belong to both of their votes; the base, one net, has neither.
    """
    result = {
        vote: {"max_probability": -p.max(axis=1), "entropy": np.asarray(uncertainty.entropy(jnp.asarray(p)))}
        for vote, p in scores.reported_probabilities(found, main, num_classes).items()
    }
    counts = metrics.counts(jnp.asarray(found[main].predictions), num_classes)
    information = found[main].information
    assert information is not None
    for vote in ("mean", "sbend"):
        result[vote]["vote_disagreement"] = np.asarray(uncertainty.vote_disagreement(counts))
        result[vote]["mutual_information"] = information
    for vote, name in (("base", "base"), ("mean", main)):
        if found[name].energy is not None:
            result[vote] |= {"energy": found[name].energy, "max_logit": found[name].max_logit}
    return result


def detection(inside: dict[str, dict[str, Any]], outside: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How well each score of `uncertainties` tells other images (positives) from test images (negatives)."""
    result: dict[str, Any] = {}
    for vote, own in inside.items():
        for score, negatives in own.items():
            both = (negatives, outside[vote][score])
            found = {"auroc": uncertainty.auroc(*both), "fpr95": uncertainty.fpr95(*both)}
            result.setdefault(vote, {})[score] = found
    return result
