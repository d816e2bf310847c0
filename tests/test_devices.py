"""The same work on one device, on several and in many processes. Each runs on its own, with a time limit."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from bend_jax import devices, storage
from bend_jax.checks import SettingsError
from bend_jax.data import folder, images
from tests import launching
from tests.problems import write_images

ROOT = Path(__file__).parents[1]
TIMEOUT = 240
COUNTS = (2, 1, 2)  # processes of a run that is begun three times; 4, 2, 4 takes a minute
ARGUMENTS = [
    f"--config={launching.TINY}",
    "--config.base.epochs=6",
    "--config.base.milestones=()",
    "--config.collect.name=bootstrap",
    "--config.collect.k=5",  # k, m and the last batch fill no two devices evenly
    "--config.collect.views=1",
    "--config.collect.bootstrap.epochs=3",
    "--config.members=7",
    "--config.generate.name=gaussian",
    "--config.generate.nulls=",
    "--config.compute.save_seconds=0",
]


@pytest.fixture(scope="module")
def four() -> dict[str, Any]:
    """What tests/on_devices.py says of four virtual devices."""
    return told_by("tests.on_devices", 4)


def told_by(module: str, count: int) -> dict[str, Any]:
    """What a program says of so many virtual devices, in its last line."""
    flags = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {os.environ['XLA_FLAGS']}"}
    command = [sys.executable, "-m", module]
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


@pytest.mark.slow
def test_eight_devices_share_members_and_bootstraps() -> None:
    """Operations of one of eight devices, as their compiled programs have them, against an eighth of one device's."""
    found = told_by("tests.operations_on_devices", 8)
    assert found["devices"] == 8
    of_ideal = found["of the ideal"]
    assert set(of_ideal) == {"logits", "votes", "evaluation", "cached", "streamed"}
    assert min(of_ideal.values()) >= 0.9, of_ideal
    # less where XLA computes the last layers of the frozen part on every device
    assert min(of_ideal["logits"], of_ideal["streamed"]) >= 0.99, of_ideal


def words_of(workdir: Path) -> list[str]:
    """The run on a work directory; its images lie beside it."""
    return [*ARGUMENTS, f"--config.data.name=npz:{workdir.parent / 'images.npz'}", f"--workdir={workdir}"]


def processes(workdir: Path, count: int) -> list[launching.Running]:
    """One run in so many processes on the loopback."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        launching.begin(
            workdir.with_name(f"streams{index}"),
            [*words_of(workdir), f"--distributed=localhost:{port},{count},{index}"],
            before=launching.tell_starts,
        )
        for index in range(count)
    ]


def finish(running: list[launching.Running]) -> list[launching.Ended]:
    """How they ended."""
    try:
        return [launching.finish(one) for one in running]
    finally:
        for one in running:
            one.process.kill()


def lose_one(workdir: Path, count: int, training: str) -> tuple[list[launching.Ended], int]:
    """Start so many processes, and kill the last one once a state of a training is saved: how all ended, and the step
    of that state."""
    running, steps = processes(workdir, count), list[int]()
    give_up = time.monotonic() + TIMEOUT
    while not steps and not launching.has_ended(running[0]) and time.monotonic() < give_up:
        steps = [int(p.name) for p in workdir.glob(f"store/.*/state/{training}/*") if p.name.isdigit()]
        time.sleep(0.01)
    running[-1].process.kill()
    return finish(running), max(steps, default=0)


class Elastic(NamedTuple):
    """What became of a run that was begun three times, in other numbers of processes: one of them was lost twice."""

    workdir: Path
    first: list[launching.Ended]  # the last one was killed
    base: int  # step of the state of the base that was there then
    second: list[launching.Ended]  # the last one was killed
    bootstrap: int  # step of the collector's state
    last: list[launching.Ended]


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Elastic:
    """Each time begun again with the same command, but for the number of processes."""
    workdir = tmp_path_factory.mktemp("elastic") / "run"
    write_images(workdir.with_name("images.npz"))
    first = lose_one(workdir, COUNTS[0], "base")
    second = lose_one(workdir, COUNTS[1], "bootstrap")
    return Elastic(workdir, *first, *second, finish(processes(workdir, COUNTS[2])))


@pytest.mark.slow
def test_a_lost_process_ends_the_run(elastic: Elastic) -> None:
    """The others end with one line and code 1, or JAX's runtime was first to end them; nothing is published."""
    assert elastic.base > 0
    for code, out, err in elastic.first[:-1]:
        assert "base:" not in out
        if code == -signal.SIGABRT:
            continue
        assert code == 1
        assert "another process was lost" in err, err  # the runtime may have a word of its own after it
        assert "Traceback" not in err


