"""All m members at once, and the votes over them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, Shaped

from bend_jax import devices, metrics
from bend_jax.split import Cut, cut
from bend_jax.subset import Subset, insert
from bend_jax.training import MEMORY


def chunk_size(parts: Cut, memory: int = MEMORY) -> int:
    """How many members fit into `memory` bytes at once; one where a convolution's kernel depends on the vector
    (vmap would make grouped convolutions of them, which are slow on every device)."""
    if parts.has_vector_kernel:
        return 1
    return max(1, memory // max(parts.suffix_bytes, 1))


@partial(jax.jit, static_argnames=("apply", "subset", "chunk", "mesh"))
def member_logits(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    vectors: Float[Array, "m dim"],
    images: Shaped[Array, "n ..."],
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "m n classes"]:
    """Logits of every member: `apply(insert(subset, variables, vector), images)` for each vector.

    What does not depend on the vector runs once; the rest is vmapped over `chunk` members at a time (None: as many as
    fit 1 GiB of intermediates). On a mesh (see `devices`) the first is split by images, the rest by members, `chunk` of
    them at a time on each device; what comes and what is returned is whole on every device. Calls with the same apply,
    subset and shapes do not retrace. Raises ValueError for a chunk below 1, and for vectors that do not fit the subset.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None for what fits; got {chunk}")
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), vectors[0], images)
    m, shares = vectors.shape[0], devices.count(mesh)
    features = devices.whole(parts.prefix(devices.split_rows(images, mesh)), mesh)
    size = min(chunk_size(parts) if chunk is None else chunk, -(-m // shares))

    def run(vectors: Array, suffix: Any, features: Any) -> Array:
        return jax.lax.map(lambda vector: suffix(vector, features), vectors, batch_size=size if size > 1 else None)

    padded = jnp.pad(vectors, ((0, -m % shares), (0, 0)), mode="edge")  # the last member again, for idle devices
    logits = devices.over_members(run, mesh, 1)(padded, parts.suffix, features)
    return devices.whole(logits[:m], mesh)


@partial(jax.jit, static_argnames="num_classes")
def majority_vote(predictions: Int[Array, "m n"], num_classes: int) -> Int[Array, " n"]:
    """sBEND (BEND, Algorithm 1): the most frequent label; ties go to the lowest class."""
    return jnp.argmax(metrics.counts(predictions, num_classes), axis=1).astype(jnp.int32)


@jax.jit
def sampled_vote(key: Key[Array, ""], predictions: Int[Array, "m n"]) -> Int[Array, " n"]:
    """aBEND (BEND, Algorithm 2): a label drawn with its share of the votes, independently for each image.

    That is the label of a member drawn uniformly for each image.
    """
    m, n = predictions.shape
    chosen = jax.random.randint(key, (n,), 0, m)
    return predictions[chosen, jnp.arange(n)]


@jax.jit
def mean_vote(logits: Float[Array, "m n classes"]) -> Float[Array, "n classes"]:
    """The average of the members' probabilities."""
    return jnp.mean(jax.nn.softmax(logits, axis=-1), axis=0)


@jax.jit
def weighted_vote(logits: Float[Array, "m n classes"], weights: Float[Array, " w"]) -> Float[Array, "n classes"]:
    """Probabilities averaged with these weights: sum_m w_m p_m / sum_m w_m.

    Raises ValueError where there is not one weight for each member.
    """
    if weights.shape != logits.shape[:1]:
        raise ValueError(f"weights of shape {list(weights.shape)} came for {logits.shape[0]} members: one for each")
    return jnp.tensordot(weights / jnp.sum(weights), jax.nn.softmax(logits, axis=-1), axes=1)


@partial(jax.jit, static_argnames="size")
def greedy_weights(likelihoods: Float[Array, "m n"], size: int) -> Float[Array, " m"]:
    """How often each member is chosen into the greedy vote (Caruana et al. 2004), as shares that sum to 1.

    likelihoods: each member's probability of the true label of n validation images. Members are added one at a time,
    with replacement, each the one that lowers the NLL of the mean most (ties: the first), until there are `size`; of
    the ensembles on the way the one of least NLL is returned, so that it has at most `size` members.
    """
    m, n = likelihoods.shape

    def add(state: tuple[Array, Array], count: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        total, chosen = state
        losses = -jnp.mean(jnp.log(jnp.maximum((total[None] + likelihoods) / count, metrics.TINY)), axis=1)
        best = jnp.argmin(losses)
        chosen = chosen.at[best].add(1.0)
        return (total + likelihoods[best], chosen), (losses[best], chosen)

    _, (losses, path) = jax.lax.scan(add, (jnp.zeros(n), jnp.zeros(m)), jnp.arange(1.0, size + 1))
    kept = jnp.argmin(losses)
    return path[kept] / (kept + 1.0)


@partial(jax.jit, static_argnames="num_classes")
def vote_probabilities(predictions: Int[Array, "m n"], num_classes: int) -> Float[Array, "n classes"]:
    """sBEND and aBEND as probabilities: (votes + 1/classes) / (m + 1), so that the NLL is finite."""
    return (metrics.counts(predictions, num_classes) + 1.0 / num_classes) / (predictions.shape[0] + 1.0)
