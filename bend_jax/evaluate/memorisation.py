"""Whether a generator learnt or copied: the tests of Zeng et al. (2025, "Generative Modeling of Weights")."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from bend_jax import metrics

LEAST = 20  # checkpoints of which some are held out: below, there are too few of both


class HeldOut(NamedTuple):
    """Checkpoints that a generator was fitted to, those it has not seen, and its members."""

    training: Float[np.ndarray, "n dim"]
    held_out: Float[np.ndarray, "h dim"]
    members: Float[np.ndarray, "m dim"]


def split(vectors: Float[Any, "k dim"], share: float, key: Key[Array, ""]) -> tuple[Any, Any] | None:
    """Checkpoints at random in two: [k - h, dim] and h = share * k held out, at least two of both, each in their order.
    None where k is below LEAST or the share is 0."""
    vectors = np.asarray(vectors)
    k = len(vectors)
    if k < LEAST or share == 0:
        return None
    h = min(max(round(share * k), 2), k - 2)
    order = np.asarray(jax.random.permutation(key, k))
    return vectors[np.sort(order[h:])], vectors[np.sort(order[:h])]


def held_out(
    vectors: Float[Any, "k dim"], share: float, key: Key[Array, ""], draw: Callable[[Any], Any]
) -> HeldOut | None:
    """Fit a generator anew without a share of the checkpoints. The same key gives every generator the same split.

    draw(training [n, dim]) -> [m, dim]: fits it to these checkpoints alone and gives its members. None as in `split`.
    """
    parts = split(vectors, share, key)
    return None if parts is None else HeldOut(*parts, np.asarray(draw(parts[0])))


def copying(found: HeldOut) -> dict[str, Any]:
    """Z_U and the energy distance to the held-out checkpoints (`metrics.data_copying`, `metrics.energy_test`), and the
    mean distances to the nearest training checkpoint that Z_U ranks, of members and of held-out checkpoints."""
    return {
        "z_u": metrics.data_copying(found.members, found.held_out, found.training),
        "nearest": float(metrics.nearest(found.members, found.training)[0].mean()),
        "nearest_held_out": float(metrics.nearest(found.held_out, found.training)[0].mean()),
        "energy": None if len(found.members) < 2 else metrics.energy_test(found.members, found.held_out)._asdict(),
    }
