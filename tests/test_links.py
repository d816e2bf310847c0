"""Links from a work directory into its store, copies where there are none, and a user's own files in their place."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bend_jax import links, storage
from bend_jax.checks import SettingsError

OLD, NEW = "0123456789abcdef", "fedcba9876543210"


def built(workdir: Path, digest: str) -> Path:
    """A stage with one file."""
    with storage.building(workdir / "store", "base", digest, {}) as partial:
        (partial.output / "which").write_text(digest)
    return storage.entry(workdir / "store", "base", digest)


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vfat does."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)


def test_a_link_is_relative_and_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work directory can be moved, and there is no moment without a link."""
    workdir = tmp_path / "work"
    old, new = built(workdir, OLD), built(workdir, NEW)
    seen: list[tuple[str, str]] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append((os.readlink(source), os.readlink(target) if os.path.lexists(target) else ""))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    links.link(workdir, "base", old)
    (workdir / ".base.link").symlink_to("what a killed process left")
    links.link(workdir, "base", new)
    assert seen == [(f"store/base-{OLD}", ""), (f"store/base-{NEW}", f"store/base-{OLD}")]
    assert sorted(os.listdir(workdir)) == ["base", "store"]
    moved = workdir.rename(tmp_path / "moved")
    assert os.readlink(moved / "base") == f"store/base-{NEW}"
    assert (moved / "base").resolve() == (moved / "store" / f"base-{NEW}").resolve()


def test_without_links_there_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same name; a newer one takes the place of an older one, and of a link."""
    old, new = built(tmp_path, OLD), built(tmp_path, NEW)
    links.link(tmp_path, "base", old)
    refuse_links(monkeypatch)
    for target, digest in ((new, NEW), (new, NEW), (old, OLD)):
        links.link(tmp_path, "base", target)
        assert (tmp_path / "base" / "which").read_text() == digest
        assert not (tmp_path / "base").is_symlink()
        assert sorted(os.listdir(tmp_path)) == ["base", "store"]
    monkeypatch.undo()
    links.link(tmp_path, "base", new)  # moved to where there are links: its folders stay folders
    assert (tmp_path / "base" / "which").read_text() == NEW


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "copy"])
def test_what_a_user_has_put_there_is_never_replaced(
    kind: str, has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a copy of ours with a file of theirs in it."""
    target, mine = built(tmp_path, OLD), tmp_path / "base"
    if not has_links:
        refuse_links(monkeypatch)
    if kind == "link":
        mine.write_bytes(b"") if not has_links else mine.symlink_to("store")
    elif kind == "file":
        mine.write_text("mine")
    else:
        mine.mkdir()
        if kind == "copy":
            for name in ("manifest.json", "which"):
                (mine / name).write_bytes((target / name).read_bytes())
        (mine / "notes").write_text("mine")
    before = {path: path.lstat() for path in (mine, *mine.glob("*"))}
    with pytest.raises(SettingsError, match="is there already, and no run has put it there: move it away"):
        links.link(tmp_path, "base", target)
    with pytest.raises(SettingsError, match="is there already"):
        links.check(tmp_path, ["report", "base"])
    links.check(tmp_path, ["report", "collect"])
    assert {path: path.lstat() for path in before} == before
    assert sorted(os.listdir(tmp_path)) == ["base", "store"]


def test_other_errors_are_not_taken_for_a_lack_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk gets no copy, which takes more room."""
    target = built(tmp_path, OLD)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(OSError, match="No space"):
        links.link(tmp_path, "base", target)
    assert os.listdir(tmp_path) == ["store"]
