"""Who watches a stage's trainings: progress bars, clocks, saved states, metrics.jsonl and TensorBoard's event files."""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from bend_jax import devices, files, storage, training
from bend_jax.run import saved_states, signals
from bend_jax.run.config import Config

METRICS = "metrics.jsonl"
POINTS = 500  # of a training's curve in result.json, at most
SHOWN = ("loss", "held_out_loss", "rate")  # of a line, in TensorBoard


Line = dict[str, Any]


class TrainingLog(NamedTuple):
    """Seconds of each training without compilation, those of them before a process was killed, and of compilations;
    and the lines of metrics.jsonl, by training."""

    seconds: dict[str, float]
    compile: dict[str, float]
    before: dict[str, float]
    lines: dict[str, list[Line]]


@contextlib.contextmanager
def watching(
    config: Config, built: storage.Partial, log: TrainingLog, events: Path, mesh: Mesh | None = None
) -> Iterator[training.Callbacks]:
    """The callbacks of one stage's trainings. Bars are drawn on a terminal only; metrics.jsonl lies beside the saved
    states until the stage is there, then in it; TensorBoard's files, where they are asked for, go to `events`. Of
    several processes the first draws and writes."""
    progress = Progress(config, built, log, events)
    memory = config.compute.memory_mb * 2**20
    try:
        stop = lambda: bool(signals.asked())  # noqa: E731
        own = (progress.resume, progress.segment, progress.compiled)
        yield training.Callbacks(*own, memory, mesh, stop, say=progress.say)
        progress.publish()
    finally:
        signals.training(False)
        progress.close()


class Progress:
    """What is shown, written and saved of the trainings of one stage; its methods are their callbacks."""

    def __init__(self, config: Config, built: storage.Partial, log: TrainingLog, events: Path) -> None:
        self.log, self.built, self.events = log, built, events
        self.is_boarded = config.compute.tensorboard and devices.is_first()
        self.saver = saved_states.StateSaver(built.state, config.compute.save_seconds)
        self.metrics = built.state / METRICS
        self.saved = built.state / f"saved.{METRICS}"  # whole and in one step, beside what grows line by line
        self.bars: dict[str, Any] = {}
        self.since: dict[str, float] = {}
        self.board: Any = None
        log.lines.update(merged(read(self.saved), read(self.metrics)))

    def resume(self, name: str, given: Any, steps: int) -> Any:
        """The last saved state of a training, or the one given; its lines of metrics.jsonl end there."""
        signals.training(True)
        result, self.log.before[name] = self.saver.resume(name, given)
        self.log.seconds[name] = self.log.before[name]
        step = int(result.step)
        keep(self.metrics, self.log.lines, name, step)
        for bar in self.bars.values():
            bar.close()
        quiet = None if devices.is_first() else True
        self.bars[name] = tqdm(total=steps, initial=step, desc=name, unit="step", disable=quiet, leave=False)
        if self.is_boarded:
            self.board = self.board or _board(self.events)
            _show(self.board, self.log.lines[name])
        self.since[name] = time.perf_counter()
        return result

    def compiled(self, name: str, seconds: float) -> None:
        """A compilation is not counted as training."""
        self.log.compile[name] = self.log.compile.get(name, 0.0) + seconds
        if name in self.bars:
            self.bars[name].unpause()  # the rate and the time left are of steps alone
        self.since[name] = time.perf_counter()

    def segment(self, name: str, given: Any, losses: Any) -> None:
        """Write a line, save the state, move the bar."""
        elapsed = time.perf_counter() - self.since[name]
        self.log.seconds[name] += elapsed
        line = _line(name, given, losses, self.bars[name].total, self.log.seconds[name], elapsed)
        self.log.lines[name].append(line)
        # before the state: a line too many is dropped at a resume, a missing one stays missing
        _append(self.metrics, line)
        number = signals.asked()
        if self.saver.is_due(name, now=bool(number)):
            write(self.saved, self.log.lines)
            self.saver.save(name, given, self.log.seconds[name], now=True)
        if number:
            raise signals.Interrupted(number)
        self.since[name] = time.perf_counter()
        if self.board is not None:
            _show(self.board, [line])
        self.bars[name].set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
        self.bars[name].update(line["step"] - self.bars[name].n)

    def say(self, line: str) -> None:
        """A line of its own, above the bars."""
        if devices.is_first():
            tqdm.write(line)

    def publish(self) -> None:
        """Put the lines of every training into the stage."""
        if self.bars:
            write(self.built.output / METRICS, {name: self.log.lines[name] for name in self.bars})

    def close(self) -> None:
        """Close bars and event files."""
        for bar in self.bars.values():
            bar.close()
        if self.board is not None:
            self.board.close()


