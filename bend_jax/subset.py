"""Which parameters: a subset of the leaves of a variables tree, as one flat vector and back.

A subset may also hold adapters of a linear layer (LoRA, Hu et al. 2022): for its kernel W [rows, columns] two matrices,
A [rows, rank] and B [rank, columns], that make it W + A B. W itself stays in the variables, outside of the vector.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

LORA = "lora:"  # in front of a pattern: adapters of these layers
LORA_A, LORA_B = "lora_a", "lora_b"  # the last components of their paths, behind that of the kernel
RANK = 8  # of adapters, where nothing else is said

Variables = Any  # a tree of arrays, collections ("params", "batch_stats") first, or the parameters alone


@dataclass(frozen=True)
class Subset:
    """Chosen leaves of a variables tree, in the tree's own leaf order.

    paths: dotted names, collection first: "params.layer4.1.bn2.scale"; of adapters "params.head.kernel.lora_a" and
    "params.head.kernel.lora_b"; shapes: one a path.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def dim(self) -> int:
        """How many numbers the vector holds."""
        return sum(self.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many of them belong to each leaf, in the vector's order."""
        return tuple(math.prod(shape) for shape in self.shapes)


def add_noise(
    subset: Subset, vectors: Float[Array, "n dim"], share: float | Float[Array, ""], key: Key[Array, ""]
) -> Float[Array, "n dim"]:
    """Vectors with white noise of `share` times the sd (over n - 1) of each tensor's own numbers, p-diff's
    "noise-added" networks. A tensor of one number has no sd, and gets none. BN variances get it on their logarithm, so
    that they stay above 0.
    """
    noise = share * jax.random.normal(key, vectors.shape)
    ends = np.cumsum(subset.lengths)[:-1]
    parts = []
    for path, x, e in zip(subset.paths, jnp.split(vectors, ends, axis=1), jnp.split(noise, ends, axis=1), strict=True):
        is_variance = path.startswith("batch_stats.") and path.endswith(".var")
        numbers = jnp.log(jnp.maximum(x, 1e-12)) if is_variance else x
        step = e * jnp.std(numbers, axis=1, keepdims=True, ddof=1) if x.shape[1] > 1 else jnp.zeros_like(x)
        parts.append(x * jnp.exp(step) if is_variance else x + step)
    return jnp.concatenate(parts, axis=1)


def to_json(subset: Subset) -> dict[str, Any]:
    """The subset as lists and strings; `from_json` gives it back."""
    return {"paths": list(subset.paths), "shapes": [list(s) for s in subset.shapes]}


def from_json(value: dict[str, Any]) -> Subset:
    """The inverse of `to_json`."""
    return Subset(tuple(value["paths"]), tuple(tuple(s) for s in value["shapes"]))


def has_collections(variables: Variables) -> bool:
    """Whether the top level holds collections, "params" among them. A tree without that key (a list, Haiku's dict, an
    Equinox module, the state of an NNX module) is as a whole the parameters."""
    return isinstance(variables, Mapping) and "params" in variables


def _name(entry: Any) -> str:
    """One step of a tree path as a word, whatever container it steps into."""
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _leaves(variables: Variables) -> list[tuple[tuple[str, ...], Any]]:
    """(path components, leaf) of every leaf, in leaf order. Raises ValueError for a name given twice."""
    flat: list[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(variables)
    first = () if has_collections(variables) else ("params",)
    # a key that holds dots itself is several components
    leaves = [((*first, *".".join(_name(e) for e in path).split(".")), leaf) for path, leaf in flat]
    seen: set[str] = set()
    for path, _ in leaves:
        name = ".".join(path)
        if name in seen:
            raise ValueError(f"two leaves of the variables tree have the same dotted name {name!r}: rename one of them")
        seen.add(name)
    return leaves


def _last_ones(leaves: list[tuple[tuple[str, ...], Any]]) -> set[tuple[str, ...]]:
    """The branches whose number is the highest among their siblings."""
    highest: dict[tuple[str, ...], int] = {}
    for path, _ in leaves:
        for i, component in enumerate(path):
            if component.isdecimal():
                highest[path[:i]] = max(highest.get(path[:i], 0), int(component))
    return {(*parent, str(number)) for parent, number in highest.items()}


def _is_match(words: Sequence[str], path: tuple[str, ...], last_ones: set[tuple[str, ...]]) -> bool:
    """Whether the pattern's words are a leading run of the path after its collection."""
    parent, path = path[:1], path[1:]
    if len(words) > len(path):
        return False
    for i, (word, component) in enumerate(zip(words, path, strict=False)):
        is_leaf = i == len(path) - 1
        if word == "-1" and (*parent, *path[: i + 1]) in last_ones:
            continue
        if word == "weight" and is_leaf and component in ("scale", "kernel"):
            continue
        if not re.fullmatch(re.escape(word).replace(r"\*", ".*"), component):
            return False
    return True


def _matches(pattern: str, path: tuple[str, ...], collections: set[str], last_ones: set[tuple[str, ...]]) -> bool:
    words = pattern.split(".")
    if pattern == "*":
        return path[0] in ("params", "batch_stats")
    if words[0] in collections:
        return path[0] == words[0] and _is_match(words[1:], path, last_ones)
    return path[0] == "params" and _is_match(words, path, last_ones)


def _nearest(pattern: str, leaves: list[tuple[tuple[str, ...], Any]]) -> str:
    """Up to five names near to a pattern that matched nothing, for its error."""
    names = {".".join(path[1 : i + 1]) for path, _ in leaves if path[0] == "params" for i in range(1, len(path))}
    near = difflib.get_close_matches(pattern, sorted(names), n=5, cutoff=0.5)
    if near:
        return "nearest names: " + ", ".join(near)
    return "top-level names: " + ", ".join(sorted({path[1] for path, _ in leaves if len(path) > 1}))


def select(variables: Variables, patterns: Sequence[str], rank: int = RANK) -> Subset:
    """The leaves that any of the patterns names, in the tree's leaf order, each once.

    variables: arrays, or what `jax.eval_shape` gives. A pattern is a leading run of whole components
    after the collection ("layer4.1.bn2", "layer4.1.bn2.weight"); `*` stays inside one component; a lone
    "*" is everything in params and batch_stats; a collection in front ("batch_stats.bn1") is allowed; -1 in the place
    of a number is the last of the numbered ones ("layer3.-1.bn2": of the last block). With "lora:" in front
    ("lora:blocks.*.attn.qkv") it stands for adapters of the linear layers that it names: of every parameter with two
    axes. rank: of all adapters.

    Raises ValueError for a pattern that matches nothing, an integer leaf, no pattern at all, adapters where no layer is
    linear, a layer named both whole and by adapters, BN statistics beside adapters, and a rank that is not in [1,
    smaller side of each kernel].
    """
    if isinstance(patterns, str):
        raise ValueError(f"patterns is a sequence of strings; one string came: {patterns!r}; write [{patterns!r}]")
    if not patterns:
        raise ValueError("no pattern was given: name at least one layer, or '*' for everything")
    if isinstance(variables, Mapping) and "batch_stats" in variables and "params" not in variables:
        raise ValueError(
            f"the variables hold batch_stats and no params (their top level is "
            f"{', '.join(map(str, variables))}): put the "
            "parameters under the key params"
        )
    leaves = _leaves(variables)
    whole = _matched(leaves, [pattern for pattern in patterns if not pattern.startswith(LORA)])
    adapted = _adapted(leaves, [pattern for pattern in patterns if pattern.startswith(LORA)])
    if adapted and any(path[0] != "params" for path in whole):
        raise ValueError(f"adapters ({LORA}) and BN statistics cannot be in one subset: leave one of them out")
    for path in sorted(whole & adapted):
        raise ValueError(f"{'.'.join(path)} is named both whole and by adapters ({LORA}): leave one of them out")
    chosen: list[tuple[str, tuple[int, ...]]] = []
    for path, leaf in leaves:
        name = ".".join(path)
        if path in whole | adapted and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {leaf.dtype}: only floating-point leaves can be part of a subset")
        if path in whole:
            chosen.append((name, tuple(leaf.shape)))
        if path in adapted:
            rows, columns = leaf.shape
            _check_rank(rank, name, min(rows, columns))
            chosen += [(f"{name}.{LORA_A}", (rows, rank)), (f"{name}.{LORA_B}", (rank, columns))]
    return Subset(tuple(path for path, _ in chosen), tuple(shape for _, shape in chosen))


def _matched(leaves: list[tuple[tuple[str, ...], Any]], patterns: Sequence[str]) -> set[tuple[str, ...]]:
    """The paths that any of the patterns names. Raises ValueError for a pattern that names none."""
    collections, last_ones = {path[0] for path, _ in leaves if len(path) > 1}, _last_ones(leaves)
    matched = [{p for p, _ in leaves if _matches(pattern, p, collections, last_ones)} for pattern in patterns]
    for pattern, paths in zip(patterns, matched, strict=True):
        if not paths:
            raise ValueError(f"subset pattern {pattern!r} matches nothing; {_nearest(pattern, leaves)}")
    return set().union(*matched)


def _adapted(leaves: list[tuple[tuple[str, ...], Any]], patterns: Sequence[str]) -> set[tuple[str, ...]]:
    """The kernels that get adapters. Raises ValueError for a pattern that names no linear layer."""
    linear = {path for path, leaf in leaves if path[0] == "params" and len(leaf.shape) == 2}
    adapted: set[tuple[str, ...]] = set()
    for pattern in patterns:
        found = _matched(leaves, [pattern.removeprefix(LORA)]) & linear
        if not found:
            names = sorted(".".join(path[1:]) for path in linear)
            there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            raise ValueError(
                f"{pattern!r} asks for adapters of a layer that is not linear: they need a kernel with two axes; "
                f"linear here: {there or 'none'}"
            )
        adapted |= found
    return adapted


def _check_rank(rank: Any, name: str, most: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ValueError(
            f"rank must be a whole number in [1, {most}], the smaller side of {name}; got {rank!r} (a larger one "
            "saves nothing: name the layer itself)"
        )


def flatten(subset: Subset, variables: Variables, key: Key[Array, ""] | None = None) -> Float[Array, " dim"]:
    """The subset's leaves as one float32 vector. Raises ValueError where the tree does not fit the subset.

    Adapters start with A drawn from N(0, 1 / rows) and B zero (Hu et al. 2022, section 4.1), so that they change
    nothing yet. key: of A; None: a fixed one, the same for every call.
    """
    found = {".".join(path): leaf for path, leaf in _leaves(variables)}
    _check_fit(subset, found)
    key = jax.random.key(0) if key is None else key
    parts: list[Array] = []
    for i, (path, shape) in enumerate(zip(subset.paths, subset.shapes, strict=True)):
        if path in found:
            parts.append(jnp.ravel(found[path]).astype(jnp.float32))
        elif path.endswith(LORA_B):
            parts.append(jnp.zeros(math.prod(shape)))
        else:
            drawn = jax.random.normal(jax.random.fold_in(key, i), (math.prod(shape),))
            parts.append(drawn / math.sqrt(shape[0]))
    return jnp.concatenate(parts)


def insert(subset: Subset, variables: Variables, vector: Float[Array, " dim"]) -> Variables:
    """The variables with the subset's leaves taken from the vector, each cast to its leaf's dtype; a kernel W with
    adapters becomes W + A B.

    The exact inverse of `flatten` for float32 leaves. Raises ValueError for a vector of another length.
    """
    if vector.shape != (subset.dim,):
        raise ValueError(f"the subset needs a vector of shape [{subset.dim}]; one of {list(vector.shape)} came")
    parts: dict[str, Array] = {}
    start = 0
    for path, shape in zip(subset.paths, subset.shapes, strict=True):
        size = math.prod(shape)
        parts[path] = vector[start : start + size].reshape(shape)
        start += size
    return insert_leaves(subset, variables, parts)


def dotted_names(variables: Variables) -> Variables:
    """The dotted name of every leaf, as a tree like the variables."""
    names = [".".join(path) for path, _ in _leaves(variables)]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(variables), names)


def insert_leaves(subset: Subset, variables: Variables, parts: dict[str, Array]) -> Variables:
    """The variables with the subset's leaves taken from a dict by their dotted names, as in `insert`."""
    leaves = _leaves(variables)
    _check_fit(subset, {".".join(path): leaf for path, leaf in leaves})
    new = [_changed(".".join(path), leaf, parts) for path, leaf in leaves]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(variables), new)


def _changed(name: str, leaf: Any, parts: dict[str, Array]) -> Any:
    """A leaf as the parts make it."""
    if name in parts:
        return parts[name].astype(leaf.dtype)
    if f"{name}.{LORA_A}" in parts:
        change = jnp.matmul(parts[f"{name}.{LORA_A}"], parts[f"{name}.{LORA_B}"], precision="highest")
        return (leaf.astype(jnp.float32) + change).astype(leaf.dtype)
    return leaf


def stack(subset: Subset, vectors: Float[Array | np.ndarray, "m dim"]) -> dict[str, Any]:
    """The vectors as a nested tree of the subset's leaves, each with a leading axis m."""
    tree: dict[str, Any] = {}
    start = 0
    for path, shape in zip(subset.paths, subset.shapes, strict=True):
        *parents, last = path.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        size = math.prod(shape)
        node[last] = vectors[:, start : start + size].reshape(-1, *shape)
        start += size
    return tree


def _check_fit(subset: Subset, found: dict[str, Any]) -> None:
    for path, shape in zip(subset.paths, subset.shapes, strict=True):
        kernel, _, last = path.rpartition(".")
        if last in (LORA_A, LORA_B) and kernel in found:
            axis = 0 if last == LORA_A else 1
            if len(found[kernel].shape) != 2 or found[kernel].shape[axis] != shape[axis]:
                raise ValueError(f"{kernel} has shape {list(found[kernel].shape)}; {path} was made for {list(shape)}")
            continue
        if path not in found:
            raise ValueError(f"the subset names {path}, which this variables tree does not have")
        if tuple(found[path].shape) != shape:
            raise ValueError(f"{path} has shape {list(found[path].shape)}; the subset was made for {list(shape)}")
