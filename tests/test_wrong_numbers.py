"""Numbers that go wrong name themselves: no NaN comes out without a word."""

import json
import re
import warnings
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import models, storage
from bend_jax.checks import SettingsError
from bend_jax.collect.collector import Checkpoints
from bend_jax.data import splits
from bend_jax.data.sources import Data, Split
from bend_jax.evaluation.predict import predict
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import check_vectors, fit_generator
from bend_jax.models import pytorch
from bend_jax.report import plotting
from bend_jax.report.records import to_json
from bend_jax.run import context, pipeline
from bend_jax.run.config import parse
from bend_jax.run.given_network import look
from bend_jax.subset import Subset
from bend_jax.training import Model, NonFiniteError
from tests.launching import ROOT, blank
from tests.problems import blobs, blobs_apply, write_images

RNG = np.random.default_rng(0)
CHECKPOINTS = RNG.normal(size=(20, 6)).astype(np.float32)
SUBSET = Subset(("params.a", "params.b"), ((2,), (2, 2)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({(3, 4): np.nan}, r"hold NaN or Inf, in params\.b"),
        ({(3, 1): -np.inf}, r"hold NaN or Inf, in params\.a"),
        ({(3, 5): -np.inf}, r"hold NaN or Inf, in params\.b"),
        ({(3, 2): -1e30}, r"numbers up to 1e\+30, in params\.b; float32 has squares of numbers up to 1e\+18"),
    ],
)
def test_checkpoints_that_float32_does_not_hold(changes: dict[Any, float], says: str) -> None:
    """By the name of the parameter, with every generator."""
    vectors = CHECKPOINTS.copy()
    for place, value in changes.items():
        vectors[place] = value
    with pytest.raises(SettingsError, match=says):
        check_vectors(vectors, SUBSET)
    with pytest.raises(SettingsError, match="the checkpoints hold"):
        fit_generator(GENERATORS["gaussian"], jnp.asarray(vectors))


@pytest.mark.parametrize("scale", [1e-14, 1e17])
def test_what_is_not_refused_works(scale: float) -> None:
    """Members of scaled checkpoints are the scaled members, up to the bounds; beyond them is a line."""
    one, found = (
        np.asarray(fit_generator(GENERATORS["gaussian"], jnp.asarray(CHECKPOINTS * np.float32(s))).draw(9), np.float64)
        for s in (1, scale)
    )
    np.testing.assert_allclose(found / scale, one, atol=1e-4)
    with pytest.raises(SettingsError, match=r"differ by .*e-25 at most, in params\.a, and float32 has no squares"):
        check_vectors(CHECKPOINTS * np.float32(1e-25), SUBSET)
    check_vectors(CHECKPOINTS[:1].repeat(20, axis=0), SUBSET)  # none differs at all


def test_identical_checkpoints_are_said() -> None:
    """Their members are copies; a difference in one number is one."""
    same = CHECKPOINTS[:1].repeat(20, axis=0)
    with pytest.warns(UserWarning, match="all 20 checkpoints are the same"):
        found = bend_jax.generate_members(Checkpoints(jnp.asarray(same), None), generate=bend_jax.Gaussian(), members=3)
    np.testing.assert_allclose(found, same[:3], rtol=1e-6)
    same[7, 2] += 1
    bend_jax.generate_members(Checkpoints(jnp.asarray(same), None), generate=bend_jax.Gaussian(), members=3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x * np.nan, r"\['params'\]\['head'\]\['kernel'\] of its variables hold NaN or Inf"),
        (
            lambda x: np.sign(x) * np.float32(2e38),
            r"its variables are finite; the largest is \d.*e\+38, in \['params'\]\['head'\]\['kernel'\]",
        ),
    ],
)
def test_a_network_that_gives_nan_is_refused_before_any_training(change: Any, says: str) -> None:
    """In `fit`, and with --init, which counts the images."""
    variables, images, labels = blobs()
    variables["params"]["head"]["kernel"] = change(np.asarray(variables["params"]["head"]["kernel"]))
    with pytest.raises(SettingsError, match=rf"the network gives NaN or Inf on \d+ of 32 images: {says}"):
        bend_jax.fit(blobs_apply, variables, images, labels, subset="head")
    model = Model(lambda variables, x: blobs_apply(variables, x.reshape(len(x), -1)))
    own = Split(RNG.integers(0, 255, (40, 1, 5, 1)).astype(np.uint8), np.arange(40, dtype=np.int32) % 3)
    with pytest.raises(SettingsError, match=rf"--init: the network gives NaN or Inf on \d+ of 40 images: {says}"):
        look(model, variables, own, Data(mean=(0.5,), std=(0.5,)), 20)


