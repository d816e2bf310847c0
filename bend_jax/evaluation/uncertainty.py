"""How well a score ranks images: uncertainties of a vote, risk-coverage, and the detection of other images by them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


@jax.jit
def entropy(probabilities: Float[Array, "n classes"]) -> Float[Array, " n"]:
    """-sum p log p of each row, in nats; 0 log 0 = 0. Rows of the same numbers in another order tie exactly."""
    p = jnp.sort(probabilities, axis=1)
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=1)


@jax.jit
def mutual_information(probabilities: Float[Array, "m n classes"]) -> Float[Array, " n"]:
    """Entropy of the members' mean minus the mean of their entropies, in nats (BALD: Houlsby et al. 2011).

    Worked out as the mean over members of KL(p_m | mean) = sum_c mean (1 + d) log(1 + d) - d, d = p_m / mean - 1: every
    term is at least 0, where the difference of two entropies would be rounding for members that are nearly the same.
    """
    mean = jnp.mean(probabilities, axis=0)
    change = (probabilities - mean[None]) / jnp.maximum(mean, jnp.finfo(jnp.float32).tiny)[None]
    terms = jax.scipy.special.xlog1py(1 + change, change) - change
    return jnp.sum(mean * jnp.mean(jnp.maximum(terms, 0.0), axis=0), axis=1)


class Parts(NamedTuple):
    """How unsure each image leaves a vote, in nats: total = aleatoric + epistemic.

    total: the entropy of the members' mean; aleatoric: the mean of their entropies, which more members do not lower;
    epistemic: their mutual information, which is 0 where all members say the same (Depeweg et al. 2018).
    """

    total: Float[np.ndarray, " n"]
    aleatoric: Float[np.ndarray, " n"]
    epistemic: Float[np.ndarray, " n"]


def parts(mean: Float[np.ndarray, "n classes"], information: Float[np.ndarray, " n"]) -> Parts:
    """From the members' mean probabilities and their `mutual_information`."""
    total = np.asarray(entropy(jnp.asarray(mean)))
    return Parts(total, np.maximum(total - information, 0), information)


@jax.jit
def energy(logits: Float[Array, "n classes"]) -> Float[Array, " n"]:
    """-log sum exp of the logits (Liu et al. 2020, T = 1): the larger, the less like the training images."""
    return -jax.nn.logsumexp(logits, axis=1)


@jax.jit
def vote_disagreement(counts: Int[Array, "n classes"]) -> Float[Array, " n"]:
    """1 - share of the most frequent label, from how many voters give each label (`metrics.counts`)."""
    return 1 - jnp.max(counts, axis=1) / jnp.sum(counts, axis=1)


class RiskCoverage(NamedTuple):
    """Share of images that are answered, the most confident first, and the share of errors among them."""

    coverage: Float[np.ndarray, " n"]
    risk: Float[np.ndarray, " n"]


def risk_coverage(confidence: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> RiskCoverage:
    """The curve at every coverage i / n (Geifman & El-Yaniv 2017).

    Images of equal confidence have no order: each counts as the share of errors among them, which is the mean over all
    their orders.
    """
    order = np.argsort(-confidence, kind="stable")
    _, group, size = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=wrong[order]) / size
    answered = np.arange(1, len(wrong) + 1)
    return RiskCoverage(answered / len(wrong), np.cumsum(errors[group]) / answered)


def aurc(confidence: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> float:
    """Area under the risk-coverage curve: the mean of the risks at the n coverages (Geifman et al. 2019)."""
    return float(risk_coverage(confidence, wrong).risk.mean())


def auroc(negatives: Shaped[np.ndarray, " n"], positives: Shaped[np.ndarray, " p"]) -> float:
    """Share of pairs in which the positive's score is higher, a tie being half of one (Mann-Whitney's U / n p)."""
    ordered = np.sort(negatives)
    below, up_to = (np.searchsorted(ordered, positives, side=side) for side in ("left", "right"))
    return float((below.sum() + up_to.sum()) / (2 * len(negatives) * len(positives)))


def fpr95(negatives: Shaped[np.ndarray, " n"], positives: Shaped[np.ndarray, " p"]) -> float:
    """Share of negatives at or above the highest threshold that at least 95% of the positives reach."""
    reach = -(-95 * len(positives) // 100)  # in whole numbers: 0.95 * 20 must be 19
    threshold = np.sort(positives)[len(positives) - reach]
    return float(np.mean(negatives >= threshold))
