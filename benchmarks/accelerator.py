"""What a machine with an accelerator is good for in a quarter of an hour: is it right, how fast is it, what fits.

  python -m benchmarks.accelerator check OUT.npz                    what this device computes from fixed keys
  python -m benchmarks.accelerator compare CPU.npz GPU.npz [TF32.npz] --out check.json    the first one is the CPU's
  python -m benchmarks.accelerator steps --out steps.json           seconds a step of the base and of the collector
  python -m benchmarks.accelerator decide steps.json --seconds 290  flags for 100 epochs of the base in that time

Run `check` once with JAX_PLATFORMS=cpu, once with JAX_DEFAULT_MATMUL_PRECISION=highest (float32 without TF32) and once
as users run it. `--tiny` makes check and steps small enough for a test.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from bend_jax import ensemble, minibatches, subset, training
from bend_jax.collect import COLLECTORS
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.trajectory import Trajectory
from bend_jax.evaluation import predict
from bend_jax.generate import GENERATORS, whitening
from bend_jax.generate.bend import Bend
from bend_jax.rng import stream

# the largest |difference| / |value of the CPU| in float32; names that begin with "exact" must be equal
LIMITS = {
    "augmented": 1e-6,
    "init": 1e-5,
    "logits": 1e-4,
    "members": 1e-4,
    "members loop": 1e-4,
    "base after one step": 1e-3,
    "trajectory": 1e-3,
    "bootstrap": 1e-3,
    "whitened and back": 1e-3,
    "spread of drawn members": 0.1,  # a sampler of 1000 steps: only its distribution
    "probabilities": 1e-4,
}
EPOCHS, IMAGES = 100, 45_000  # of the base's published training
TINY = {"backbone.widths": (4, 4, 4, 4)}


def check(args: argparse.Namespace) -> None:
    """Write what this device computes from fixed keys."""
    started = time.perf_counter()
    changes = {"base.batch": 64, "collect.views": 2, "collect.cache_dtype": "float32", **(TINY if args.tiny else {})}
    s = common.prepare("res18_cifar10", changes, (128, 64, 64))
    variables = common.fresh(s)
    found = {**_passes(s, variables), **_trainings(s, variables), **_members(s, variables)}
    arrays: dict[str, Any] = {name: np.asarray(value, np.float64) for name, value in found.items()}
    np.savez(args.out, platform=np.array(jax.default_backend()), **arrays)
    print(f"{jax.devices()[0].device_kind}: check took {time.perf_counter() - started:.0f} s", flush=True)


def _passes(s: Any, variables: Any) -> dict[str, Any]:
    """Order of a batch, augmentation, initial weights, logits of the base and of 20 members."""
    key, images = jax.random.key(3), jnp.asarray(s.dataset.train.images[:64])
    x, vectors = s.examples.plain(images), _vectors(s, variables)
    one = jax.jit(lambda v, x: s.model.apply(subset.insert(s.chosen, variables, v), x))
    return {
        "exact order": jax.jit(minibatches.epoch_order, static_argnums=2)(key, 0, 128),
        "augmented": jax.jit(s.examples.view)(jax.random.split(key, 64), images),
        "init": _some(variables),
        "logits": jax.jit(s.model.apply)(variables, x),
        "members": ensemble.member_logits(s.model.apply, variables, s.chosen, vectors, x, chunk=8),
        "members loop": jnp.stack([one(v, x) for v in vectors]),
    }


def _vectors(s: Any, variables: Any) -> jax.Array:
    base = subset.flatten(s.chosen, variables)
    return base[None] + 0.3 * jax.random.normal(jax.random.key(1), (20, s.chosen.dim))


def _some(variables: Any) -> jax.Array:
    """Up to 999 numbers of every leaf."""
    return jnp.concatenate([leaf.ravel()[:999] for leaf in jax.tree.leaves(variables)])


def _trainings(s: Any, variables: Any) -> dict[str, Any]:
    """The base after one step, and how far the collectors moved from it."""
    batch = s.examples._replace(images=s.examples.images[:64], labels=s.examples.labels[:64])
    one = training.train_base(s.model, batch, stream(0, "base"), replace(s.config.base, epochs=1, lr=0.01))
    found, base = {"base after one step": _some(one)}, subset.flatten(s.chosen, variables)
    collectors = {
        "trajectory": Trajectory(k=3, views=2, batch=64, lr=0.01),
        "bootstrap": Bootstrap(k=4, views=2, batch=64, lr=0.01, epochs=1),
    }
    for name, settings in collectors.items():
        key = stream(0, "collect", name)
        found[name] = (
            COLLECTORS[name].collect(s.model, variables, s.chosen, s.examples, key, settings).vectors - base[None]
        )
    return found


def _members(s: Any, variables: Any) -> dict[str, Any]:
    """Whitening, the spread of a small diffusion's members, probabilities of a vote."""
    base = np.asarray(subset.flatten(s.chosen, variables))
    noise = np.random.default_rng(0).normal(size=(40, s.chosen.dim)).astype(np.float32)
    rows = jnp.asarray(base[None] + 0.01 * noise)
    white = whitening.whiten(rows, min(39, s.chosen.dim))
    bend = Bend()
    autoencoder = replace(bend.autoencoder, steps=50, segment=50)
    bend = replace(bend, autoencoder=autoencoder, diffusion=replace(bend.diffusion, steps=50, segment=50))
    fitted = GENERATORS["bend"].fit(rows, jax.random.key(5), bend)
    drawn = GENERATORS["bend"].sample(fitted, jax.random.key(6), 20)

    def load(rows: Any, view: str) -> Any:
        return s.examples.plain(jnp.asarray(s.dataset.test.images[rows]))

    sets = {"base": base[None], "own": np.asarray(_vectors(s, variables))}
    votes = predict.predict(
        s.model.apply, variables, s.chosen, sets, load, 64, batch=32, wanted=predict.Wanted(keep=True)
    )
    return {
        "whitened and back": whitening.from_white(white, whitening.to_white(white, rows)) - base[None],
        "spread of drawn members": jnp.std(drawn, axis=0).mean()[None],
        "probabilities": votes["own"].probabilities,
    }


