"""Several processes in one work directory: each stage is computed once, and whoever waits goes on."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bend_jax import storage
from bend_jax.checks import SettingsError
from tests.launching import ROOT

DIGESTS = [str(i) * 16 for i in range(4)]
WORKER = """
import sys, time
from pathlib import Path
from bend_jax import links, storage
store, me, slow = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
sys.stdin.readline()  # all start together
for digest in sys.argv[4:]:
    def build(partial):
        print(f"builds {digest}", flush=True)
        before = partial.state.read_text() if partial.state.exists() else ""
        partial.state.write_text(before + me)
        time.sleep(slow)
        (partial.output / "by").write_text(partial.state.read_text())
    found = storage.once(store, "base", digest, {}, build, lambda: print(f"waits {digest}", flush=True))
    storage.sweep(store)
    links.link(store.parent, "base", storage.entry(store, "base", digest))
    assert (storage.entry(store, "base", digest) / "by").read_text(), "not there"
print("done", flush=True)
"""


def start(store: Path, me: str, slow: float, digests: list[str]) -> subprocess.Popen[str]:
    """A process that waits for a line before it begins."""
    command = [sys.executable, "-c", WORKER, str(store), me, str(slow), *digests]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_eight_processes_build_every_stage_once(tmp_path: Path) -> None:
    """Each in another order, so that they meet; all of them find every stage whole, and nothing is left behind."""
    store = tmp_path / "store"
    workers = [start(store, str(i), 0.05, DIGESTS[i % 4 :] + DIGESTS[: i % 4]) for i in range(8)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    outs = [worker.communicate(timeout=120)[0].split("\n") for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    assert all(out[-2] == "done" for out in outs)
    built = sorted(line for out in outs for line in out if line.startswith("builds"))
    assert built == [f"builds {digest}" for digest in DIGESTS]
    assert sorted(path.name for path in store.iterdir()) == [f"base-{digest}" for digest in DIGESTS]
    assert not storage.damaged(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "store"]


def test_whoever_waits_takes_over_from_a_process_that_dies(tmp_path: Path) -> None:
    """With the state that it left."""
    store = tmp_path / "store"
    dying, waiting = start(store, "d", 600.0, DIGESTS[:1]), start(store, "w", 0.0, DIGESTS[:1])
    for worker, line in ((dying, f"builds {DIGESTS[0]}"), (waiting, f"waits {DIGESTS[0]}")):
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == f"{line}\n"
    dying.send_signal(signal.SIGKILL)
    dying.communicate(timeout=120)
    out = waiting.communicate(timeout=120)[0]
    assert out == f"builds {DIGESTS[0]}\ndone\n"
    assert (storage.entry(store, "base", DIGESTS[0]) / "by").read_text() == "dw"


def test_a_live_partial_is_never_swept(tmp_path: Path) -> None:
    """Not even where the stage is there, as when it is computed twice."""
    with storage.building(tmp_path, "base", DIGESTS[0], {}):
        pass
    root = tmp_path / f".base-{DIGESTS[0]}.partial"
    root.mkdir()
    lock = storage._lock(root)
    assert lock is not None
    storage.sweep(tmp_path)
    assert root.exists()
    lock.close()
    storage.sweep(tmp_path)
    assert not root.exists()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before anything is built: two runs on it could write the same stage."""

    def none(file: Any, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(storage.fcntl, "flock", none)
    with pytest.raises(
        SettingsError, match=r"is on a file system without locks \(No locks available\): choose another"
    ):
        storage.once(tmp_path / "store", "base", DIGESTS[0], {}, lambda partial: pytest.fail("it was built"))
