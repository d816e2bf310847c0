"""PyTorch's weight files without PyTorch: safetensors and both formats of torch.save, told apart by their content.

torch.save writes a pickle that says how raw storages make up tensors: since 1.6 in a zip archive, before that in a
stream with the storages behind it. The pickle is read by an unpickler that knows the names in `KNOWN` and refuses every
other: nothing in the file is executed, and what it makes takes no more memory than the file has bytes.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bend_jax import files
from bend_jax.checks import SettingsError

MAGIC = 0x1950A86A20F9469CFC6C  # the first number in a stream of torch.save before 1.6, and the second
PROTOCOL = 1001
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.dtype(jnp.bfloat16),
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.dtype(jnp.bfloat16),
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
ACCEPTED = (
    "It takes a state dict written by torch.save (in a dict with other things, too), a .safetensors file, or a folder "
    "with an orbax tree"
)
# how files begin that are often given instead, what they are, and what to do
SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (b"<!", "a web page, not the file itself", "download it again"),
    (b"<html", "a web page, not the file itself", "download it again"),
    (b"\x1f\x8b", "a gzip archive", "unpack it with gunzip"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", ""),
)
FROM_ARRAYS = 'safetensors.numpy.save_file(arrays_by_pytorchs_names, "weights.safetensors")'


class Ignored:
    """Stands for what lies beside the weights, such as a NumPy scalar: takes whatever it is given and keeps nothing."""

    def __init__(self, *given: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """A view of the storage; the storage of a stream is filled later."""
    steps = tuple(s * storage.itemsize for s in stride)
    last, numbers = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)), math.prod(size)
    if min((*size, *stride, offset, 0)) < 0 or (numbers and last >= storage.size):
        raise ValueError("a tensor reaches outside its storage")
    if numbers > storage.size:
        raise ValueError(f"a tensor {list(size)} has more numbers than its storage, {storage.size}: save its .clone()")
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


BESIDE = (  # names of what training scripts save beside the weights
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("torch", "device"),
    ("torch", "Size"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("dict", "set")),
)
KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    **{("torch", name): name for name in STORAGES},
    **dict.fromkeys(BESIDE, Ignored),
}


class RefusedError(pickle.UnpicklingError):
    """A pickle that names something which is not in `KNOWN`."""


class Restricted(pickle.Unpickler):
    """Knows the names in `KNOWN` alone. storage(kind, key, location, size, ...) -> the numbers."""

    def __init__(self, file: io.BufferedIOBase, storage: Callable[..., np.ndarray]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What the name stands for."""
        if (module, name) not in KNOWN:
            raise RefusedError(f"it names {module}.{name}, which is no part of a state dict: refused")
        known = KNOWN[module, name]
        # a pickle may set attributes of what it has named: of a function that is nobody else's
        return known if isinstance(known, type | str) else lambda *given: known(*given)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A storage."""
        what, kind, *about = pid
        if what != "storage":
            raise RefusedError(f"it holds a {what}, which is no part of a state dict: refused")
        return self.storage(np.dtype(STORAGES[kind]), *about)


def _load(file: io.BufferedIOBase, storage: Callable[..., np.ndarray]) -> Any:
    """The next pickle of a file. Raises ValueError for one with an entry in its table of values beyond its own length:
    the unpickler would make a table of that size."""
    begin = file.tell()
    found: Any = pickletools.genops(file)  # pyright: ignore[reportArgumentType]
    for code, number, place in found:
        if "PUT" in code.name and number > place:
            raise ValueError("its table of values is longer than the file")
    file.seek(begin)
    return Restricted(file, storage).load()


def read(path: Path) -> Any:
    """What is in the file: arrays in the dicts and lists that hold them.

    Raises SettingsError where the file is none of these, damaged, or names anything that is not known here.
    """
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(0)
        for signature, what, todo in SIGNATURES:
            if start.lstrip().startswith(signature):
                raise _foreign(path, f"it is {what}", todo or FROM_ARRAYS)
        try:
            if start.startswith(b"PK"):
                return _read_zip(path, file)
            if start.startswith(b"\x80"):
                return _read_stream(file, path.stat().st_size)
            return _read_safetensors(file)
        except SettingsError:
            raise
        except RefusedError as error:
            line = f'torch.save(torch.load("{path.name}", weights_only=False).state_dict(), "weights.pth")'
            more = f"{line}, where you trust the file: that executes it. A dict's weights are its item, [...]"
            raise _foreign(path, str(error), f"{more} in the place of .state_dict()") from None
        except Exception as error:  # noqa: BLE001  a damaged zip or pickle can raise anything
            found = (str(error) or type(error).__name__) if start else "it is empty"
            raise _foreign(path, found, FROM_ARRAYS) from None


def _foreign(path: Path, found: str, line: str) -> SettingsError:
    return SettingsError(
        f"--init: {path} cannot be read: {' '.join(found.split())}. {ACCEPTED}. What makes one of it: {line}"
    )


def _read_zip(path: Path, file: io.BufferedIOBase) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = next((name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")), None)
        if root is None:
            raise ValueError("it is a zip archive without a data.pkl, such as an .npz")
        if any(name.startswith(f"{root}code/") for name in names):
            line = f'torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pth")'
            raise _foreign(path, "it is a TorchScript program", line)
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

        files.check_zip(archive, archive.infolist(), path.stat().st_size)
        storages: dict[str, bytes] = {}

        def storage(kind: np.dtype, key: str, *_: Any) -> np.ndarray:
            if key not in storages:
                storages[key] = archive.read(f"{root}data/{key}")
            return np.frombuffer(storages[key], kind)

        return _load(io.BytesIO(archive.read(f"{root}data.pkl")), storage)


def _read_stream(file: io.BufferedIOBase, size: int) -> Any:
    """torch.save before 1.6: four pickles (a magic number, a version, the machine, the content), one of the storages'
    keys, and of each storage its length and its numbers."""
    storages: dict[str, np.ndarray] = {}

    def storage(kind: np.dtype, key: str, location: str, length: int, view: Any = None) -> np.ndarray:
        if key not in storages:
            if length < 0 or length * kind.itemsize + sum(own.nbytes for own in storages.values()) > size:
                raise ValueError("its storages are larger than the file")
            storages[key] = np.zeros(length, kind)
        whole = storages[key]
        return whole if view is None else whole[view[1] : view[1] + view[2]]

    def load() -> Any:
        return _load(file, storage)

    if load() != MAGIC or load() != PROTOCOL:
        raise RefusedError("it is a pickle, but not one of torch.save")
    if not load()["little_endian"]:
        raise ValueError("its numbers are big-endian")
    content, keys = load(), load()
    for key in keys:
        whole = storages[key]
        length, numbers = int.from_bytes(file.read(8), "little"), file.read(whole.nbytes)
        if length != whole.size or len(numbers) < whole.nbytes:
            raise ValueError("it ends before its last tensor")
        whole[:] = np.frombuffer(numbers, whole.dtype)
    if set(keys) != set(storages):
        raise ValueError("it lacks the numbers of some tensors")
    return content


def _read_safetensors(file: io.BufferedIOBase) -> dict[str, np.ndarray]:
    """The length of a header, the header as JSON, the numbers."""
    content, result = memoryview(file.read()), {}
    end_of_header = 8 + int.from_bytes(content[:8], "little")
    header, data = bytes(content[8:end_of_header]), content[end_of_header:]
    if not header.startswith(b"{"):
        raise ValueError("it is neither of torch.save nor safetensors")
    for name, about in files.read_json(header).items():
        if name != "__metadata__":
            (begin, end), shape, kind = about["data_offsets"], about["shape"], np.dtype(SAFETENSORS[about["dtype"]])
            if not 0 <= begin <= end <= len(data) or math.prod(shape) * kind.itemsize != end - begin:
                raise ValueError(f"{name} claims {kind}{shape} in bytes {begin} to {end} of {len(data)}")
            result[name] = np.frombuffer(data[begin:end], kind).reshape(shape)
    return result
