"""k = 200 checkpoints by trajectory and by bootstrap, cached and streamed, against the fewest operations."""

import argparse
import math
import statistics
import sys
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks.members import CASES
from bend_jax import training
from bend_jax.collect import COLLECTORS
from bend_jax.collect.frozen_features import CHUNK
from bend_jax.rng import stream
from bend_jax.run import cost
from bend_jax.run.context import RunContext

BAR = 1.3
K = 200
HOW = ("trajectory cached", "trajectory streamed", "bootstrap cached", "bootstrap streamed")
# images; of a minibatch; checkpoints that are timed, cached and streamed; epochs of the base; k of the parity
SIZES = {"tiny": (16, 8, 2, 2, 1, 2), "small": (32, 16, 20, 5, 1, 3), "full": (4096, 64, K, 20, 4, 3)}


def floor_epochs(ops: Any, passes: float, epochs: float) -> float:
    """In epochs of the base's training: the frozen part `passes` times over the images, the suffix's training for
    `epochs`. METHOD's 9.05 + R / 3 for ResNet-18 bn1+bn2 is passes = R, epochs = 200."""
    return (passes * (ops.forward - ops.suffix) + epochs * ops.suffix_step) / ops.step


def work(how: str, k: int, settings: Any) -> tuple[int, int]:
    """(passes of the frozen part over the images, epochs of the subset's training) that k checkpoints need."""
    epochs = k * (settings.epochs if how.startswith("bootstrap") else 1)
    if how.endswith("cached"):
        return settings.views, epochs
    return (settings.epochs if how.startswith("bootstrap") else epochs), epochs


def least_bytes(cache: int, views: int, reads: int) -> int:
    """What must be moved, cached: a view's features are written once, and read in every pass over the images (a
    trajectory's k epochs; a bootstrap's epochs, in which all its members read them together)."""
    return cache + reads * cache // views


class CompiledError(Exception):
    """A training's step is compiled: nothing more is wanted of it."""


