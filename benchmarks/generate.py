"""The generator: seconds an iteration of the published autoencoder and of ours, what each reaches, members drawn."""

import argparse
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import common
from bend_jax.generate import autoencoder, bend
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.bend import Bend
from bend_jax.generate.latents import decode, encode
from bend_jax.operations import flops

SECONDS = 60.0  # what our default may take
DRAW = 2.0  # seconds for the members
RANK = 34  # of the checkpoints' spread: what bootstraps on digits were seen to have
# checkpoints, dimensions, members, iterations of the published autoencoder that say how many its seconds allow
SIZES = {"tiny": (24, (640,), 4, 2), "small": (200, (2048, 5120), 100, 5), "full": (200, (2048, 5120), 100, 100)}
# p-diff's release: medium, AdamW 1e-3 and 2e-6, noise .001 on the input and .1 on the latent
PUBLISHED = Autoencoder(kind="conv", fold=5, lr=1e-3, weight_decay=2e-6, input_noise=1e-3, latent_noise=0.1)


def vectors(key: Any, k: int, dim: int) -> jax.Array:
    """k checkpoints, and as many more of the same distribution: N(1, 0.1^2) coordinates, and deviations of sd 0.01 with
    RANK directions whose sd falls as 1 / sqrt(j), and a twentieth of the variance in no direction."""
    key_mean, key_axes, key_rows, key_rest = jax.random.split(key, 4)
    scale = 1 / jnp.sqrt(jnp.arange(1.0, RANK + 1))
    axes = jax.random.normal(key_axes, (RANK, dim)) * (scale / jnp.linalg.norm(scale))[:, None]
    rows = jax.random.normal(key_rows, (2 * k, RANK)) @ axes
    rest = jax.random.normal(key_rest, (2 * k, dim))
    mean = 1 + 0.1 * jax.random.normal(key_mean, (dim,))
    return mean[None] + 0.01 * (jnp.sqrt(0.95) * rows + jnp.sqrt(0.05) * rest)


def spread(found: Any, given: Any) -> float:
    """sqrt of the mean over coordinates of var(found) / var(given)."""
    return float(jnp.sqrt(jnp.mean(jnp.var(found, axis=0) / jnp.var(given, axis=0))))


def error(fitted: bend.Fitted, given: Any, scale: Any) -> float:
    """Mean squared error of the reconstruction in units of the checkpoints' variance: 1 is what their mean has."""
    again = decode(fitted.latents, encode(fitted.latents, given))
    return float(jnp.mean(((again - given) / scale[None]) ** 2))


def iteration_flops(settings: Autoencoder, k: int, dim: int) -> float:
    """Of one training step on all vectors: forward and gradient by XLA's count."""
    rows = jax.ShapeDtypeStruct((k, dim), jnp.float32)
    params = jax.eval_shape(lambda x: autoencoder.initial(x, jax.random.key(0), settings), rows)

    def loss(params: Any, x: Any) -> Any:
        again = autoencoder.decode(params, autoencoder.encode(params, x, settings), dim, settings)
        return jnp.mean((again - x) ** 2)

    return flops(jax.grad(loss), params, rows)


def iteration_bytes(settings: Autoencoder, k: int, dim: int) -> int:
    """Parameters and Adam's two moments read and written, gradients written and read, the vectors read."""
    rows = jax.ShapeDtypeStruct((k, dim), jnp.float32)
    params = jax.eval_shape(lambda x: autoencoder.initial(x, jax.random.key(0), settings), rows)
    return 8 * common.size_of(params) + 4 * k * dim


