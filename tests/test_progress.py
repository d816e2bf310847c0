"""metrics.jsonl over kills and resumes, curves, TensorBoard's files, and bars that keep quiet."""

import dataclasses
import importlib
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax import storage
from bend_jax.run import progress, saved_states
from bend_jax.run.config import Compute, Config, parse
from bend_jax.run.progress import TrainingLog, loss_curves
from bend_jax.training import State, make_step, start_with_ema, train

ROOT = Path(__file__).parents[1]
OPTIMIZER = optax.sgd(0.1)
DATA = {"key": jax.random.key(0), "target": jnp.arange(3.0)}


class KilledError(BaseException):
    """What no code in between catches."""


def config(**changes: Any) -> Config:
    """Saves after every segment."""
    raw = run_path(str(ROOT / "configs" / "default.py"))["get_config"]()
    return dataclasses.replace(parse(raw), compute=Compute(save_seconds=0.0, **changes))


def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
    """A quadratic, other noise in every step."""
    return jnp.sum((params - data["target"] - 0.1 * jax.random.normal(key, params.shape)) ** 2), extra


STEP = make_step(loss, OPTIMIZER, ema=0.5)


def look(state: State, data: Any) -> State:
    """A held-out loss."""
    return state._replace(held_loss=jnp.sum(state.ema**2))