@pytest.mark.slow
def test_started_again_it_goes_on(elastic: Elastic) -> None:
    """On other numbers of processes too. All end well, process 0 alone speaks, and everything is there once."""
    begun = [
        int(step)
        for one in (elastic.second[0], elastic.last[0])
        for step in re.findall(r"resumed \w+ at (\d+)", one.out)
    ]
    assert elastic.bootstrap > 0
    assert begun[0] >= elastic.base
    assert begun[1] == 0  # the collector
    assert begun[2] >= elastic.bootstrap
    assert [one.code for one in elastic.last] == [0] * COUNTS[2], [one.err for one in elastic.last]
    assert ["Everything is in" in one.out for one in elastic.last] == [True, *[False] * (COUNTS[2] - 1)]
    assert len(list(elastic.workdir.glob("store/base-*"))) == 1
    assert not list(elastic.workdir.glob("store/.*"))
    for path in elastic.workdir.glob("store/*"):
        storage.verify(path)


@pytest.mark.slow
def test_its_arrays_are_those_of_an_undisturbed_run(elastic: Elastic) -> None:
    """Of one process: base and checkpoints agree to 1e-5, a thousandth of how far the checkpoints lie apart."""
    alone = elastic.workdir.with_name("undisturbed")
    ended = launching.launch(alone.with_name("streams"), [*words_of(alone), "--stages=base,collect"])
    assert ended.code == 0, ended.err
    for name in ("base/variables", "collect/checkpoints"):
        one, many = (jax.tree.leaves(storage.load_tree(where / name)) for where in (alone, elastic.workdir))
        for a, b in zip(one, many, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    checkpoints = storage.load_tree(elastic.workdir / "collect" / "checkpoints")
    assert np.ptp(checkpoints["vectors"], axis=0).max() > 1e-2


@pytest.mark.slow
def test_labels_are_those_of_one_process(elastic: Elastic) -> None:
    """Evaluation alone, of the same base, checkpoints and members."""
    one_alone = elastic.workdir.with_name("one")
    shutil.copytree(elastic.workdir, one_alone, symlinks=True)
    (evaluated,) = (one_alone / "store").glob("evaluate-*")
    shutil.rmtree(evaluated)
    ended = launching.launch(one_alone.with_name("streams"), [*words_of(one_alone), "--stages=evaluate"])
    assert ended.code == 0, ended.err
    one, many = (storage.load_tree(where / "evaluate" / "predictions") for where in (one_alone, elastic.workdir))
    assert one["members"].shape == (7, 300)
    for name in ("base", "checkpoints", "members"):
        np.testing.assert_array_equal(one[name], many[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one["votes"], many["votes"])


def read_part(words: str, path: Path, told: Path) -> None:
    """In one of two processes: read a folder of images, and tell what was decoded here and what came of it."""
    devices.initialize(words)
    decoded, decode = list[str](), images.decode

    def note(file: Any, *how: Any) -> Any:
        decoded.append(file.name)
        return decode(file, *how)

    images.decode, images.BLOCK = note, 4
    try:
        train, _ = folder.read("folder:here", path, 3, 0)
        np.savez(told, images=train.images, labels=train.labels, decoded=decoded)
    except SettingsError as error:
        np.savez(told, error=str(error), decoded=decoded)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["", "no image", "another size"])
def test_two_processes_decode_half_of_the_images_each(tmp_path: Path, damage: str) -> None:
    """And have all of them, as one process has: 18 images in blocks of four. A damaged one stops both."""
    pixels = np.random.default_rng(0).integers(0, 255, (18, 6, 5, 3)).astype(np.uint8)
    for i, one in enumerate(pixels):
        (tmp_path / "set" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(tmp_path / "set" / f"{i % 2}" / f"{i:02}.png")
    if damage == "no image":
        (tmp_path / "set" / "1" / "17.png").write_text("no image")
    if damage == "another size":
        Image.fromarray(pixels[0, :3]).save(tmp_path / "set" / "1" / "17.png")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = [tmp_path / f"{index}.npz" for index in range(2)]
    both = [
        launching.SERVER.Process(target=read_part, args=(f"localhost:{port},2,{i}", tmp_path / "set", told[i]))
        for i in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(TIMEOUT)
        one.kill()
    found = [dict(np.load(path)) for path in told]
    every = sorted(name for one in found for name in one["decoded"])
    assert every == [f"{i:02}.png" for i in range(18)]
    assert [len(one["decoded"]) for one in found] == [10, 8]
    if damage:
        words = {"no image": "cannot be decoded", "another size": "different sizes"}[damage]
        assert all(words in str(one["error"]) for one in found)
        assert any("17.png" in str(one["error"]) for one in found)
        return
    order = [*range(0, 18, 2), *range(1, 18, 2)]
    for one in found:
        np.testing.assert_array_equal(one["images"], pixels[order])
        np.testing.assert_array_equal(one["labels"], np.array(order) % 2)


@pytest.mark.parametrize("words", ["localhost,2,0", "localhost:1,2,2", "localhost:1,2", "localhost:1,0,0", "here"])
def test_what_is_no_address_is_refused(words: str) -> None:
    """The message says what is expected and what came."""
    with pytest.raises(SettingsError, match=re.escape(words)):
        devices.initialize(words)
