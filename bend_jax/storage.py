"""The stage store: directories named by digest, published whole or not at all, checked when read.

<store>/<stage>-<digest>/           one stage's output and its manifest.json
<store>/.<stage>-<digest>.partial/  output/ being written, state/ of a running training, lock
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from bend_jax import devices, files
from bend_jax.checks import SettingsError

STAGE = re.compile(r"[a-z_]+-[0-9a-f]{16}")  # the name of a stage's folder
FORMAT = 3  # of what lies on disk; part of every digest
# what manifests held before they had a sum of their own
WITHOUT_SUM = {"stage", "name", "seed", "seeds", "settings", "inputs", "seconds", "format", "versions", "sha256"}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class DamagedError(RuntimeError):
    """A file of the store is not what was written."""


class WriteError(OSError):
    """A file cannot be written: no room, no permission, a disk that fails."""


class BusyError(SettingsError):
    """Another process is building the same folder."""


def digest_of(value: Any) -> str:
    """16 hex digits of the SHA-256 of a JSON value, the same in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of Python and of the libraries that the numbers come from."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def entry(store: Path, stage: str, digest: str) -> Path:
    """Where that stage's output is, or will be."""
    return store / f"{stage}-{digest}"


def is_complete(path: Path) -> bool:
    """Whether the stage is there whole."""
    return (path / "manifest.json").is_file()


def read_manifest(path: Path, remedy: str = "") -> dict[str, Any]:
    """The manifest of a complete stage, without its own sum. Raises DamagedError where it cannot be read, or is not
    what was written. One from before manifests had a sum may hold only what they held then."""
    file = path / "manifest.json"
    try:
        manifest: Any = read_json(file)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{file} cannot be read ({error}); {_remedy(path, remedy)}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256"), dict):
        raise DamagedError(f"{file} is no manifest; {_remedy(path, remedy)}")
    own = manifest.pop("sum", None)
    if own != _sum(manifest) if own is not None else not manifest.keys() <= WITHOUT_SUM:
        raise DamagedError(f"{file} is damaged (its sum is not that of its content); {_remedy(path, remedy)}")
    return manifest


def _sum(manifest: dict[str, Any]) -> str:
    """Of everything in a manifest, however it is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def verify(path: Path, remedy: str = "", expected: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read the manifest, and check that the folder holds those files with their SHA-256 and no other file or link.

    expected: what the manifest must say of the stage, beside its files. Raises DamagedError for what differs, is
    missing or is too much; remedy: what its text advises, to delete the folder of a stage where nothing is said.
    """
    manifest = read_manifest(path, remedy)
    for key, value in json.loads(json.dumps(expected or {})).items():
        if manifest.get(key, value if key == "digest" else None) != value:  # the first manifests had no digest
            found = _short(manifest.get(key))
            raise DamagedError(
                f"{path} holds another stage: {key} {found}, not {_short(value)}; {_remedy(path, remedy)}"
            )
    entries = sorted(path.rglob("*"))
    for file in entries:
        if file.is_symlink():
            raise DamagedError(f"{file} is a link, and a stage has none; {_remedy(path, remedy)}")
    for name, sum_ in manifest["sha256"].items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DamagedError(f"{path} lists {name}, which leads out of it; {_remedy(path, remedy)}")
        try:
            actual = _sha256(path / name) if (path / name).is_file() else None  # to read a pipe is to wait
        except (OSError, ValueError):  # a name that no file can have
            actual = None
        if actual is None:
            raise DamagedError(f"{path / name} is missing; {_remedy(path, remedy)}")
        if actual != sum_:
            raise DamagedError(f"{path / name} is damaged (its SHA-256 is not the manifest's); {_remedy(path, remedy)}")
    for file in entries:
        name = str(file.relative_to(path))
        if file.is_file() and name not in ("manifest.json", *manifest["sha256"]) and not _is_of_the_desktop(file.name):
            raise DamagedError(f"{file} does not belong here: move it away, or {_remedy(path, remedy)}")
    return manifest


def _is_of_the_desktop(name: str) -> bool:
    """Files that file managers leave where somebody has looked."""
    return name in (".DS_Store", "Thumbs.db", "desktop.ini", ".directory") or name.startswith("._")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def stages(store: Path) -> list[Path]:
    """The folders of a store that have the name of a stage; not those being built, nor anything of a user's own."""
    return [path for path in sorted(store.iterdir()) if STAGE.fullmatch(path.name) and path.is_dir()]


def damaged(store: Path) -> dict[Path, str]:
    """What is wrong with which stage of a store, for those that are not whole."""
    found = {}
    for path in stages(store):
        stage, _, digest = path.name.rpartition("-")
        try:
            verify(path, expected={"stage": stage, "digest": digest})
        except DamagedError as error:
            found[path] = str(error)
    return found


def _remedy(path: Path, remedy: str) -> str:
    return remedy or f"delete {path} to have it computed again, or add --repair to the command"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Partial(NamedTuple):
    """A stage that is being built: write into `output`; `state` outlives a killed process."""

    output: Path
    state: Path


