"""JAX_ENABLE_X64 and JAX_DEFAULT_PRNG_IMPL: checkpoints and members keep their types, and every algorithm works."""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax import training
from bend_jax.collect import COLLECTORS, bootstrap
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import fit_generator
from tests import launching, problems

ALL = [("collect", name) for name in COLLECTORS] + [("generate", name) for name in GENERATORS]


@cache
def told() -> dict[tuple[str, str], Any]:
    """What tests/in_64_bits.py says of each algorithm, with both variables set."""
    own = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    environment = {**os.environ, "PYTHONPATH": str(launching.ROOT), **own}
    command = [sys.executable, "-m", "tests.in_64_bits"]
    done = subprocess.run(
        command, cwd=launching.ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *lines = map(json.loads, done.stdout.splitlines())
    assert first == [True, "rbg"]
    return {(kind, name): found for kind, name, *found in lines}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_algorithm_works_in_64_bits_and_with_other_random_numbers(kind: str, name: str) -> None:
    """Its vectors are float32 all the same, as many as were asked for, and finite."""
    rows = 4 if kind == "collect" else 1 if name == "average" else 5
    assert told()[kind, name] == ["float32", [rows, 12], True]


def test_a_training_keeps_the_types_of_its_state() -> None:
    """A loss in 64 bits, an average and what follows a segment leave float32 as it was."""

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
        wide = jnp.asarray(params, jnp.float64) * data["x"]
        return jnp.sum(wide**2), {"mean": jnp.mean(wide, axis=0) + extra["mean"]}

    def after(state: Any, data: Any) -> Any:
        return state._replace(held_loss=jnp.asarray(0.5), since=jnp.asarray(3))

    with jax.enable_x64(True):
        optimizer = optax.sgd(0.1)
        params = jnp.ones(3, jnp.float32)
        state = training.start_with_ema(params, optimizer)._replace(extra={"mean": jnp.float32(0)})
        before = jax.tree.map(lambda x: x.dtype, state)
        data = {"x": jnp.ones(3), "key": jax.random.key(0)}
        step = training.make_step(loss, optimizer, 0.9)
        found = training.train("test", step, state, data, steps=4, segment=2, after=after)
    assert data["x"].dtype == "float64"
    assert jax.tree.map(lambda x: x.dtype, found) == before
    assert int(found.since) == 3


def test_starts_and_members_are_float32_in_64_bits() -> None:
    """Noise is drawn in 64 bits there, where nobody says otherwise."""
    model, variables, subset, _ = problems.dense("bn")
    with jax.enable_x64(True):
        settings = bootstrap.Bootstrap(k=2, perturb=0.5)
        starts = bootstrap.start_vectors(model, variables, subset, jax.random.key(0), settings)
        members = fit_generator(GENERATORS["gaussian"], jnp.eye(3, dtype=jnp.float32)).draw(2)
    assert (starts.dtype, members.dtype) == (jnp.float32, jnp.float32)
    assert not np.array_equal(starts[0], starts[1])
