"""The newest stages of a work directory by name: links into its store, or copies where a file system has no links."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bend_jax import devices, storage
from bend_jax.checks import SettingsError

# what file systems without links answer, and what a folder in the place of a link does: the copy of an earlier run
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EISDIR)


def check(workdir: Path, names: Iterable[str]) -> None:
    """Raise SettingsError where a file or folder of a user's own stands in the place of a link."""
    for name in names:
        path = workdir / name
        if os.path.lexists(path) and not _is_ours(path):
            raise SettingsError(
                f"{path} is there already, and no run has put it there: move it away, or choose another --workdir"
            )


def link(workdir: Path, name: str, target: Path) -> None:
    """Point <workdir>/<name> at a stage, by a relative link that is replaced in one step. Raises what `check` does."""
    if not devices.is_first():
        return
    check(workdir, [name])
    path, temporary = workdir / name, workdir / f".{name}.link"
    while True:
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(target, workdir))
            os.replace(temporary, path)
            return
        except (FileExistsError, FileNotFoundError):
            continue  # another run links at the same time
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            temporary.unlink(missing_ok=True)
            _copy(target, path)
            return


def _is_ours(path: Path) -> bool:
    """Whether it is a link into the store, or a whole copy of a stage and nothing else."""
    if path.is_symlink():
        folder, _, name = os.readlink(path).rpartition("/")
        return folder == "store" and storage.STAGE.fullmatch(name) is not None
    with contextlib.suppress(storage.DamagedError):
        return bool(storage.verify(path))
    return False


def _copy(target: Path, path: Path) -> None:
    """A copy of a stage in the place of an older one, which is there until the new one is whole."""
    with contextlib.suppress(OSError):
        if (path / "manifest.json").read_bytes() == (target / "manifest.json").read_bytes():
            return
    root = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        shutil.copytree(target, root / "new")
        with contextlib.suppress(FileNotFoundError):
            path.rename(root / "old")
        with contextlib.suppress(FileExistsError, OSError):  # another run was quicker
            (root / "new").rename(path)
    finally:
        shutil.rmtree(root, ignore_errors=True)
