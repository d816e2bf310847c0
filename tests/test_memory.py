"""What stays in memory, and what bounds it: trees and traces that are kept, a setting that moves last bits."""

from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import recipe, training
from bend_jax.collect import frozen_features
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.data import splits
from bend_jax.run import context, pipeline
from bend_jax.run.config import parse
from tests.launching import ROOT
from tests.problems import dense, write_images
from tools import long_haul


def test_two_trainings_of_a_step_share_what_was_traced() -> None:
    """JAX keeps what it traced for a jitted function: one for each training would stay in memory."""
    tx = recipe.sgd(0.01, 0.9, 0.0)
    step = training.make_step(lambda params, extra, data, key, number: (jnp.sum(params**2), extra), tx)
    for length in (0, 3):
        assert step.jitted(None, length) is step.jitted(None, length)
    assert step.jitted() is not step.jitted(None, 3)
    assert step.jitted(None, 3) is not step.jitted(None, 4)
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert step.jitted(placed) is not step.jitted()


def test_no_training_has_a_tree_of_its_own() -> None:
    """JAX keeps the trees of programs' arguments too: two trainings on the same network have the same one, cached and
    streamed."""
    model, variables, subset, examples = dense("last.bias")
    settings = Bootstrap(k=2, views=1, batch=8)
    trees = []
    for memory in (2**30, 2**30, 1, 1):
        given: Any = training.SILENT._replace(memory=memory)
        found = frozen_features.prepare(model, variables, subset, examples, jax.random.key(0), settings, given)
        trees.append(jax.tree.structure(found.data))
    assert trees[0] == trees[1]
    assert trees[2] == trees[3]


def test_the_long_haul_tells_a_leak_from_noise() -> None:
    """Pages that come and go, and a start that grows, are none; 64 KiB a sample are one."""
    rng = np.random.default_rng(0)
    calm = 500 * 2**20 + rng.normal(0, 2**18, 200)
    calm[:30] -= np.linspace(2**25, 0, 30)
    assert not long_haul.leaks(calm.astype(int).tolist())[1]
    growth, is_leak = long_haul.leaks((calm + 2**16 * np.arange(200)).astype(int).tolist())
    assert is_leak
    assert growth == pytest.approx(160 * 2**16, rel=0.05)


def test_memory_is_in_the_digests_where_it_bounds_something(tmp_path: Path) -> None:
    """Of collect where features or members in training do not fit, of what runs members where these do not."""
    raw = settings_on(tmp_path)
    dataset = splits.load(parse(raw).data)

    def changed(collector: str, memory: int, batch: int = 32) -> set[str]:
        raw.collect.name, raw.collect.batch, plans = collector, batch, []
        for raw.compute.memory_mb in (16384, memory):
            plans.append(pipeline.plan(context.prepare(parse(raw), "tiny", 0, tmp_path, dataset)))
        return {name for name in plans[0] if plans[0][name].digest != plans[1][name].digest}

    of_members = {"evaluate", "memorisation", "report"}
    assert changed("trajectory", 8192) == set()
    assert changed("trajectory", 16) == of_members
    assert changed("bootstrap", 8192) == set()
    below = changed("bootstrap", 3)  # 6 checkpoints, 32 images, 3 x 7 KiB of intermediates each: 4 MiB
    assert "base" not in below
    assert {"collect", "evaluate", "generate gaussian"} <= below
    raw.generate.tune = (0.5, 1.0)
    assert changed("trajectory", 16) >= of_members | {"generate gaussian"}


def settings_on(folder: Path) -> Any:
    """The settings of tests/configs/tiny.py on its images, with a plain generator."""
    raw = run_path(str(ROOT / "tests" / "configs" / "tiny.py"))["get_config"]()
    raw.data.name = f"npz:{write_images(folder / 'images.npz')}"
    raw.generate.name, raw.generate.nulls = "gaussian", ""
    return raw
