"""What the benchmarks share: settings, synthetic images, clocks, operations and rates, tables and JSON."""

import argparse
import atexit
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from bend_jax import split, subset, training
from bend_jax.data import sources, splits
from bend_jax.report.text import text_table
from bend_jax.run import config, context

ROOT = Path(__file__).parents[1]
SIZES = ("tiny", "small", "full")  # a test's; a few minutes of one busy CPU core; an accelerator's
# dense peaks in FLOP/s by a word of the device's name, from the vendor's data sheets; float32 products run as TF32
PEAKS = {
    "H100 PCIe": {"bfloat16": 756e12, "float32": 378e12},
    "H100": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "H200": {"bfloat16": 989.4e12, "float32": 494.7e12},
    "A100": {"bfloat16": 312e12, "float32": 156e12},
}


class Span(NamedTuple):
    """When JAX traced, lowered or compiled which program."""

    begin: float
    end: float
    part: str  # jaxpr_trace, jaxpr_to_mlir_module or backend_compile
    program: str


COMPILING: list[Span] = []  # of this process


def _note(event: str, duration_secs: float, **details: Any) -> None:
    part = event.removeprefix("/jax/core/compile/")
    if part != event:
        now = time.perf_counter()
        name = str(details.get("fun_name"))
        COMPILING.append(Span(now - duration_secs, now, part.removesuffix("_duration"), name))


jax.monitoring.register_event_duration_secs_listener(_note)


def arguments(
    doc: str, name: str, argv: list[str] | None, sized: bool = True, /, **more: dict[str, Any]
) -> argparse.Namespace:
    """The command line: --out, --size and --repeats where it is `sized`, and what is `more` (words to the keywords of
    add_argument).

    size and out are filled in by the device; compiled programs are kept for this process alone, so that what is run
    again is not compiled again.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=doc)
    if sized:
        parser.add_argument("--size", choices=SIZES, help="small on a CPU, full on an accelerator where none is given")
        parser.add_argument("--repeats", type=int, default=5, help="of every timing; the median counts")
    parser.add_argument("--out", type=Path, help="the JSON, or its folder; benchmarks/results/<name>-<device>.json")
    for word, keywords in more.items():
        parser.add_argument(f"--{word}", **keywords)
    found = parser.parse_args(argv)
    programs = tempfile.mkdtemp(prefix="bend_jax_benchmark_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if sized:
        found.size = found.size or ("small" if jax.default_backend() == "cpu" else "full")
    folder = found.out or ROOT / "benchmarks" / "results"
    found.out = folder if folder.suffix == ".json" else folder / f"{name}-{device_name()}.json"
    return found


def device_name() -> str:
    """The first device's kind, as a word for a file's name."""
    return "-".join(jax.devices()[0].device_kind.lower().split())


def machine() -> dict[str, Any]:
    """What a number was measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],  # average of the last minute, this run's own included
        "python": platform.python_version(),
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def write(args: argparse.Namespace, content: dict[str, Any]) -> None:
    """The JSON so far: written after every case, so that a run that is cut short leaves what it measured."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    told = {name: getattr(args, name) for name in ("size", "repeats") if hasattr(args, name)}
    told |= {"machine": machine(), **content}
    partial = args.out.with_suffix(".partial")
    partial.write_text(json.dumps(told, indent=1) + "\n")
    partial.replace(args.out)


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A table on the terminal."""
    print(f"\n{title}\n{text_table(header, rows)}", flush=True)


def number(value: float | None, digits: int = 3) -> str:
    """A table's cell."""
    return "-" if value is None else f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def load(task: str, changes: dict[str, Any]) -> config.Config:
    """configs/<task>.py with some settings changed, by dotted name."""
    raw = run_path(str(ROOT / "configs" / f"{task}.py"))["get_config"]()
    for name, value in changes.items():
        raw.update_from_flattened_dict({name: value})
    return config.parse(raw)


def prepare(
    task: str, changes: dict[str, Any], images: tuple[int, int, int], classes: int = 10, side: int = 32
) -> context.RunContext:
    """A run's setting on so many synthetic images of each split: noise on a pattern for each class."""
    read = load(task, changes)
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (classes, side, side, len(read.data.mean)), dtype=np.int16)

    def split(count: int) -> sources.Split:
        labels = np.arange(count, dtype=np.int32) % classes
        noise = generator.integers(-60, 61, (count, *patterns.shape[1:]), dtype=np.int16)
        return sources.Split(np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels)

    train, validation, test = (split(count) for count in images)
    return context.prepare(read, task, 0, Path(), splits.Dataset(train, validation, test, classes))


def fresh(s: context.RunContext) -> Any:
    """Untrained variables."""
    assert s.model.init is not None
    return s.model.init(jax.random.key(0))


def frozen_part(s: context.RunContext, variables: Any) -> Any:
    """What does not depend on the subset, jitted, for a batch of images as `apply` takes them."""
    one = jax.eval_shape(s.examples.plain, s.examples.images[:1])
    vector = jax.ShapeDtypeStruct((s.chosen.dim,), jnp.float32)
    apply = lambda v, x: s.model.apply(subset.insert(s.chosen, variables, v), x)  # noqa: E731
    return jax.jit(split.split(apply, vector, one, any_batch=True)[0])


