"""Who watches a stage's trainings: progress bars, clocks and saved states."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from bend_jax import devices, storage, training
from bend_jax.config import Config


class Clock(NamedTuple):
    """Seconds of each training without compilation, those of them before a process was killed, and of compilations."""

    seconds: dict[str, float]
    compile: dict[str, float]
    before: dict[str, float]


@contextlib.contextmanager
def watching(config: Config, state: Path, clock: Clock, mesh: Mesh | None = None) -> Iterator[training.Watch]:
    """Progress bars, clocks and saved states for the trainings of one stage. Bars are drawn on a terminal only."""
    quiet = None if devices.is_first() else True
    saver = storage.state_saver(state, config.compute.save_seconds)
    bars: dict[str, Any] = {}
    since: dict[str, float] = {}

    def resume(name: str, given: Any, steps: int) -> Any:
        result, clock.before[name] = saver.resume(name, given)
        clock.seconds[name] = clock.before[name]
        bars[name] = tqdm(total=steps, initial=int(result.step), desc=name, unit="step", disable=quiet, leave=False)
        since[name] = time.perf_counter()
        return result

    def compiled(name: str, seconds: float) -> None:
        clock.compile[name] = clock.compile.get(name, 0.0) + seconds
        since[name] = time.perf_counter()

    def segment(name: str, given: Any, losses: Any) -> None:
        now = time.perf_counter()
        clock.seconds[name] += now - since[name]
        saver.save(name, given, clock.seconds[name])
        since[name] = time.perf_counter()
        bars[name].set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
        bars[name].update(int(given.step) - bars[name].n)

    try:
        yield training.Watch(resume, segment, compiled, config.compute.memory_mb * 2**20, mesh)
    finally:
        for bar in bars.values():
            bar.close()
