"""A program on a batch, and on one example of it: how one becomes the other, and whether they agree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class NotRowsError(ValueError):
    """An output of a program does not have one row for each example."""


def for_one(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn(params, *inputs)` on batches [n, ...] as a function of one example's inputs [...]: a batch of one.

    It raises NotRowsError where an output for a batch of one has no leading axis of size 1.
    """

    def one(params: Any, *inputs: Any) -> Any:
        outputs = fn(params, *jax.tree.map(lambda x: x[None], inputs))
        for name, output in named_leaves(outputs):
            if jnp.shape(output)[:1] != (1,):
                raise NotRowsError(_not_rows(name, output, 1))
        return jax.tree.map(lambda output: output[0], outputs)

    return one


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of a tree, in its order, and its path as JAX writes it: "['bn1'].scale", nothing for a lone array."""
    leaves: list[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def rows(tree: Any, index: Any) -> Any:
    """These rows of every array of a tree, or of what fetches them itself (`batches.OnHost`)."""
    if hasattr(tree, "fetch"):
        return tree.fetch(index)
    return jax.tree.map(lambda x: x[index], tree)


def one_of(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes of one example: of inputs [n, ...] without their leading axis. ValueError where they share none."""
    batch_size(inputs)
    return jax.eval_shape(lambda inputs: jax.tree.map(lambda x: x[0], inputs), inputs)


def batch_dependence(fn: Callable[..., Any], params: Any, *inputs: Any, tolerance: float = 0.02) -> str | None:
    """Why the output of `fn(params, *inputs)` for one example depends on the rest of its batch, in one line, or None.

    inputs: pytrees of arrays [n, ...] with the same n; a few different examples do. fn runs on all of them together
    and on each one alone. The two outputs must agree to `tolerance`, as a share of the output's root mean square. In a
    ResNet-18, BatchNorm in training mode makes them differ by 12 to 39%, rounding in bfloat16 by 0.3%. Where only the
    size of the batch or the place in it matters, the reason is given too.

    ValueError where the inputs share no leading axis, and where all examples are equal.
    """
    n = batch_size(inputs)
    if all(bool(jnp.all(x == x[:1])) for x in jax.tree.leaves(inputs)):
        raise ValueError("dependence on the batch shows on different examples only: give at least two")
    together = jax.jit(fn)(params, *inputs)
    try:
        alone = jax.jit(jax.vmap(for_one(fn), (None, *[0] * len(inputs))))(params, *inputs)
    except NotRowsError as error:
        return str(error)
    for (name, whole), own in zip(named_leaves(together), jax.tree.leaves(alone), strict=True):
        if whole.shape != own.shape:
            return _not_rows(name, whole, n)
        share = _difference(whole, own)
        if share > tolerance:
            return (
                f"output{name} for one example depends on the rest of its batch: alone it "
                f"differs by {share:.0%} (BatchNorm in training mode and sums over the batch do this)"
            )
    return None


def batch_size(inputs: Any) -> int:
    """The leading axis that all arrays of a tree have in common. Raises ValueError where they share none."""
    shapes = [tuple(jnp.shape(x)) for x in jax.tree.leaves(inputs)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"the inputs must have one leading axis in common; their shapes are {shapes}")
    return sizes.pop()[0]


def _not_rows(name: str, output: Any, n: int) -> str:
    return f"output{name} has shape {list(jnp.shape(output))} for a batch of {n}: its first axis must be the batch axis"


def _difference(whole: Any, own: Any) -> float:
    """The largest RMS of a row's differences, as a share of that of `whole`. NaN and infinity count as 0."""
    a, b = (np.asarray(x).astype(np.float64).reshape(len(x), -1) for x in (whole, own))
    a, b = (np.where(np.isfinite(x), x, 0) for x in (a, b))
    largest = np.sqrt(np.mean((a - b) ** 2, axis=1)).max()
    return float(largest / max(np.sqrt(np.mean(a**2)), np.finfo(np.float32).tiny))
