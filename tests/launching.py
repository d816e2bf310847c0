"""launch.py in processes of their own, forked from one that has imported everything: imports cost more than most runs.

What such a process does is what `python launch.py` does, down to its standard streams and its exit code; only how it
starts and how the interpreter ends differ, so that some tests start a real one as well. And reports have blank figures:
drawing them takes longer than the smallest runs.
"""

import contextlib
import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

from bend_jax.report import plotting
from bend_jax.run import saved_states

ROOT = Path(__file__).parent.parent
TIMEOUT = 300
TINY = "tests/configs/tiny.py"
LOCK = threading.Lock()  # a start polls all processes, and an exit code can be read only once
SERVER = multiprocessing.get_context("forkserver")
# no program is run there, and no thread started, before it forks
SERVER.set_forkserver_preload(
    ["pytest", "sklearn.datasets", "tests.launching", "bend_jax.run.export", "bend_jax.run.rows"]
)


class Ended(NamedTuple):
    """Exit code and standard streams of a process that has ended."""

    code: int
    out: str
    err: str


class Running(NamedTuple):
    """A process, and the files that its standard streams go to."""

    process: ForkServerProcess
    out: Path
    err: Path


def of_long_work() -> dict[str, str]:
    """The environment of a script that computes for so long that better programs save more than they cost."""
    flags = os.environ.get("XLA_FLAGS", "").replace("optimization_level=0", "optimization_level=1")
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}


def begin(folder: Path, words: list[str], cwd: Path = ROOT, before: Callable[[], Any] | None = None) -> Running:
    """Start launch.py with these words in `cwd`; `before` runs first; the streams go to files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir()))
    out, err = folder / f"{number}.out", folder / f"{number}.err"
    out.touch()
    process = SERVER.Process(target=_main, args=(words, cwd, out, err, before))
    with LOCK:
        process.start()
    return Running(process, out, err)


def has_ended(running: Running, seconds: float = 0.0) -> bool:
    """Whether it ends within that time."""
    return bool(wait([running.process.sentinel], seconds))


def finish(running: Running) -> Ended:
    """Wait for its end, and kill it where it does not come."""
    if not has_ended(running, TIMEOUT):
        running.process.kill()
        has_ended(running, TIMEOUT)
    with LOCK:
        running.process.join()
    assert running.process.exitcode is not None
    return Ended(running.process.exitcode, running.out.read_text(), running.err.read_text())


def launch(folder: Path, words: list[str], cwd: Path = ROOT, before: Callable[[], Any] | None = None) -> Ended:
    """Run launch.py to its end."""
    return finish(begin(folder, words, cwd, before))


def _main(words: list[str], cwd: Path, out: Path, err: Path, before: Callable[[], Any] | None) -> None:
    """In the new process."""
    for number, path in ((0, Path(os.devnull)), (1, out), (2, err)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)  # by lines
    os.chdir(cwd)
    sys.argv, sys.path[0] = ["launch.py", *words], str(ROOT)
    plotting.draw = blank
    if before is not None:
        before()
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: sys.stdout.flush())  # whatever stdout is then
        runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")


def blank(work: Callable[[Any], None], name: str, folder: Path) -> str:
    """In place of `plotting.draw`."""
    for suffix in ("png", "svg"):
        (folder / f"{name}.{suffix}").write_text("")
    return "<svg></svg>"


def tell_starts() -> None:
    """In such a process: print where each training begins."""

    class Spied(saved_states.StateSaver):
        """Tells where it resumes."""

        def resume(self, name: str, state: Any) -> tuple[Any, float]:
            found = super().resume(name, state)
            print(f"resumed {name} at {int(found[0].step)}", flush=True)
            return found

    saved_states.StateSaver = Spied