def compare(args: argparse.Namespace) -> None:
    """|a - b| / |b| of every array against the CPU's. The first other file is held to the limits, further ones (TF32)
    are reported. Exit code 1 where a limit is passed, 2 where the files are not the CPU's and an accelerator's."""
    files = {path.stem: dict(np.load(path)) for path in args.files}
    platforms = {name: str(arrays.pop("platform")) for name, arrays in files.items()}
    reference, *others = files
    if platforms[reference] != "cpu" or any(platforms[name] == "cpu" for name in others) or not others:
        print(f"compare takes the CPU's file, then those of an accelerator; got {platforms}", file=sys.stderr)
        raise SystemExit(2)
    errors = {
        name: {other: distance(files[other][name], wanted) for other in others}
        for name, wanted in files[reference].items()
    }
    bad = [name for name, row in errors.items() if not row[others[0]] <= LIMITS.get(name, 0.0)]
    loops = {
        name: float(np.abs(arrays["members"] - arrays["members loop"]).max() / arrays["members loop"].std())
        for name, arrays in files.items()
    }
    content = {"platforms": platforms, "errors": errors, "members_against_loop_in_sd": loops, "bad": bad}
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    for name, row in errors.items():
        print(f"{name:26}", *(f"{other} {error:.1e}" for other, error in row.items()), "BAD" if name in bad else "")
    print("members against a loop of full passes, in standard deviations of the logits:", loops)
    if bad:
        raise SystemExit(1)


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """|found - wanted| / |wanted|; NaN where a number is not finite."""
    if not np.isfinite(found).all():
        return float("nan")
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))


class EnoughError(Exception):
    """So many segments were timed as were wanted."""


