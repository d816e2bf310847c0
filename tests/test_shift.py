"""Corrupted images, other data sets, and what the evaluation makes of them, on a linear net."""

import itertools
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import training
from bend_jax.checks import SettingsError
from bend_jax.data import augment, corruptions, out_of_distribution, sources, splits
from bend_jax.evaluation import predict, scores, shift
from bend_jax.run import config, pipeline, stages
from bend_jax.run.context import RunContext
from bend_jax.run.progress import TrainingLog
from bend_jax.run.stage import StageContext, predict_split
from bend_jax.subset import Subset

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
GREY = RNG.integers(60, 180, (12, 8, 8, 1)).astype(np.uint8)
COLOUR = RNG.integers(60, 180, (300, 10, 12, 3)).astype(np.uint8)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of pixels."""
    return float(np.abs(a.astype(float) - b).mean())


# corruptions


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_the_same_every_time(name: str) -> None:
    """uint8 images of the same shape, grey and colour, that the corruption leaves as they were."""
    for images in (GREY, COLOUR[:40]):
        before = images.copy()
        found = [corruptions.corrupt(images, name, severity) for severity in corruptions.SEVERITIES]
        assert all(x.dtype == np.uint8 and x.shape == images.shape for x in found)
        np.testing.assert_array_equal(found[2], corruptions.corrupt(images, name, 3))
        np.testing.assert_array_equal(images, before)
        distances = [distance(x, images) for x in found]
        assert distances[0] > 0
        assert all(low < high for low, high in itertools.pairwise(distances)), (name, distances)


def test_corruptions_are_those_of_the_settings() -> None:
    """With a number for each severity."""
    assert tuple(corruptions.CORRUPT) == corruptions.CORRUPTIONS
    assert all(len(numbers) == len(corruptions.SEVERITIES) for _, numbers in corruptions.CORRUPT.values())


def test_corruptions_by_hand() -> None:
    """Brightness adds a twentieth of 255, contrast keeps the mean and three quarters of the rest; noise has its sd and
    is another one in every block of images; pixelate leaves constant blocks."""
    np.testing.assert_array_equal(corruptions.corrupt(GREY, "brightness", 1), np.round(GREY + 12.75))
    mean = GREY.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(corruptions.corrupt(GREY, "contrast", 1), mean + 0.75 * (GREY - mean), atol=0.501)
    flat = np.full((300, 10, 12, 3), 128, np.uint8)
    noise = corruptions.corrupt(flat, "noise", 5).astype(float) - 128
    assert noise.std() == pytest.approx(25.5, rel=0.02)
    assert not np.array_equal(noise[0], noise[corruptions.BLOCK])
    np.testing.assert_array_equal(corruptions.corrupt(flat, "pixelate", 5), flat)
    small = corruptions.corrupt(GREY, "pixelate", 4)
    np.testing.assert_array_equal(small, np.repeat(np.repeat(small[:, ::2, ::2], 2, axis=1), 2, axis=2))
    np.testing.assert_allclose(small[:, ::2, ::2], GREY.reshape(12, 4, 2, 4, 2, 1).mean(axis=(2, 4)), atol=1.01)


# other data sets


def test_other_images_take_the_size_and_channels_of_the_test_images() -> None:
    """Grey three times over, colour by its luminance, a constant stays one; five channels are refused."""
    assert out_of_distribution.like(GREY, (8, 8, 1)) is GREY
    np.testing.assert_array_equal(out_of_distribution.like(GREY, (8, 8, 3)), np.repeat(GREY, 3, axis=3))
    grey = out_of_distribution.like(COLOUR[:5], (10, 12, 1))
    np.testing.assert_allclose(grey[..., 0], COLOUR[:5] @ np.array([0.299, 0.587, 0.114]), atol=0.501)
    found = out_of_distribution.like(np.full((2, 28, 28, 1), 77, np.uint8), (32, 20, 3))
    np.testing.assert_array_equal(found, np.full((2, 32, 20, 3), 77, np.uint8))
    with pytest.raises(SettingsError, match="5 channels cannot be made ones of 3; 1 or 3 can"):
        out_of_distribution.like(np.zeros((2, 8, 8, 5), np.uint8), (8, 8, 3))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of other images, of 5 test images."""
    path = tmp_path_factory.mktemp("other") / "other.npz"
    labels = np.arange(12) % 2
    np.savez(path, x_train=GREY, y_train=labels, x_test=GREY[:5], y_test=labels[:5])
    return path


