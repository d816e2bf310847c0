"""The files of a saved ensemble: orbax trees and two JSON files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bend_jax import storage
from bend_jax import subset as subsets
from bend_jax.checks import SettingsError
from bend_jax.collect.collector import Checkpoints
from bend_jax.conformal import Calibration
from bend_jax.subset import Subset


def write(path: Path, content: dict[str, Any], ensemble: Any) -> None:
    """The ensemble into a new folder, whole or not at all. content: of ensemble.json. Raises FileExistsError."""
    if path.exists():
        raise FileExistsError(f"{path} is there already: nothing was written; choose another folder")
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
    content = storage.read_json(path / "ensemble.json")
    tree = storage.load_tree(path / "variables")
    if content.get("leaves") is not None:
        leaves = [tree[str(i)] for i in range(content["leaves"])]
        structure = jax.tree.structure(variables)
        if structure.num_leaves != len(leaves):
            raise SettingsError(
                f"the saved variables are no nested dicts but a tree of {len(leaves)} leaves: load(directory, apply, "
                f"variables=...) needs one of the same structure; a tree of {structure.num_leaves} leaves came"
            )
        tree = jax.tree.unflatten(structure, leaves)
    subset = subsets.from_json(storage.read_json(path / "subset.json"))
    none = np.zeros((len(content["weights"]), 0), np.float32)
    vectors = storage.load_tree(path / "members")["vectors"] if subset.dim else none

    def part(name: str, kind: Callable[..., Any]) -> Any:
        return kind(**storage.load_tree(path / name)) if (path / name).exists() else None

    return Content(content, tree, subset, vectors, part("checkpoints", Checkpoints), part("calibration", Calibration))


def _is_plain(tree: Any) -> bool:
    """Whether a tree is nested dicts of arrays, which orbax restores without a target."""
    if type(tree) is dict:
        return all(isinstance(key, str) for key in tree) and all(_is_plain(value) for value in tree.values())
    return isinstance(tree, jax.Array | np.ndarray)