def build(root: Path, compute: Config, again: int = 0) -> list[dict[str, Any]]:
    """A stage of two trainings; returns its published lines."""
    built = storage.Partial(root / f"output{again}", root / "state")
    built.output.mkdir(parents=True)
    clock = TrainingLog({}, {}, {}, {})
    with progress.watching(compute, built, clock, root / "events") as callbacks:
        begin = start_with_ema(jnp.zeros(3), OPTIMIZER)
        train("first", STEP, begin, DATA, steps=6, segment=2, callbacks=callbacks)
        train("second", STEP, begin, DATA, steps=10, segment=2, callbacks=callbacks, after=look)
    found = [json.loads(line) for line in (built.output / "metrics.jsonl").read_text().splitlines()]
    assert [line for own in clock.lines.values() for line in own] == found
    return found


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What does not depend on the machine's speed."""
    return [{key: value for key, value in line.items() if key not in ("seconds", "rate")} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The lines of a stage that nothing killed."""
    return build(tmp_path_factory.mktemp("whole"), config())


def test_a_line_for_every_segment(whole: list[dict[str, Any]]) -> None:
    """Which training, where it is, its mean loss, how fast; the held-out loss where there is one."""
    places = [("first", s, 6) for s in (2, 4, 6)] + [("second", s, 10) for s in (2, 4, 6, 8, 10)]
    assert [(line["training"], line["step"], line["steps"]) for line in whole] == places
    state, data, expected = start_with_ema(jnp.zeros(3), OPTIMIZER), DATA, []
    for _ in range(6):
        state, (value, _) = STEP(state, data)
        expected.append(float(value))
    np.testing.assert_allclose([line["loss"] for line in whole[:3]], np.reshape(expected, (3, 2)).mean(1), rtol=1e-5)
    assert all(line["seconds"] > 0 and line["rate"] > 0 for line in whole)
    seconds = [line["seconds"] for line in whole]
    assert seconds[:3] == sorted(seconds[:3])
    assert ["held_out_loss" in line for line in whole] == [False] * 3 + [True] * 5
    assert whole[2]["loss"] == whole[5]["loss"]  # the same training; the other one looks at the average as well
    np.testing.assert_allclose(whole[5]["held_out_loss"], float(jnp.sum(state.ema**2)), rtol=1e-5)


@pytest.mark.parametrize("saved", [False, True], ids=["before its state", "after its state"])
@pytest.mark.parametrize("segment", [1, 4, 8])
def test_a_killed_stage_publishes_the_lines_of_one_that_was_not(
    whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment: int, saved: bool
) -> None:
    """None is lost and none is there twice, wherever the kill comes."""
    left = [segment]

    class Killing(saved_states.StateSaver):
        """Ends the process at a segment."""

        def save(self, name: str, state: Any, seconds: float, *, now: bool = False) -> None:
            left[0] -= 1
            if left[0] or saved:
                super().save(name, state, seconds, now=now)
            if not left[0]:
                raise KilledError

    monkeypatch.setattr(saved_states, "StateSaver", Killing)
    with pytest.raises(KilledError):
        build(tmp_path, config())
    path = tmp_path / "state" / "metrics.jsonl"
    assert len(path.read_text().splitlines()) == segment
    with path.open("a") as file:
        file.write('{"training": "second", "st')  # and the machine stopped in the middle of a line
    assert timeless(build(tmp_path, config(), 1)) == timeless(whole)


def test_a_file_that_is_cut_loses_no_line_before_the_saved_state(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    """As where the machine stops while a line is added: what was not yet on the disk can be more than that line."""
    build(tmp_path, config())
    path = tmp_path / "state" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert timeless(build(tmp_path, config(), 1)) == timeless(whole)


def test_lines_of_a_training_without_a_saved_state_are_made_anew(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    """The first training was too short to be saved, the second was killed: the order is that of the trainings."""
    build(tmp_path, config())
    (tmp_path / "state" / "first").rename(tmp_path / "gone")
    assert timeless(build(tmp_path, config(), 1)) == timeless(whole)


def test_curves_are_thinned_evenly_and_keep_the_last() -> None:
    """At most 500 points a training."""
    lines = {
        "long": [{"step": s, "loss": 1.0 / s} for s in range(1, 7031)],
        "short": [{"step": 5, "loss": 2.0, "held_out_loss": 3.0}],
    }
    found = loss_curves(lines)
    assert found["short"] == {"step": [5], "loss": [2.0], "held_out_loss": [3.0]}
    steps = found["long"]["step"]
    assert (len(steps), steps[0], steps[-1]) == (500, 1, 7030)
    assert found["long"]["loss"] == [1.0 / s for s in steps]
    assert set(np.diff(steps)) == {14, 15}
    assert loss_curves({"half": lines["long"][:500]})["half"]["step"] == list(range(1, 501))


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar of the one event file of a folder."""
    Event = importlib.import_module("tensorboardX.proto.event_pb2").Event
    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        content = content[16 + length :]
    return found


def test_tensorboard_has_every_segment_once(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    """Also of a stage that was killed, and of one that was built without it."""
    pytest.importorskip("tensorboardX")
    path = tmp_path / "events"
    expected = sorted((f"{x['training']}/loss", x["step"], np.float32(x["loss"])) for x in whole)

    def losses(folder: Path) -> list[tuple[str, int, float]]:
        return sorted(e for e in events(folder) if e[0].endswith("/loss"))

    build(tmp_path, config(tensorboard=True))
    assert losses(path) == expected
    assert {e[0] for e in events(path)} == {"first/loss", "first/rate"} | {
        f"second/{x}" for x in ("loss", "rate", "held_out_loss")
    }
    build(tmp_path, config(tensorboard=True), 1)  # goes on at the end
    assert losses(path) == expected
    progress.replay(tmp_path / "output0", tmp_path / "later")
    assert losses(tmp_path / "later") == expected
    assert not (tmp_path / "none").exists()
    progress.replay(tmp_path / "state" / "first", tmp_path / "none")  # a stage without trainings
    assert not (tmp_path / "none").exists()


def test_nothing_is_drawn_where_nobody_looks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No bar, no line."""
    build(tmp_path, config())
    assert capfd.readouterr() == ("", "")


def test_tensorboard_that_is_not_installed_is_told_before_any_work(tmp_path: Path) -> None:
    """In one line that says what to install."""
    code = "import sys, runpy; sys.modules['tensorboardX'] = None; sys.argv = sys.argv[1:]\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    words = ["launch.py", "--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", "--tensorboard"]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"launch\.py: --tensorboard needs tensorboardX.*pip install tensorboardX\n", done.stderr)
    assert list(tmp_path.iterdir()) == []