@contextlib.contextmanager
def publishing(final: Path, manifest: dict[str, Any]) -> Iterator[Partial]:
    """Build a folder in a hidden sibling; when the block ends without an error, write the manifest and rename.

    What the block adds to `manifest` is written with it. Raises BusyError where another process is building the same
    folder.
    """
    if final.exists() and not is_complete(final):
        raise SettingsError(f"{final} is there without its manifest.json, so it is not whole: delete it")
    root = _partial(final)
    with contextlib.ExitStack() as stack:
        lock = _lock(root) if devices.is_first() else None
        if devices.broadcast_flag(lock is None):
            raise BusyError(f"another run is computing {final}: wait for it, or choose another folder")
        if lock is not None:
            stack.enter_context(lock)
            shutil.rmtree(root / "output", ignore_errors=True)
            (root / "output").mkdir()
        devices.barrier(f"build {final.name}")
        yield Partial(root / "output", root / "state")
        devices.barrier(f"built {final.name}")
        if devices.is_first():
            _publish(root, final, manifest)
        devices.barrier(f"published {final.name}")


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _lock(root: Path) -> TextIO | None:
    """The lock of a folder that is being built, held as long as the file is open; None where another process has it.

    Whoever has finished removes the folder, the lock in it included: one that is no longer there is none. Raises
    SettingsError for a file system that has no locks.
    """
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
            file = (root / "lock").open("a")
        except FileNotFoundError:
            continue  # removed between the two
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(root / "lock")):
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise SettingsError(
                f"{root} is on a file system without locks ({error.strerror}): choose another"
            ) from None
        file.close()


def wait(final: Path) -> None:
    """Until no process is building this folder: it is there then, or the process has died."""
    while devices.is_first():
        try:
            file = (_partial(final) / "lock").open()
        except FileNotFoundError:
            break
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.2)
    devices.barrier(f"waited for {final.name}")


def once(
    store: Path,
    stage: str,
    digest: str,
    manifest: dict[str, Any],
    build: Callable[[Partial], None],
    waiting: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Build a stage, unless it is there: then its manifest, once its files are verified; None where it was built.

    Where another process is building it, `waiting` is called, and it is waited for; where that one dies, this one goes
    on from its last saved state. manifest: what it must say; build may add to it.
    """
    path, expected = entry(store, stage, digest), {**manifest, "stage": stage, "digest": digest}
    while not devices.broadcast_flag(is_complete(path)):
        try:
            with building(store, stage, digest, manifest) as partial:
                if devices.broadcast_flag(is_complete(path)):
                    break  # another process has published it between the two looks
                build(partial)
            return None
        except BusyError:
            waiting()
            wait(path)
    return verify(path, expected=expected)


def _publish(root: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, and rename the folder to its own name once all of it is on the disk."""
    output = root / "output"
    sums = {str(p.relative_to(output)): _sha256(p) for p in sorted(output.rglob("*")) if p.is_file()}
    content = {**manifest, "format": FORMAT, "versions": versions(), "sha256": sums}
    content = json.loads(json.dumps(content, allow_nan=False))  # as it will be read
    write_json(output / "manifest.json", {**content, "sum": _sum(content)})
    for path in [*output.rglob("*"), output]:
        _sync(path)
    if not is_complete(final):  # else another run has published the same meanwhile
        os.rename(output, final)
        _sync(final.parent)
    shutil.rmtree(root, ignore_errors=True)


def building(
    store: Path, stage: str, digest: str, manifest: dict[str, Any]
) -> contextlib.AbstractContextManager[Partial]:
    """`publishing` of a stage in the store."""
    manifest |= {"stage": stage, "digest": digest}
    return publishing(entry(store, stage, digest), manifest)


def sweep(store: Path) -> None:
    """Remove what a process killed between publishing and tidying up left behind."""
    if not devices.is_first():
        return
    for root in store.glob(".*.partial"):
        lock = _lock(root) if is_complete(store / root.name[1 : -len(".partial")]) else None
        if lock is not None:
            with lock:
                shutil.rmtree(root, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise WriteError with one line for whatever the libraries that write `path` raise for a file that cannot be
    written; each has errors of its own."""
    try:
        yield
    except Exception as error:
        found = re.search(r"os_error_code='(\d+)'", str(error))  # of tensorstore
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number is None and "os error" not in str(error):  # of safetensors
            raise
        what = os.strerror(number) if number else str(error).split("\n")[0]
        raise WriteError(f"{path} cannot be written: {what}") from None


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written by one process; NaN is an error (what is undefined is null)."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if devices.is_first():
        path.write_text(text)


def read_json(path: Path) -> Any:
    """The inverse of `write_json`. Raises ValueError for what is no JSON."""
    return files.read_json(path.read_bytes())


def save_tree(path: Path, tree: Any) -> None:
    """A tree of arrays as an orbax checkpoint of host arrays: it restores anywhere, without a target.

    With several processes all must call this.
    """
    import orbax.checkpoint as ocp

    with writing(path):
        if devices.is_first():  # where orbax finds that it cannot, its threads wait for the folder for five minutes
            path.mkdir()
            path.rmdir()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path.absolute(), devices.to_host(tree))


def load_tree(path: Path) -> Any:
    """The tree as NumPy arrays. Raises SettingsError for arrays that claim more than its folder or the memory holds."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        leaves = jax.tree.leaves(checkpointer.metadata(path.absolute()).item_metadata)
        claimed = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in leaves if hasattr(x, "shape"))
        try:
            files.check_size(claimed, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        except ValueError as error:
            raise SettingsError(f"{path} cannot be read: {error}") from None
        return checkpointer.restore(path.absolute())


def tree_digest(tree: Any) -> str:
    """SHA-256 of the bytes of a tree's leaves, in leaf order."""
    return fingerprint([np.asarray(x) for x in jax.tree.leaves(tree)]).tobytes().hex()


def fingerprint(leaves: list[np.ndarray]) -> np.ndarray:
    """The SHA-256 of the bytes of all leaves, as bytes."""
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return np.frombuffer(digest.digest(), np.uint8).copy()
