"""Conformal prediction sets: as few labels for each image as hold the true one as often as was asked for.

Split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002). Every label of an image has a score,
the larger, the less it fits. Of v calibration images that no network was trained on, the k-th smallest score of the
true label is the threshold, k = ceil((v + 1) coverage), and a set holds the labels at or below it.

The guarantee: where calibration images and new ones are exchangeable and the scores were fixed without either, a new
image's set holds its label with probability k / (v + 1) >= coverage (above it where scores tie). This is over the
calibration images too: for those at hand the coverage is a draw of Beta(k, v + 1 - k), and on n new images of a
beta-binomial (Vovk 2012). With "class_conditional" it holds within each class, for the v of that class.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bend_jax.checks import SettingsError, did_you_mean

METHODS = ("lac", "aps", "raps", "class_conditional")
FREE, PENALTY = 2, 0.1  # RAPS: labels without a penalty, and that of each further one; fixed, since tuning needs images


class Calibration(NamedTuple):
    """What sets are calibrated with: of v images that no network was trained on their labels, and the score of the true
    label by each rule of `scores`."""

    labels: Int[Any, " v"]
    lac: Float[Any, " v"]
    aps: Float[Any, " v"]
    raps: Float[Any, " v"]


def scores(probabilities: Float[Any, "n classes"]) -> dict[str, Float[np.ndarray, "n classes"]]:
    """How badly each label fits each image, by rule.

    - lac: 1 - its probability (Sadinle, Lei & Wasserman 2019).
    - aps: the probability of all labels above it (Romano, Sesia & Candes 2020, at u = 0 instead of a uniform u): not
      randomised, so that the same image has the same set again, which always holds its most probable label. Where the
      coverage that is asked for is below the accuracy, that label is all of it, and the coverage is the accuracy.
    - raps: aps with PENALTY for every label above it from the FREE-th on (Angelopoulos et al. 2021).

    Labels of one probability have one score, so that the order of classes does not count.
    """
    p = np.asarray(probabilities, np.float32)
    order = np.argsort(-p, axis=1)
    ranked = np.take_along_axis(p, order, axis=1)
    above = np.cumsum(ranked, axis=1, dtype=np.float64) - ranked
    ties = np.zeros(p.shape, bool)
    ties[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    rank = np.broadcast_to(np.arange(p.shape[1]), p.shape)
    if ties.any():
        rank = np.maximum.accumulate(np.where(ties, 0, rank), axis=1)
        above = np.take_along_axis(above, rank, axis=1)
    aps, raps = np.empty_like(p), np.empty_like(p)
    np.put_along_axis(aps, order, above.astype(np.float32), axis=1)
    penalised = above + PENALTY * np.maximum(rank + 1 - FREE, 0)
    np.put_along_axis(raps, order, penalised.astype(np.float32), axis=1)
    return {"lac": 1 - p, "aps": aps, "raps": raps}


def calibrate(probabilities: Float[Any, "v classes"], labels: Int[Any, " v"]) -> Calibration:
    """The scores of the true labels of v calibration images."""
    y = np.asarray(labels)
    own = {rule: found[np.arange(len(y)), y] for rule, found in scores(probabilities).items()}
    return Calibration(y, **own)


def check_coverage(coverage: Any) -> None:
    """Raise SettingsError for one that is no share between 0 and 1."""
    if not isinstance(coverage, int | float | np.floating) or not 0 < coverage < 1:
        raise SettingsError(f"coverage must be a number in (0, 1), such as 0.9; got {coverage!r}")


def check_calibration(calibration: Calibration | None, coverage: Any) -> None:
    """Raise SettingsError for a vote that has nothing to calibrate its sets with, and for no share of coverage."""
    if calibration is None:
        raise SettingsError(
            "this vote has nothing to calibrate conformal sets with, as validation=... gives; with images that its "
            "networks have not seen: vote.replace(calibration=bend_jax.conformal.calibrate(vote.predict_proba(images), "
            "labels))"
        )
    check_coverage(coverage)


def smallest(coverage: float) -> int:
    """The least number of calibration images with which that coverage can be promised: coverage / (1 - coverage)."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def shortage(count: int, coverage: float) -> str:
    """A line where `count` calibration images are too few for any set of that coverage; "" where they do."""
    least = smallest(coverage)
    if count >= least:
        return ""
    return f"no conformal sets: a coverage of {coverage:g} needs at least {least} validation images; there are {count}"


