"""Trained models in, members out: PyTorch's names and layouts, whole files of training scripts, orbax trees."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import storage
from bend_jax.checks import SettingsError
from bend_jax.models import torch_files
from bend_jax.models.torch_names import RENAMES, WRAPPERS
from bend_jax.models.vit import resample_positions

State = dict[str, np.ndarray]  # PyTorch's dotted names


DEEPEST = 20  # dicts and lists inside each other, in which a network is looked for
# the last layer, and what is before it
HEAD = re.compile(r"^(.*?)(?:linear|fc|head|head\.fc|heads\.head|classifier|classifier\.\d)\.weight$")
# ours
OWN_HEAD = re.compile(r"^params\.(linear|fc|head|head\.fc|classifier)\.(kernel|bias)$")


def load_init(path: Path, shapes: Any, *, new_head: bool = False) -> Any:
    """The variables of a trained model: a file of PyTorch (see `torch_files`), or a folder with an orbax tree.

    shapes: the variables tree that is expected, of arrays or `jax.eval_shape` results. In a file the network may lie in
    dicts or lists, its names may have a prefix, and other things may lie beside it. Where several networks fit, one
    that is no moving average ("ema") is taken, with a warning. Position embeddings for another image size are
    resampled, with a warning. new_head: the last layer is zeros (Dosovitskiy et al. 2021, section 3.2); the file's may
    have any number of classes, or be missing. Raises SettingsError where the file cannot be read, a name is missing,
    unexpected or of another shape (all of them are listed), a number is NaN or Inf, or a variance is below 0.
    """
    everything = flat_names(shapes)
    heads = {name for name in everything if OWN_HEAD.match(name)} if new_head else set()
    expected = {name: leaf for name, leaf in everything.items() if name not in heads}
    if path.is_dir():
        try:
            state = flat_names(storage.load_tree(path))
        except Exception as error:  # noqa: BLE001  orbax raises many kinds for a folder that is not a checkpoint
            found = str(error).split("\n")[0] or type(error).__name__
            raise SettingsError(f"--init: {path} is not an orbax checkpoint ({found})") from None
        state = _resampled(path, _without_head(state, new_head), expected)
    elif path.is_file():
        state = _fitting(path, shapes, expected, new_head)
    else:
        raise SettingsError(f"--init: there is no file or folder {path}")
    _check_names(path, state, expected)
    zeros = {name: np.zeros(everything[name].shape, everything[name].dtype) for name in heads}
    given = {name: np.asarray(state[name]).astype(leaf.dtype) for name, leaf in expected.items()}
    leaves = {name: (zeros if name in heads else given)[name] for name in everything}
    _check_finite(path, leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), list(leaves.values()))


def _without_head(state: State, new_head: bool) -> State:
    return {name: x for name, x in state.items() if not (new_head and OWN_HEAD.match(name))}


def _fitting(path: Path, shapes: Any, expected: dict[str, Any], new_head: bool) -> State:
    """The network in the file that fits; where none does, the largest."""
    found = {
        where: _resampled(path, _without_head(from_torch(state, shapes), new_head), expected)
        for where, state in networks(torch_files.read(path))
    }
    if not found:
        raise SettingsError(f"--init: {path} holds no state dict of tensors. {torch_files.ACCEPTED}")
    fitting = [where for where, state in found.items() if not any(_misfits(state, expected).values())]
    if not fitting:
        return max(found.values(), key=len)
    fitting.sort(key=lambda where: "ema" in where)
    if len(fitting) > 1:
        others = ", ".join(map(repr, fitting[1:]))
        warnings.warn(f"--init: {path}: {fitting[0]!r} is read; {others} would fit too", stacklevel=3)
    return found[fitting[0]]


def _resampled(path: Path, state: State, expected: dict[str, Any]) -> State:
    """The same, with the position embeddings of a vision transformer for another image size made to fit: a warning
    says so. Numbers of patches that are no squares stay as they are."""
    name = "params.pos_embed"
    old, new = (tuple(np.shape(own.get(name, ()))) for own in (state, expected))
    if old == new or len(old) != 3 or len(new) != 3:
        return state
    try:
        fitted = np.asarray(resample_positions(jnp.asarray(state[name], jnp.float32), new[1]))
    except ValueError:
        return state
    warnings.warn(
        f"--init: {path}: its position embeddings are for {old[1] - 1} patches and were resampled to {new[1] - 1}",
        stacklevel=4,
    )
    return {**state, name: fitted}


def networks(content: Any) -> Iterator[tuple[str, State]]:
    """Every dict in the content of a file that holds tensors by name, and where it was: without scalars, and without a
    common prefix. Names that end like a last layer's tell several prefixes apart. What is in several places, or in
    itself, is looked at once."""
    left, seen, dicts = [(content, "", 0)], set[int](), list[tuple[str, dict[Any, Any]]]()
    while left:
        own, where, depth = left.pop()
        if not isinstance(own, dict | list | tuple) or id(own) in seen or depth > DEEPEST:
            continue
        seen.add(id(own))
        if isinstance(own, dict):
            dicts.append((where, own))
        items = own.items() if isinstance(own, dict) else enumerate(own)
        left += [(value, f"{where}{key}.", depth + 1) for key, value in items]
    for where, own in reversed(dicts):  # what is inside comes first
        arrays = {k: v for k, v in own.items() if isinstance(k, str) and isinstance(v, np.ndarray) and v.ndim}
        prefixes = [match[1] for match in map(HEAD.match, arrays) if match] or [_common(list(arrays))]
        for prefix in dict.fromkeys(prefixes):
            state = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            if state:
                yield f"{where}{prefix}".rstrip("."), state


def _common(names: list[str]) -> str:
    """The leading components that all names share, but for their last one."""
    parts = [name.split(".")[:-1] for name in names]
    shared = 0
    while parts and all(len(own) > shared and own[shared] == parts[0][shared] for own in parts):
        shared += 1
    return "".join(f"{part}." for part in parts[0][:shared]) if parts else ""


def flat_names(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts by dotted name, in leaf order."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}


def _misfits(state: State, expected: dict[str, Any]) -> dict[str, list[str]]:
    """Names of what does not fit, by how."""
    misshapen = [
        f"{name} {list(state[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in state and tuple(state[name].shape) != tuple(expected[name].shape)
    ]
    return {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": misshapen,
    }


def _check_names(path: Path, state: State, expected: dict[str, Any]) -> None:
    misfits = _misfits(state, expected)
    texts = [
        f"{len(names)} {kind}: {'; '.join(names[:4])}{'; ...' * (len(names) > 4)}"
        for kind, names in misfits.items()
        if names
    ]
    if texts:
        texts += _differences(list(state), list(expected))
        if all(OWN_HEAD.match(text.split()[0]) for names in misfits.values() for text in names):
            texts.append(
                "Only the last layer differs, as for other classes: --config.backbone.init_head=new puts a new one in "
                "its place and trains the network on, by the settings of base"
            )
        raise SettingsError(f"--init: {path} does not fit the backbone. {'. '.join(texts)}")


def _differences(found: list[str], expected: list[str]) -> list[str]:
    """In words: another depth, other shortcuts."""
    texts, theirs, ours = [], _blocks(found), _blocks(expected)
    if theirs != ours:
        texts.append(f"It has {_listed(theirs)} blocks in its stages, the backbone has {_listed(ours)}")
    options = [any(".shortcut." in name for name in names) for names in (found, expected)]
    if options == [True, False]:
        texts.append(
            "Its shortcuts are 1x1 convolutions (option B of He et al. 2016), the backbone's are strided slices with "
            "zeros as new channels (option A): backbone.name=resnet18 with its widths and blocks has option B"
        )
    if options == [False, True]:
        texts.append(
            "It has no parameters in its shortcuts (option A of He et al. 2016: strided slices with zeros as new "
            "channels), the backbone has 1x1 convolutions there (option B): resnet20 to resnet110 have option A"
        )
    return texts


def _blocks(names: list[str]) -> list[int]:
    """How many blocks each stage has."""
    found = {(int(m[1]), int(m[2])) for m in (re.search(r"\blayer(\d+)\.(\d+)\.", name) for name in names) if m}
    return [sum(stage == s for s, _ in found) for stage in sorted({stage for stage, _ in found})]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"


def _check_finite(path: Path, leaves: dict[str, np.ndarray]) -> None:
    bad = {name: int((~np.isfinite(x)).sum()) for name, x in leaves.items() if not np.isfinite(x).all()}
    if bad:
        named = "; ".join(f"{name} ({count} of {leaves[name].size} numbers)" for name, count in list(bad.items())[:4])
        more = "; ..." * (len(bad) > 4)
        raise SettingsError(f"--init: {path} has NaN or Inf in {len(bad)} of {len(leaves)} parameters: {named}{more}")
    variances = {name: x for name, x in leaves.items() if name.startswith("batch_stats.") and name.endswith(".var")}
    negative = "; ".join([name for name, x in variances.items() if (x < 0).any()][:4])
    if negative:
        raise SettingsError(f"--init: {path} has variances below 0, in {negative}")


def from_torch(state: State, shapes: Any) -> dict[str, np.ndarray]:
    """PyTorch's tensors under our names and in our layouts (HWIO kernels, [in, out] matrices)."""
    ours = flat_names(shapes)
    renames = [*WRAPPERS, *next((own for name, own in RENAMES.items() if name in ours), ())]
    renames += [(r"^fc\.", "linear.")] * ("params.linear.kernel" in ours)
    result = {}
    for torch_name, value in state.items():
        name = torch_name
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        *parents, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf in ("running_mean", "running_var"):
            result[".".join(("batch_stats", *parents, leaf.removeprefix("running_")))] = value
            continue
        if leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        key = ".".join(("params", *parents, leaf))
        value = value.reshape(-1) if leaf == "gamma" else value  # torchvision's are [channels, 1, 1]
        result[key if key in ours else f"{key} ({torch_name})"] = value
    return result


def to_torch(variables: dict[str, np.ndarray]) -> State:
    """Our dotted names and layouts as PyTorch's: the inverse of `from_torch`, a leading axis m allowed."""
    result = {}
    for name, value in variables.items():
        collection, *parents, leaf = name.split(".")
        if collection == "batch_stats":
            leaf = f"running_{leaf}"
        elif leaf == "scale":
            leaf = "weight"
        elif leaf == "kernel":
            leaf = "weight"
            is_dense = value.ndim < 4
            value = np.swapaxes(value, -1, -2) if is_dense else np.moveaxis(value, (-1, -2), (-4, -3))
        result[".".join((*parents, leaf))] = np.ascontiguousarray(value)
    return result
