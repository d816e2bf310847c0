"""Calibration by more than a temperature: vector scaling (Guo et al. 2017), Dirichlet calibration (Kull et al. 2019).

Both are maps softmax(W log p + b) of a vote's probabilities p, fitted on validation images. Temperature scaling is the
multiple of the identity without b. Vector scaling has a diagonal W, Dirichlet calibration a full one.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bend_jax import metrics

KINDS = ("vector", "dirichlet")
FOLDS = 3  # of the validation images
SPREADS = (0.1, 0.5)  # of W and b around temperature scaling, of which cross-validation chooses
STEPS = 100  # of the minimiser, at most


class Map(NamedTuple):
    """softmax(weights @ log p + bias); a row of weights is W's diagonal."""

    weights: Float[np.ndarray, "..."]
    bias: Float[np.ndarray, " classes"]


def fit(kind: str, probabilities: Float[Any, "n classes"], labels: Int[Any, " n"], temperature: float) -> Map | None:
    """The map of that kind with the least NLL on n validation images, shrunk towards their temperature scaling; None
    where it has more numbers than there are images.

    Kull et al. (2019) shrink W's entries off the diagonal and b towards 0; here W's diagonal is shrunk towards
    1 / temperature too. Each departure has a normal prior of mean 0, whose standard deviation is that of SPREADS with
    the least NLL in cross-validation on these images. Where temperature scaling is not worse there by more than the
    standard error of the difference, the map is temperature scaling.
    """
    x, y = _logarithms(probabilities) / temperature, np.asarray(labels)
    n, classes = x.shape
    rows = classes if kind == "dirichlet" else 1
    if (rows + 1) * classes > n:
        return None
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    start = (np.zeros((rows, classes)), np.zeros(classes))
    candidates, gains = [start], [np.zeros(n)]
    for spread in SPREADS:
        candidates.append(_minimise(candidates[-1], x, y, spread))
        gain = np.zeros(n)
        for held in (fold == f for f in range(FOLDS)):
            own = _minimise(candidates[-1], x[~held], y[~held], spread)
            gain[held] = _losses(start, x[held], y[held]) - _losses(own, x[held], y[held])
        gains.append(gain)
    best = int(np.argmax([gain.mean() for gain in gains]))
    chosen = best if gains[best].mean() > gains[best].std() / np.sqrt(n) else 0
    change, bias = candidates[chosen]
    ones = np.eye(classes) if kind == "dirichlet" else 1.0
    return Map((ones + change) / temperature, bias)


def apply(calibration: Map, probabilities: Float[Any, "n classes"]) -> Float[np.ndarray, "n classes"]:
    """The calibrated probabilities."""
    return np.exp(_log_softmax(_outputs(*calibration, _logarithms(probabilities)))).astype(np.float32)


def _logarithms(probabilities: Any) -> Float[np.ndarray, "n classes"]:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), metrics.TINY))


def _outputs(weights: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (x * weights if len(weights) == 1 else x @ weights.T) + bias


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def _losses(change: tuple[np.ndarray, np.ndarray], x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, " n"]:
    """-log p(label) of each image after a departure from the identity."""
    return -_log_softmax(x + _outputs(*change, x))[np.arange(len(y)), y]


def _minimise(start: tuple[np.ndarray, np.ndarray], x: np.ndarray, y: np.ndarray, spread: float) -> Any:
    """The departure from the identity of the largest posterior density."""
    from scipy.optimize import minimize

    shape, rows = start[0].shape, np.arange(len(y))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        change, bias = flat[: -x.shape[1]].reshape(shape), flat[-x.shape[1] :]
        log_p = _log_softmax(x + _outputs(change, bias, x))
        slope = np.exp(log_p)
        slope[rows, y] -= 1
        of_change = slope.T @ x if shape[0] > 1 else (slope * x).sum(axis=0)
        value = -log_p[rows, y].sum() + np.sum(flat**2) / (2 * spread**2)
        return value, np.concatenate([of_change.ravel(), slope.sum(axis=0)]) + flat / spread**2

    # conjugate gradients: L-BFGS-B takes as few steps, but wakes all BLAS threads in each of them
    flat = np.concatenate([start[0].ravel(), start[1]])
    found = minimize(objective, flat, jac=True, method="CG", options={"maxiter": STEPS, "gtol": 1e-2}).x
    return found[: -x.shape[1]].reshape(shape), found[-x.shape[1] :]
