"""How good, how sure, how diverse, how new: every measure of a report, as pure functions."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

TEMPERATURES = (1 / 16, 16.0)  # the range of a fitted temperature
TINY = 1e-12  # the least probability whose logarithm is taken
DRAWS = 2000  # of a paired bootstrap


@jax.jit
def accuracy(predictions: Int[Array, " n"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Share of images labelled right."""
    return jnp.mean(predictions == labels)


@jax.jit
def nll(probabilities: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Mean negative log-likelihood of the true label, natural logarithm."""
    chosen = jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return -jnp.mean(jnp.log(jnp.maximum(chosen, TINY)))


@jax.jit
def brier(probabilities: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """Squared distance to the one-hot label, summed over classes, averaged over images (Brier 1950)."""
    one_hot = jax.nn.one_hot(labels, probabilities.shape[1])
    return jnp.mean(jnp.sum((probabilities - one_hot) ** 2, axis=1))


@partial(jax.jit, static_argnames="bins")
def ece(probabilities: Float[Array, "n classes"], labels: Int[Array, " n"], bins: int = 15) -> Float[Array, ""]:
    """Expected calibration error over `bins` equal-width bins (lo, hi] of the confidence (Guo et al. 2017)."""
    index, confidence, right = _binned(probabilities, labels, bins)
    gap = jnp.zeros(bins).at[index].add(right - confidence)
    return jnp.sum(jnp.abs(gap)) / labels.shape[0]


class Reliability(NamedTuple):
    """Of each bin: mean confidence and accuracy of its images (NaN where it has none), and its share of all images."""

    confidence: Float[Array, " bins"]
    accuracy: Float[Array, " bins"]
    share: Float[Array, " bins"]


@partial(jax.jit, static_argnames="bins")
def reliability(probabilities: Float[Array, "n classes"], labels: Int[Array, " n"], bins: int = 15) -> Reliability:
    """The reliability diagram over the bins of `ece`, which is the sum of share * |accuracy - confidence|."""
    index, confidence, right = _binned(probabilities, labels, bins)
    count = jnp.bincount(index, length=bins)
    return Reliability(
        jnp.bincount(index, weights=confidence, length=bins) / count,
        jnp.bincount(index, weights=right.astype(jnp.float32), length=bins) / count,
        count / labels.shape[0],
    )


def _binned(
    probabilities: Float[Array, "n classes"], labels: Int[Array, " n"], bins: int
) -> tuple[Int[Array, " n"], Float[Array, " n"], Bool[Array, " n"]]:
    """Bin, confidence, and whether the label is right, of every image."""
    confidence = jnp.max(probabilities, axis=1)
    right = jnp.argmax(probabilities, axis=1) == labels
    edges = jnp.linspace(0.0, 1.0, bins + 1)
    index = jnp.clip(jnp.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    return index, confidence, right


def fit_temperature(probabilities: Float[Array, "n classes"], labels: Int[Array, " n"]) -> float:
    """The temperature in TEMPERATURES of least NLL on these (validation) images; see `scale_temperature`.

    The NLL is convex in 1/T, so that a bounded search over log T finds the one minimum.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return float(nll(scale_temperature(probabilities, np.float32(np.exp(log_t))), labels))

    found: Any = minimize_scalar(loss, bounds=np.log(TEMPERATURES), options={"xatol": 1e-6})
    return float(np.float32(np.exp(found.x)))


@jax.jit
def scale_temperature(
    probabilities: Float[Array, "n classes"], temperature: Float[Array, ""] | float
) -> Float[Array, "n classes"]:
    """Probabilities to the power 1/T, normalised: softmax(logits / T) where they are a softmax."""
    return jax.nn.softmax(jnp.log(jnp.maximum(probabilities, TINY)) / temperature, axis=1)


@partial(jax.jit, static_argnames="num_classes")
def counts(predictions: Int[Array, "m n"], num_classes: int) -> Int[Array, "n classes"]:
    """How many of the m members give each label to each image."""
    images = jnp.arange(predictions.shape[1])[None]
    return jnp.zeros((predictions.shape[1], num_classes), jnp.int32).at[images, predictions].add(1)


def disagreement(predictions: Int[Array, "m n"]) -> float:
    """Mean over pairs i != j of members of the share of images they label differently (0 for m = 1)."""
    m, n = predictions.shape
    if m < 2:
        return 0.0
    agreeing = np.sum(_pair_counts(predictions, predictions)) - m * n
    return float(1.0 - agreeing / (m * (m - 1) * n))


def cross_disagreement(a: Int[Array, "m n"], b: Int[Array, "k n"]) -> float:
    """Mean over all pairs of one of `a` and one of `b` of the share of images labelled differently."""
    return float(1.0 - np.mean(_pair_counts(a, b) / (a.shape[0] * b.shape[0])))


def _pair_counts(a: Int[Array, "m n"], b: Int[Array, "k n"]) -> np.ndarray:
    """Per image, the number of pairs (i of a, j of b) with the same label; exact in float64."""
    num_classes = int(max(jnp.max(a), jnp.max(b))) + 1
    left, right = (np.asarray(counts(p, num_classes), np.float64) for p in (a, b))
    return np.sum(left * right, axis=1)


def eq14(predictions: Int[Array, "m n"]) -> float:
    """BEND eq. 14 as printed: differing (i, j, image) triples over m - 1. Divide by m n for `disagreement`."""
    m, n = predictions.shape
    return disagreement(predictions) * m * n


def eq15(members: Int[Array, "m n"], checkpoints: Int[Array, "k n"]) -> float:
    """BEND eq. 15 as printed: images on which member i and checkpoint i differ, mean over i.

    It pairs by index; with k != m the first min(m, k) of both are paired.
    """
    pairs = min(members.shape[0], checkpoints.shape[0])
    return float(jnp.sum(members[:pairs] != checkpoints[:pairs]) / pairs)


def error_iou(predictions_a: Int[Array, " n"], predictions_b: Int[Array, " n"], labels: Int[Array, " n"]) -> float:
    """|W1 & W2| / |W1 | W2| over the sets of wrongly labelled images; 1.0 where both are empty."""
    return float(_iou_matrix((predictions_a != labels)[None], (predictions_b != labels)[None])[0, 0])


@jax.jit
def _iou_matrix(wrong_a: Bool[Array, "m n"], wrong_b: Bool[Array, "k n"]) -> Float[Array, "m k"]:
    a, b = wrong_a.astype(jnp.float32), wrong_b.astype(jnp.float32)
    both = jnp.dot(a, b.T, precision="highest")
    either = jnp.sum(a, axis=1)[:, None] + jnp.sum(b, axis=1)[None, :] - both
    return jnp.where(either > 0, both / jnp.maximum(either, 1.0), 1.0)


def ensemble_iou(predictions: Int[Array, "m n"], labels: Int[Array, " n"]) -> float | None:
    """Mean over members of the largest error IoU to another member (p-diff); None for one member."""
    if predictions.shape[0] < 2:
        return None
    return float(jnp.mean(others_iou(predictions, labels)))


@partial(jax.jit, static_argnames="block")
def others_iou(predictions: Int[Array, "m n"], labels: Int[Array, " n"], block: int = 1) -> Float[Array, " m"]:
    """For each row its largest error IoU to a row of another block of `block` rows (a member's views are one)."""
    wrong = predictions != labels[None]
    owner = jnp.arange(predictions.shape[0]) // block
    return jnp.max(jnp.where(owner[:, None] == owner[None, :], -1.0, _iou_matrix(wrong, wrong)), axis=1)


@jax.jit
def max_iou(members: Int[Array, "m n"], checkpoints: Int[Array, "k n"], labels: Int[Array, " n"]) -> Float[Array, " m"]:
    """For each member its largest error IoU to any checkpoint (p-diff's similarity)."""
    return jnp.max(_iou_matrix(members != labels[None], checkpoints != labels[None]), axis=1)


class Novelty(NamedTuple):
    """How far members are from the checkpoints they were made from; see `novelty`."""

    nearest: float
    leave_one_out: float | None
    copy_share: float
    spread: float | None
    effective_rank_members: float | None
    effective_rank_checkpoints: float | None


def novelty(members: Float[Array | np.ndarray, "m dim"], checkpoints: Float[Array | np.ndarray, "k dim"]) -> Novelty:
    """Distances (Euclidean, of the raw vectors), copies, spread and effective rank.

    nearest: mean over members of the distance to the nearest checkpoint; leave_one_out: the same of each
    checkpoint to the others; copy_share: share of members with d1 / d2 < 1/3 (or d1 = 0; of a single checkpoint d1 = 0
    alone), d1 and d2 the distances to the nearest and second-nearest checkpoint; spread: sqrt of the mean, over
    coordinates in which the checkpoints vary, of var(members) / var(checkpoints).
    """
    new, old = np.asarray(members, np.float64), np.asarray(checkpoints, np.float64)
    to_members = np.sort(_distances(new, old), axis=1)
    second = to_members[:, 1] if len(old) > 1 else np.zeros(len(new))
    own = np.sort(_distances(old, old) + np.diag(np.full(len(old), np.inf)), axis=1)
    var_members, var_checkpoints = new.var(axis=0), old.var(axis=0)
    varying = var_checkpoints > 0
    ratios = var_members[varying] / var_checkpoints[varying]
    return Novelty(
        nearest=float(to_members[:, 0].mean()),
        leave_one_out=float(own[:, 0].mean()) if len(old) > 1 else None,
        copy_share=float(np.mean((to_members[:, 0] < second / 3) | (to_members[:, 0] == 0))),
        spread=float(np.sqrt(ratios.mean())) if varying.any() else None,
        effective_rank_members=effective_rank(new),
        effective_rank_checkpoints=effective_rank(old),
    )


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances [len(a), len(b)] through inner products; those at the size of rounding are 0."""
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    squares[squares < 1e-12 * max((a**2).sum(axis=1).max(), (b**2).sum(axis=1).max())] = 0.0
    return np.sqrt(squares)


class Interval(NamedTuple):
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


def nearest(vectors: Float[Any, "n dim"], checkpoints: Float[Any, "k dim"]) -> tuple[Any, Any]:
    """Euclidean distance [n] of each vector to its nearest checkpoint, and which one [n] that is."""
    found = _distances(np.asarray(vectors, np.float64), np.asarray(checkpoints, np.float64))
    return found.min(axis=1), found.argmin(axis=1)


def nearest_other(vectors: Float[Any, "k dim"]) -> tuple[Any, Any]:
    """The same of each vector to the other ones: itself is excluded. Raises ValueError for a single vector."""
    if len(vectors) < 2:
        raise ValueError(f"distances to other vectors need at least two; {len(vectors)} came")
    own = np.asarray(vectors, np.float64)
    found = _distances(own, own) + np.diag(np.full(len(own), np.inf))
    return found.min(axis=1), found.argmin(axis=1)


def data_copying(
    members: Float[Any, "m dim"], held_out: Float[Any, "h dim"], training: Float[Any, "k dim"]
) -> float | None:
    """Z_U, the data-copying score of Meehan, Chaudhuri & Dasgupta (2020, sec. 3.1): below 0 where members are nearer to
    the vectors that their generator was fitted to than held-out vectors of the same source are.

    The Mann-Whitney U of both sets' distances to the nearest training vector, less its mean and over its standard
    deviation where both come from one distribution (with ties): then about standard normal. Distances that differ by
    less than 1e-7 of the largest are tied. None where all of them are, so that there is nothing to rank.
    """
    from scipy.stats import rankdata

    m, h = len(members), len(held_out)
    both = np.concatenate([nearest(members, training)[0], nearest(held_out, training)[0]])
    both = np.round(both / max(both.max(), np.finfo(float).tiny), 7)
    n, ties = m + h, np.unique(both, return_counts=True)[1].astype(float)
    variance = m * h / 12 * (n + 1 - (ties**3 - ties).sum() / (n * (n - 1)))
    if len(ties) == 1:
        return None
    u = rankdata(both)[:m].sum() - m * (m + 1) / 2
    return float((u - m * h / 2) / np.sqrt(variance))


def energy_distance(a: Float[Any, "n dim"], b: Float[Any, "m dim"]) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of rows x, x' of a and y, y' of b (Szekely & Rizzo 2013): 0 for two samples
    of one distribution. Unbiased: no row is held against itself, so that it can be below 0. Raises ValueError for
    fewer than two rows."""
    distances, in_a, in_b = _pooled(a, b)
    return float(_energies(distances, in_a[None], in_b[None])[0])


class Energy(NamedTuple):
    """An energy distance, its 95% bootstrap interval, and the share of relabellings that give at least as much."""

    distance: float
    low: float
    high: float
    p: float


def energy_test(a: Float[Any, "n dim"], b: Float[Any, "m dim"], draws: int = DRAWS, seed: int = 0) -> Energy:
    """`energy_distance` with its interval over resamples of the rows of both, and the permutation test of one
    distribution for both (Szekely & Rizzo 2013, sec. 6): p = (1 + relabellings at least as far) / (1 + draws).

    The interval's resamples leave pairs of a row with itself out too, so that it is centred on the distance. p is what
    tells whether two samples differ: the interval of a distance near 0 is too wide.
    """
    distances, in_a, in_b = _pooled(a, b)
    generator = np.random.default_rng(seed)
    resampled = _energies(distances, _resampled(generator, in_a, draws), _resampled(generator, in_b, draws))
    relabelled = generator.permuted(np.tile(in_a, (draws, 1)), axis=1)
    distance = float(_energies(distances, in_a[None], in_b[None])[0])
    beyond = np.sum(_energies(distances, relabelled, 1 - relabelled) >= distance - 1e-9 * distances.max())
    return Energy(*_interval(distance, resampled), float((1 + beyond) / (1 + draws)))


def energy_difference(
    a: Float[Any, "n dim"],
    other: Float[Any, "m dim"],
    truth: Float[Any, "h dim"],
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The energy distance of a to truth less that of other to truth, and its 95% bootstrap interval over the rows of
    all three; both distances meet the same resample of the truth."""
    sets = [np.asarray(x, np.float64) for x in (a, other, truth)]
    distances = _distances(pooled := np.concatenate(sets), pooled)
    inside = [np.repeat(np.arange(3) == i, [len(x) for x in sets]).astype(float) for i in range(3)]
    generator = np.random.default_rng(seed)
    drawn = [_resampled(generator, x, draws) for x in inside]
    gaps = _energies(distances, drawn[0], drawn[2]) - _energies(distances, drawn[1], drawn[2])
    return _interval(energy_distance(a, truth) - energy_distance(other, truth), gaps)


def _interval(mean: float, resampled: np.ndarray) -> Interval:
    """With the percentiles of what resamples gave; NaN for those that are one row again and again."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(mean, float(low), float(high))


def _pooled(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances among the rows of both, and which of them are of a and of b, as 0 and 1."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"an energy distance needs at least two rows of both; {len(a)} and {len(b)} came")
    rows = np.concatenate([np.asarray(a, np.float64), np.asarray(b, np.float64)])
    in_a = (np.arange(len(rows)) < len(a)).astype(float)
    return _distances(rows, rows), in_a, 1 - in_a


def _resampled(generator: np.random.Generator, inside: np.ndarray, draws: int) -> np.ndarray:
    """How often each row is drawn, [draws, rows]: as many with replacement as there are inside."""
    return generator.multinomial(int(inside.sum()), inside / inside.sum(), draws).astype(float)


def _energies(distances: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Energy distances of rows weighted by a and by b, [draws] for [draws, rows]; no row has a weight in both."""

    def mean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        pairs = x.sum(axis=1) * y.sum(axis=1) - (x * y).sum(axis=1)  # without those of a row with itself
        return np.sum(x @ distances * y, axis=1) / np.where(pairs > 0, pairs, np.nan)

    return 2 * mean(a, b) - mean(a, a) - mean(b, b)


def effective_rank(vectors: np.ndarray) -> float | None:
    """exp of the entropy of the covariance's normalised eigenvalues (after Roy & Vetterli 2007).

    None where the vectors do not vary.
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    if values.sum() == 0:
        return None
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share))))