def test_another_set_is_read_like_the_test_images_with_their_noise(other: Path) -> None:
    """The test split of it."""
    settings = sources.Data(name="digits", mean=(0.5,), std=(0.2,))
    found = out_of_distribution.load_others(settings, f"npz:{other}", np.zeros((3, 6, 6, 1), np.uint8))
    assert list(found) == [f"npz:{other}"]
    assert found[f"npz:{other}"].shape == (5, 6, 6, 1)
    noisy = sources.Data(name="digits", mean=(0.5,), std=(0.2,), noise=0.1)
    again = out_of_distribution.load_others(noisy, f"npz:{other}", np.zeros((3, 6, 6, 1), np.uint8))
    assert distance(again[f"npz:{other}"], found[f"npz:{other}"]) == pytest.approx(0.8 * 25.5, rel=0.2)
    assert out_of_distribution.load_others(settings, "", GREY) == {}


MISTAKES = {
    "minst": ("evaluate.ood: unknown data set 'minst' (did you mean 'mnist'?)", "there are digits, cifar10"),
    "digits": ("evaluate.ood: digits is the data set that the run is about", "name another"),
    "npz:/nowhere.npz": ("evaluate.ood: no file /nowhere.npz", ".npz with x_train"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_set_that_cannot_be_is_one_clear_line(name: str) -> None:
    """Before anything is computed."""
    with pytest.raises(SettingsError) as error:
        out_of_distribution.load_others(sources.Data(name="digits", mean=(0.5,), std=(0.2,)), name, GREY)
    assert all(part in str(error.value) for part in MISTAKES[name])
    assert "\n" not in str(error.value)


def test_the_training_set_under_another_path_is_refused(other: Path) -> None:
    """By its file, and by its content."""
    own = sources.Data(name=f"npz:{other}", mean=(0.5,), std=(0.2,))
    with pytest.raises(SettingsError, match="is the data set that the run is about"):
        out_of_distribution.load_others(own, f"npz:{other.parent}/../{other.parent.name}/other.npz", GREY)
    copied = other.with_name("copy.npz")
    copied.write_bytes(other.read_bytes())
    with pytest.raises(SettingsError, match="are the run's own test images"):
        out_of_distribution.load_others(own, f"npz:{copied}", GREY[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corruptions": "noise,blurr"}, "corruptions: unknown 'blurr' (did you mean 'blur'?); there are noise, blur"),
        ({"corruptions": "noise,noise"}, "corruptions names something twice: 'noise,noise'"),
        ({"ood": "mnist, mnist"}, "ood names something twice"),
    ],
)
def test_corruptions_and_sets_are_named_once_and_known(changes: dict[str, Any], message: str) -> None:
    """As soon as the settings are read."""
    with pytest.raises(SettingsError) as error:
        scores.Evaluate(**changes)
    assert str(error.value).startswith(message)


# the evaluation

SIDE, CLASSES, M = 8, 3, 4
SUBSET = Subset(("params.w",), ((SIDE * SIDE, CLASSES),))
VECTORS = (RNG.normal(size=(M, SIDE * SIDE * CLASSES)) / SIDE).astype(np.float32)


def apply(variables: Any, images: Any) -> Any:
    """A linear net."""
    return images.reshape(len(images), -1) @ variables["params"]["w"]


@pytest.fixture(scope="module")
def asked() -> tuple[RunContext, StageContext, dict[str, Any]]:
    """A run about 90 test images that the first member labels, asked about two sets and two corruptions."""
    raw = run_path(str(ROOT / "configs" / "digits.py"))["get_config"]()
    raw.evaluate.corruptions, raw.evaluate.batch = "contrast,noise", 32
    images = RNG.integers(0, 255, (90, SIDE, SIDE, 1)).astype(np.uint8)
    _, plain = augment.transforms(config.parse(raw).data)
    labels = np.asarray(plain(jnp.asarray(images))).reshape(90, -1) @ VECTORS[0].reshape(-1, CLASSES)
    split = sources.Split(images, labels.argmax(axis=1).astype(np.int32))
    dataset = splits.Dataset(split, split, split, CLASSES)
    others = {"same": images, "far": np.full((40, SIDE, SIDE, 1), 255, np.uint8)}
    examples = training.Examples(jnp.asarray(images), jnp.asarray(split.labels), plain, plain)
    model = training.Model(apply)
    setting = RunContext(
        config.parse(raw), "digits", 0, Path("/nowhere"), dataset, examples, examples, model, SUBSET, others
    )
    task = StageContext({}, Path("/nowhere"), training.SILENT, TrainingLog({}, {}, {}, {}))
    sets = {"base": VECTORS[:1], "bend": VECTORS}
    return setting, task, sets


@pytest.fixture(scope="module")
def shifted(asked: tuple[RunContext, StageContext, dict[str, Any]]) -> dict[str, Any]:
    """What the stage writes."""
    s, task, sets = asked
    variables = {"params": {"w": jnp.zeros((SIDE * SIDE, CLASSES))}}
    test = predict_split(s, task, variables, sets, s.dataset.test)
    scale = {"base": {"mean": 2.0}, "bend": {"mean": 1.5, "sbend": 3.0}}
    clean = scores.Evaluated("bend", s.dataset.test.labels, CLASSES, sets, test, {}, scale)
    found = stages._shift(s, task, variables, clean)
    assert found is not None
    quiet = s._replace(config=config.parse(run_path(str(ROOT / "configs" / "digits.py"))["get_config"]()), ood={})
    assert stages._shift(quiet, task, variables, clean) is None
    return found


def test_every_score_of_every_vote_tells_other_sets_apart(shifted: dict[str, Any]) -> None:
    """The test images themselves not at all; white ones, on which all members are sure, better than not at all."""
    assert set(shifted) == {"ood", "corruptions", "doubt"}
    assert set(shifted["ood"]) == {"same", "far"}
    both, of_logits = {"max_probability", "entropy"}, {"energy", "max_logit"}
    members = both | {"vote_disagreement", "mutual_information"}
    for name, votes in shifted["ood"].items():
        assert {vote: set(own) for vote, own in votes.items()} == {
            "base": both | of_logits,
            "mean": members | of_logits,
            "sbend": members,
        }
        found = [(score["auroc"], score["fpr95"]) for own in votes.values() for score in own.values()]
        assert all(0 <= x <= 1 for pair in found for x in pair)
        if name == "same":
            assert all(auroc == 0.5 and fpr >= 0.95 for auroc, fpr in found)
    assert shifted["ood"]["far"]["mean"]["mutual_information"]["auroc"] != 0.5


def test_the_rows_of_corrupted_images_are_those_of_the_corrupted_images(
    shifted: dict[str, Any], asked: tuple[RunContext, StageContext, dict[str, Any]]
) -> None:
    """Base and mean vote by a matrix product, at their own temperatures; the base is right on clean images only."""
    s, _, sets = asked
    images, labels = s.dataset.test
    assert set(shifted["corruptions"]) == {"contrast", "noise"}
    for name, severity in (("contrast", 2), ("noise", 5)):
        rows = shifted["corruptions"][name]
        assert set(rows) == {"1", "2", "3", "4", "5"}
        x = np.asarray(s.examples.plain(jnp.asarray(corruptions.corrupt(images, name, severity)))).reshape(
            len(images), -1
        )
        p = np.asarray(jax.nn.softmax(np.stack([x @ v.reshape(-1, CLASSES) for v in sets["bend"]]), axis=2))
        for vote, q, temperature in (("base", p[0], 2.0), ("mean", p.mean(axis=0), 1.5)):
            expected = scores.vote_row(q, temperature, labels, 15)
            assert rows[str(severity)][vote] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert set(rows[str(severity)]) == {"base", "mean", "sbend"}
    accuracies = [rows["base"]["accuracy"] for rows in shifted["corruptions"]["noise"].values()]
    assert accuracies[0] < 1
    assert accuracies[4] < accuracies[0]


def test_only_the_evaluation_depends_on_what_is_in_the_other_sets(
    asked: tuple[RunContext, StageContext, dict[str, Any]],
) -> None:
    """Its digest covers their content; what reads it is computed again."""
    s = asked[0]._replace(config=replace(asked[0].config, compute=config.Compute()))  # whose memory no digest needs
    plans = [pipeline.plan(x) for x in (s, s._replace(ood={**s.ood, "far": s.ood["far"] - 1}))]
    changed = {name for name in plans[0] if plans[0][name].digest != plans[1][name].digest}
    assert changed == {"evaluate", "memorisation", "report"}


def test_scores_rise_where_votes_are_less_sure() -> None:
    """Minus the largest probability, entropy, the share that the vote leaves, the mutual information as it came."""
    predictions = np.array([[0, 0], [0, 1], [0, 2], [0, 0]], np.int32)
    mean = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 0.25]], np.float32)
    own = predict.Outputs(predictions, mean, {}, None, np.array([0.1, 0.3], np.float32))
    found = shift.uncertainties({"base": own, "bend": own}, "bend", 3)
    assert all(first < second for scores in found.values() for first, second in scores.values())
    np.testing.assert_allclose(found["mean"]["vote_disagreement"], [0.0, 0.5])
    np.testing.assert_allclose(found["base"]["max_probability"], [-1.0, -0.5])
    np.testing.assert_allclose(found["mean"]["mutual_information"], [0.1, 0.3], rtol=1e-6)
