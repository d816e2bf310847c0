"""Artefacts that run without this package: the voting ensemble through jax.export, the members as safetensors."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Float

from bend_jax import ensemble, storage
from bend_jax.data.sources import Split
from bend_jax.models.pytorch import flat_names, to_torch
from bend_jax.split import cut
from bend_jax.subset import Subset, insert

NEEDED = ("flatbuffers", "safetensors")  # which jax.export and `save_members` write with
PLATFORMS = ("cpu", "cuda")


def export_ensemble(
    apply: Callable[..., Any],
    plain: Callable[..., Any],
    variables: Any,
    subset: Subset,
    vectors: Float[np.ndarray, "m dim"],
    weights: Float[np.ndarray, " m"],
    like: Split,
) -> bytes:
    """A serialised program: uint8 images [n, h, w, c], any n -> (sBEND's labels [n], probabilities [n, classes] of the
    members' weighted vote). The image as it is, no further views.

    For CPU and CUDA. Variables and members are constants of it, the frozen part runs once for all members.
    """
    chunk = _chunk(apply, plain, variables, subset, vectors, like)

    def vote(images: Any) -> tuple[Any, Any]:
        logits = ensemble.member_logits(apply, variables, subset, jnp.asarray(vectors), plain(images), chunk=chunk)
        predictions = jnp.argmax(logits, axis=-1)
        return ensemble.majority_vote(predictions, logits.shape[-1]), ensemble.weighted_vote(
            logits, jnp.asarray(weights, jnp.float32)
        )

    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, *like.images.shape[1:]), jnp.uint8)
    exported = export.export(jax.jit(vote), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


def _chunk(apply: Any, plain: Any, variables: Any, subset: Subset, vectors: Any, like: Split) -> int:
    """Members at once, for batches of up to 500 images."""
    images = jax.eval_shape(plain, jax.ShapeDtypeStruct((500, *like.images.shape[1:]), jnp.uint8))
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), jnp.asarray(vectors[0]), images)
    return min(len(vectors), ensemble.chunk_size(parts))


def save_members(path: Path, stacked: dict[str, Any]) -> None:
    """The members' leaves with a leading axis m, under PyTorch's names and in its layouts."""
    from safetensors.numpy import save_file

    with storage.writing(path):
        save_file(to_torch({name: np.asarray(x) for name, x in flat_names(stacked).items()}), path)


def latency(serialised: bytes, apply: Any, plain: Any, variables: Any, like: Split) -> dict[str, float]:
    """Median seconds for one image, of the artefact and of the base alone, called in turn."""
    whole = jax.jit(export.deserialize(bytearray(serialised)).call)
    base = jax.jit(lambda images: apply(variables, plain(images)))
    image = jnp.asarray(like.images[:1])
    times: dict[str, list[float]] = {"t_ensemble": [], "t_base": []}
    for i in range(23):
        for name, call in (("t_ensemble", whole), ("t_base", base)):
            started = time.perf_counter()
            jax.block_until_ready(call(image))
            if i >= 3:  # the first ones compile and warm up
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}
