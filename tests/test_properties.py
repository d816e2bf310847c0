"""What holds for any input: subsets of any tree, splits of any program, votes of any logits, any override of settings.

BEND_JAX_EXAMPLES=1000 looks at so many random inputs of each, others every time (tools/fuzz.py).
"""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bend_jax import ensemble
from bend_jax.checks import SettingsError
from bend_jax.data import splits
from bend_jax.run import config_file, context, pipeline
from bend_jax.run.command_line import complain
from bend_jax.run.config import add_groups, parse
from bend_jax.subset import flatten, insert, select
from tests.problems import write_images
from tests.programs import DIM, VECTOR, U, W, X, assert_split_equals, rows
from tests.test_subset import assert_same_trees

EXAMPLES = int(os.environ.get("BEND_JAX_EXAMPLES", "0"))
Fn = Callable[..., Any]


def examples(number: int) -> Any:
    """So many of them: the same ones every time in the everyday tests."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=EXAMPLES or number,
        deadline=None,
        derandomize=not EXAMPLES,
        suppress_health_check=slow,
        database=None,
    )


# subset

SHAPES: tuple[tuple[int, ...], ...] = ((), (2,), (2, 3))
LEAVES = st.tuples(st.sampled_from(SHAPES), st.sampled_from(["float32", "float32", "bfloat16", "int32"]))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "kernel", "layer1", "é"]), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=2).filter(lambda x: not isinstance(x[0], str)),
    ),
    max_leaves=5,
).filter(lambda tree: isinstance(tree, dict | list))


def is_leaf(x: Any) -> bool:
    """Whether it is a (shape, dtype) of TREES."""
    return isinstance(x, tuple)


def fill(tree: Any) -> Any:
    """Arrays that all differ."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_leaf)
    arrays = [np.full(shape, i + 0.5).astype(dtype) for i, (shape, dtype) in enumerate(leaves)]
    return jax.tree.unflatten(structure, arrays)


@examples(15)
@given(tree=TREES, wraps=st.booleans(), data=st.data())
def test_a_subset_of_any_tree_is_an_exact_copy(tree: Any, wraps: bool, data: Any) -> None:
    """Leaf order whatever the order of patterns, `flatten` and `insert` inverse both ways, all else as it was; a leaf
    of whole numbers is refused by its name."""
    tree = {"params": fill(tree)} if wraps else fill(tree)
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat]
    chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1, unique=True))
    arrays = dict(zip(paths, (np.asarray(x) for _, x in flat), strict=True))
    expected = [path for path in paths if any(path == p or path.startswith(f"{p}.") for p in chosen)]
    whole = [path for path in expected if arrays[path].dtype == np.int32]
    if whole:
        with pytest.raises(ValueError, match=re.escape(whole[0])):
            select(tree, chosen)
        return
    found = select(tree, chosen)
    assert list(found.paths) == [path if wraps else f"params.{path}" for path in expected]
    vector = np.arange(found.dim, dtype=np.float32) / 4  # exact in bfloat16, too
    new = insert(found, tree, jnp.asarray(vector))
    np.testing.assert_array_equal(flatten(found, new), vector)
    assert_same_trees(insert(found, new, flatten(found, tree)), tree)
    assert jax.tree.structure(new) == jax.tree.structure(tree)
    for (path, old), x in zip(arrays.items(), jax.tree.leaves(new), strict=True):
        assert x.dtype == old.dtype
        assert path in expected or np.array_equal(x, old)


# split

STEPS: dict[str, Fn] = {
    "vector": lambda v, h, x: h + rows(v, h),
    "times": lambda v, h, x: h * jnp.sin(rows(v, h)),
    "images": lambda v, h, x: h + jnp.cos(x),
    "dense": lambda v, h, x: jnp.tanh(h @ W),
    "kernel": lambda v, h, x: h @ (U + v[:, None] * jnp.ones((1, DIM))),
    "fresh": lambda v, h, x: jnp.tanh(x @ U),
    "drop": lambda v, h, x: x * 2,
    "jit": lambda v, h, x: jax.jit(lambda v, h: h * rows(v, h) + x)(v, h),
    "remat": lambda v, h, x: jax.checkpoint(lambda h: jnp.sin(h) + rows(v, h))(h),
    "scan": lambda v, h, x: jax.lax.scan(lambda c, a: (jnp.sin(c + a[None] * v[0]), jnp.sum(c)), h, x[:2])[0],
    "scan of images": lambda v, h, x: h + jax.lax.scan(lambda c, a: (c * jnp.cos(a), a), jnp.ones(DIM), x)[0][None],
    "cond": lambda v, h, x: jax.lax.cond(jnp.sum(v) > 0, jnp.sin, lambda h: h * 2, h),
    "cond on images": lambda v, h, x: jax.lax.cond(jnp.sum(x) > 0, lambda h: h + rows(v, h), jnp.cos, h),
    "fori": lambda v, h, x: jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h + i * rows(v, h)), h),
    "while": lambda v, h, x: h + jax.lax.stop_gradient(
        jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 0.5 + v[1]), (0, jnp.sum(x)))[1]
    ),
    "whole numbers": lambda v, h, x: h + jnp.argmax(x, axis=1, keepdims=True).astype(jnp.float32),
    "sorted": lambda v, h, x: h + jnp.sort(x, axis=1),
    "taken": lambda v, h, x: h[jnp.argsort(x[:, 0])],
}  # fmt: skip


