"""A trained network that is brought along: looked at on training images, and validated on images that are said."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models, storage
from bend_jax.data.sources import Data, Split
from bend_jax.run.given_network import look
from bend_jax.training import Model
from tests import launching
from tests.problems import write_images


def bright_or_dark() -> Split:
    """400 images of one channel, half of them bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(400, dtype=np.int32) % 2
    levels = np.where(labels, 160, 95)[:, None, None, None]
    return Split(np.clip(levels + rng.normal(0, 20, (400, 4, 4, 1)), 0, 255).astype(np.uint8), labels)


def apply(variables: Any, x: Any) -> Any:
    """Bright is what is above 0: right for pixels that are normalised to [-1, 1]."""
    level = 20 * x.mean(axis=(1, 2, 3))
    return jnp.stack([-level, level], axis=1)


@pytest.mark.parametrize("batch", [64, 1000])
def test_another_normalisation_is_noticed(batch: int) -> None:
    """As the network was made for it is silent; else it names that normalisation as flags."""
    images = bright_or_dark()
    good = look(Model(apply), {}, images, Data(mean=(0.5,), std=(0.5,)), batch)
    assert good.accuracy > 0.95
    assert good.warning == ""
    assert good.images == 400 - 400 % min(batch, 400)
    bad = look(Model(apply), {}, images, Data(mean=(0.1307,), std=(0.3081,)), batch)
    assert bad.accuracy < 0.6
    assert "with pixels in [-1, 1] (--config.data.mean=(0.5,) --config.data.std=(0.5,))" in bad.warning


def test_a_network_that_knows_nothing_of_these_images_is_noticed() -> None:
    """No normalisation helps where classes are mixed up."""
    images = bright_or_dark()
    mixed = images._replace(labels=np.random.default_rng(1).permutation(images.labels))
    found = look(Model(apply), {}, mixed, Data(mean=(0.5,), std=(0.5,)), 100)
    assert "no more than chance" in found.warning
    assert "another order of the classes" in found.warning


def test_channels_are_normalised_alike() -> None:
    """A usual normalisation of one number is for any number of channels, one of three for three alone."""
    images = bright_or_dark()
    two = images._replace(images=np.repeat(images.images, 2, axis=-1))
    found = look(Model(apply), {}, two, Data(mean=(0.0, 0.0), std=(1.0, 1.0)), 100)
    assert "--config.data.mean=(0.5,0.5) --config.data.std=(0.5,0.5)" in found.warning


@pytest.mark.slow
def test_a_run_on_test_images_for_validation_says_so(tmp_path: Path) -> None:
    """In every table of test figures, and on the terminal. Another normalisation is warned of. Settings for a trained
    network without one are refused; what a sweep would cost takes one, too."""
    images = write_images(tmp_path / "images.npz")
    flags = [f"--config={launching.TINY}", f"--config.data.name=npz:{images}", "--config.members=3"]
    streams = tmp_path / "streams"
    made = launching.launch(streams, [*flags, f"--workdir={tmp_path / 'base'}", "--stages=base"])
    assert made.code == 0, made.err
    flags += ["--config.data.init_unseen=test", "--config.data.validation=0.5"]
    refused = launching.launch(streams, [*flags, "--dry_run"])
    assert refused.code == 2
    assert "add --init=FILE" in refused.err
    refused = launching.launch(streams, [*flags[:2], "--config.backbone.init_head=new", "--dry_run"])
    assert refused.code == 2
    assert "none was given: add --init=FILE" in refused.err
    flags.append(f"--init={tmp_path / 'base' / 'base' / 'variables'}")
    said = "Validation images are 150 of the 300 test images, stratified"
    run = launching.launch(streams, [*flags, f"--workdir={tmp_path / 'run'}"])
    assert run.code == 0, run.err
    assert said in run.out
    assert any("training images" in line for line in run.out.splitlines()[:2])
    assert "warning" not in run.out
    text = (tmp_path / "run" / "report" / "report.md").read_text()
    of_test = text.split("## Cost")[0]
    assert of_test.count(said) == of_test.count("\n\n|") == 10
    wrong = ["--config.data.mean=(0.0,)", "--config.data.std=(1.0,)", "--config.task=wrong"]
    other = launching.launch(streams, [*flags, *wrong, f"--workdir={tmp_path / 'other'}", "--stages=base"])
    assert other.code == 0, other.err
    assert "warning: with data.mean and data.std as they are" in other.out
    planned = launching.launch(streams, [*flags, "--sweep=members=3,4", "--dry_run"])
    assert planned.code == 0, planned.err


@pytest.mark.slow
def test_other_classes_on_a_trained_trunk(tmp_path: Path) -> None:
    """With steps of next to nothing the trunk stays the file's, and the last layer leaves its zeros. A sweep over the
    base's settings is planned, and the base's training is in the plan."""
    streams, given = tmp_path / "streams", write_images(tmp_path / "images.npz")
    network = models.build("resnet18", 9, widths=(4, 8), blocks=(1, 1))  # of 9 classes; the images have 4
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    before = jax.tree.map(lambda x: rng.uniform(0.1, 0.3, x.shape).astype(np.float32), shapes)
    storage.save_tree(tmp_path / "trunk", before)
    flags = [f"--config={launching.TINY}", f"--config.data.name=npz:{given}", f"--init={tmp_path / 'trunk'}"]
    flags.append("--config.data.init_unseen=validation")
    refused = launching.launch(streams, [*flags, f"--workdir={tmp_path / 'x'}"])
    assert refused.code == 2
    assert "--config.backbone.init_head=new" in refused.err
    flags.append("--config.backbone.init_head=new")
    few = ["--stages=base", "--config.base.epochs=2", "--config.base.lr=1e-9", f"--workdir={tmp_path / 'still'}"]
    still = launching.launch(streams, [*flags, *few])
    assert still.code == 0, still.err
    assert "2 epochs from --init with a new last layer, validation accuracy" in still.out
    found = storage.load_tree(tmp_path / "still" / "base" / "variables")["params"]
    assert found["fc"]["kernel"].shape == (8, 4)
    assert 0 < np.abs(found.pop("fc")["kernel"]).max() < 1e-6
    del before["params"]["fc"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, before["params"])
    planned = launching.launch(streams, [*flags, "--sweep=base.lr=0.01,0.1", "--dry_run"])
    assert planned.code == 0, planned.err
    assert "at the peak" in launching.launch(streams, [*flags, "--dry_run"]).out
