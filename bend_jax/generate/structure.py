"""Which directions of whitened latents carry more than a Gaussian: independent components (Hyvarinen 1999), and the
test of Henze and Zirkler (1990) on the leading ones."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

PEAKS = 2  # numbers of leading directions, at most, that cross-validation then chooses from
SHARE = 1 / 3  # of the largest statistic: what the second number has at least
WIDTHS = (2, 4, 8, 16)  # numbers of leading latents in which directions are searched
CHANCE = 19  # Gaussian sets that the search is repeated on
MARGIN = 1.5  # times the most that it finds in them: what it must find in latents
ITERATIONS = 50  # of the search for independent components, which settles in fewer


class Structure(NamedTuple):
    """turn: orthogonal [r, r]; latents @ turn has the directions with structure first. counts: numbers of leading ones
    that may carry it, the likeliest first. statistic: the largest of Henze and Zirkler's, in standard deviations."""

    turn: np.ndarray
    counts: list[int]
    statistic: float


def find(latents: np.ndarray, most: int) -> Structure:
    """Turn the leading latents so that those with structure come first; at most `most` are looked at.

    latents: [k, r], whitened, in falling order of what they carry. A structure in a few directions of equally strong
    latents lies across all of them, and a denoiser would have to find it in all. So independent components of the first
    2, 4, 8, ... are tried, and the number is taken that is furthest above what the same search finds in Gaussian
    latents; none, where that is no more than MARGIN times what it finds in the best of CHANCE Gaussian sets.
    """
    k, rank = latents.shape
    x = latents[:, :most].astype(np.float64)
    best, above, turn = _peaks(x), 0.0, np.eye(rank)
    for width in (w for w in WIDTHS if w <= x.shape[1]):
        own, by_chance = components(x[:, :width]), _chance(k, width)
        found = _peaks(x[:, :width] @ own)
        excess = found.statistic - by_chance.mean()
        if found.statistic > MARGIN * by_chance.max() and excess > above and found.statistic > best.statistic:
            best, above, turn = found, excess, np.eye(rank)
            turn[:width, :width] = own
    return best._replace(turn=turn)


def _peaks(x: np.ndarray) -> Structure:
    """Where the statistic of the first n columns is the largest of all, and where it peaks again at SHARE of that.

    Noise beside a structure hides it, and a part of it is less than the whole: the statistic peaks at the whole.
    """
    values = np.array([henze_zirkler(x[:, : n + 1]) for n in range(x.shape[1])])
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    least = min(SHARE * values.max(), values.max())  # the largest may be below 0
    is_peak = (values >= padded[:-2]) & (values >= padded[2:]) & (values >= least)
    order = sorted(np.flatnonzero(is_peak), key=lambda i: -values[i])
    return Structure(np.eye(0), [int(i) + 1 for i in order[:PEAKS]], float(values.max()))


def components(x: np.ndarray) -> np.ndarray:
    """Orthogonal [n, n] whose columns are directions of independent components of whitened x [k, n], the least Gaussian
    first: the symmetric fixed point of Hyvarinen (1999, eq. 20) for tanh."""
    turn = np.eye(x.shape[1])
    for _ in range(ITERATIONS):
        bent = np.tanh(x @ turn)
        left, _, right = np.linalg.svd(x.T @ bent / len(x) - turn * (1 - bent**2).mean(axis=0))
        turn = left @ right
    return turn[:, np.argsort([-henze_zirkler(x @ turn[:, [i]]) for i in range(x.shape[1])], kind="stable")]


@lru_cache
def _chance(k: int, width: int) -> np.ndarray:
    """The largest statistic of the search in each of CHANCE sets of k Gaussian latents."""
    rng, result = np.random.default_rng(0), []
    for _ in range(CHANCE):
        x = rng.normal(size=(k, width))
        left, _, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        white = np.sqrt(k) * left @ right
        result.append(_peaks(white @ components(white)).statistic)
    return np.array(result)


def henze_zirkler(latents: np.ndarray) -> float:
    """The statistic of whitened latents [k, n] in standard deviations above its mean for a Gaussian.

    It is the weighted distance of the latents' characteristic function from exp(-|t|^2 / 2), whose weight has the width
    that the authors choose by k and n; mean and variance are theirs, for latents that were whitened.
    """
    k, n = latents.shape
    beta = (((2 * n + 1) * k / 4) ** (1 / (n + 4)) / np.sqrt(2)) ** 2  # beta^2 of the paper
    x = latents.astype(np.float64)
    norm = (x**2).sum(axis=1)
    apart = np.maximum(norm[:, None] + norm[None] - 2 * x @ x.T, 0)
    near = np.exp(-beta / (2 * (1 + beta)) * norm).mean()
    a, w = 1 + 2 * beta, (1 + beta) * (1 + 3 * beta)
    statistic = np.exp(-beta / 2 * apart).mean() - 2 * (1 + beta) ** (-n / 2) * near + a ** (-n / 2)
    mean = 1 - a ** (-n / 2) * (1 + n * beta / a + n * (n + 2) * beta**2 / (2 * a**2))
    variance = 2 * (1 + 4 * beta) ** (-n / 2)
    variance += 2 * a**-n * (1 + 2 * n * beta**2 / a**2 + 3 * n * (n + 2) * beta**4 / (4 * a**4))
    variance -= 4 * w ** (-n / 2) * (1 + 3 * n * beta**2 / (2 * w) + n * (n + 2) * beta**4 / (2 * w**2))
    return float((k * statistic - mean) / np.sqrt(variance))
