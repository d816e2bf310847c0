"""Generators on checkpoints whose distribution is known: clusters, circles, heavy tails, a Gaussian.

Each set has k vectors: a signal in a few random directions and small isotropic noise everywhere. A generator gets the k
vectors and its members are held against fresh draws of the truth, in the signal's directions.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from bend_jax import metrics
from bend_jax.generate import GENERATORS

K, DIM, MEMBERS, NOISE = 200, 256, 1000, 0.1
SIZES = {"tiny": (40, 16, 50), "small": (K, DIM, MEMBERS), "full": (K, DIM, MEMBERS)}  # k, dim, members
CLUSTER, RADIAL = 0.25, 0.05  # sd within a cluster, and of the circle's radius
HIDDEN = 0.16  # sd within a cluster that one axis of many tells


class Shape(NamedTuple):
    """A distribution in d dimensions of about unit variance.

    draw(generator, n, d) -> [n, d]; is_gap(signal) -> whether each row lies where the truth has next to nothing, None
    for a distribution without such a place.
    """

    draw: Callable[[np.random.Generator, int, int], np.ndarray]
    is_gap: Callable[[np.ndarray], np.ndarray] | None


def clusters(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Two round clusters, at -1 and at 1 on every axis."""
    return generator.choice([-1.0, 1.0], n)[:, None] + CLUSTER * generator.normal(size=(n, d))


def hidden_clusters(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Two clusters at -1 and 1 on the first axis; all other axes are Gaussian, of the same variance."""
    x = generator.normal(size=(n, d))
    x[:, 0] = generator.choice([-1.0, 1.0], n) + HIDDEN * x[:, 0]
    return x


def circle(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A circle of radius sqrt(2) in the first two axes; all other axes are Gaussian, of a small variance."""
    x = hidden_circle(generator, n, d)
    x[:, 2:] *= CLUSTER
    return x


def hidden_circle(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """A circle of radius sqrt(2) in the first two axes; all other axes are Gaussian, of the same variance."""
    x = generator.normal(size=(n, d))
    angle = generator.uniform(0, 2 * np.pi, n)
    radius = np.sqrt(2) * (1 + RADIAL * x[:, 0])
    x[:, 0], x[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    return x


def tails(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Student's t with 3 degrees of freedom, each axis of variance 1."""
    return generator.standard_t(3, (n, d)) / np.sqrt(3)


def gaussian(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Nothing beyond a mean and a covariance."""
    return generator.normal(size=(n, d))


def is_inside(x: np.ndarray) -> np.ndarray:
    """Whether each row lies well inside the circle."""
    return np.hypot(x[:, 0], x[:, 1]) < 0.7 * np.sqrt(2)


SHAPES = {
    "clusters": Shape(clusters, lambda x: np.abs(x.mean(axis=1)) < 0.4),
    "hidden_clusters": Shape(hidden_clusters, lambda x: np.abs(x[:, 0]) < 0.5),
    "circle": Shape(circle, is_inside),
    "hidden_circle": Shape(hidden_circle, is_inside),
    "tails": Shape(tails, None),
    "gaussian": Shape(gaussian, None),
}


class Problem(NamedTuple):
    """Checkpoints [k, dim] of a shape, its directions [d, dim], and fresh draws of its signal [n, d].

    moved: other draws [n, dim], moved to the checkpoints' mean: what a generator could give at best that knows the
    distribution but for its mean.
    """

    shape: Shape
    vectors: np.ndarray
    axes: np.ndarray
    truth: np.ndarray
    moved: np.ndarray


def problem(name: str, d: int, seed: int, k: int = K, dim: int = DIM, fresh: int = MEMBERS) -> Problem:
    """The set of one shape and seed."""
    generator = np.random.default_rng((seed, d))
    shape = SHAPES[name]
    axes = np.linalg.qr(generator.normal(size=(dim, d)))[0].T

    def embedded(n: int) -> np.ndarray:
        return shape.draw(generator, n, d) @ axes + NOISE * generator.normal(size=(n, dim))

    vectors = embedded(k).astype(np.float32)
    truth, other = embedded(fresh) @ axes.T, embedded(fresh)
    return Problem(shape, vectors, axes, truth, other - other.mean(axis=0) + vectors.mean(axis=0))


def measure(members: np.ndarray, found: Problem) -> dict[str, float | None]:
    """Of members [m, dim]: share in the gap, energy distance to the truth, copies, spread (in the signal's axes)."""
    signal = members @ found.axes.T
    novelty = metrics.novelty(members, found.vectors)
    return {
        "gap": None if found.shape.is_gap is None else float(found.shape.is_gap(signal).mean()),
        "energy": metrics.energy_distance(signal, found.truth),
        "copies": novelty.copy_share,
        "spread": float(np.sqrt((signal.var(axis=0) / found.truth.var(axis=0)).mean())),
    }


def draw(name: str, found: Problem, seed: int, members: int, steps: int = 0) -> np.ndarray:
    """Members [m, dim] of a generator with its default settings, or of its preset where the name is NAME:PRESET; of
    "truth" the draws at the checkpoints' mean.

    steps: of both trainings of bend at most; 0 leaves them.
    """
    if name == "truth":
        return found.moved
    name, _, preset = name.partition(":")
    generator = GENERATORS[name]
    settings = generator.presets[preset] if preset else generator.settings
    if steps and name == "bend":
        parts = {part: getattr(settings, part) for part in ("autoencoder", "diffusion")}
        settings = replace(settings, **{part: replace(x, steps=min(steps, x.steps)) for part, x in parts.items()})
    keys = jax.random.split(jax.random.key(seed))
    fitted = generator.fit(jnp.asarray(found.vectors), keys[0], settings)
    return np.asarray(generator.sample(fitted, keys[1], members), np.float64)


def main(argv: list[str] | None = None) -> None:
    """Every shape, number of signal directions and seed, for each generator; means over seeds."""
    args = common.arguments(
        str(__doc__),
        "shapes",
        argv,
        generators={"default": "bend,low_rank_gaussian,truth", "help": "names, with commas between; bend:published"},
        steps={"type": int, "default": 0, "help": "of both trainings of bend at most; 0: as they are set"},
        seeds={"type": int, "default": 3, "help": "sets of each shape"},
        directions={"default": "2,4,8", "help": "of the signal, with commas between"},
    )
    k, dim, members = SIZES[args.size]
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        for d in map(int, args.directions.split(",")):
            sets = [problem(shape, d, seed, k, dim, members) for seed in range(args.seeds)]
            for name in args.generators.split(","):
                found = [measure(draw(name, own, seed, members, args.steps), own) for seed, own in enumerate(sets)]
                means = {key: _mean([f[key] for f in found]) for key in found[0]}
                rows.append({"shape": shape, "directions": d, "generator": name, **means, "seeds": found})
                common.write(args, {"rows": rows})
                print(
                    shape, d, name, {x: None if y is None else round(float(y), 4) for x, y in means.items()}, flush=True
                )
    header = ["shape", "directions", "generator", "gap %", "energy", "copies %", "spread"]
    lines = []
    for row in rows:
        numbers = (_percent(row["gap"]), f"{row['energy']:.4f}", _percent(row["copies"]), f"{row['spread']:.2f}")
        lines.append([row["shape"], str(row["directions"]), row["generator"], *numbers])
    common.show(f"Members against the truth, means over {args.seeds} seeds", header, lines)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