def counted(s: RunContext, how: str, variables: Any, k: int, memory: int) -> tuple[float, int]:
    """(operations of a step's program, steps) of a collector: as XLA counts what it compiled, a loop's body, which is a
    step, once. The training is stopped before its first step."""
    name, settings = how.split()[0], replace(s.config.collect.settings, k=k)
    programs: list[float] = []
    total: list[int] = []
    original = jax.stages.Lowered.compile

    def compile_(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        programs.append(float((result.cost_analysis() or {}).get("flops", 0.0)))
        return result

    def resume(name: str, state: Any, steps: int) -> Any:
        total.append(steps)
        return state

    def compiled(name: str, seconds: float) -> None:
        raise CompiledError

    callbacks = training.SILENT._replace(resume=resume, compiled=compiled, memory=memory)
    jax.stages.Lowered.compile = compile_  # pyright: ignore[reportAttributeAccessIssue]
    try:
        COLLECTORS[name].collect(
            s.model, variables, s.chosen, s.examples, jax.random.key(0), settings, callbacks=callbacks
        )
    except CompiledError:
        pass
    finally:
        jax.stages.Lowered.compile = original  # pyright: ignore[reportAttributeAccessIssue]
    return programs[-1], total[0]


def collected(s: RunContext, how: str, variables: Any, k: int, memory: int) -> dict[str, Any]:
    """One run of a collector: its vectors, seconds without compilation, and the steps it took."""
    name, settings = how.split()[0], replace(s.config.collect.settings, k=k)
    callbacks, clock = common.clock(memory)

    def run() -> Any:
        key = stream(0, "collect", name)
        return COLLECTORS[name].collect(s.model, variables, s.chosen, s.examples, key, settings, callbacks=callbacks)

    found, seconds, compiling = common.elapsed(run)
    (segments,) = clock.segments.values()
    return {
        "vectors": found.vectors,
        "seconds": seconds,
        "compile": compiling,
        "steps": sum(steps for steps, _ in segments),
        "in_steps": sum(spent for _, spent in segments),
    }


def prepared(case: str, how: str, size: str, dtype: str, views: int) -> RunContext:
    """A setting of this collector on as many images as the size says."""
    task, patterns = CASES[case]
    images, batch, *_ = SIZES[size]
    changes = {"collect.name": how.split()[0], "collect.subset": patterns, "backbone.dtype": dtype}
    changes |= {"collect.batch": batch, "base.batch": batch, "collect.cache_dtype": dtype, "collect.views": views}
    return common.prepare(task, changes, (images, 10, 10))


def base_seconds(s: RunContext, epochs: int) -> float:
    """Of one epoch of the base's training."""
    callbacks, clock = common.clock()
    settings = replace(s.config.base, epochs=epochs + 1, schedule="cosine")
    training.train_base(s.model, s.examples, stream(0, "base"), settings, callbacks=callbacks)
    per_epoch = len(s.dataset.train.labels) // settings.batch
    return common.step_seconds(clock, "base") * per_epoch


def prefix_flops(s: RunContext, variables: Any) -> float:
    """Of filling the cache for one view: the compiled frozen part on a chunk of images, times the chunks."""
    n = len(s.dataset.train.labels)
    chunk = min(CHUNK, n)
    image = jax.eval_shape(s.examples.plain, s.examples.images[:1])
    run = common.frozen_part(s, variables)
    compiled = run.lower(jax.ShapeDtypeStruct((chunk, *image.shape[1:]), image.dtype)).compile()
    return math.ceil(n / chunk) * float((compiled.cost_analysis() or {})["flops"])


def measure(case: str, how: str, dtype: str, size: str, repeats: int) -> dict[str, Any]:
    """One row: operations and seconds over the floor. Each run comes after a few epochs of the base's training."""
    _, _, cached, streamed, epochs, _ = SIZES[size]
    k = cached if how.endswith("cached") else streamed
    s = prepared(case, how, size, dtype, 4)
    ops = cost.operations(s)
    memory = s.config.compute.memory_mb * 2**20
    if how.endswith("streamed"):  # so many views that their features do not fit; no more of them are read
        views = memory // (cost.collect_cost(s, ops).cached_bytes // 4) + 1
        s = prepared(case, how, size, dtype, views)
    settings, n = s.config.collect.settings, len(s.dataset.train.labels)
    variables = common.fresh(s)
    floor = floor_epochs(ops, *work(how, k, settings))
    runs, base, probes = [], [], common.Probes()
    for _ in range(repeats):
        base.append(base_seconds(s, epochs))
        runs.append(collected(s, how, variables, k, memory))
        probes.take()
    seconds = [run["seconds"] for run in runs]
    step_flops, steps = counted(s, how, variables, K, memory)
    fill = settings.views * prefix_flops(s, variables) if how.endswith("cached") else 0.0  # pyright: ignore[reportAttributeAccessIssue]
    least = floor_epochs(ops, *work(how, K, settings))
    cache = cost.collect_cost(s, ops).cached_bytes if how.endswith("cached") else 0
    reads = work(how, k, settings)[1] // (k if how.startswith("bootstrap") else 1)
    rate = probes.rates()
    moved = least_bytes(cache, settings.views, reads)  # pyright: ignore[reportAttributeAccessIssue]
    device = common.floor_seconds(floor * n * ops.step, moved, rate, dtype)
    return {
        "case": case,
        "how": how,
        "dtype": dtype,
        "images": n,
        "over_device_floor": statistics.median(seconds) / device,
        "rates": rate,
        "k_timed": k,
        "floor_epochs": least,
        "floor_epochs_timed": floor,
        "flops_over_floor": (fill + steps * step_flops) / (least * n * ops.step),
        "seconds_over_floor": statistics.median(a / b for a, b in zip(seconds, base, strict=True)) / floor,
        "epoch_seconds": base,
        "seconds": seconds,
        "seconds_in_steps": [run["in_steps"] for run in runs],
        "microseconds_a_step": 1e6 * statistics.median(run["in_steps"] / run["steps"] for run in runs),
        "step_flops": step_flops,
        "compile": runs[0]["compile"],
    }


def parity(case: str, how: str, size: str) -> dict[str, Any]:
    """Cached training against streamed training of the same views, in float32: the largest difference of a number of
    the vectors, and how far the training moved them."""
    *_, k = SIZES[size]
    s = prepared(case, f"{how} cached", size, "float32", 2)
    variables = common.fresh(s)
    cache = cost.collect_cost(s, cost.operations(s)).cached_bytes
    with jax.default_matmul_precision("highest"):
        pair = [np.asarray(collected(s, how, variables, k, memory)["vectors"]) for memory in (2 * cache, cache - 1)]
    return {
        "case": case,
        "how": how,
        "largest_difference": float(np.abs(pair[0] - pair[1]).max()),
        "largest_move": float(np.abs(pair[0] - pair[0][:1]).max()),
    }


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What the README shows."""
    header = ["case", "collector", "floor (epochs)", "operations / floor", "seconds / floor", "k timed", "us a step"]
    keys = ("floor_epochs", "flops_over_floor", "seconds_over_floor", "k_timed", "microseconds_a_step")
    return header, [[r["case"], r["how"], *[common.number(r[key]) for key in keys]] for r in rows]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    more: dict[str, dict[str, Any]] = {"dtype": {"default": "", "help": "float32 on a CPU, else bfloat16"}}
    more["cases"] = {"default": ",".join(CASES), "help": "some of these"}
    more["how"] = {"default": ",".join(HOW), "help": "some of these"}
    args: argparse.Namespace = common.arguments(str(__doc__), "collect", argv, **more)
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    rows: list[dict[str, Any]] = []
    same: list[dict[str, Any]] = []
    for case in args.cases.split(","):
        for how in args.how.split(","):
            rows.append(measure(case, how, dtype, args.size, args.repeats))
            common.write(args, {"bar": BAR, "rows": rows, "parity": same})
            print(*table(rows)[1][-1], flush=True)
        for how in sorted({how.split()[0] for how in args.how.split(",")}):
            same.append(parity(case, how, args.size))
            common.write(args, {"bar": BAR, "rows": rows, "parity": same})
    common.show(f"k = {K}; bar {BAR} times the floor", *table(rows))
    differences = [
        [r["case"], r["how"], *[f"{r[key]:.1e}" for key in ("largest_difference", "largest_move")]] for r in same
    ]
    common.show("cached against streamed, float32", ["case", "collector", "difference", "moved by"], differences)


if __name__ == "__main__":
    main(sys.argv[1:])
