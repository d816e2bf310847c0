"""Weight files as PyTorch writes them, without PyTorch: streams of torch.save before 1.6."""

import io
import pickle
import sys
import types
from collections import OrderedDict
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

STORAGES = {"float32": "FloatStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage", "float16": "HalfStorage"}


class Tensor:
    """An array, to be written as torch.save writes a tensor; two of one storage share its numbers."""

    def __init__(self, array: np.ndarray, version: str = "_v2") -> None:
        self.array, self.version = array, version

    def __reduce__(self) -> Any:
        stride = tuple(step // self.array.itemsize for step in self.array.strides)
        rebuild = getattr(sys.modules["torch._utils"], f"_rebuild_tensor{self.version}")
        more = (False, OrderedDict()) if self.version else ()
        return rebuild, (Storage(self.array), 0, self.array.shape, stride, *more)


class Storage:
    """What lies outside of the pickle."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def tensors(state: dict[str, np.ndarray], version: str = "_v2") -> Any:
    """A state dict as PyTorch has it, with the counters of BatchNorm."""
    found = OrderedDict((name, Tensor(x, version)) for name, x in state.items())
    counters = {name.replace("running_mean", "num_batches_tracked") for name in state if "running_mean" in name}
    return found | OrderedDict((name, Tensor(np.array(7))) for name in sorted(counters))


def in_bfloat16(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same numbers, rounded."""
    return {name: x.astype(jnp.bfloat16) for name, x in state.items()}


def stream(content: Any, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The content as torch.save wrote it before its zip format: five pickles, then lengths and numbers."""
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        setattr(utils, name, _named(types.FunctionType((lambda *_: None).__code__, {}), "torch._utils", name))
    for name in STORAGES.values():
        setattr(torch, name, _named(type(name, (), {}), "torch", name))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    arrays: dict[str, np.ndarray] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, Storage):
                return None
            key = str(id(obj.array))
            arrays[key] = obj.array
            kind = getattr(torch, STORAGES[obj.array.dtype.name])
            return "storage", kind, key, "cuda:0", obj.array.size, None

    file = io.BytesIO()
    sizes = {"short": 2, "int": 4, "long": 4}
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": sizes, "protocol_version": 1001}):
        pickle.dump(part, file, protocol=2)
    Pickler(file, protocol=2).dump(content)
    pickle.dump(sorted(arrays), file, protocol=2)
    for _, array in sorted(arrays.items()):
        file.write(array.size.to_bytes(8, "little") + array.ravel("K").tobytes())
    monkeypatch.undo()
    return file.getvalue()


def _named(thing: Any, module: str, name: str) -> Any:
    thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
    return thing