def _line(name: str, state: Any, losses: Any, steps: int, seconds: float, elapsed: float) -> Line:
    """One segment: its mean loss, its steps per second, the training's seconds so far; held-out loss where there is
    one."""
    line = {"training": name, "step": int(state.step), "steps": steps, "loss": float(np.mean(losses))}
    line |= {"seconds": round(seconds, 4), "rate": round(len(losses) / max(elapsed, 1e-9), 4)}
    if state.held_loss is not None and np.isfinite(state.held_loss):
        line["held_out_loss"] = float(state.held_loss)
    return line


def read(path: Path) -> dict[str, list[Line]]:
    """The lines of a metrics.jsonl by training, in the order of their steps. What is damaged is left out: half a line,
    two in one, bytes that are no text, values of other types, a step that is there already."""
    result: dict[str, list[Line]] = {}
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            line = files.read_json(text)
            if _is_line(line):
                own = result.setdefault(line["training"], [])
                if not own or line["step"] > own[-1]["step"]:
                    own.append(line)
    return result


def merged(first: dict[str, list[Line]], then: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """The lines of both, step by step; where both have a step, the second's."""
    result: dict[str, list[Line]] = {}
    for name in {**first, **then}:
        steps = {line["step"]: line for line in (*first.get(name, ()), *then.get(name, ()))}
        result[name] = [steps[step] for step in sorted(steps)]
    return result


def _is_line(line: Any) -> bool:
    """Whether `_line` may have written it."""
    if not isinstance(line, dict) or not isinstance(line.get("training"), str):
        return False
    numbers = [line.get("loss"), line.get("seconds"), line.get("rate"), line.get("held_out_loss", 0.0)]
    counts = [line.get("step"), line.get("steps")]
    return all(type(x) is int and x >= 0 for x in counts) and all(
        isinstance(x, int | float) and abs(x) <= sys.float_info.max for x in numbers
    )


def write(path: Path, lines: dict[str, list[Line]]) -> None:
    """All lines, training by training, in the place of what is there."""
    if not devices.is_first():
        return
    temporary = path.with_suffix(".new")
    temporary.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for own in lines.values() for line in own))
    os.replace(temporary, path)


def keep(path: Path, lines: dict[str, list[Line]], name: str, step: int) -> None:
    """Drop the lines of this training beyond the step at which it goes on, here and in the file."""
    lines[name] = [line for line in lines.pop(name, []) if line["step"] <= step]  # its place is the last now
    path.parent.mkdir(exist_ok=True)
    write(path, lines)


def _append(path: Path, line: Line) -> None:
    if not devices.is_first():
        return
    with path.open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def loss_curves(lines: dict[str, list[Line]]) -> dict[str, dict[str, list[Any]]]:
    """{training: {"step", "loss", and "held_out_loss" where there is one}} of POINTS segments at most, evenly thinned;
    the first and the last are kept."""
    result: dict[str, dict[str, list[Any]]] = {}
    for name, own in lines.items():
        index = np.round(np.linspace(0, len(own) - 1, min(len(own), POINTS))).astype(int)
        keys = [key for key in ("step", "loss", "held_out_loss") if any(key in line for line in own)]
        result[name] = {key: [own[i].get(key) for i in index] for key in keys}
    return result


def replay(stage: Path, events: Path) -> None:
    """TensorBoard's files of a stage that was built without them."""
    if devices.is_first() and (stage / METRICS).exists() and not events.exists():
        with contextlib.closing(_board(events)) as board:
            for lines in read(stage / METRICS).values():
                _show(board, lines)


def _board(events: Path) -> Any:
    from tensorboardX import SummaryWriter

    shutil.rmtree(events, ignore_errors=True)  # of a run that was killed: its lines are written again
    return SummaryWriter(str(events))


def _show(board: Any, lines: list[Line]) -> None:
    for line in lines:
        for key in SHOWN:
            if key in line:
                board.add_scalar(f"{line['training']}/{key}", line[key], line["step"])
    board.flush()
