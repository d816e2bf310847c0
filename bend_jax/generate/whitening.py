"""Linear maps to unit spread and back: coordinate by coordinate, and along principal axes."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-6  # of a scale, as a share of the largest: what never moved is not blown up
EXACT = jax.lax.Precision.HIGHEST  # TF32 would bury the axes of least spread under the rounding of the others


class Affine(flax.struct.PyTreeNode):
    """y = (x - mean) / scale, coordinate by coordinate."""

    mean: Float[Array, " dim"]
    scale: Float[Array, " dim"]


class Whitening(flax.struct.PyTreeNode):
    """y = (x - mean) @ forward with unit covariance in the span of the data; x = mean + y @ back."""

    mean: Float[Array, " width"]
    forward: Float[Array, "width rank"]
    back: Float[Array, "rank width"]


@jax.jit
def standardise(vectors: Float[Array, "k dim"]) -> Affine:
    """Mean and sd of every coordinate; a coordinate with less than FLOOR of the largest sd keeps that much."""
    sd = jnp.std(vectors, axis=0)
    floor = jnp.maximum(FLOOR * jnp.max(sd), jnp.finfo(jnp.float32).tiny)
    return Affine(jnp.mean(vectors, axis=0), jnp.maximum(sd, floor))


@jax.jit
def to_affine(affine: Affine, x: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
    """Standardised vectors."""
    return (x - affine.mean[None]) / affine.scale[None]


def as_it_is(vectors: Float[Array, "k dim"]) -> Affine:
    """The map that `standardise` is where it changes nothing."""
    return Affine(jnp.zeros(vectors.shape[1]), jnp.ones(vectors.shape[1]))


def unchanged(latents: Float[Array, "k width"]) -> Whitening:
    """The map that `whiten` is where it changes nothing."""
    width = latents.shape[1]
    return Whitening(jnp.zeros(width), jnp.eye(width), jnp.eye(width))


@partial(jax.jit, static_argnames="most")
def whiten(x: Float[Array, "k width"], most: int) -> Whitening:
    """The first `most` principal axes of the rows, each scaled to unit variance (over k); at most k - 1 of them.

    A DDPM starts from N(0, I), and with the variance of eq. 3 it is exact where its data have that covariance.
    """
    k, width = x.shape
    rank = min(most, k - 1, width)
    mean = jnp.mean(x, axis=0)
    _, values, axes = jnp.linalg.svd(x - mean[None], full_matrices=False)
    sd = jnp.maximum(values[:rank], FLOOR * values[0]) / jnp.sqrt(k)
    down = jnp.where(sd > 0, sd, 1.0)  # rows that are all the same: latents of 0, and any latent back to the mean
    return Whitening(mean, axes[:rank].T / down[None], axes[:rank] * sd[:, None])


def to_white(whitening: Whitening, x: Float[Array, "n width"]) -> Float[Array, "n rank"]:
    """Rows along the whitened axes."""
    return jnp.matmul(x - whitening.mean[None], whitening.forward, precision=EXACT)


def from_white(whitening: Whitening, y: Float[Array, "n rank"]) -> Float[Array, "n width"]:
    """The way back of `to_white`, exact within the span."""
    return whitening.mean[None] + jnp.matmul(y, whitening.back, precision=EXACT)


@jax.jit
def order_axes(whitening: Whitening, x: Float[Array, "k width"], vectors: Float[Array, "k dim"]) -> Whitening:
    """The same latents turned, so that the first goes with most of the variance of the vectors that x stands for.

    An encoder may give every latent the same variance, whatever it stands for. These axes are the left singular ones
    of the covariance of latents and vectors; for principal components they are those themselves.
    """
    k = x.shape[0]
    white = to_white(whitening, x)
    centred = vectors - jnp.mean(vectors, axis=0)[None]
    gram = jnp.matmul(centred, centred.T, precision=EXACT) / k  # k x k: a rank x dim matrix may be large
    shared = jnp.matmul(white.T, jnp.matmul(gram, white, precision=EXACT), precision=EXACT) / k
    return turn(whitening, jnp.linalg.eigh(shared)[1][:, ::-1])


def turn(whitening: Whitening, by: Float[Array, "rank rank"]) -> Whitening:
    """The same with the columns of the orthogonal `by` as axes: still of unit covariance."""
    forward = jnp.matmul(whitening.forward, by, precision=EXACT)
    return whitening.replace(forward=forward, back=jnp.matmul(by.T, whitening.back, precision=EXACT))
