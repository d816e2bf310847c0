"""Disks, folders, environments and streams that fail: one line and the right code, or a run that goes on.

`python tools/chaos.py` injects each of them for real, into whole runs.
"""

import errno
import gc
import os
import pwd
import re
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import compilation, devices, storage
from bend_jax.checks import SettingsError, expanded
from bend_jax.data import archives, sources
from bend_jax.data.sources import Data, data_dir
from bend_jax.report import plotting
from bend_jax.run import command_line, config_file, driver, pipeline, saved_states, streams
from bend_jax.training import State
from tests.problems import write_images

FULL = OSError(errno.ENOSPC, "No space left on device", "/disk/file")
OF_TENSORSTORE = ValueError(
    'RESOURCE_EXHAUSTED: Error writing "x/0": Failed to write 9 bytes to file 12: No space left on device '
    "[os_error_code='28'] [tensorstore_spec='{}']\nmore"
)
OF_SAFETENSORS = RuntimeError("Error while serializing: I/O error: File too large (os error 27)")


# what cannot be written


@pytest.mark.parametrize("error", [FULL, OF_TENSORSTORE, OF_SAFETENSORS], ids=["Python", "tensorstore", "safetensors"])
def test_every_librarys_way_to_say_that_a_disk_is_full_is_one_error(error: Exception) -> None:
    """With the path, in one line."""
    with (
        pytest.raises(
            storage.WriteError, match=r"^/disk/tree cannot be written: .*(No space left|File too large)"
        ) as e,
        storage.writing(Path("/disk/tree")),
    ):
        raise error
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("error", [TypeError("no array"), ValueError("a key\nhere"), SettingsError("no")])
def test_a_mistake_is_not_taken_for_a_full_disk(error: Exception) -> None:
    """What does not come from the operating system stays what it is."""
    with pytest.raises(type(error)) as e, storage.writing(Path("tree")):
        raise error
    assert e.value is error


def test_arrays_and_states_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    """Below a file; and no thread of orbax's is left, which would hold up the end of the process."""
    (tmp_path / "file").touch()
    before = threading.enumerate()
    with pytest.raises(storage.WriteError, match=r"file/tree cannot be written: "):
        storage.save_tree(tmp_path / "file" / "tree", {"x": np.zeros(2)})
    saver = saved_states.StateSaver(tmp_path / "file", 0.0)
    with pytest.raises(storage.WriteError, match=r"file/base cannot be written: "):
        saver.save("base", State(jnp.int32(1), jnp.zeros(2), ()), 1.0, now=True)
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what orbax has not awaited
    assert [thread for thread in threading.enumerate() if thread not in before and not thread.daemon] == []


def main(monkeypatch: pytest.MonkeyPatch, raised: Exception | None, *words: str) -> int:
    """launch.py with these words, whose run raises that."""

    def run(*_: Any) -> None:
        assert raised is not None
        raise raised

    if raised is not None:
        monkeypatch.setattr(driver, "run", run)
    return command_line.main(["launch.py", *words])


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (FULL, 1, "/disk/file: No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a", None, "b"), 1, "a and b: Disk quota exceeded"),
        (OSError(errno.EROFS, "Read-only file system", "/ro"), 1, "/ro: Read-only file system"),
        (storage.WriteError("/disk/tree cannot be written: full"), 1, "/disk/tree cannot be written: full"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "aaa: File name too long"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "l"), 2, "l: Too many levels"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: Exception, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what to do; code 1 for a run that cannot go on, 2 for a name that can never be."""
    assert main(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"launch.py: stopped: {says}")
    assert err.endswith("what was finished is kept, and the same command goes on from there\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--workdir", "--config", "--compare", "--verify", "--evaluate", "--init"])
def test_names_that_are_no_text_are_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything looks at them."""
    assert main(monkeypatch, None, f"{flag}={os.fsdecode(bytes([0x63, 0xE9]))}") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"launch.py: {flag}=c\\udce9 is no UTF-8 here")
    assert said.count("\n") == 1


# the work directory


def test_a_work_directory_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    """Links in a circle, and a user's own file or folder in the place of a stage that is asked for."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((SettingsError, OSError), match=r"[lL]oop|levels of symbolic"):
        driver.check_workdir(tmp_path / "loop" / "run")
    (tmp_path / "base").mkdir()
    (tmp_path / "memorisation").touch()
    assert driver.check_workdir(tmp_path, pipeline.linked(("collect",))) == tmp_path
    for stages in (("base",), ("report",)):
        with pytest.raises(SettingsError, match="is there already, and no run has put it there"):
            driver.check_workdir(tmp_path, pipeline.linked(stages))
    assert sorted(os.listdir(tmp_path)) == ["base", "loop", "memorisation"]


def test_a_current_directory_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody has deleted it."""
    assert driver.current() == os.getcwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SettingsError, match="the current directory is gone"):
        driver.current()


# users, caches and archives


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user that the machine does not know."""

    def unknown(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without kept programs; only a path that is below it is refused."""
    changed: dict[str, Any] = {}
    config = SimpleNamespace(update=changed.__setitem__, jax_compilation_cache_dir=None)
    monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=config))
    compilation.keep()
    assert "jax_compilation_cache_dir" not in changed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep()
    assert changed["jax_compilation_cache_dir"] == str(tmp_path / "bend_jax" / "compiled")
    for use in (lambda: expanded("~/x"), lambda: data_dir(Data()), lambda: config_file.find("~/x.py")):
        with pytest.raises(SettingsError, match="Set HOME, or write the whole path"):
            use()
    assert data_dir(Data(dir="/data")) == Path("/data")
    data = Data(name=f"npz:{write_images(tmp_path / 'images.npz', 8, 8)}")
    assert sources.class_names(data) == ()
    assert len(sources.read(data)[0].labels) == 8


