"""What a network takes: any tree of arrays with one leading axis, and the shapes of one example in it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax.batching import batch_size, named_leaves


def as_arrays(tree: Any) -> Any:
    """The tree with every leaf as an array, of PyTorch too. Lists of plain numbers are one array, as NumPy reads
    them."""
    tree = jax.tree.map(lambda x: of_torch(x) if hasattr(x, "detach") else x, tree)
    if any(not hasattr(leaf, "shape") for leaf in jax.tree.leaves(tree)):
        return np.asarray(tree)
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x), tree)


def of_torch(x: Any) -> np.ndarray:
    """A tensor, which may be on another device, need gradients or have 16 bits, as an array."""
    x = x.detach().cpu()
    return x.float().numpy() if x.is_floating_point() else x.numpy()


@dataclass(frozen=True)
class Example:
    """Shapes and dtypes of one example, a tree of arrays without their leading axis; hashable, whatever the tree."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any

    @staticmethod
    def of(images: Any) -> "Example":
        """Of a batch: arrays [n, ...], or their shapes. Raises ValueError where they share no leading axis."""
        batch_size(images)
        leaves, structure = jax.tree.flatten(images)
        return Example(tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves), structure)

    def batch(self, n: int) -> Any:
        """Shapes and dtypes of n examples, as JAX takes them: where it has no 64 bits, such arrays have 32."""
        shapes = [jax.ShapeDtypeStruct((n, *x.shape), jax.dtypes.canonicalize_dtype(x.dtype)) for x in self.leaves]
        return jax.tree.unflatten(self.structure, shapes)

    def __str__(self) -> str:
        """The shape of a batch, "[n, 8, 8, 3]", in a tree such as the images'."""
        shapes = ["[" + ", ".join(["n", *map(str, x.shape)]) + "]" for x in self.leaves]
        return str(jax.tree.unflatten(self.structure, shapes)).replace("'[", "[").replace("]'", "]")

    def misfit(self, images: Any) -> str | None:
        """Why this is no batch of such examples, in one line, or None."""
        leaves, structure = jax.tree.flatten(images)
        if structure != self.structure:
            return f"images must be arrays {self}; they are a tree {structure}"
        names = [name for name, _ in named_leaves(images)]
        for name, x, own in zip(names, leaves, self.leaves, strict=True):
            if tuple(x.shape[1:]) != tuple(own.shape) or not x.ndim:
                hint = "; one image needs a batch axis: images[None]" if x.shape == own.shape else ""
                return (
                    f"images{name} must be [{', '.join(['n', *map(str, own.shape)])}]; they are {list(x.shape)}{hint}"
                )
        return None

    def to_json(self) -> Any:
        """As lists and strings, for trees of dicts, lists and tuples; None for others."""

        def write(tree: Any) -> Any:
            if isinstance(tree, jax.ShapeDtypeStruct):
                return [list(tree.shape), str(tree.dtype)]
            if type(tree) is dict:
                return {"dict": {name: write(own) for name, own in tree.items()}}
            if type(tree) in (list, tuple):
                return {type(tree).__name__: [write(own) for own in tree]}
            raise TypeError

        try:
            return write(jax.tree.unflatten(self.structure, self.leaves))
        except TypeError:
            return None

    @staticmethod
    def from_json(value: Any) -> "Example | None":
        """The inverse of `to_json`."""

        def read(value: Any) -> Any:
            if isinstance(value, list):
                return jax.ShapeDtypeStruct((1, *value[0]), jnp.dtype(value[1]))
            (kind, content), *_ = value.items()
            if kind == "dict":
                return {name: read(own) for name, own in content.items()}
            return (list if kind == "list" else tuple)(read(own) for own in content)

        return value and Example.of(read(value))