def test_variances_below_0_are_named(tmp_path: Path) -> None:
    """Their roots are NaN."""
    tree = {"params": {"bn": {"scale": np.ones(3, np.float32)}}, "batch_stats": {"bn": {"var": np.ones(3, np.float32)}}}
    storage.save_tree(tmp_path / "good", tree)
    jax.tree.map(np.testing.assert_array_equal, pytorch.load_init(tmp_path / "good", tree), tree)
    storage.save_tree(tmp_path / "bad", {**tree, "batch_stats": {"bn": {"var": np.array([1, -1, 1], np.float32)}}})
    with pytest.raises(SettingsError, match=r"has variances below 0, in batch_stats\.bn\.var"):
        pytorch.load_init(tmp_path / "bad", tree)


def test_members_whose_logits_are_nan_stop_the_evaluation() -> None:
    """By the name of their set: one of them makes every vote NaN, if only on one image."""
    variables, sets = {"params": {"w": jnp.zeros((4, 2))}}, {"noise": np.ones((3, 8), np.float32)}
    chosen, images = Subset(("params.w",), ((4, 2),)), np.ones((5, 4), np.float32)

    def run() -> Any:
        give = lambda rows, view: jnp.asarray(images[rows])  # noqa: E731
        return predict(lambda v, x: x @ v["params"]["w"], variables, chosen, sets, give, 5, batch=5)

    assert np.isfinite(run()["noise"].mean).all()
    sets["noise"][1], images[1:] = 3e38, 0
    with pytest.raises(NonFiniteError, match="noise: NaN or Inf in the logits of its vectors"):
        run()


@pytest.mark.slow
def test_a_run_says_that_nothing_varies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that are the same, and a base that gives every image one label: on the terminal and in the report."""
    monkeypatch.setattr(plotting, "draw", blank)
    raw = run_path(str(ROOT / "tests" / "configs" / "tiny.py"))["get_config"]()
    raw.data.name, raw.data.init_unseen = f"npz:{write_images(tmp_path / 'images.npz')}", "test"
    raw.generate.name, raw.generate.nulls, raw.evaluate.held_out = "gaussian", "", 0
    raw.collect.trajectory.lr = 1e-30
    net, pixels = (
        models.build("resnet18", 4, widths=(4, 8), blocks=(1, 1)),
        jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32),
    )
    shapes = jax.eval_shape(net.init, jax.random.key(0), pixels)
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    variables["params"]["fc"] = {"kernel": np.zeros((8, 4), np.float32), "bias": np.eye(4, dtype=np.float32)[2]}
    storage.save_tree(tmp_path / "init", variables)
    config, said = parse(raw), list[str]()
    s = context.prepare(config, "tiny", 0, tmp_path, splits.load(config.data), str(tmp_path / "init"))
    pipeline.run(s, ("base", "collect", "generate", "evaluate", "report"), said.append)
    lines = {line.split(":")[0]: line for line in said}
    same, constant = "all 6 checkpoints are the same", "the base gives every test image the label 2"
    assert f"; warning: {same}" in lines["collect"]
    assert f"; warning: {constant}" in lines["evaluate"]
    report = (tmp_path / "report" / "report.md").read_text().split("## Cost")[0]
    assert same in report
    assert constant in report


KINDS = ["constant", "identical", "perfect", "always wrong", "tiny", "huge", "a class ruled out"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_report_has_a_nan_without_a_word(kind: str) -> None:
    """Of logits at the ends of what they may be; the report is written out, and its numbers are as they must be."""
    labels = np.arange(30) % 3
    logits = RNG.normal(size=(3, 30, 3)).astype(np.float32)
    right = 1e4 * np.eye(3, dtype=np.float32)[labels]
    logits = {
        "constant": 0 * logits,
        "identical": logits[:1].repeat(3, axis=0),
        "perfect": right[None].repeat(3, axis=0),
        "always wrong": np.roll(right, 1, axis=1)[None].repeat(3, axis=0),
        "tiny": logits * np.float32(1e-30),
        "huge": logits * np.float32(1e37),
        "a class ruled out": np.where(np.arange(3) == 2, -np.inf, logits).astype(np.float32),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of temperatures at the end of their range
        found = bend_jax.evaluate(logits, labels, validation=(logits[:, ::-1], labels[::-1]), ood={"other": logits})
    assert np.isfinite(found.probabilities).all()
    assert not re.search(r"\bnan\b", str(found).lower())
    assert not re.search(r"\bnan\b", json.dumps(to_json(found.numbers)).lower())
    accuracy = {"constant": 1 / 3, "perfect": 1.0, "always wrong": 0.0}
    if kind in accuracy:
        assert found.numbers.votes["mean"].accuracy == pytest.approx(accuracy[kind])