def mcnemar(a_right: Bool[np.ndarray, " n"], b_right: Bool[np.ndarray, " n"]) -> float:
    """Two-sided exact McNemar p-value of two classifiers on the same images (1.0 where they never differ)."""
    from scipy.stats import binomtest

    only_a = int(np.sum(a_right & ~b_right))
    only_b = int(np.sum(~a_right & b_right))
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_bootstrap(differences: Float[np.ndarray, "seeds n"], draws: int, seed: int = 0) -> Interval:
    """Mean of paired differences (one for each seed and image) and the percentile interval over resamples: images are
    drawn with replacement, the same ones for every seed, and seeds with replacement as blocks."""
    return paired_bootstraps(differences[None], draws, seed)[0]


def paired_bootstraps(differences: Float[np.ndarray, "q seeds n"], draws: int, seed: int = 0) -> list[Interval]:
    """`paired_bootstrap` of several quantities, all over the same resamples."""
    q, seeds, n = differences.shape
    generator = np.random.default_rng(seed)
    means = np.empty((draws, q))
    for i in range(draws):
        counts = np.bincount(generator.integers(0, n, n), minlength=n)
        blocks = generator.integers(0, seeds, seeds)
        means[i] = (differences[:, blocks].mean(axis=1) @ counts) / n
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    middle = differences.mean(axis=(1, 2))
    return [Interval(*map(float, three)) for three in zip(middle, low, high, strict=True)]
