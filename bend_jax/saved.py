"""The files of a saved ensemble: orbax trees and two JSON files."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import storage
from bend_jax import subset as subsets
from bend_jax.batching import named_leaves
from bend_jax.checks import SettingsError
from bend_jax.collect.collector import Checkpoints
from bend_jax.conformal import Calibration
from bend_jax.subset import Subset


def write(path: Path, content: dict[str, Any], ensemble: Any) -> None:
    """The ensemble into a new folder, whole or not at all. content: of ensemble.json. Raises FileExistsError, and
    SettingsError for an ensemble that could not be read again."""
    if path.exists():
        raise FileExistsError(f"{path} is there already: nothing was written; choose another folder")
    check("nothing was written", ensemble)
    variables, subset = ensemble.variables, ensemble.subset
    leaves, plain = jax.tree.leaves(variables), _is_plain(variables)
    with storage.publishing(path, {"stage": "ensemble"}) as partial:
        tree = variables if plain else {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
        storage.save_tree(partial.output / "variables", tree)
        if subset.dim:  # else a network alone: orbax writes no array without numbers
            storage.save_tree(partial.output / "members", {"vectors": ensemble.vectors})
        for name in ("checkpoints", "calibration"):
            known = getattr(ensemble, name)
            if known is not None:
                kept = {key: value for key, value in known._asdict().items() if value is not None}
                storage.save_tree(partial.output / name, kept)
        storage.write_json(partial.output / "subset.json", subsets.to_json(subset))
        storage.write_json(partial.output / "ensemble.json", content | {"leaves": None if plain else len(leaves)})


class Content(NamedTuple):
    """What `write` wrote: ensemble.json, and the parts of the ensemble."""

    json: dict[str, Any]
    variables: Any
    subset: Subset
    vectors: Any
    checkpoints: Checkpoints | None
    calibration: Calibration | None


def read(path: Path, variables: Any) -> Content:
    """What `write` wrote. variables: a tree of the structure of those that were no nested dicts. Raises what
    `bend_jax.load` raises."""
    if not storage.is_complete(path):
        raise FileNotFoundError(f"{path} holds no saved ensemble (no manifest.json)")
    storage.verify(path, "restore this folder from a copy, or save the ensemble again")
    with reading(path):
        content = storage.read_json(path / "ensemble.json")
        tree = storage.load_tree(path / "variables")
        if content.get("leaves") is not None:
            leaves = list(tree.values())
            structure = jax.tree.structure(variables)
            if structure.num_leaves != len(leaves):
                raise SettingsError(
                    f"the saved variables are no nested dicts but a tree of {len(leaves)} leaves: load(directory, "
                    "apply, variables=...) needs one of the same structure; a tree of "
                    f"{structure.num_leaves} leaves came"
                )
            tree = jax.tree.unflatten(structure, [tree[str(i)] for i in range(len(leaves))])
        subset = subsets.from_json(storage.read_json(path / "subset.json"))
        none = np.zeros((len(content["weights"]), 0), np.float32)
        vectors = storage.load_tree(path / "members")["vectors"] if subset.dim else none

        def part(name: str, kind: Callable[..., Any]) -> Any:
            return kind(**storage.load_tree(path / name)) if (path / name).exists() else None

        known = part("checkpoints", Checkpoints), part("calibration", Calibration)
        return Content(content, tree, subset, vectors, *known)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever other content than that of an ensemble makes its readers raise is a SettingsError."""
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001
        found = str(error).split("\n")[0]
        raise SettingsError(f"{path} holds no ensemble that can be read: {type(error).__name__}: {found}") from None


