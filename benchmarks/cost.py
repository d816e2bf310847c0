"""BEND's Table 4 for every configuration: seconds of every stage, and the break-even m with inference (eq. 10-13)."""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import common
from bend_jax import ensemble, storage, subset, training
from bend_jax.collect import COLLECTORS
from bend_jax.generate import GENERATORS
from bend_jax.rng import stream
from bend_jax.run import cost, pipeline
from bend_jax.run.context import RunContext

NETS = ("res18", "res50", "regx", "regy")
TASKS = {f"{net}_{data}": f"{net}_cifar10" for net in NETS for data in ("cifar10", "cifar100")}  # measured on
TASKS |= {"cifar10_resnet": "cifar10_resnet", "digits": "digits"}
BARS = {"res50_cifar10": 1.12, "res18_cifar10": 1.20}
SPLITS = {"digits": (599, 300, 898)}  # of other sets: CIFAR's
CIFAR = (45_000, 5_000, 10_000)
# images, minibatch (0: the configuration's), epochs of the base and of the collector, images of a forward pass, tasks
SIZES = {
    "tiny": (16, 8, 1, 2, 4, ("digits",)),
    "small": (32, 16, 2, 3, 8, tuple(TASKS)),
    "full": (16_384, 0, 3, 5, 500, tuple(TASKS)),
}


def break_even(t: dict[str, float], m: int) -> float | None:
    """From how many members on BEND is cheaper than training as many networks (eq. 13), inference on the test images
    included: t_pre + t_collect + t_autoencoder + t_diffusion + prefix + m (t_sample / m + suffix) against
    m (t_pre + forward)."""
    fixed = t["t_pre"] + t["t_collect"] + t["t_autoencoder"] + t["t_diffusion"] + t["infer_prefix"]
    gain = t["t_pre"] + t["infer_base"] - t["t_sample"] / m - t["infer_member"]
    return fixed / gain if gain > 0 else None


def prepared(task: str, size: str) -> RunContext:
    """A setting on few images; on a CPU also with small minibatches."""
    images, batch, *_ = SIZES[size]
    changes = {"base.batch": batch, "collect.batch": batch} if batch else {}
    side = 8 if task == "digits" else 32
    return common.prepare(task, changes, (images, 10, SIZES[size][4]), side=side)


def measure_base(s: RunContext, epochs: int) -> float:
    """Seconds for an image."""
    callbacks, clock = common.clock()
    settings = replace(s.config.base, epochs=epochs, schedule="cosine", warmup=0)
    training.train_base(s.model, s.examples, stream(0, "base"), settings, callbacks=callbacks)
    return common.step_seconds(clock, "base") / settings.batch


def measure_collect(s: RunContext, variables: Any, k: int, repeats: int) -> tuple[float, float]:
    """Seconds for an image of its augmentation and the frozen part (to fill the cache), and of a training step of the
    subset."""
    frozen, images = common.frozen_part(s, variables), s.examples.images
    filled = jax.jit(lambda keys, images: frozen(s.examples.view(keys, images)))
    keys = jax.random.split(jax.random.key(8), len(images))
    fill = common.interleaved({"fill": lambda: filled(keys, images)}, repeats)
    callbacks, clock = common.clock(s.config.compute.memory_mb * 2**20)
    settings = replace(s.config.collect.settings, k=k)
    name, key = s.config.collect.name, stream(0, "collect")
    run = COLLECTORS[name].collect
    jax.block_until_ready(run(s.model, variables, s.chosen, s.examples, key, settings, callbacks=callbacks).vectors)
    step = common.step_seconds(clock, name) / settings.batch  # pyright: ignore[reportAttributeAccessIssue]
    return common.median(fill)["fill"] / len(images), step


def measure_generate(s: RunContext, repeats: int) -> dict[str, float]:
    """Autoencoder, diffusion and sampling, whole: as many steps as a run takes."""
    c, dim = s.config, s.chosen.dim
    k = c.collect.settings.k
    mean = 1 + 0.1 * jax.random.normal(jax.random.key(4), (1, dim))
    vectors = mean + 0.01 * jax.random.normal(jax.random.key(5), (k, dim))
    module, settings = GENERATORS[c.generate.name], c.generate.settings[c.generate.name]
    callbacks, clock = common.clock()
    fitted = module.fit(vectors, jax.random.key(6), settings, callbacks=callbacks)
    draw = common.interleaved({"draw": lambda: module.sample(fitted, jax.random.key(7), c.members)}, repeats)
    found = {f"t_{name}": sum(spent for _, spent in parts) for name, parts in clock.segments.items()}
    return {**found, "t_sample": common.median(draw)["draw"]}


def measure_inference(s: RunContext, variables: Any, repeats: int) -> tuple[float, float]:
    """Seconds for an image of a full pass, and of a member's suffix."""
    m, images = s.config.members, s.examples.plain(jnp.asarray(s.dataset.test.images))
    vectors = jnp.tile(subset.flatten(s.chosen, variables)[None], (m, 1))
    forward = jax.jit(s.model.apply)
    parts = cost.operations(s).parts
    memory = s.config.compute.memory_mb * 2**20
    chunk = min(m, ensemble.chunk_size(parts._replace(suffix_bytes=len(images) * parts.suffix_bytes), memory))
    variants = {
        "forward": lambda: forward(variables, images),
        "members": lambda: ensemble.member_logits(s.model.apply, variables, s.chosen, vectors, images, chunk=chunk),
    }
    times = common.median(common.interleaved(variants, repeats))
    return times["forward"] / len(images), max(times["members"] - times["forward"], 0.0) / m / len(images)


