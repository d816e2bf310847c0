"""Whether a generator learnt or copied: the tests of Zeng et al. (2025, "Generative Modeling of Weights")."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from bend_jax import components, metrics
from bend_jax.evaluate import curves
from bend_jax.subset import Subset, add_noise

LEAST = 20  # checkpoints of which some are held out: below, there are too few of both
NOISES = (0.001, 0.05, 0.15, 0.5, 1.5)  # p-diff's, and two that can be seen where its do nothing
EACH = 6  # networks of every reference
GRID = 11  # points along each axis of the plane of vectors
PIXELS = 32  # and of images
IMAGES = 500  # validation images, at most, of both planes
SHOWN = 64  # coordinates of a heat map, as in the paper
COLUMNS = 40  # networks of each part of it, at most
PAIRS = 3  # members shown with their nearest checkpoints, as in the paper


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


def copying(found: HeldOut | None) -> dict[str, float | None]:
    """Z_U and the energy distance to the held-out checkpoints (`metrics.data_copying`, `metrics.energy_test`), and the
    mean distances to the nearest training checkpoint that Z_U ranks. All None where nothing was held out."""
    if found is None:
        return dict.fromkeys(("z_u", "nearest", "nearest_held_out", "energy", "energy_low", "energy_high", "energy_p"))
    energy = (None,) * 4
    if len(found.members) > 1:
        energy = metrics.energy_test(found.members, found.held_out)
    return {
        "z_u": metrics.data_copying(found.members, found.held_out, found.training),
        "nearest": float(metrics.nearest(found.members, found.training)[0].mean()),
        "nearest_held_out": float(metrics.nearest(found.held_out, found.training)[0].mean()),
        **dict(zip(("energy", "energy_low", "energy_high", "energy_p"), energy, strict=True)),
    }


def noised_sets(subset: Subset, vectors: Float[Any, "k dim"], key: Key[Array, ""]) -> dict[str, Any]:
    """EACH evenly spaced checkpoints with noise of each of NOISES, by "noise SD": a curve from copies to ruins."""
    some = np.asarray(vectors)[np.linspace(0, len(vectors) - 1, EACH).round().astype(int)]
    keys = jax.random.split(key, len(NOISES))
    return {
        f"noise {sd:g}": np.asarray(add_noise(subset, jnp.asarray(some), sd, k))
        for sd, k in zip(NOISES, keys, strict=True)
    }


def from_nearest(
    own: Int[np.ndarray, "voters n"], checkpoints: Int[np.ndarray, "others n"], which: Int[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """Share of images that each member labels otherwise than its nearest checkpoint, which is the one of that number;
    mean over views."""
    n, views = own.shape[1], len(own) // len(which)
    return (own.reshape(-1, views, n) != checkpoints.reshape(-1, views, n)[which]).mean(axis=(1, 2))


def mean_and_tenth(disagreements: Float[np.ndarray, " m"]) -> dict[str, float]:
    """Mean and 10th percentile of `from_nearest`, by the keys of a report."""
    low = np.percentile(disagreements, 10)
    return {"disagreement": float(disagreements.mean()), "disagreement_p10": float(low)}


def reference(
    vectors: Float[Any, "m dim"],
    predictions: Int[np.ndarray, "voters n"],
    checkpoints: Float[Any, "k dim"],
    theirs: Int[np.ndarray, "others n"],
    labels: Int[np.ndarray, " n"],
) -> dict[str, float]:
    """Mean accuracy, largest error IoU with a checkpoint, distance to the nearest one and disagreement with it.
    predictions, theirs: of these vectors and of the checkpoints. The checkpoints themselves, if they are the vectors,
    are held against the other ones."""
    alone, views = predictions is theirs, len(predictions) // len(vectors)
    distance, which = metrics.nearest_other(vectors) if alone else metrics.nearest(vectors, checkpoints)
    own, others, y = (jnp.asarray(x) for x in (predictions, theirs, labels))
    iou = metrics.others_iou(own, y, views) if alone else metrics.max_iou(own, others, y)
    found = {"accuracy": float((predictions == labels).mean()), "max_iou": float(iou.mean())}
    apart = from_nearest(predictions, theirs, which)
    return {**found, "nearest": float(distance.mean()), **mean_and_tenth(apart)}


def distances(sets: dict[str, Any]) -> dict[str, Float[np.ndarray, " m"]]:
    """L2 distance to the nearest checkpoint of every vector of the checkpoints, itself excluded, and the generators."""
    vectors = sets["checkpoints"]
    found = {} if len(vectors) < 2 else {"checkpoints": metrics.nearest_other(vectors)[0]}
    others = [name for name in sets if name not in curves.SINGLE]
    return found | {name: metrics.nearest(sets[name], vectors)[0] for name in others}


def heat(checkpoints: Float[Any, "k dim"], members: Float[Any, "m dim"]) -> dict[str, Any]:
    """SHOWN evenly spaced coordinates, less the checkpoints' mean and over their sd (0 where they do not vary), of
    COLUMNS evenly spaced checkpoints, as many first members in the order of their nearest checkpoints, and these:
    [shown, n] each; rows: which coordinates [shown]."""
    old, new = np.asarray(checkpoints, np.float64), np.asarray(members, np.float64)[:COLUMNS]
    which = metrics.nearest(new, old)[1]
    order = np.argsort(which, kind="stable")
    rows = np.unique(np.linspace(0, old.shape[1] - 1, SHOWN).round().astype(int))
    mean, sd = old[:, rows].mean(axis=0), old[:, rows].std(axis=0)
    some = old[np.unique(np.linspace(0, len(old) - 1, COLUMNS).round().astype(int))]
    parts = {"checkpoints": some, "members": new[order], "nearest": old[which[order]]}
    scale = np.where(sd > 0, sd, np.inf)
    return {name: ((x[:, rows] - mean) / scale).T.astype(np.float32) for name, x in parts.items()} | {"rows": rows}


class Landscape(NamedTuple):
    """The checkpoints' plane: vectors on a grid of it, coordinates along both axes, and where the sets lie in it."""

    vectors: Float[np.ndarray, "points dim"]
    along: Float[np.ndarray, "two size"]
    shares: Float[np.ndarray, " two"]
    places: dict[str, Float[np.ndarray, "n two"]]


def landscape(sets: dict[str, Any]) -> Landscape | None:
    """sets: vectors by name, "checkpoints" among them, whose first two principal components are the plane. None for
    fewer than three checkpoints and for checkpoints that are all the same: they span no plane."""
    checkpoints = np.asarray(sets["checkpoints"], np.float64)
    if len(checkpoints) < 3 or not np.ptp(checkpoints, axis=0).any():
        return None
    found = components.plane(checkpoints)
    places = {name: components.onto(found, vectors) for name, vectors in sets.items()}
    along = components.grid(np.concatenate(list(places.values())), GRID)
    return Landscape(components.at(found, along).astype(np.float32), along, found.shares, places)


def image_plane(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "points h w c"]:
    """Images on a grid of the plane of the first two principal components of these images, row by row."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    found = components.plane(flat)
    made = components.at(found, components.grid(components.onto(found, flat), PIXELS))
    return np.round(np.clip(made, 0, 255)).astype(np.uint8).reshape(-1, *images.shape[1:])