def place(count: int, coverage: float) -> int:
    """k: which of `count` scores, the smallest first, is the threshold. Raises SettingsError where they are too few."""
    check_coverage(coverage)
    if count < smallest(coverage):
        raise SettingsError(
            f"a coverage of {coverage:g} needs at least {smallest(coverage)} calibration images; {count} came: give "
            "more validation images, or ask for less coverage"
        )
    return math.ceil((count + 1) * coverage - 1e-9)


def threshold(own: Float[Any, " v"], coverage: float) -> float:
    """The score up to which labels are in a set, from those of the true labels of v calibration images."""
    k = place(len(own), coverage)
    return float(np.partition(np.asarray(own), k - 1)[k - 1])


def thresholds(calibration: Calibration, method: str, coverage: float, classes: int) -> Float[np.ndarray, " classes"]:
    """Of every class: for "class_conditional" from the images of that class alone (Mondrian: Vovk 2012), with lac's
    scores. Raises SettingsError where there are too few images, or too few of a class."""
    check_coverage(coverage)
    if method not in METHODS:
        raise SettingsError(
            f"unknown method {method!r}{did_you_mean(str(method), METHODS)}; there are {', '.join(METHODS)}"
        )
    if method != "class_conditional":
        return np.full(classes, threshold(getattr(calibration, method), coverage), np.float32)
    count = np.bincount(calibration.labels, minlength=classes)
    least = int(count.argmin())
    if count[least] < smallest(coverage):
        raise SettingsError(
            f"a coverage of {coverage:g} in every class needs at least {smallest(coverage)} calibration images of each "
            f"one; class {least} has {count[least]}: give more validation images, ask for less coverage, or take "
            "another method"
        )
    by_class = [threshold(calibration.lac[calibration.labels == c], coverage) for c in range(classes)]
    return np.array(by_class, np.float32)


def sets(
    calibration: Calibration,
    found: dict[str, Float[np.ndarray, "n classes"]],
    method: str,
    coverage: float,
) -> Bool[np.ndarray, "n classes"]:
    """Which labels are in the set of each image, from their `scores`. Raises what `thresholds` raises.

    A set of lac and of class_conditional may be empty: then no label is as probable as those of the calibration images
    were. With aps and raps it holds the most probable label.
    """
    rule = "lac" if method == "class_conditional" else method
    limits = thresholds(calibration, method, coverage, next(iter(found.values())).shape[1])
    return found[rule] <= limits[None]


def all_sets(
    calibration: Calibration, probabilities: Float[Any, "n classes"], coverage: float
) -> dict[str, Bool[np.ndarray, "n classes"] | None]:
    """`sets` by every method; None where there are too few calibration images for it."""
    found, classes = scores(probabilities), probabilities.shape[1]
    count = np.bincount(calibration.labels, minlength=classes)
    least = {method: count.min() if method == "class_conditional" else count.sum() for method in METHODS}
    return {
        method: sets(calibration, found, method, coverage) if least[method] >= smallest(coverage) else None
        for method in METHODS
    }


def expected_coverage(count: int, coverage: float, images: int) -> tuple[float, float]:
    """The middle 95% of the coverage of `images` new images with `count` calibration images: of
    BetaBinomial(images, k, count + 1 - k) / images."""
    from scipy.stats import betabinom

    k = place(count, coverage)
    low, high = betabinom.ppf([0.025, 0.975], images, k, count + 1 - k)
    return float(low / images), float(high / images)
