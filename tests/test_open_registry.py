"""Algorithms of a user's own: one file, in fit and by its module's path on the command line."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax.checks import SettingsError
from bend_jax.collect.collector import Checkpoints, Collector
from bend_jax.run import config
from bend_jax.subset import flatten
from examples import jitter
from tests import launching
from tests.problems import blobs, blobs_apply, fitted

ROOT = Path(__file__).parents[1]


def test_a_generator_of_ones_own_in_fit() -> None:
    """Members are checkpoints and noise of its scale: without noise they are copies of checkpoints."""
    exact = fitted(generate=replace(jitter.GENERATOR, settings=jitter.Jitter(scale=0.0)))
    rows = {tuple(np.asarray(row).tolist()) for row in exact.checkpoints.vectors}
    assert {tuple(row.tolist()) for row in exact.vectors} <= rows
    noisy = fitted(generate=jitter.GENERATOR)
    assert not {tuple(row.tolist()) for row in noisy.vectors} & rows


class Constant(bend_jax.Settings):
    """Copies of the base, moved."""

    k: int = bend_jax.setting("copies", default=3, least=2)
    move: float = bend_jax.setting("what is added", default=1.0)


def copies(
    model: Any, variables: Any, subset: Any, examples: Any, key: Any, settings: Constant, **_: Any
) -> Checkpoints:
    """k vectors [k, dim]."""
    base = flatten(subset, variables)
    return Checkpoints(jnp.stack([base + i * settings.move for i in range(settings.k)]))


COLLECTOR = Collector("constant", Constant(), copies)


def test_a_collector_of_ones_own_in_fit() -> None:
    """Its vectors are the ensemble's checkpoints; a mistake in its settings is told like any other."""
    variables, images, labels = blobs()
    hidden = np.tanh(images @ variables["params"]["hidden"]["kernel"])
    kernel = 3 * np.linalg.lstsq(hidden, np.eye(3, dtype=np.float32)[labels], rcond=None)[0]  # right most of the time
    base = {"params": {**variables["params"], "head": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}}
    small = replace(COLLECTOR, settings=Constant(move=0.01))
    rest: dict[str, Any] = {"collect": small, "generate": bend_jax.Identity(), "members": 3, "unseen": True}
    found = bend_jax.fit(blobs_apply, base, images, labels, subset="head", **rest)
    moved = np.asarray(found.checkpoints.vectors) - np.asarray(found.checkpoints.vectors)[:1]
    np.testing.assert_allclose(moved, np.array([[0.0], [0.01], [0.02]]) * np.ones_like(moved), atol=1e-6)
    with pytest.raises(SettingsError, match="k must be at least 2; got 1"):
        Constant(k=1)


def test_a_class_and_other_things_are_refused() -> None:
    """In one line that says what to give."""
    with pytest.raises(SettingsError, match=r"collect=Bootstrap is a class: give an instance, Bootstrap\(\)"):
        fitted(collect=bend_jax.Bootstrap)
    with pytest.raises(SettingsError, match=r"generate takes settings of one of Bend, .*, or a Generator of your own"):
        fitted(generate="bend")


def test_checkpoints_that_are_there_need_no_second_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second generator on the first one's checkpoints gives what it gives on its own."""
    first = fitted()
    whole = fitted(generate=bend_jax.Gaussian())
    monkeypatch.setattr("bend_jax.api.collect_checkpoints", lambda *_, **__: pytest.fail("trained again"))
    again = fitted(generate=bend_jax.Gaussian(), collect=first.checkpoints)
    np.testing.assert_array_equal(again.vectors, whole.vectors)
    assert again == whole
    assert again != first
    with pytest.raises(SettingsError, match=r"the checkpoints are \[8, 27\]; the subset needs vectors of 3 numbers"):
        fitted(subset="head.bias", collect=first.checkpoints)


def test_members_of_generate_members_are_fits() -> None:
    """The three verbs one by one give the ensemble of fit."""
    whole = fitted(generate=bend_jax.Gaussian())
    assert whole.checkpoints is not None
    members = bend_jax.generate_members(whole.checkpoints, generate=bend_jax.Gaussian(), members=6)
    np.testing.assert_array_equal(members, whole.vectors)


DIGITS = ["--config=configs/digits.py", "--config.backbone.widths=(4,4,4)", "--config.base.epochs=1", "--seed=3"]
DIGITS += ["--config.base.milestones=()", "--config.collect.k=4", "--config.collect.views=1", "--config.members=3"]
DIGITS += ["--config.collect.subset=layer3.0.bn2", "--config.generate.nulls=gaussian"]


@pytest.mark.slow
def test_a_generator_of_ones_own_in_a_run(tmp_path: Path) -> None:
    """Named by its module's path, with its settings as flags, from a file in the folder where the command is typed."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "examples" / "jitter.py", tmp_path / "my_jitter.py")
    words = [
        *DIGITS,
        "--config.generate.name=my_jitter",
        "--config.generate.jitter.scale=0.25",
        f"--workdir={tmp_path}",
    ]
    ended = launching.launch(tmp_path / "streams", words, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "generate jitter: 3 members" in ended.out
    text = (tmp_path / "my_jitter.py").read_text()
    (tmp_path / "my_jitter.py").write_text(text + "\n# another version\n")
    ended = launching.launch(tmp_path / "streams", words, cwd=tmp_path)
    assert "collect: reused" in ended.out
    assert "generate jitter: 3 members" in ended.out  # other code, other members
    wrong = launching.launch(tmp_path / "streams", [*DIGITS, "--config.generate.name=my_jiter"], cwd=tmp_path)
    assert wrong.code == 2
    assert "generate.name: unknown 'my_jiter'" in wrong.err


def test_a_module_without_a_record_is_refused() -> None:
    """Its name, and what it lacks."""
    raw = config.defaults()
    raw["generate"]["name"] = "json"
    with pytest.raises(SettingsError, match=r"the module json needs a GENERATOR = Generator\(\.\.\.\)"):
        config.parse(raw)
    raw["generate"]["name"] = "no.such.module"
    with pytest.raises(SettingsError, match=r"generate\.name: unknown 'no.such.module'"):
        config.parse(raw)
