"""Seconds a step of the published generator's two trainings, and what its 30,000 steps of each would take."""

import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax

from benchmarks import common
from bend_jax.generate import published
from bend_jax.generate.bend import PUBLISHED
from bend_jax.generate.latents import fit_latents
from bend_jax.training import Callbacks

SIZES = {"tiny": (4, 200), "small": (200, 2048), "full": (200, 5120)}  # k, dim


def measure(k: int, dim: int, fold: int, segments: int) -> dict[str, Any]:
    """Both trainings on random vectors, in segments of two steps: (wall seconds, CPU seconds) a step, the medians."""
    clock: list[tuple[float, float]] = []

    def tick(*_: Any) -> None:
        clock.append((time.perf_counter(), time.process_time()))

    callbacks = Callbacks(segment=tick)
    short: dict[str, int] = {"steps": 2 * segments, "segment": 2}
    vectors = jax.random.normal(jax.random.key(0), (k, dim))
    coder = replace(PUBLISHED.autoencoder, fold=fold, **short)
    codec, latents = fit_latents(vectors, jax.random.key(1), coder, callbacks)
    found = {"fold": fold, "latent": latents.shape[1], "autoencoder": median(clock)}
    clock.clear()
    published.fit(latents, jax.random.key(2), replace(PUBLISHED.diffusion, select="last", **short), callbacks, codec)
    return {**found, "denoiser": median(clock)}


def median(clock: list[tuple[float, float]]) -> tuple[float, ...]:
    """Of a step; the first segment has the compilation."""
    gaps = [[(b - a) / 2 for a, b in zip(*pair, strict=True)] for pair in pairwise(clock)]
    return tuple(sorted(column)[len(column) // 2] for column in zip(*gaps, strict=True))


def main(argv: list[str] | None = None) -> None:
    """Medium and small."""
    more = {"segments": {"type": int, "default": 4, "help": "of two steps each"}}
    args = common.arguments(str(__doc__), "published", argv, **more)
    k, dim = SIZES[args.size]
    rows = [measure(k, dim, fold, args.segments) for fold in (5, 3)]
    common.write(args, {"k": k, "dim": dim, "rows": rows})
    parts = {"autoencoder": PUBLISHED.autoencoder.steps, "denoiser": PUBLISHED.diffusion.steps}
    lines = [
        [str(row["fold"]), str(row["latent"]), part, *(f"{x:.3f}" for x in row[part]), f"{row[part][1] * n / 3600:.1f}"]
        for row in rows
        for part, n in parts.items()
    ]
    header = ["fold", "latent", "training", "wall s a step", "CPU s a step", "CPU hours as published"]
    common.show(f"k = {k}, {dim} numbers", header, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