def test_every_flag_that_is_a_path_knows_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind =, where a shell leaves ~ as it is; one that is empty, as of a variable that is not set, is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[str] = []

    def start(own: Any, *_: Any) -> int:
        seen.append(repr(own[name].value))
        return 0

    monkeypatch.setattr(command_line, "start", start)
    for name in ("workdir", "init", "verify", "evaluate", "compare"):
        assert command_line.main(["launch.py", f"--{name}=~/x"]) == 0
        assert f"'{tmp_path}/x'" in seen[-1]
        assert command_line.main(["launch.py", f"--{name}="]) == 2
        assert f"--{name} needs a path" in capsys.readouterr().err
    assert command_line.main(["launch.py", "--compare=a,~/b"]) == 0
    assert seen[-1] == repr(["a", f"{tmp_path}/b"])
    assert command_line.main(["launch.py", "--compare=a,,b"]) == 2
    assert len(seen) == 6


@pytest.mark.parametrize("missing", [["flatbuffers"], ["flatbuffers", "safetensors"]])
def test_what_an_export_needs_is_told_before_anything_is_computed(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(driver, "find_spec", lambda name: None if name in missing else sys)
    words = ["--config=digits", "--stages=base,collect,generate,export", f"--workdir={tmp_path}/run"]
    assert command_line.main(["launch.py", *words]) == 2
    names = " and ".join(missing), " ".join(missing)
    said = "launch.py: --stages=export needs {}, not installed here: pip install {}\n".format(*names)
    assert capsys.readouterr().err == said
    assert not (tmp_path / "run").exists()


def test_an_archive_for_which_there_is_no_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is downloaded."""
    pooch = pytest.importorskip("pooch")

    def full(*_: Any, **__: Any) -> None:
        raise FULL

    monkeypatch.setattr(pooch, "retrieve", full)
    with pytest.raises(SettingsError, match=r"cannot be fetched \(.*No space left on device") as e:
        archives.fetch("cifar10", tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize backend 'cuda'\nmore"), AssertionError()])
def test_a_platform_that_is_not_there_is_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, whatever JAX raises, with what to do."""

    def none() -> Any:
        raise error

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(SettingsError, match=r"JAX_PLATFORMS=cuda: .+; for the CPU: JAX_PLATFORMS=cpu$") as e:
        devices.check()
    assert "\n" not in str(e.value)


# streams


def lasting(handle: int, encoding: str = "utf-8") -> streams.Lasting:
    """A stream onto an open file, as `prepare` makes it."""
    return streams.Lasting(os.fdopen(handle, "wb"), encoding, "backslashreplace")


def closed_pipe() -> int:
    """One that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


def full_device() -> int:
    """One that takes nothing."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("opened", [closed_pipe, full_device])
def test_a_stream_that_cannot_be_written_is_lost_and_the_run_goes_on(opened: Callable[[], int]) -> None:
    """At its first flush and at all later ones, those of the interpreter's end included."""
    with lasting(opened()) as stream:
        for _ in range(3):
            print("a line", file=stream, flush=True)
        stream.write("x" * 100_000)
        assert os.readlink(f"/proc/self/fd/{stream.fileno()}") == "/dev/null"


def test_letters_that_a_stream_lacks_become_escapes(tmp_path: Path) -> None:
    """As ± in the C locale."""
    with lasting(os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY), "ascii") as stream:
        print("1±2", file=stream)
    assert (tmp_path / "out").read_bytes() == rb"1\xb12" + b"\n"


# figures


def test_a_users_matplotlibrc_changes_no_figure(tmp_path: Path) -> None:
    """TeX, another font, size or backend."""
    matplotlib: Any = pytest.importorskip("matplotlib")
    found = []
    mine = {"text.usetex": True, "font.size": 30, "figure.dpi": 20, "savefig.bbox": "tight", "lines.linewidth": 9}
    for folder, given in ((tmp_path / "plain", {}), (tmp_path / "mine", mine)):
        folder.mkdir()
        with matplotlib.rc_context(given):
            svg = plotting.draw(lambda figure: figure.subplots().plot([0, 1]), "one", folder)
            assert matplotlib.rcParams["font.size"] == given.get("font.size", matplotlib.rcParams["font.size"])
        found.append((svg, (folder / "one.png").read_bytes()))
    assert found[0] == found[1]


def test_a_matplotlib_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with MPLBACKEND=none."""
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ValueError(\"Key backend: 'none' is not valid\")")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match="matplotlib cannot be imported: Key backend: 'none'"):
        plotting.draw(lambda figure: None, "one", tmp_path)


# versions


def test_a_stage_that_other_versions_have_made_carries_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the versions that differ, and none where none does."""
    now = storage.versions()
    assert pipeline._other_versions({"versions": now}) == ""
    said = pipeline._other_versions({"versions": {**now, "jax": "0.1.2"}})
    assert re.fullmatch(rf"; warning: made with jax 0\.1\.2, now {re.escape(now['jax'])}, so that .*", said)