@pytest.mark.slow
@examples(8)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), min_size=1, max_size=6), st.booleans())
def test_the_split_of_any_program_is_the_program(program: list[tuple[str, int]], is_shared: bool) -> None:
    """Steps in any order, each on any earlier value, with the vector and without it, values used twice or never."""

    def fn(v: jax.Array, x: jax.Array) -> Any:
        values = [x]
        for name, back in program:
            values.append(STEPS[name](v, values[-1 - back % len(values)], x))
        return (values[-1], values[len(values) // 2]) if is_shared else values[-1]

    assert_split_equals(fn, VECTOR, X)


# votes

FLOATS = st.one_of(st.floats(-50, 50, width=32), st.floats(-(2.0**120), 2.0**120, width=32), st.just(0.0))
LOGITS = npst.arrays(np.float32, (3, 4, 3), elements=FLOATS)
WEIGHTS = npst.arrays(np.float32, 3, elements=st.sampled_from([0.0, 0.5, 1.0, 1000.0])).filter(lambda w: w.sum() > 0)


def log_softmax(z: np.ndarray) -> np.ndarray:
    """In double precision."""
    z = z.astype(np.float64) - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@examples(30)
@given(LOGITS, WEIGHTS, st.booleans())
def test_votes_of_any_logits_are_numpys(logits: np.ndarray, weights: np.ndarray, masks: bool) -> None:
    """Mean, weighted mean, pool, majority; with a class that is ruled out, and logits that differ by 10^36."""
    if masks:
        logits[:, :, 1] = -np.inf
    log_p, share = log_softmax(logits), weights.astype(np.float64) / weights.sum()
    p = np.exp(log_p)
    weighted = np.tensordot(share, p, 1)
    np.testing.assert_allclose(ensemble.mean_vote(jnp.asarray(logits)), p.mean(axis=0), atol=2e-6)
    found = {name: np.asarray(vote(jnp.asarray(logits), jnp.asarray(weights))) for name, vote in ensemble.VOTES.items()}
    np.testing.assert_allclose(found["mean"], weighted, atol=2e-6)
    pooled = np.tensordot(share, np.maximum(log_p, ensemble.LEAST), 1)
    near = np.sort(pooled)[:, -1] - np.sort(pooled)[:, -2]
    exact = (abs(log_p).max(axis=(0, 2), where=np.isfinite(log_p), initial=0) < 1e4) | (near > 1e31)  # float32's digits
    np.testing.assert_allclose(found["pool"][exact], np.exp(log_softmax(pooled))[exact], atol=2e-3)
    for own in found.values():
        np.testing.assert_allclose(own.sum(axis=1), 1, atol=1e-5)
        assert not masks or not own[:, 1].any()
    labels = logits.argmax(axis=2)
    majority = [np.bincount(own, minlength=3).argmax() for own in labels.T]
    np.testing.assert_array_equal(ensemble.majority_vote(jnp.asarray(labels, jnp.int32), 3), majority)


# settings

TINY = str(Path(__file__).parent / "configs" / "tiny.py")
KNOWN = flatten_dict(run_path(TINY)["get_config"]().to_dict(), sep=".")
NAMES = sorted(KNOWN)
VALUES = st.one_of(
    st.integers(-3, 10**6).map(str),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "0", "1", "-1", "True", "False", "None", "nan", "inf", "()", "(0.5,)", "1e400", "a,b", "[1]", "{"]
    ),
    st.text(max_size=8),
)


@pytest.mark.parametrize(
    "words", ["--config.data.mean={0} --config.data.mean={1}", "--config.data.mean {0} --config.data.mean={1}"]
)
def test_of_a_setting_that_is_given_twice_the_last_value_is_taken(words: str) -> None:
    """Of a tuple too, which is not lengthened."""
    file = config_file.read(TINY)
    given = words.format("(0.1,0.2,0.3)", "(0.4,0.5)").split()
    config_file.override(file.settings, [*given, "--config.members=3", "--config.members=4"], [])
    assert (file.settings.data.mean, file.settings.members) == ((0.4, 0.5), 4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of tests/configs/tiny.py."""
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def of_its_type(name: str) -> Any:
    """The setting with a value that may fit."""
    fitting = {bool: st.booleans(), int: st.integers(0, 10**4), float: st.floats(0, 1), tuple: st.just((1, 2))}
    return st.tuples(st.just(name), fitting.get(type(KNOWN[name]), VALUES).map(str))


ANY = st.tuples(st.one_of(st.sampled_from(NAMES), st.text(max_size=6)), VALUES)
PAIRS = st.one_of(ANY, st.sampled_from(NAMES).flatmap(of_its_type), st.sampled_from(NAMES).flatmap(of_its_type))


@examples(30)
@given(changes=st.lists(PAIRS, min_size=1, max_size=3).map(dict))
def test_any_override_is_taken_or_refused_in_one_line(images: Path, changes: dict[str, str]) -> None:
    """Whatever the name and the value; a run of what is taken can be planned."""
    file, changes = config_file.read(TINY), {"data.name": f"npz:{images}", **changes}
    words = [f"--config.{name}={value}" for name, value in changes.items()]
    said = io.StringIO()
    try:
        add_groups(file.settings, words)
        config_file.override(file.settings, words, ["seed", "workdir"])
        config = parse(file.settings, config_file.given_names(words))
        pipeline.plan(context.prepare(config, "tiny", 0, images.parent, splits.load(config.data, dry=True)))
    except SettingsError as error:
        with contextlib.redirect_stderr(said):
            complain("launch.py", error, 2)
    assert said.getvalue().isprintable() or said.getvalue()[:-1].isprintable()
