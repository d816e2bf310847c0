"""The same work on one device, on four and in two processes. Each runs in processes of its own, with a time limit."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from bend_jax import devices, storage
from bend_jax.checks import SettingsError
from tests import launching
from tests.problems import write_images

ROOT = Path(__file__).parents[1]
TIMEOUT = 240
ARGUMENTS = [
    f"--config={launching.TINY}",
    "--config.base.epochs=6",
    "--config.base.milestones=()",
    "--config.collect.name=bootstrap",
    "--config.collect.k=5",  # k, m and the last batch fill no two devices evenly
    "--config.collect.views=1",
    "--config.collect.bootstrap.epochs=1",
    "--config.members=7",
    "--config.generate.name=gaussian",
    "--config.generate.nulls=",
    "--config.compute.save_seconds=0",
]


@pytest.fixture(scope="module")
def four() -> dict[str, Any]:
    """What tests/on_devices.py says of four virtual devices."""
    flags = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count=4 {os.environ['XLA_FLAGS']}"}
    command = [sys.executable, "-m", "tests.on_devices"]
    done = subprocess.run(command, cwd=ROOT, env=flags, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_four_devices_compute_what_one_does(four: dict[str, Any]) -> None:
    """Members, one data-parallel step, fine-tunings; m, k and n that four does not divide."""
    assert four["devices"] == 4
    assert len(four["differences"]) == 4
    assert max(four["differences"].values()) < 1e-5, four["differences"]


@pytest.mark.slow
def test_each_device_does_its_share(four: dict[str, Any]) -> None:
    """Operations of a step on one of four devices, over those without a mesh: a quarter, and what all do alike."""
    assert 0.25 <= four["shares"]["base"] < 0.3
    assert 0.25 <= four["shares"]["trajectory"] < 0.4


def words_of(workdir: Path) -> list[str]:
    """The run on a work directory; its images lie beside it."""
    return [*ARGUMENTS, f"--config.data.name=npz:{workdir.parent / 'images.npz'}", f"--workdir={workdir}"]


def two_processes(workdir: Path) -> tuple[launching.Running, ...]:
    """One run in two processes on the loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return tuple(
        launching.begin(
            workdir.with_name(f"streams{index}"), [*words_of(workdir), f"--distributed=localhost:{port},2,{index}"]
        )
        for index in range(2)
    )


class Both(NamedTuple):
    """What became of a run in two processes: one of them lost, and started again."""

    workdir: Path
    lost: launching.Ended  # process 0
    first: launching.Ended
    second: launching.Ended
    saved: int  # step of the state that was there when the one was lost


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Kill process 1 once a state of the base is saved; then start both again."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    write_images(workdir.with_name("images.npz"))
    running = two_processes(workdir)
    try:
        steps: list[int] = []
        give_up = time.monotonic() + TIMEOUT
        while not steps and not launching.has_ended(running[0]) and time.monotonic() < give_up:
            steps = [int(p.name) for p in workdir.glob("store/.base-*.partial/state/base/*") if p.name.isdigit()]
            time.sleep(0.01)
        running[1].process.kill()
        lost, _ = map(launching.finish, running)
        running = two_processes(workdir)
        first, second = map(launching.finish, running)
        yield Both(workdir, lost, first, second, max(steps, default=0))
    finally:
        for one in running:
            one.process.kill()


@pytest.mark.slow
def test_a_lost_process_ends_the_run(both: Both) -> None:
    """The other one ends with one line and code 1, or JAX's runtime was first to end it; nothing is published."""
    code, out, err = both.lost
    assert "base:" not in out
    assert both.saved > 0
    if code == -signal.SIGABRT:
        return
    assert code == 1
    assert "another process was lost" in err, err  # the runtime may have a word of its own after it
    assert "Traceback" not in err


@pytest.mark.slow
def test_started_again_it_goes_on(both: Both) -> None:
    """Both end well, process 0 alone speaks, and everything is there once."""
    assert both.first.code == both.second.code == 0, both.first.err + both.second.err
    assert "base:" in both.first.out
    assert "base:" not in both.second.out
    assert "Everything is in" in both.first.out
    assert len(list(both.workdir.glob("store/base-*"))) == 1
    assert not list(both.workdir.glob("store/.*"))
    for path in both.workdir.glob("store/*"):
        storage.verify(path)


@pytest.mark.slow
def test_labels_are_those_of_one_process(both: Both) -> None:
    """Evaluation alone, of the same base, checkpoints and members."""
    one_alone = both.workdir.with_name("one")
    shutil.copytree(both.workdir, one_alone, symlinks=True)
    (evaluated,) = (one_alone / "store").glob("evaluate-*")
    shutil.rmtree(evaluated)
    ended = launching.launch(one_alone.with_name("streams"), [*words_of(one_alone), "--stages=evaluate"])
    assert ended.code == 0, ended.err
    one, two = (storage.load_tree(where / "evaluate" / "predictions") for where in (one_alone, both.workdir))
    assert one["members"].shape == (7, 300)
    for name in ("base", "checkpoints", "members"):
        np.testing.assert_array_equal(one[name], two[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one["votes"], two["votes"])


@pytest.mark.parametrize("words", ["localhost,2,0", "localhost:1,2,2", "localhost:1,2", "localhost:1,0,0", "here"])
def test_what_is_no_address_is_refused(words: str) -> None:
    """The message says what is expected and what came."""
    with pytest.raises(SettingsError, match=re.escape(words)):
        devices.initialize(words)
