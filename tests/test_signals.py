"""Signals: a training saves its state and the process ends in one line; everything else ends at once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bend_jax.run import signals
from tests import launching
from tests.launching import ROOT
from tests.problems import write_images

CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
LINE = "launch.py: interrupted by {}; the same command goes on from the last saved state\n"
LONG = ["--config.base.epochs=100000", "--config.base.milestones=()", "--config.compute.save_seconds=1000000"]


def words_of(folder: Path) -> list[str]:
    """Of a run that trains for ever and saves nothing of its own accord."""
    if not (folder / "images.npz").exists():
        write_images(folder / "images.npz")
    data = f"--config.data.name=npz:{folder / 'images.npz'}"
    return ["--config=tests/configs/tiny.py", data, f"--workdir={folder / 'run'}", "--stages=base", *LONG]


HEEDING = """
import runpy, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)  # tests under nohup or in the background would hand on that one is ignored
sys.argv = sys.argv[1:]
runpy.run_path("launch.py", run_name="__main__")
"""


def as_from_a_terminal() -> None:
    """In the process of a run, before it starts: it heeds every signal, and tells where trainings begin."""
    for number in CODES:
        signal.signal(number, signal.SIG_DFL)
    launching.tell_starts()


def lines_of(folder: Path) -> int:
    """How many segments the training has run."""
    files = list(folder.glob("run/store/.base-*.partial/state/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def until(condition: Callable[[], bool], running: launching.Running) -> None:
    """Wait, as long as the process runs."""
    give_up = time.monotonic() + 300
    while not condition() and not launching.has_ended(running) and time.monotonic() < give_up:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_training_saves_its_state_and_goes_on_from_it(tmp_path: Path) -> None:
    """Each signal: its code and one line; each time the training begins where it stopped."""
    steps = []
    for i, (number, code) in enumerate(CODES.items()):
        before = lines_of(tmp_path)
        running = launching.begin(tmp_path / f"streams{i}", words_of(tmp_path), before=as_from_a_terminal)
        until(lambda before=before: lines_of(tmp_path) > before, running)
        assert running.process.pid is not None
        os.kill(running.process.pid, number)
        ended = launching.finish(running)
        assert ended.code == code, ended
        assert (
            ended.err
            == f"launch.py: interrupted by {number.name}; the same command goes on from the last saved state\n"
        )
        steps.append(
            max(int(p.name) for p in tmp_path.glob("run/store/.base-*.partial/state/base/*") if p.name.isdigit())
        )
        began = int(re.findall(r"resumed base at (\d+)", ended.out)[0])
        assert began == (steps[i - 1] if i else 0)
        assert steps[i] > began


@pytest.mark.parametrize("number", CODES)
def test_start_up_ends_at_once(number: signal.Signals, tmp_path: Path) -> None:
    """As soon as signals are handled, which is before any long import: the code, one line, no traceback."""
    command = [sys.executable, "-c", HEEDING, "launch.py", *words_of(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    handled = 0  # a bit for each signal; Python itself handles SIGINT, so SIGTERM's tells of ours
    while not handled >> signal.SIGTERM - 1 & 1 and process.poll() is None:
        found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
        handled = int(found[1], 16) if found else 0
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (CODES[number], "")
    assert err == LINE.format(number.name)
    assert not (tmp_path / "run").exists()


def test_a_second_signal_and_one_without_a_training_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one of a training waits for its next step, but no longer than GRACE."""
    left: list[int] = []
    monkeypatch.setattr(signals, "_leave", left.append)
    monkeypatch.setattr(signals._Asked, "number", 0)
    monkeypatch.setattr(signals._Asked, "is_training", False)
    monkeypatch.setattr(signals, "GRACE", 1000.0)
    signals._handle(signal.SIGTERM, None)
    assert left == [signal.SIGTERM]
    signals._Asked.number = 0
    signals.training(True)
    signals._handle(signal.SIGINT, None)
    assert (left, signals.asked()) == ([signal.SIGTERM], signal.SIGINT)
    signals._handle(signal.SIGINT, None)
    assert left == [signal.SIGTERM, signal.SIGINT]
    signals._Asked.number = 0
    monkeypatch.setattr(signals, "GRACE", 0.01)
    signals._handle(signal.SIGHUP, None)
    give_up = time.monotonic() + 60
    while len(left) < 3 and time.monotonic() < give_up:
        time.sleep(0.01)
    assert left[2:] == [signal.SIGHUP]


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    handlers = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", lambda number: handlers.get(number, signal.SIG_DFL))
    set_: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: set_.append(number))
    signals.install()
    assert set_ == [signal.SIGINT, signal.SIGTERM]
