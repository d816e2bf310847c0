"""Adapters as a subset: W + A B in every place that takes a vector, and the trunk once for all members."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import models, storage
from bend_jax.checks import SettingsError
from bend_jax.collect.bootstrap import Bootstrap, start_vectors
from bend_jax.collect.frozen_features import prepare
from bend_jax.ensemble import member_logits
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import mixed_adapters
from bend_jax.subset import Subset, flatten, from_json, insert, select, stack, to_json
from bend_jax.training import SILENT, Examples, Model
from tests import launching
from tests.problems import blobs, blobs_apply, write_images

NET = models.build("vit_tiny", 3, widths=(8,), blocks=(2,), patch=2)
APPLY = jax.jit(NET.apply)
IMAGES = jax.random.normal(jax.random.key(1), (6, 4, 4, 1))
QKV = "lora:blocks.*.attn.qkv"


@pytest.fixture(scope="module")
def variables() -> Any:
    """Of a ViT with two blocks."""
    return jax.jit(NET.init)(jax.random.key(0), IMAGES)


def test_a_kernel_becomes_itself_plus_the_product(variables: Any) -> None:
    """By hand, in the vector's order; whatever else is in the subset is taken as ever, and the rest stays."""
    subset = select(variables, [QKV, "head"], 2)
    assert subset.paths[:2] == (
        "params.blocks.0.attn.qkv.kernel.lora_a",
        "params.blocks.0.attn.qkv.kernel.lora_b",
    )
    assert subset.shapes[:2] == ((8, 2), (2, 24))
    assert subset.dim == 2 * (8 * 2 + 2 * 24) + 9 * 3
    vector = np.random.default_rng(0).normal(size=subset.dim).astype(np.float32)
    found = insert(subset, variables, jnp.asarray(vector))["params"]
    a, b = vector[:16].reshape(8, 2), vector[16:64].reshape(2, 24)
    kernel = variables["params"]["blocks"]["0"]["attn"]["qkv"]["kernel"]
    np.testing.assert_allclose(found["blocks"]["0"]["attn"]["qkv"]["kernel"], kernel + a @ b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["head"]["kernel"], vector[-24:].reshape(8, 3))
    same = found["blocks"]["1"]["mlp"], variables["params"]["blocks"]["1"]["mlp"]
    jax.tree.map(np.testing.assert_array_equal, *same)
    stacked = stack(subset, vector[None])["params"]["blocks"]["0"]["attn"]["qkv"]["kernel"]
    np.testing.assert_array_equal(stacked["lora_b"][0], b)
    assert from_json(json.loads(json.dumps(to_json(subset)))) == subset


def test_adapters_start_as_nothing_and_with_another_a_for_each_key(variables: Any) -> None:
    """B is zero, so that the network is the base to the bit; A has variance 1 / rows. The first gradient is B's."""
    subset = select(variables, [QKV], 4)
    start = flatten(subset, variables)
    jax.tree.map(np.testing.assert_array_equal, insert(subset, variables, start), variables)
    np.testing.assert_array_equal(start, flatten(subset, variables))
    wide = {"params": {"kernel": jnp.zeros((400, 50))}}
    many = select(wide, ["lora:kernel"], 20)
    a, b = np.split(np.asarray(flatten(many, wide)), [8000])
    assert a.std() == pytest.approx(1 / 20, rel=0.05)
    assert not b.any()
    assert np.abs(np.corrcoef(a, flatten(many, wide, jax.random.key(1))[:8000])[0, 1]) < 0.05

    def loss(vector: Any) -> Any:
        return jnp.sum(APPLY(insert(subset, variables, vector), IMAGES) ** 2)

    for part, slope in stack(subset, jax.jit(jax.grad(loss))(start)[None])["params"]["blocks"]["0"]["attn"]["qkv"][
        "kernel"
    ].items():
        assert bool(np.abs(slope).max() > 1e-6) == (part == "lora_b"), part