def fitted(given: Any, settings: Bend, members: int, repeats: int, probes: common.Probes) -> dict[str, Any]:
    """Fit, draw, and what came out: seconds without compilation, errors on the checkpoints and on new ones, spread."""
    k = len(given) // 2
    own, new = given[:k], given[k:]
    callbacks, clock = common.clock(between=lambda steps: probes.take())
    found, seconds, compiling = common.elapsed(lambda: bend.fit(own, jax.random.key(2), settings, callbacks=callbacks))
    drawn = bend.sample(found, jax.random.key(3), members)
    times = common.interleaved({"draw": lambda: bend.sample(found, jax.random.key(3), members)}, repeats)
    scale = jnp.std(own, axis=0)
    return {
        "seconds": seconds,
        "compile": compiling,
        "autoencoder_seconds": sum(spent for _, spent in clock.segments["autoencoder"]),
        "autoencoder_steps": sum(steps for steps, _ in clock.segments["autoencoder"]),
        "autoencoder_iteration": common.step_seconds(clock, "autoencoder"),
        "diffusion_seconds": sum(spent for _, spent in clock.segments["diffusion"]),
        "diffusion_steps": sum(steps for steps, _ in clock.segments["diffusion"]),
        "diffusion_iteration": common.step_seconds(clock, "diffusion"),
        "draw": common.median(times)["draw"],
        "error": error(found, own, scale),
        "error_new": error(found, new, scale),
        "reconstruction_spread": spread(decode(found.latents, encode(found.latents, own)), own),
        "members_spread": spread(drawn, own),
    }


def measure(k: int, dim: int, members: int, iterations: int, budget: float, repeats: int) -> dict[str, Any]:
    """One row: the published architecture for a number of seconds, our default whole."""
    given = vectors(jax.random.key(1), k, dim)
    probes = common.Probes()
    callbacks, clock = common.clock()
    timed = replace(PUBLISHED, steps=iterations, segment=max(1, iterations // 5))
    scaled = (given[:k] - given[:k].mean(0)[None]) / given[:k].std(0)[None]
    autoencoder.fit(scaled, jax.random.key(0), timed, callbacks)
    published = common.step_seconds(clock, "autoencoder")
    default = Bend()
    steps = max(iterations, int(budget / published))
    boxed = replace(default, autoencoder=replace(PUBLISHED, steps=steps, segment=max(1, steps // 20)))
    ours, theirs = (fitted(given, settings, members, repeats, probes) for settings in (default, boxed))
    rate = probes.rates()
    result: dict[str, Any] = {"k": k, "dim": dim, "members": members, "published_iteration": published, "rates": rate}
    for name, settings, found in (("ours", default.autoencoder, ours), ("published", PUBLISHED, theirs)):
        operations, moved = iteration_flops(settings, k, dim), iteration_bytes(settings, k, dim)
        floor = common.floor_seconds(operations, moved, rate, "float32")
        more = {"iteration_flops": operations, "iteration_bytes": moved}
        result[name] = {**found, **more, "iteration_over_floor": found["autoencoder_iteration"] / floor}
    return result


def keeps(row: dict[str, Any]) -> bool:
    """The bar: our default within its time, at least as near, at least as wide, members drawn fast enough."""
    ours, theirs = row["ours"], row["published"]
    near = ours["error"] <= theirs["error"] and ours["error_new"] <= theirs["error_new"]
    wide = abs(1 - ours["members_spread"]) <= abs(1 - theirs["members_spread"])
    return ours["seconds"] <= SECONDS and near and wide and ours["draw"] < DRAW


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """What the README shows."""
    header = ["d", "generator", "s an AE step", "/ floor", "AE steps", "s a DDPM step", "fit (s)", "draw (s)"]
    header += ["error", "error, new", "spread, AE", "spread", "bar"]
    keys = [
        "autoencoder_iteration",
        "iteration_over_floor",
        "autoencoder_steps",
        "diffusion_iteration",
        "seconds",
        "draw",
    ]
    keys += ["error", "error_new", "reconstruction_spread", "members_spread"]
    cells = []
    for r in rows:
        for name in ("ours", "published"):
            kept = "-" if name == "published" else "kept" if keeps(r) else "missed"
            cells.append([str(r["dim"]), name, *[common.number(r[name][key]) for key in keys], kept])
    return header, cells


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    help_ = "training of the published autoencoder (it is 30,000 iterations as published)"
    more: dict[str, dict[str, Any]] = {"published_seconds": {"type": float, "default": 600.0, "help": help_}}
    args: argparse.Namespace = common.arguments(str(__doc__), "generate", argv, **more)
    k, dims, members, iterations = SIZES[args.size]
    rows: list[dict[str, Any]] = []
    for dim in dims:
        rows.append(measure(k, dim, members, iterations, args.published_seconds, args.repeats))
        common.write(args, {"published_seconds": args.published_seconds, "rows": rows})
    title = f"k = {k}, {members} members; published: p-diff's medium, trained for {args.published_seconds:.0f} s"
    common.show(title, *table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