def interleaved(
    variants: dict[str, Callable[[], Any]], repeats: int, between: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each variant: run once to warm up, then in turn, so that other work on the machine meets all alike.
    between(): what to do after each round."""
    return by_two_clocks(variants, repeats, between)[0]


def by_two_clocks(
    variants: dict[str, Callable[[], Any]], repeats: int, between: Callable[[], None] = lambda: None
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """`interleaved`, and beside its seconds those of the CPU that all threads of this process took, in which other work
    on the machine hardly counts. They say nothing of an accelerator, nor of how well the threads share the work."""
    for run in variants.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    busy: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            started, before = time.perf_counter(), time.process_time()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - started)
            busy[name].append(time.process_time() - before)
        between()
    return seconds, busy


def median(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each list."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """one / other: the median over rounds, each of which had both under the same load."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def union(intervals: Sequence[tuple[Any, ...]], begin: float, end: float) -> float:
    """The length of what the intervals cover of [begin, end]; tracing one function nests in tracing another."""
    total, reached = 0.0, begin
    for first, last, *_ in sorted(intervals):
        total += max(0.0, min(last, end) - max(first, reached))
        reached = max(reached, min(last, end))
    return total


def elapsed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """(what it returns, its seconds without compilation, the seconds of tracing, lowering and compiling)."""
    begin = time.perf_counter()
    found = jax.block_until_ready(run())
    end = time.perf_counter()
    compiling = union(COMPILING, begin, end)
    return found, end - begin - compiling, compiling


class Clock(NamedTuple):
    """(steps, seconds) of every segment of each training, compilation apart."""

    segments: dict[str, list[tuple[int, float]]]


def clock(memory: int = training.MEMORY, between: Callable[[int], None] = lambda steps: None) -> tuple[Any, Clock]:
    """Callbacks that time segments, and what they have timed. between(steps): what to run after each, off the clock."""
    found = Clock({})
    since: dict[str, Any] = {}

    def resume(name: str, state: Any, steps: int) -> Any:
        found.segments[name] = []
        since[name] = (int(state.step), time.perf_counter())
        return state

    def compiled(name: str, seconds: float) -> None:
        since[name] = (since[name][0], time.perf_counter())

    def segment(name: str, state: Any, losses: Any) -> None:
        jax.block_until_ready(state.params)
        now, step = time.perf_counter(), int(state.step)
        spent = now - since[name][1] - union(COMPILING, since[name][1], now)  # what follows a segment is compiled late
        found.segments[name].append((step - since[name][0], spent))
        between(step - since[name][0])
        since[name] = (step, time.perf_counter())

    return training.SILENT._replace(resume=resume, segment=segment, compiled=compiled, memory=memory), found


def step_seconds(found: Clock, name: str) -> float:
    """Of one step: the median over segments, without the first one where there are more."""
    segments = found.segments[name]
    return statistics.median(seconds / steps for steps, seconds in (segments[1:] or segments))


def size_of(tree: Any) -> int:
    """Bytes of a tree of arrays."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


class Probes:
    """What this device reaches: FLOP/s of a matrix product in float32 and bfloat16, bytes/s of a copy (read and
    written). `take` times each once: called between the things that are measured, it meets the load that they meet."""

    def __init__(self) -> None:
        side = 1024 if jax.default_backend() == "cpu" else 8192
        product, copy = jax.jit(jnp.dot), jax.jit(lambda x: x + 1)
        narrow, wide = (jnp.ones((side, side), dtype) for dtype in ("bfloat16", "float32"))
        long = jnp.zeros(side * side * 16)
        self._work = {"float32": 2 * side**3, "bfloat16": 2 * side**3, "bytes": 2 * size_of(long)}
        self._runs = {
            "float32": lambda: product(wide, wide),
            "bfloat16": lambda: product(narrow, narrow),
            "bytes": lambda: copy(long),
        }
        self._seconds: dict[str, list[float]] = {name: [] for name in self._runs}
        for run in self._runs.values():
            jax.block_until_ready(run())

    def take(self) -> None:
        """Time each once."""
        for name, run in self._runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            self._seconds[name].append(time.perf_counter() - started)

    def rates(self) -> dict[str, float]:
        """The median of what was taken."""
        return {name: self._work[name] / statistics.median(values) for name, values in self._seconds.items()}


def floor_seconds(operations: float, moved: float, rate: dict[str, float], dtype: str) -> float:
    """No program on this device is faster: the operations at a matrix product's rate, or the bytes at a copy's."""
    return max(operations / rate[dtype], moved / rate["bytes"])


def peak(dtype: str) -> float | None:
    """The device's matrix peak in FLOP/s, None where it is not in the table."""
    kind = jax.devices()[0].device_kind
    return next((values[dtype] for word, values in PEAKS.items() if all(w in kind for w in word.split())), None)
