"""The arrays behind a report's figures: against the number of members, member by member, and against confidence."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bend_jax import metrics
from bend_jax.evaluation import uncertainty
from bend_jax.evaluation.predict import Outputs

SINGLE = ("base", "swa", "checkpoints")  # sets that are no generator's
STEPS = 50  # numbers of members, at most, on a curve against m
POINTS = 200  # at most, on a risk-coverage curve


def steps(m: int) -> tuple[int, ...]:
    """1, 2, 3, 5, ... m: at most STEPS numbers of members, evenly spaced in their logarithm, as far as whole."""
    return tuple(int(x) for x in np.unique(np.round(np.geomspace(1, m, STEPS)).astype(int)))


def by_members(
    own: Outputs, labels: Int[np.ndarray, " n"], views: int, num_classes: int
) -> dict[str, list[int] | list[float]]:
    """Votes of the first m members in the order drawn (BEND, Fig. 5b): accuracy of sBEND and of the mean vote, mean
    accuracy of the members ("single"), NLL of the mean vote; at the numbers of members of `own.running`.

    Counts of labels and sums of accuracies are carried from one m to the next.
    """
    assert own.running is not None
    counts = np.zeros((len(labels), num_classes), np.int32)
    images, right, done = np.arange(len(labels)), 0.0, 0
    sbend, single = [], []
    for m in own.running.members:
        for predictions in own.predictions[done * views : m * views]:
            counts[images, predictions] += 1
            right += float((predictions == labels).mean()) / views
        done = m
        sbend.append(float((counts.argmax(axis=1) == labels).mean()))
        single.append(right / m)
    mean = (own.running.predictions == labels).mean(axis=1)
    losses = -np.log(np.maximum(own.running.likelihoods, metrics.TINY)).mean(axis=1, dtype=np.float64)
    m_values = list(own.running.members)
    return {"m": m_values, "sbend": sbend, "mean": mean.tolist(), "single": single, "nll": losses.tolist()}


def members(
    own: Outputs, checkpoints: Outputs | None, labels: Int[np.ndarray, " n"], views: int
) -> dict[str, list[float]]:
    """Accuracy of every member, and its largest error IoU to a checkpoint (None: to another member, which is for the
    checkpoints themselves): p-diff's scatter. Both are means over a member's views."""
    a, y = jnp.asarray(own.predictions), jnp.asarray(labels)
    if checkpoints is None:
        similar = metrics.others_iou(a, y, views)
    else:
        similar = metrics.max_iou(a, jnp.asarray(checkpoints.predictions), y)
    accuracy = (own.predictions == labels).mean(axis=1)
    return {
        "accuracy": accuracy.reshape(-1, views).mean(axis=1).tolist(),
        "max_iou": np.asarray(similar, np.float64).reshape(-1, views).mean(axis=1).tolist(),
    }


def reliability(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], bins: int
) -> dict[str, list[float | None]]:
    """`metrics.reliability`, with None in empty bins."""
    found = metrics.reliability(jnp.asarray(probabilities), jnp.asarray(labels), bins)
    return {
        name: [None if np.isnan(x) else float(x) for x in np.asarray(values)]
        for name, values in found._asdict().items()
    }


def risk_coverage(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> dict[str, list[float]]:
    """`ranking.risk_coverage` by the largest probability, at up to POINTS evenly spaced coverages, the last one 1."""
    found = uncertainty.risk_coverage(probabilities.max(axis=1), probabilities.argmax(axis=1) != labels)
    n = len(labels)
    kept = np.round(np.arange(1, min(POINTS, n) + 1) * n / min(POINTS, n)).astype(int) - 1
    return {name: values[kept].tolist() for name, values in found._asdict().items()}


def curves(
    test: dict[str, Outputs],
    votes: dict[str, tuple[Any, float]],
    labels: Int[np.ndarray, " n"],
    main: str,
    views: int,
    bins: int,
    num_classes: int,
) -> dict[str, Any]:
    """All of them. votes: probabilities on test images, and the temperature, of each vote that gets calibration curves;
    main: the generator whose members are counted up."""
    sets = {"checkpoints": None, **{name: test["checkpoints"] for name in test if name not in SINGLE}}
    return {
        "by_members": by_members(test[main], labels, views, num_classes),
        "members": {name: members(test[name], other, labels, views) for name, other in sets.items()},
        **of_votes(votes, labels, bins),
    }


def of_votes(
    votes: dict[str, tuple[Any, float]], labels: Int[np.ndarray, " n"], bins: int
) -> dict[str, dict[str, Any]]:
    """Reliability before and after temperature scaling, and risk against coverage, of each vote."""
    scaled = {
        vote: np.asarray(metrics.scale_temperature(jnp.asarray(p), temperature))
        for vote, (p, temperature) in votes.items()
    }
    return {
        "reliability": {
            vote: {"before": reliability(p, labels, bins), "after": reliability(scaled[vote], labels, bins)}
            for vote, (p, _) in votes.items()
        },
        "risk_coverage": {vote: risk_coverage(p, labels) for vote, (p, _) in votes.items()},
    }
