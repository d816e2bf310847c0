"""Files from anywhere: what one says of itself is held against what it can hold before any memory is taken for it."""

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

CGROUP = Path("/sys/fs/cgroup/memory.max")
FREELY = 64 * 2**20  # bytes that any file may expand to
EXPANSION = 500  # times its size that a larger one may; deflate ends at 1032, images of shapes on black come to 120


def free_memory() -> int | None:
    """Bytes that are free on this machine, or what its control group allows where that is less; None: not known."""
    found = list[int]()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        found += [int(text) for text in [CGROUP.read_text().strip()] if text.isdigit()]
    except OSError:  # another system, or no control group
        pass
    return min(found, default=None)


def check_size(claimed: int, stored: int) -> None:
    """Raise ValueError for numbers of `claimed` bytes that `stored` bytes on disk, or the free memory, do not hold."""
    free = free_memory()
    if claimed > max(FREELY, EXPANSION * stored):
        raise ValueError(
            f"it claims {claimed / 2**20:,.0f} MiB in a file of {stored / 2**20:.3g} MiB, more than {EXPANSION} times "
            "as much; numbers that are so uniform have to be saved uncompressed"
        )
    if free is not None and claimed > free:
        raise ValueError(f"it takes {claimed / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory are free")


def check_zip(archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo], stored: int) -> None:
    """Raise ValueError for members of a zip of `stored` bytes that share its bytes, or that expand to too much."""
    if sum(info.compress_size for info in archive.infolist()) > stored:
        raise ValueError("its members overlap")
    check_size(sum(info.file_size for info in members), stored)


def read_npz(path: Path, choose: Callable[[list[str]], Iterable[str]]) -> dict[str, np.ndarray]:
    """The arrays of an .npz that `choose` takes of the names of all; no others are read, and no objects.

    Raises ValueError for a file that is none or is damaged, and for arrays that claim more than is there; what `choose`
    raises; FileNotFoundError.
    """
    with _one_error(), zipfile.ZipFile(path) as archive:
        members = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
        if not all(name.isprintable() for name, _ in members):
            raise ValueError("a name in it is no text")
    names = list(choose([name for name, _ in members]))
    with _one_error(), zipfile.ZipFile(path) as archive:
        chosen = {name: info for name, info in members if name in names}
        check_zip(archive, chosen.values(), path.stat().st_size)
        return {name: _array(archive, chosen[name]) for name in names}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One member, once its header has been found to claim the bytes that it has."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{info.filename} is of format {version}, which holds no plain numbers")
        shape, _, dtype = readers[version](file)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds objects, which are not read")
        there = info.file_size - file.tell()
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != there:
            raise ValueError(f"{info.filename} claims {dtype}{list(shape)} and has {there} bytes")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Whatever a damaged archive makes its readers raise is a ValueError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001
        raise ValueError(str(error).split("\n")[0] or type(error).__name__) from None


def read_json(text: str | bytes) -> Any:
    """JSON of text from anywhere. Raises ValueError for all else, also for what is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