def measure(task: str, size: str, repeats: int) -> dict[str, float]:
    """Seconds for an image, or whole, of all parts of a run."""
    _, _, base_epochs, k, _, _ = SIZES[size]
    s = prepared(task, size)
    variables = common.fresh(s)
    begin = len(common.COMPILING)
    image = measure_base(s, base_epochs)
    fill, step = measure_collect(s, variables, k, repeats)
    generated = measure_generate(s, repeats)
    forward, member = measure_inference(s, variables, repeats)
    spans = common.COMPILING[begin:]
    compiling = common.union(spans, min(span.begin for span in spans), max(span.end for span in spans))
    found = {"image": image, "fill": fill, "step": step, "forward": forward, "member": member, "compile": compiling}
    return {**found, **generated}


def extrapolated(task: str, one: dict[str, float]) -> dict[str, Any]:
    """Table 4's row of a task from what was measured for an image."""
    c = common.load(task, {})
    n, validation, test = SPLITS.get(c.data.name, CIFAR)
    settings, m = c.collect.settings, c.members
    k, views = settings.k, settings.views  # pyright: ignore[reportAttributeAccessIssue]
    voters = 2 + k + m + m * len(c.generate.nulls)  # the base, the checkpoints' average, checkpoints, members, nulls
    prefix = max(one["forward"] - one["member"], 0.0)
    row = {
        "t_pre": c.base.epochs * n * one["image"],
        "t_epoch": n * one["image"],
        "t_collect": n * (views * one["fill"] + k * one["step"]),
        **{name: one[name] for name in ("t_autoencoder", "t_diffusion", "t_sample")},
        "t_evaluate": (validation + test) * (prefix + voters * one["member"]),
        "infer_base": test * one["forward"],
        "infer_prefix": test * prefix,
        "infer_member": test * one["member"],
        "compile": one["compile"],
    }
    return {"task": task, **row, "break_even_m": break_even(row, m)}


def floor(task: str) -> dict[str, float]:
    """What each stage needs by operations alone, in epochs of the base's training, and the break-even m of that."""
    s = common.prepare(task, {}, (100, 10, 10), side=8 if task == "digits" else 32)
    ops, c = cost.operations(s), s.config
    collect, epochs = cost.collect_epochs(s, ops), c.base.epochs
    n = SPLITS.get(c.data.name, CIFAR)[0]
    generate = cost.generate_epochs(s, c.generate.name, c.members, ops) * 100 / n
    return {"collect_epochs": collect, "generate_epochs": generate, "break_even_m": 1 + (collect + generate) / epochs}


def whole(task: str, seed: int = 0) -> dict[str, Any]:
    """The stages themselves on as many synthetic images as the real set has; the report's own cost."""
    splits = SPLITS.get(common.load(task, {}).data.name, CIFAR)
    s = common.prepare(task, {}, splits, classes=100 if "100" in task else 10, side=8 if task == "digits" else 32)
    with tempfile.TemporaryDirectory() as folder:
        s = s._replace(workdir=Path(folder))
        jobs = pipeline.run(
            s, ("base", "collect", "generate", "evaluate", "report"), lambda text: print(text, flush=True)
        )
        content = storage.read_json(jobs["report"].path / "report.json")
    return {"task": task, **content["cost"]}


def table(rows: list[dict[str, Any]], floors: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What the README shows."""
    keys = ["t_pre", "t_epoch", "t_collect", "t_autoencoder", "t_diffusion", "t_sample", "t_evaluate", "compile"]
    header = ["task", *keys, "break-even m", "by operations", "bar"]
    cells = []
    for row in rows:
        even, bar = row["break_even_m"], BARS.get(row["task"])
        kept = "-" if bar is None else f"{bar}: {'kept' if even is not None and even <= bar else 'missed'}"
        least = common.number(floors[row["task"]]["break_even_m"], 4)
        cells.append([row["task"], *[common.number(row.get(key)) for key in keys], common.number(even, 4), least, kept])
    return header, cells


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    more: dict[str, dict[str, Any]] = {"tasks": {"default": "", "help": f"some of {', '.join(TASKS)}"}}
    more["full"] = {"action": "store_true", "help": "run whole stages instead of extrapolating from a few steps"}
    args: argparse.Namespace = common.arguments(str(__doc__), "cost", argv, **more)
    tasks = args.tasks.split(",") if args.tasks else SIZES[args.size][5]
    measured: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    floors: dict[str, Any] = {}
    for task in tasks:
        if args.full:
            rows.append(whole(task))
        else:
            source = TASKS[task]
            measured[source] = measured.get(source) or measure(source, args.size, args.repeats)
            rows.append(extrapolated(task, measured[source]))
        floors[task] = floor(task)
        common.write(args, {"is_extrapolated": not args.full, "rows": rows, "measured": measured, "floors": floors})
        print(*table(rows, floors)[1][-1], flush=True)
    how = "whole stages" if args.full else "from a few steps, by images"
    common.show(f"seconds, {how}; compilation apart", *table(rows, floors))


if __name__ == "__main__":
    main(sys.argv[1:])
