"""Trained models in, members out: PyTorch's names and layouts, safetensors, .pth without torch, orbax trees.

A `.pth` file is a zip of raw storages and one pickle that says how they make up tensors. The pickle is read by an
unpickler that knows nine names (an ordered dict, how a tensor is rebuilt, the storage types) and refuses every other:
nothing in the file is executed.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bend_jax import storage
from bend_jax.checks import SettingsError

State = dict[str, np.ndarray]  # PyTorch's dotted names


# from the names of torchvision, timm and kuangliu's pytorch-cifar to ours, which are kuangliu's with `fc`
RENAMES = [
    (r"^(module|model|backbone)\.", ""),
    (r"\.downsample\.conv\.", ".shortcut.0."),  # timm's RegNets
    (r"\.downsample\.bn\.", ".shortcut.1."),
    (r"\.downsample\.", ".shortcut."),
    (r"^(linear|head\.fc|classifier)\.", "fc."),
    (r"^stem\.(conv|0)\.", "conv1."),
    (r"^stem\.(bn|1)\.", "bn1."),
    (r"^s(\d)\.b(\d+)\.", lambda m: f"layer{m[1]}.{int(m[2]) - 1}."),
    (r"\.conv(\d)\.conv\.", r".conv\1."),
    (r"\.conv(\d)\.bn\.", r".bn\1."),
    (r"^trunk_output\.block(\d)\.block\d-(\d+)\.", r"layer\1.\2."),  # torchvision's RegNets
    (r"\.proj\.", ".shortcut."),
    (r"\.f\.se\.", ".se."),
    (r"\.f\.([abc])\.0\.", lambda m: f".conv{'abc'.index(m[1]) + 1}."),
    (r"\.f\.([abc])\.1\.", lambda m: f".bn{'abc'.index(m[1]) + 1}."),
    (r"\.se\.fc([12])\.", r".se.se\1."),
]
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
}


def load_init(path: Path, shapes: Any) -> Any:
    """The variables of a trained model: a .safetensors or .pth file of PyTorch, or a folder with an orbax tree.

    shapes: the variables tree that is expected, of arrays or `jax.eval_shape` results. Raises SettingsError where the
    file cannot be read or a name is missing, unexpected or of another shape: all of them are listed.
    """
    if path.is_dir():
        try:
            found = storage.load_tree(path)
        except Exception as error:  # noqa: BLE001  orbax raises many kinds for a folder that is not a checkpoint
            raise SettingsError(f"--init: {path} is not an orbax checkpoint ({str(error).splitlines()[0]})") from None
        state = flat_names(found)
    else:
        state = from_torch(read_torch(path), shapes)
    expected = flat_names(shapes)
    _check_names(path, state, expected)
    leaves = [state[name].astype(leaf.dtype) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def flat_names(tree: Any) -> dict[str, Any]:
    """The leaves of nested dicts by dotted name, in leaf order."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}


def _check_names(path: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    misshapen = [
        f"{name} {list(state[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in state and tuple(state[name].shape) != tuple(expected[name].shape)
    ]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": misshapen,
    }
    texts = [
        f"{len(names)} {kind}: {'; '.join(names[:4])}{'; ...' * (len(names) > 4)}"
        for kind, names in problems.items()
        if names
    ]
    if texts:
        raise SettingsError(f"--init: {path} does not fit the backbone. {'. '.join(texts)}")


def read_torch(path: Path) -> State:
    """The tensors of a .safetensors or .pth file by their names. Raises SettingsError where it cannot be read."""
    if not path.is_file():
        raise SettingsError(f"--init: there is no file or folder {path}")
    if path.suffix == ".safetensors":
        try:
            from safetensors.numpy import load_file
        except ImportError:
            raise SettingsError("--init: reading .safetensors needs safetensors: pip install safetensors") from None
        try:
            return load_file(path)
        except Exception as error:  # noqa: BLE001  the library raises its own and others
            raise SettingsError(f"--init: {path} cannot be read as safetensors ({error})") from None
    try:
        content = _read_pth(path)
    except Exception as error:  # noqa: BLE001  a damaged zip or pickle can raise anything; nothing of it is executed
        raise SettingsError(f"--init: {path} cannot be read as a checkpoint of torch.save >= 1.6 ({error})") from None
    return _find_state(path, content)


def _read_pth(path: Path) -> Any:
    with zipfile.ZipFile(path) as file:
        roots = [name.removesuffix("data.pkl") for name in file.namelist() if name.endswith("data.pkl")]
        if not roots:
            raise ValueError("there is no data.pkl in it")
        root = roots[0]

        def tensor(
            storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
        ) -> np.ndarray:
            steps = tuple(s * storage.itemsize for s in stride)
            last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
            if min((*size, *stride, offset, 0)) < 0 or (np.prod(size) and last >= storage.size):
                raise ValueError("a tensor reaches outside its storage")
            return np.array(np.lib.stride_tricks.as_strided(storage[offset:], size, steps))

        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
        }
        known[("torch._utils", "_rebuild_parameter")] = lambda data, *_: data
        known |= {("torch", name): kind for name, kind in STORAGES.items()}

        class Restricted(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if (module, name) not in known:
                    raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a state dict: refused")
                return known[module, name]

            def persistent_load(self, pid: Any) -> np.ndarray:
                _, kind, key, _, _ = pid
                return np.frombuffer(file.read(f"{root}data/{key}"), kind)

        return Restricted(io.BytesIO(file.read(f"{root}data.pkl"))).load()


def _find_state(path: Path, content: Any) -> State:
    """The state dict itself, or the one inside of a training checkpoint ("net", "state_dict", "model")."""
    for key in ("state_dict", "net", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, np.ndarray) for v in content.values()):
        raise SettingsError(f"--init: {path} holds no state dict of tensors")
    return dict(content)


def from_torch(state: State, shapes: Any) -> dict[str, np.ndarray]:
    """PyTorch's tensors under our names and in our layouts (HWIO kernels, [in, out] matrices)."""
    ours = set(flat_names(shapes))
    result = {}
    for torch_name, value in state.items():
        name = torch_name
        for pattern, replacement in RENAMES:
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
            is_dense = parents[-1] == "fc"
            value = np.swapaxes(value, -1, -2) if is_dense else np.moveaxis(value, (-1, -2), (-4, -3))
        result[".".join((*parents, leaf))] = np.ascontiguousarray(value)
    return result