def test_bootstraps_start_from_an_a_of_each_ones_own(variables: Any) -> None:
    """Also where the head starts anew; what is no adapter starts as the base."""
    subset = select(variables, [QKV, "head"], 2)
    model = Model(NET.apply, init=lambda key: NET.init(key, IMAGES))
    for again in (False, True):
        vectors = start_vectors(model, variables, subset, jax.random.key(0), Bootstrap(k=3, reinitialise=again))
        tree = stack(subset, vectors)["params"]
        kernel = tree["blocks"]["1"]["attn"]["qkv"]["kernel"]
        assert np.std(kernel["lora_a"], axis=0).min() > 0
        assert not np.any(kernel["lora_b"])
        assert bool(np.ptp(tree["head"]["kernel"], axis=0).any()) == again
        assert np.array_equal(tree["head"]["kernel"][0], variables["params"]["head"]["kernel"]) != again


def test_adapters_are_kept_where_statistics_drift() -> None:
    """A training that moves all BN statistics of the network saves the adapters that it has trained."""
    tree = {"params": {"kernel": jnp.ones((3, 4))}, "batch_stats": {"mean": jnp.zeros(4)}}
    subset = select(tree, ["lora:kernel"], 2)
    examples = Examples(jnp.ones((5, 3)), jnp.arange(5) % 4, lambda keys, x: x, lambda x: x)
    model = Model(lambda v, x: x, lambda v, x, key: (x, v))
    source = prepare(model, tree, subset, examples, jax.random.key(0), Bootstrap(), SILENT, drift=True)
    vector = jnp.arange(subset.dim, dtype=jnp.float32)
    np.testing.assert_array_equal(source.vector_of(vector, source.rest_of(vector, source.data), source.data), vector)


def test_members_do_not_copy_the_trunk(variables: Any) -> None:
    """In the program of all members only adapted kernels have the members' axis. Its result is each one alone."""
    m, at_once = 6, 3  # on a CPU in two rounds
    subset = select(variables, ["lora:blocks.1.attn.qkv"], 2)
    vectors = jax.random.normal(jax.random.key(2), (m, subset.dim))
    every = jax.make_jaxpr(lambda v, x, y: member_logits(NET.apply, v, subset, x, y), static_argnums=())(
        variables, vectors, IMAGES
    )
    shapes = {tuple(getattr(a, "shape", ())) for a in _values(every.jaxpr)}
    assert (at_once, 8, 24) in shapes
    leaves = {tuple(x.shape) for x in jax.tree.leaves(variables["params"]) if x.ndim == 2} - {(8, 24)}
    assert not {(n, *shape) for shape in leaves for n in (m, at_once)} & shapes
    found = member_logits(NET.apply, variables, subset, vectors, IMAGES)
    alone = [APPLY(insert(subset, variables, v), IMAGES) for v in vectors]
    np.testing.assert_allclose(found, jnp.stack(alone), rtol=1e-4, atol=1e-5)
    assert np.std(np.asarray(found), axis=0).min() > 1e-5


def _values(jaxpr: Any) -> list[Any]:
    """What all equations write, inner ones included."""
    found = [variable.aval for eqn in jaxpr.eqns for variable in eqn.outvars]
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            found += _values(inner) if hasattr(inner, "eqns") else []
    return found


def test_fit_takes_adapters_of_any_tree(tmp_path: Path) -> None:
    """A plain function and its dicts: members differ, learn, and come back from a folder."""
    variables, images, labels = blobs()
    given = {"subset": "lora:hidden,head.bias", "rank": 2, "members": 3, "validation": (images[::-1], labels[::-1])}
    collect = bend_jax.Bootstrap(k=3, epochs=10, batch=16, lr=0.1)
    made = bend_jax.fit(blobs_apply, variables, images, labels, collect=collect, generate=bend_jax.Identity(), **given)
    assert made.subset.shapes == ((3,), (5, 2), (2, 8))
    own = made.member_logits(images)
    assert np.std(own, axis=0).max() > 0.01
    base = np.asarray(blobs_apply(variables, images))
    assert np.mean(own.argmax(-1) == labels[None]) > np.mean(base.argmax(-1) == labels) + 0.05
    made.save(tmp_path / "made")
    np.testing.assert_array_equal(
        bend_jax.load(tmp_path / "made", blobs_apply).predict_proba(images), made.predict_proba(images)
    )
    for wrong, text in (
        ({"rank": 6}, r"subset: rank must be a whole number in \[1, 5\], the smaller side of params.hidden.kernel"),
        ({"rank": 0}, "got 0"),
        ({"rank": True}, "got True"),
        ({"subset": "lora:head.bias"}, "not linear.*linear here: head.kernel, hidden.kernel$"),
    ):
        with pytest.raises(SettingsError, match=text):
            bend_jax.fit(blobs_apply, variables, images, labels, collect=collect, **{**given, **wrong})


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (["lora:blocks.0.norm1"], "'lora:blocks.0.norm1' asks for adapters of a layer that is not linear"),
        (["lora:hed"], "'lora:hed' matches nothing|'hed' matches nothing; nearest names: head"),
        (["lora:*", "head"], "head.kernel is named both whole and by adapters"),
        (["lora:head", "batch_stats.bn"], "adapters .* and BN statistics cannot be in one subset"),
    ],
)
def test_adapters_that_cannot_be_are_refused(variables: Any, patterns: list[str], text: str) -> None:
    """In one line."""
    tree = {**variables, "batch_stats": {"bn": {"mean": jnp.zeros(3)}}}
    with pytest.raises(ValueError, match=text):
        select(tree, patterns, 2)