def steps(args: argparse.Namespace) -> None:
    """Milliseconds a step of the base's and the collector's own programs on CIFAR's shapes (random images)."""
    n, batch, rows = (48, 8, []) if args.tiny else (args.images, args.batch, [])
    tiny = TINY if args.tiny else {}

    def setting(size: int, dtype: str) -> Any:
        changes = {"base.batch": size, "base.lr": 0.1 * size / 64, "collect.batch": batch, "backbone.dtype": dtype}
        return common.prepare("res18_cifar10", changes | tiny, (n, 10, 10))

    def keep(name: str, run: Callable[[Any], Any]) -> None:
        rows.append({"what": name, **timed(run)})
        args.out.write_text(json.dumps({"machine": common.machine(), "images": n, "rows": rows}, indent=1) + "\n")
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items() if k != "all_ms"}, flush=True)

    def base(size: int, dtype: str) -> None:
        s = setting(size, dtype)
        how = (s.model, s.examples, stream(0, "base"), s.config.base)
        keep(f"base {size} {dtype}", lambda callbacks: training.train_base(*how, callbacks=callbacks))

    def collect(dtype: str) -> None:
        s = setting(batch, dtype)
        settings, variables = s.config.collect.settings, common.fresh(s)
        how = (s.model, variables, s.chosen, s.examples, stream(0, "collect"), settings)
        keep(
            f"collect trajectory {dtype}", lambda callbacks: COLLECTORS["trajectory"].collect(*how, callbacks=callbacks)
        )

    base(batch, "float32")
    collect("float32")
    base(batch, "bfloat16")
    base(min(8 * batch, n), "bfloat16")


def timed(run: Callable[[Any], Any], segments: int = 3) -> dict[str, Any]:
    """Milliseconds a step of the training that run(callbacks) starts: the median of its first segments without the
    first, compilation apart."""
    since, done, compiling = [0, 0.0], [], [0.0]
    begin = time.perf_counter()

    def compiled(_: str, seconds: float) -> None:
        compiling[0] += seconds
        since[1] = time.perf_counter()

    def segment(_: str, state: Any, losses: Any) -> None:
        jax.block_until_ready(state.params)
        now, step = time.perf_counter(), int(state.step)
        done.append(1e3 * (now - since[1]) / (step - since[0]))
        since[:] = [step, time.perf_counter()]
        if len(done) == segments:
            raise EnoughError

    with contextlib.suppress(EnoughError):
        run(training.SILENT._replace(compiled=compiled, segment=segment, memory=16 * 2**30))
    seconds = time.perf_counter() - begin
    return {
        "ms_a_step": statistics.median(done[1:] or done),
        "all_ms": done,
        "compile_s": compiling[0],
        "whole_s": seconds,
    }


def decide(args: argparse.Namespace) -> None:
    """Print the flags that bring 100 epochs of the base into so many seconds, with the fewest departures from the
    published settings; none where nothing was measured."""
    try:
        ms = {row["what"]: row["ms_a_step"] for row in json.loads(args.file.read_text())["rows"]}
    except (OSError, ValueError):
        ms = {}
    seconds = {
        name: ms[name] * 1e-3 * EPOCHS * (IMAGES // int(name.split()[1]))
        for name in ("base 64 float32", "base 64 bfloat16", "base 512 bfloat16")
        if name in ms
    }
    print("seconds for 100 epochs:", {k: round(v) for k, v in seconds.items()}, file=sys.stderr)
    if not seconds or seconds.get("base 64 float32", float("inf")) <= args.seconds:
        return
    if seconds.get("base 64 bfloat16", float("inf")) <= args.seconds:
        print("--config.backbone.dtype=bfloat16")
    else:  # another recipe than the published one
        print("--config.backbone.dtype=bfloat16 --config.base.batch=512 --config.base.lr=0.4 --config.base.warmup=5")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        found = commands.add_parser(run.__name__, description=run.__doc__)
        found.set_defaults(run=run)
        return found

    one = command(check)
    one.add_argument("out", type=Path)
    one.add_argument("--tiny", action="store_true")
    two = command(compare)
    two.add_argument("files", nargs="+", type=Path)
    two.add_argument("--out", type=Path, required=True)
    three = command(steps)
    three.add_argument("--out", type=Path, required=True)
    three.add_argument("--images", type=int, default=IMAGES)
    three.add_argument("--batch", type=int, default=64)
    three.add_argument("--tiny", action="store_true")
    four = command(decide)
    four.add_argument("file", type=Path)
    four.add_argument("--seconds", type=float, default=290.0)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    main()
