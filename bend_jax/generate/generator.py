"""What a generator is: one record of its settings, what it needs, what it does and what it costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bend_jax.checks import SettingsError
from bend_jax.rng import stream
from bend_jax.subset import Subset
from bend_jax.training import SILENT, Callbacks, NonFiniteError


class Size(NamedTuple):
    """What a generator's cost is counted from: k vectors of dim numbers, m members drawn `draws` times."""

    k: int
    dim: int
    m: int
    draws: int = 1


@dataclass(frozen=True)
class Generator:
    """A generator, as `fit` and a run take it.

    - name: of its group of settings.
    - settings: an instance of a Settings class with its default values.
    - fit(vectors [k, dim], key, settings, *, callbacks) -> fitted, a pytree.
    - sample(fitted, key, m) -> [m, dim].
    - needs(settings, k): raises SettingsError for checkpoints that it cannot do with.
    - members(m, k): how many members it gives that is asked for m.
    - cost(settings, size): floating-point operations of fit and sample.
    - knob: the leaf of what `fit` returns that sets how far members spread, "" for none:
      `fitted.replace(scale=jnp.float32(0.5))` is the same fit with other members.
    - encode(fitted, vectors): the latents of vectors; None where there are none.
    - presets: named values of all settings, which a run's `preset` fills in.
    - noised(fitted, key, vectors): latents of vectors with the noise that an autoencoder is trained with.
    - learnt(fitted): what its diffusion learnt beyond a Gaussian (`Learnt` in report/learning.py), or None.
    - draws_checkpoints: whether every member is one of the checkpoints.
    - is_all_checkpoints: whether the members are the checkpoints in their order, so that weights of the checkpoints
      are the members'.
    """

    name: str
    settings: Any
    fit: Callable[..., Any]
    sample: Callable[..., Float[Array, "m dim"]]
    needs: Callable[[Any, int], None] = lambda settings, k: None
    members: Callable[[int, int], int] = lambda m, k: m
    cost: Callable[[Any, Size], float] = lambda settings, size: 0.0
    knob: str = ""
    encode: Callable[..., Any] | None = None
    noised: Callable[..., Any] | None = None
    learnt: Callable[[Any], dict[str, int | float | None] | None] = lambda fitted: None
    draws_checkpoints: bool = False
    is_all_checkpoints: bool = False
    presets: Mapping[str, Any] = field(default_factory=dict, hash=False)


LARGEST, LEAST = 1e18, 1e-15  # of numbers whose squares, summed, float32 holds
Reestimate = Callable[[Float[Array, "m dim"]], Float[Array, "m dim"]]  # vectors with BN statistics of their own


@dataclass(frozen=True)
class FittedGenerator:
    """A generator that was fitted to checkpoints. reestimate: how new members get BN statistics; None: not at all."""

    generator: Generator
    fitted: Any
    key: Key[Array, ""]
    reestimate: Reestimate | None = None

    def draw(self, m: int) -> Float[Array, "m dim"]:
        """m members, the same ones every time."""
        members = jnp.asarray(self.generator.sample(self.fitted, self.key, m), jnp.float32)  # as checkpoints are
        if self.reestimate is None or self.generator.draws_checkpoints:
            return members
        return self.reestimate(members)

    def with_knob(self, value: float) -> "FittedGenerator":
        """The same fit with another value of its knob."""
        return replace(self, fitted=self.fitted.replace(**{self.generator.knob: jnp.float32(value)}))


def fit_generator(
    generator: Generator,
    vectors: Float[Array, "k dim"],
    *,
    seed: int = 0,
    reestimate: Reestimate | None = None,
    callbacks: Callbacks = SILENT,
) -> FittedGenerator:
    """Fit a generator to checkpoints. Raises SettingsError for checkpoints that it cannot do with and for those of
    `check_vectors`, NonFiniteError where its training meets a NaN or Inf."""
    generator.needs(generator.settings, len(vectors))
    check_vectors(np.asarray(vectors), callbacks.subset)
    key_fit, key_sample = jax.random.split(stream(seed, "generate", generator.name))
    fitted = generator.fit(jnp.asarray(vectors), key_fit, generator.settings, callbacks=callbacks)
    return FittedGenerator(generator, fitted, key_sample, reestimate)


def check_vectors(vectors: Float[np.ndarray, "k dim"], subset: Subset | None = None) -> None:
    """Raise SettingsError for NaN and Inf, for numbers whose squares float32 does not hold, and for checkpoints that
    differ, but by so little that their variances are 0. subset: to name the parameter."""
    low, high = vectors.min(axis=0, initial=0), vectors.max(axis=0, initial=0)
    size = np.maximum(high, -low)  # NaN where one is NaN
    spread = np.ptp(vectors, axis=0)
    worst = int(np.argmax(np.where(np.isnan(size), np.inf, size)))
    if not size[worst] <= LARGEST:
        found = "NaN or Inf" if not np.isfinite(size[worst]) else f"numbers up to {size[worst]:.3g}"
        raise SettingsError(
            f"the checkpoints hold {found}, in {_name(worst, subset)}; float32 has squares of numbers up to {LARGEST:g}"
        )
    if 0 < spread.max() < LEAST:
        raise SettingsError(
            f"the checkpoints differ by {spread.max():.3g} at most, in {_name(int(np.argmax(spread)), subset)}, and "
            f"float32 has no squares of numbers below {LEAST:g}: take a larger learning rate, or scale the parameters"
        )


def mixed_adapters(generator: Generator, vectors: Any, subset: Subset) -> str:
    """What is to be known where members are made of adapters that started from different A; "" for all else."""
    starts = [path.endswith(".lora_a") for path in subset.paths]
    if generator.draws_checkpoints or not any(starts) or len(vectors) < 2:
        return ""
    a, b = np.asarray(vectors)[:2, np.repeat(starts, subset.lengths)].astype(np.float64)
    if a @ b > 0.5 * np.linalg.norm(a) * np.linalg.norm(b):
        return ""
    return (
        f"{generator.name} mixes adapters that started from different A, which are coordinates of their own: let the "
        "checkpoints vote as they are (identity), or collect adapters that share their start (trajectory)"
    )


def _name(number: int, subset: Subset | None) -> str:
    """Of a number of the vector."""
    if subset is None:
        return f"number {number} of the vector"
    return subset.paths[int(np.searchsorted(np.cumsum(subset.lengths), number, side="right"))]


def check_finite(name: str, members: np.ndarray) -> None:
    """Raise NonFiniteError for members of a generator that hold NaN or Inf."""
    if not np.isfinite(members).all():
        raise NonFiniteError(name, "members")
