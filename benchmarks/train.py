"""The base's training as the stage runs it, against a jitted step that is fed NumPy batches from the host."""

import argparse
import statistics
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from bend_jax import recipe, training
from bend_jax.rng import stream
from bend_jax.run import cost
from bend_jax.run.context import RunContext

# (task, images, batch, dtype)
SIZES: dict[str, tuple[tuple[str, int, int, str], ...]] = {
    "tiny": (("digits", 16, 8, "float32"),),
    "small": (("res18_cifar10", 48, 16, "float32"), ("cifar10_resnet", 1024, 16, "float32")),
    "full": (
        ("res18_cifar10", 12_800, 64, "float32"),
        ("res18_cifar10", 12_800, 64, "bfloat16"),
        ("res18_cifar10", 12_800, 512, "bfloat16"),
        ("res50_cifar10", 12_800, 64, "bfloat16"),
    ),
}


def share(operations: float, images_per_second: float, dtype: str) -> float | None:
    """Of the device's matrix peak, None where that is not known."""
    most = common.peak(dtype)
    return None if most is None else operations * images_per_second / most


def least_bytes(variables: Any, batch: int, image: int) -> int:
    """Of a step: weights and momentum read and written, gradients written and read, the images read."""
    return 6 * common.size_of(variables["params"]) + batch * image


def fed(s: RunContext, settings: Any) -> Any:
    """step(): one training step whose batch is gathered by NumPy and handed to a jitted function; run and forget, as a
    loop over a data loader does. Augmentation is on the device, as ours."""
    assert s.model.train_apply is not None
    train_apply = s.model.train_apply
    images, labels = s.dataset.train
    n, batch = len(labels), settings.batch
    optimizer = recipe.sgd(recipe.schedule(settings, n // batch), settings.momentum, settings.weight_decay)

    def loss(params: Any, rest: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, batch + 1)
        x = s.examples.view(keys[1:], data["images"])
        logits, new = train_apply({**rest, "params": params}, x, keys[0])
        mean = jnp.mean(recipe.cross_entropy(logits, data["labels"]))
        return mean, {name: value for name, value in new.items() if name != "params"}

    variables = dict(common.fresh(s))
    state = [training.start(variables.pop("params"), optimizer, variables)]
    key, generator, order = jax.random.key(1), np.random.default_rng(0), [np.arange(n)]
    run = jax.jit(training.make_step(loss, optimizer), donate_argnums=0)
    count = [0]

    def step() -> Any:
        begin = count[0] * batch % (n // batch * batch)
        if begin == 0:
            order[0] = generator.permutation(n)
        rows = order[0][begin : begin + batch]
        state[0], result = run(state[0], {"images": images[rows], "labels": labels[rows], "key": key})
        count[0] += 1
        return result

    return step


def measure(task: str, n: int, batch: int, dtype: str, segments: int) -> dict[str, Any]:
    """One row, of so many segments. After each of our segments the other loop runs as many steps, off the clock."""
    side = 8 if task == "digits" else 32
    s = common.prepare(
        task, {"base.batch": batch, "collect.batch": batch, "backbone.dtype": dtype}, (n, 10, 10), side=side
    )
    ops = cost.operations(s)
    per_epoch = len(s.dataset.train.labels) // batch
    length = min(per_epoch, training.SEGMENT)
    settings = replace(s.config.base, epochs=-(-(segments + 1) * length // per_epoch), schedule="cosine")
    step = fed(s, settings)
    jax.block_until_ready(step())
    other: list[float] = []
    probes = common.Probes()

    def between(steps: int) -> None:
        def run() -> Any:
            return [step() for _ in range(steps)][-1]

        _, seconds, _ = common.elapsed(run)
        other.append(seconds / steps)
        probes.take()

    callbacks, clock = common.clock(between=between)
    variables = training.train_base(s.model, s.examples, stream(0, "base"), settings, callbacks=callbacks)
    own = [seconds / steps for steps, seconds in clock.segments["base"]]
    own, other = own[1:] or own, other[1:] or other
    rate = probes.rates()
    image = int(np.prod(s.dataset.train.images.shape[1:]))
    floor = common.floor_seconds(batch * ops.step, least_bytes(variables, batch, image), rate, dtype)
    images_per_second = batch / statistics.median(own)
    return {
        "task": task,
        "batch": batch,
        "dtype": dtype,
        "images_per_second": images_per_second,
        "fed_over_own": statistics.median(b / a for a, b in zip(own, other, strict=True)),
        "seconds_a_step": own,
        "fed_seconds_a_step": other,
        "operations_an_image": ops.step,
        "over_device_floor": statistics.median(own) / floor,
        "share_of_peak": share(ops.step, images_per_second, dtype),
        "rates": rate,
    }


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What the README shows."""
    header = ["task", "batch", "dtype", "images/s", "fed from the host: times ours", "/ device floor", "share of peak"]
    keys = ("images_per_second", "fed_over_own", "over_device_floor", "share_of_peak")
    return header, [[r["task"], str(r["batch"]), r["dtype"], *[common.number(r[key]) for key in keys]] for r in rows]


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    args: argparse.Namespace = common.arguments(str(__doc__), "train", argv)
    rows: list[dict[str, Any]] = []
    for task, n, batch, dtype in SIZES[args.size]:
        rows.append(measure(task, n, batch, dtype, args.repeats))
        common.write(args, {"rows": rows})
        print(*table(rows)[1][-1], flush=True)
    common.show("a training step of the base", *table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
