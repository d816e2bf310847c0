"""In which order a training sees its images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from bend_jax import devices


def batch_of(step: Int[Array, ""], order: Int[Array, " n"], batch: int) -> Int[Array, " batch"]:
    """The indices of this step's minibatch. An epoch is n // batch steps; the last n % batch images of an order are
    left out of it."""
    position = step % (order.shape[0] // batch)
    return jax.lax.dynamic_slice(order, (position * batch,), (batch,))


def shuffled(state: Any, data: Any, epoch: int) -> Any:
    """The state of a training with extra["order"], the order of images, drawn for an epoch with the key data["order"].

    Drawn between two segments: in a step it would be a sort behind a condition, which an accelerator asks the host
    about in every step.
    """
    old = state.extra["order"]
    draw = jax.jit(epoch_order, static_argnums=2, out_shardings=devices.shardings(old))
    return state._replace(extra={**state.extra, "order": draw(data["order"], np.int32(epoch), old.shape[0])})


def epoch_order(key: Key[Array, ""], epoch: Any, n: int) -> Int[Array, " n"]:
    """The order of n images in an epoch."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), n).astype(jnp.int32)