def check(where: str, ensemble: Any, classes: int | None = None) -> None:
    """Raise SettingsError, which begins with `where`, for an ensemble that does not fit together, or whose vote would
    hold NaN: before it is written, and when it was read. classes: how many it told apart when it was written."""
    subset, (m, dim) = ensemble.subset, shape_of(f"{where}: vectors", ensemble.vectors, 2)
    check_vote(where, ensemble.temperature, ensemble.weights, m)
    if dim != subset.dim:
        raise SettingsError(f"{where}: vectors have {dim} numbers, the subset {subset.dim}")
    try:
        jax.eval_shape(lambda v: subsets.insert(subset, ensemble.variables, v), jax.ShapeDtypeStruct((dim,), "float32"))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{where}: {error}") from None
    for name, leaf in named_leaves(ensemble.variables):
        _check_finite(f"{where}: variables{name}", leaf)
    if ensemble.checkpoints is not None:
        vectors, weights = ensemble.checkpoints
        k, own = shape_of(f"{where}: checkpoints", vectors, 2)
        if own != dim or (weights is not None and shape_of(f"{where}: their weights", weights, 1) != (k,)):
            raise SettingsError(f"{where}: the checkpoints do not fit the subset of {dim} numbers, or their weights")
    if classes not in (None, ensemble.classes):
        raise SettingsError(
            f"{where}: the ensemble tells {classes} classes apart; this network gives {ensemble.classes}"
        )
    if ensemble.calibration is not None:
        sizes = {shape_of(f"{where}: calibration", x, 1) for x in ensemble.calibration}
        labels, most = np.asarray(ensemble.calibration.labels), ensemble.classes or 2**31
        if len(sizes) > 1 or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < most)).all():
            raise SettingsError(f"{where}: the calibration is not of one label below {most} and one score an image")


def check_same(where: str, tree: Any, like: Any) -> None:
    """Raise SettingsError where the saved variables are not those of this module, by name and shape."""
    saved, own = ({name: np.shape(x) for name, x in named_leaves(t)} for t in (tree, like))
    apart = [name for name in {**saved, **own} if saved.get(name) != own.get(name)]
    if apart:
        was, now = (list(found[apart[0]]) if apart[0] in found else "missing" for found in (saved, own))
        raise SettingsError(
            f"{where} was saved for another module: {len(apart)} of its variables are not those of this one; the first "
            f"is {apart[0]}, saved: {was}, here: {now}"
        )


def check_vote(where: str, temperature: Any, weights: Any, count: int) -> None:
    """Raise SettingsError for a temperature or weights with which no vote is a number."""
    with np.errstate(over="ignore"):
        one = np.asarray(temperature).astype(np.float32) if np.asarray(temperature).dtype.kind in "iuf" else np.zeros(1)
    if one.ndim or not 0 < one < np.inf:
        raise SettingsError(f"{where}: the temperature must be a number above 0; it is {temperature!r:.80}")
    if shape_of(f"{where}: weights", weights, 1) != (count,) or np.min(weights) < 0 or not np.sum(weights) > 0:
        raise SettingsError(f"{where}: {count} weights of at least 0 are needed, not all 0; they are {weights!r:.200}")


def shape_of(where: str, array: Any, axes: int) -> tuple[int, ...]:
    """Of finite numbers with so many axes. Raises SettingsError for anything else."""
    array = np.asarray(array)
    if array.ndim != axes or not jnp.issubdtype(array.dtype, jnp.number):
        wanted = ", ".join("nm"[:axes])
        raise SettingsError(f"{where} must be numbers [{wanted}]; they are {array.dtype}{list(array.shape)}")
    _check_finite(where, array)
    return array.shape


def _check_finite(where: str, array: Any) -> None:
    dtype = getattr(array, "dtype", np.asarray(array).dtype)
    if jnp.issubdtype(dtype, jnp.floating) and not np.isfinite(np.asarray(array)).all():
        raise SettingsError(f"{where} hold NaN or Inf")


def _is_plain(tree: Any) -> bool:
    """Whether a tree is nested dicts of arrays, which orbax restores without a target."""
    if type(tree) is dict:
        return all(isinstance(key, str) for key in tree) and all(_is_plain(value) for value in tree.values())
    return isinstance(tree, jax.Array | np.ndarray)