def test_a_leaf_that_is_called_like_an_adapter_is_a_leaf() -> None:
    """Of a network that has adapters of its own; and a subset does not fit a kernel of another shape."""
    own = {"params": {"kernel": {"lora_a": jnp.ones((4, 2)), "w": jnp.ones((4, 4))}}}
    subset = select(own, ["kernel.lora_a"])
    np.testing.assert_array_equal(flatten(subset, own), np.ones(8))
    assert insert(subset, own, jnp.zeros(8))["params"]["kernel"]["lora_a"].sum() == 0
    adapters = Subset(("params.w.lora_a", "params.w.lora_b"), ((3, 2), (2, 4)))
    with pytest.raises(ValueError, match=r"params.w has shape \[4, 4\]; params.w.lora_a was made for \[3, 2\]"):
        flatten(adapters, {"params": {"w": jnp.ones((4, 4))}})


@pytest.mark.slow
def test_a_run_with_adapters(tmp_path: Path) -> None:
    """From the command line to a report and an artefact; a patch that does not divide the image is one line."""
    pytest.importorskip("safetensors")
    images = write_images(tmp_path / "images.npz")
    flags = [f"--config={launching.TINY}", f"--config.data.name=npz:{images}", f"--workdir={tmp_path / 'run'}"]
    flags += ["--config.backbone.name=vit_tiny", "--config.backbone.widths=(8,)", "--config.backbone.blocks=(2,)"]
    flags += [f"--config.collect.subset={QKV}", "--config.collect.rank=2", "--config.collect.name=bootstrap"]
    flags += ["--config.generate.name=identity", "--config.generate.nulls="]
    refused = launching.launch(tmp_path / "streams", flags)
    assert refused.code == 2
    assert refused.err.startswith("launch.py: backbone: images of 8x8 pixels are no whole number of patches of 16x16")
    flags += ["--config.backbone.patch=4", "--stages=base,collect,generate,evaluate,report,export"]
    done = launching.launch(tmp_path / "streams", flags)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["dim"] == 2 * 2 * (8 + 24)
    vectors = storage.load_tree(tmp_path / "run" / "collect" / "checkpoints")["vectors"]
    assert np.ptp(vectors, axis=0).min() > 0
    paths = json.loads((tmp_path / "run" / "collect" / "subset.json").read_text())["paths"]
    assert paths[0] == "params.blocks.0.attn.qkv.kernel.lora_a"


def test_a_mixture_of_adapters_from_different_starts_is_told(variables: Any) -> None:
    """One line for a Gaussian of them; none for the adapters themselves, nor for those of one start."""
    subset, rng = select(variables, [QKV], 2), np.random.default_rng(0)
    apart = rng.normal(size=(4, subset.dim)).astype(np.float32)
    near = apart[:1] + 0.1 * apart
    for vectors, kind, told in ((apart, "gaussian", True), (apart, "identity", False), (near, "gaussian", False)):
        assert mixed_adapters(GENERATORS[kind], vectors, subset).startswith("gaussian mixes adapters") is told
