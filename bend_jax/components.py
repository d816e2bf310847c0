"""The plane in which vectors vary most."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Plane(NamedTuple):
    """The first two principal components: through the mean, along two orthonormal axes (zeros where the vectors vary
    along fewer), with their shares of the variance."""

    centre: Float[np.ndarray, " dim"]
    axes: Float[np.ndarray, "two dim"]
    shares: Float[np.ndarray, " two"]


def plane(points: Float[np.ndarray, "n dim"]) -> Plane:
    """Of these vectors; the largest entry of each axis is positive."""
    centre = points.mean(axis=0)
    _, s, v = np.linalg.svd(points - centre, full_matrices=False)
    axes, shares = np.zeros((2, points.shape[1])), np.zeros(2)
    axes[: len(v[:2])] = v[:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)] + 1e-300)[:, None]
    shares[: len(s[:2])] = s[:2] ** 2 / max((s**2).sum(), 1e-300)
    return Plane(centre, axes, shares)


def onto(found: Plane, points: Float[Any, "n dim"]) -> Float[np.ndarray, "n two"]:
    """Coordinates of vectors in the plane: where they would lie if they were projected onto it."""
    return (np.asarray(points, np.float64) - found.centre) @ found.axes.T


def grid(points: Float[np.ndarray, "n two"], size: int) -> Float[np.ndarray, "two size"]:
    """Evenly spaced coordinates along both axes that reach a tenth beyond the points, and along neither less than a
    tenth as far as along the other."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = np.maximum((high - low) / 2, 0.1 * (high - low).max() / 2)
    return ((low + high) / 2)[:, None] + 1.2 * half[:, None] * np.linspace(-1, 1, size)[None]


def at(found: Plane, along: Float[np.ndarray, "two size"]) -> Float[np.ndarray, "points dim"]:
    """The vectors at every pair of coordinates, the second one's rows one after the other."""
    first, second = np.meshgrid(along[0], along[1])
    return found.centre + np.stack([first.ravel(), second.ravel()], axis=1) @ found.axes
