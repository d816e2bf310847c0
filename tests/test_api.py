"""Your own model: fit, predict, save, load, and the examples as they stand."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import metrics
from bend_jax.checks import SettingsError
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.independent import Independent
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.ensemble import VOTES
from bend_jax.generate.average16 import Average16
from bend_jax.generate.identity import Identity
from bend_jax.recipe import Base
from bend_jax.storage import DamagedError
from bend_jax.training import Callbacks
from tests import launching
from tests.problems import blobs, blobs_apply, fitted, fitted_once, write_images

ROOT = Path(__file__).parents[1]


def test_an_ensemble_predicts_with_its_members_and_comes_back_from_disk(tmp_path: Path) -> None:
    """Members differ in the head alone; probabilities are the scaled vote; load gives the same numbers."""
    ensemble = fitted_once()
    variables, images, _ = blobs()
    logits = ensemble.member_logits(images)
    assert logits.shape == (6, 80, 3)
    head = ensemble.vectors[2]
    tree = {"params": {**variables["params"], "head": {"bias": head[:3], "kernel": head[3:].reshape(8, 3)}}}
    np.testing.assert_allclose(logits[2], blobs_apply(tree, images), atol=1e-5)
    vote = VOTES[ensemble.vote](jnp.asarray(logits), jnp.ones(6))
    expected = metrics.scale_temperature(vote, ensemble.temperature)
    np.testing.assert_allclose(ensemble.predict_proba(images), expected, atol=1e-6)
    np.testing.assert_array_equal(ensemble.predict(images), ensemble.predict_proba(images).argmax(1))
    ensemble.save(tmp_path / "saved")
    again = bend_jax.load(tmp_path / "saved", blobs_apply)
    np.testing.assert_array_equal(again.predict_proba(images), ensemble.predict_proba(images))
    assert again == ensemble
    np.testing.assert_array_equal(again.predict_set(images, 0.8), ensemble.predict_set(images, 0.8))
    with pytest.raises(FileExistsError, match="nothing was written"):
        ensemble.save(tmp_path / "saved")
    file = next((tmp_path / "saved" / "members").rglob("d/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(DamagedError):
        bend_jax.load(tmp_path / "saved", blobs_apply)


def test_sets_are_calibrated_on_the_validation_images_of_the_fit() -> None:
    """At the smallest k-th score of their labels; without such images, and with too few, they are refused."""
    ensemble, (_, images, labels) = fitted_once(), blobs(40)
    own = ensemble.calibrated((images, labels), ("mean",))
    p = own.predict_proba(images)
    true = np.sort(1 - p[np.arange(40), labels])
    np.testing.assert_array_equal(own.predict_set(images, 0.8), 1 - p <= true[32])  # ceil(41 * 0.8) is the 33rd
    held = own.predict_set(images, 0.8)[np.arange(40), labels]
    assert held.sum() == 33
    for method in ("aps", "raps"):
        assert own.predict_set(images, 0.8, method)[np.arange(40), own.predict(images)].all()
    with pytest.raises(SettingsError, match="needs at least 99 calibration images; 40 came"):
        own.predict_set(images, 0.99)
    with pytest.raises(SettingsError, match="coverage must be a number in"):
        own.predict_set(images, 0.0)
    with pytest.raises(SettingsError, match="nothing to calibrate conformal sets with"):
        own.replace(calibration=None).predict_set(images)


def test_any_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that do not divide the images give the same as one."""
    ensemble = fitted_once()
    _, images, _ = blobs(50)
    whole = ensemble.member_logits(images)
    monkeypatch.setattr("bend_jax.ensemble.BATCH", 16)
    np.testing.assert_allclose(ensemble.member_logits(images), whole, atol=1e-6)
    np.testing.assert_allclose(ensemble.member_logits(images[:1]), whole[:, :1], atol=1e-6)


def test_the_same_seed_gives_the_same_members_and_another_others() -> None:
    """All randomness hangs on it."""
    first, again, other = fitted_once(), fitted(), fitted(seed=1)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, other.vectors)


def test_the_temperature_is_fitted_on_validation_images() -> None:
    """With labels that have nothing to do with the images the best temperature is the highest."""
    _, images, _ = blobs(60)
    random = np.random.default_rng(1).integers(0, 3, 60)
    with pytest.warns(UserWarning, match="at the end of its range, 0.0625 to 16"):
        assert fitted(validation=(images * 5, random)).temperature > 4
    assert 1 / 16 < fitted_once().temperature < 16


def test_boosting_votes_with_its_weights_and_generated_members_without(tmp_path: Path) -> None:
    """sum lambda_m p_m over the checkpoints themselves; the weights come back from disk."""
    boosting = Boosting(k=5, batch=16, epochs=1, lr=0.5)
    ensemble = fitted(collect=boosting, generate=Identity(), members=5, votes=("mean",))
    _, images, _ = blobs()
    p = np.asarray(jax.nn.softmax(ensemble.member_logits(images)))
    vote = np.tensordot(ensemble.weights / ensemble.weights.sum(), p, 1)
    expected = np.asarray(metrics.scale_temperature(jnp.asarray(vote, jnp.float32), ensemble.temperature))
    np.testing.assert_allclose(ensemble.predict_proba(images), expected, atol=1e-5)
    assert np.ptp(ensemble.weights) > 0.1
    ensemble.save(tmp_path / "boosted")
    loaded = bend_jax.load(tmp_path / "boosted", blobs_apply)
    np.testing.assert_array_equal(loaded.weights, ensemble.weights)
    np.testing.assert_array_equal(fitted(collect=boosting).weights, np.ones(6))


def test_validation_chooses_the_vote_and_without_it_the_first_one_counts() -> None:
    """The one of less NLL after its own temperature; one name leaves no choice."""
    _, images, labels = blobs(60)
    losses = {}
    for vote in VOTES:
        own = fitted_once().calibrated((images, labels), (vote,))
        assert own.vote == vote
        losses[vote] = float(metrics.nll(jnp.asarray(own.predict_proba(images)), jnp.asarray(labels, jnp.int32)))
    assert losses["mean"] != losses["pool"]
    least = min(losses, key=lambda vote: losses[vote])
    for votes in (("mean", "pool"), ("pool", "mean")):
        assert fitted_once().calibrated((images, labels), votes).vote == least
        with pytest.warns(UserWarning, match="the temperature stays 1"):
            unscaled = fitted(unseen=False, votes=votes, collect=fitted_once().checkpoints, generate=Identity())
        assert (unscaled.vote, unscaled.temperature) == (votes[0], 1.0)


def test_an_ensemble_that_an_earlier_version_saved_gives_the_same_numbers(tmp_path: Path) -> None:
    """Its vote was always the mean; what it predicted then was saved beside it."""
    with tarfile.open(ROOT / "tests" / "fixtures" / "ensemble-1ed11c0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    ensemble = bend_jax.load(tmp_path / "ensemble", lambda variables, x: x @ variables["params"]["w"])
    expected = np.load(tmp_path / "expected.npz")
    assert (ensemble.vote, ensemble.temperature, ensemble.calibration) == ("mean", 1.7, None)
    np.testing.assert_allclose(ensemble.predict_proba(expected["images"]), expected["probabilities"], atol=1e-6)
    assert (
        np.abs(ensemble.replace(vote="pool").predict_proba(expected["images"]) - expected["probabilities"]).max() > 0.01
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset": "heads"}, "matches nothing; nearest names: head"),
        ({"votes": ("poll",)}, r"votes are some of mean, pool, in a tuple or list; got \('poll',\)"),
        ({"votes": "pool"}, "in a tuple or list; got 'pool'"),
        ({"votes": ()}, r"votes are some of mean, pool, in a tuple or list; got \(\)"),
        ({"members": 0}, "members must be a whole number of at least 1; got 0"),
        ({"collect": Bootstrap(batch=500)}, "batch=500"),
        ({"collect": Trajectory(k=4, batch=16, statistics="drift")}, r"train_apply\(variables, images, key\)"),
        ({"collect": Bootstrap(k=4, batch=16, reinitialise=True)}, r"init\(key\) -> variables"),
        ({"collect": Independent(k=2, base=Base(batch=16))}, r"the subset '\*'"),
        ({"subset": "*", "collect": Independent(k=2, base=Base(batch=16))}, r"train_apply\(variables"),
        ({"collect": McBn(k=2, batch=16)}, "batch_stats"),
        ({"callbacks": Callbacks(memory=100)}, "2,376 bytes, and 100 are allowed"),
        ({"generate": Average16()}, "means of 16 checkpoints, and there are k=8"),
        (
            {"collect": Boosting(k=7, batch=16), "generate": Identity()},
            "members=6 do not match the 7 weights",
        ),
        ({"validation": (np.zeros((3, 5), np.float32), np.array([0, 1, 7]))}, "from 0 to 7; apply gives 3 classes"),
    ],
)
def test_input_that_does_not_fit_is_refused_before_any_training(changes: dict[str, Any], message: str) -> None:
    """With what was expected and what came."""
    with pytest.raises(SettingsError, match=message):
        fitted(**changes)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.full((6, 5), np.nan, np.float32), np.zeros(6, int), "NaN"),
        (np.zeros((6, 5), np.float32), np.zeros(5, int), "6 images and 5 labels"),
        (np.zeros((6, 5), np.float32), np.zeros(6), "whole numbers"),
    ],
)
def test_images_and_labels_are_checked(images: Any, labels: Any, message: str) -> None:
    """Before any training."""
    with pytest.raises(SettingsError, match=message):
        bend_jax.fit(blobs_apply, blobs()[0], images, labels, subset="head")


def test_an_apply_that_gives_no_logits_is_refused() -> None:
    """One number an image is no vote."""
    variables, images, labels = blobs()
    with pytest.raises(SettingsError, match=r"logits \[n, classes\]"):
        bend_jax.fit(lambda v, x: x.sum(axis=1), variables, images, labels, subset="head")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script from the project's folder."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )


# ten lines that know nothing but jax
READ_EXPORT = """
import sys, jax.export, numpy
run = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = numpy.load(sys.argv[2])
for n in (1, 7, len(images)):
    labels, probabilities = run.call(images[:n])
    assert labels.shape == (n,) and probabilities.shape == (n, 4)
numpy.save(sys.argv[3], labels)
assert "bend_jax" not in sys.modules
"""


@pytest.mark.slow
def test_members_and_the_exported_program_run_without_the_package(tmp_path: Path) -> None:
    """Plain orbax and plain jax.export both reproduce the reported sBEND; members are PyTorch's by name. And a run that
    starts from those variables starts at collect."""
    numpy_files = pytest.importorskip("safetensors.numpy")
    images = write_images(tmp_path.with_name("images.npz"))
    quick = [f"data.name=npz:{images}", "data.mean=(0.36,)", "data.std=(0.37,)", "collect.name=bootstrap"]
    quick += ["backbone.widths=(4,4,8)", "backbone.blocks=(1,1,1)", "collect.subset=layer3.0.bn1,layer3.0.bn2"]
    quick += ["generate.bend.autoencoder.steps=20", "generate.bend.diffusion.steps=20"]
    stages = "base,collect,generate,evaluate,report,export"
    flags = [f"--config={launching.TINY}", *(f"--config.{setting}" for setting in quick)]
    done = done_export = python("launch.py", f"--workdir={tmp_path}", f"--stages={stages}", *flags)
    assert done.returncode == 0, done.stderr
    trained = [f"--init={tmp_path / 'base' / 'variables'}", f"--workdir={tmp_path / 'again'}", "--stages=base,collect"]
    trained.append("--config.data.init_unseen=validation")
    streams = tmp_path.with_name("streams")
    ended = launching.launch(streams, [*trained, *flags])
    assert ended.code == 0, ended.err
    assert "from --init, validation accuracy" in ended.out
    ended = launching.launch(streams, ["--init=README.md", *flags])
    assert ended.code == 2
    assert "Traceback" not in ended.err
    done = python("examples/load_members.py", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    from bend_jax.storage import load_tree

    test = load_tree((tmp_path / "evaluate" / "predictions").resolve())
    np.save(tmp_path / "images.npy", test["images"])
    script = [str(tmp_path / "export" / "ensemble.jax"), str(tmp_path / "images.npy"), str(tmp_path / "labels.npy")]
    done = python("-c", READ_EXPORT, *script)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    found = np.load(tmp_path / "labels.npy")
    assert float((found == test["labels"]).mean()) == pytest.approx(report["table"]["sbend"], abs=1e-6)
    names = {"images": test["images"]}
    exec("\n".join(done_export.stdout.splitlines()[-3:]), names)  # the lines that the run ended with
    np.testing.assert_array_equal(names["labels"], found)
    members = numpy_files.load_file(tmp_path / "export" / "members.safetensors")
    assert {name: x.shape for name, x in members.items()} == {
        f"layer3.0.{bn}.{leaf}": (5, 8) for bn in ("bn1", "bn2") for leaf in ("weight", "bias")
    }


TOPOLOGY = """
import sys, jax, numpy
from pathlib import Path
from bend_jax.storage import load_tree, save_tree
path, action = Path(sys.argv[1]), sys.argv[2]
expected = numpy.arange(24, dtype=numpy.float32).reshape(8, 3)
if action == "write":
    mesh = jax.make_mesh((jax.device_count(),), ("m",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("m"))
    save_tree(path, {"vectors": jax.device_put(expected, place)})
else:
    assert (load_tree(path)["vectors"] == expected).all()
print(jax.device_count())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("writers", "readers"), [(4, 1), (1, 4)])
def test_artefacts_restore_on_another_number_of_devices(writers: int, readers: int, tmp_path: Path) -> None:
    """Arrays that were sharded over four devices are read with one, and back."""
    for count, action in ((writers, "write"), (readers, "read")):
        code = f"import os; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count={count}'\n{TOPOLOGY}"
        done = python("-c", code, str(tmp_path / "tree"), action)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(count)]


class Pair(NamedTuple):
    """A container that plain orbax gives back as a dict."""

    hidden: Any
    head: Any


def test_other_containers_come_back_and_what_is_not_there_is_not_loaded(tmp_path: Path) -> None:
    """A tree with other containers than dicts comes back into one that is given; without it, and without a folder, one
    line says so."""
    ensemble = fitted_once()
    params = ensemble.variables["params"]
    pair = {"params": Pair(params["hidden"], params["head"])}
    ensemble.replace(apply=apply_pair, variables=pair).save(tmp_path / "saved")
    loaded = bend_jax.load(tmp_path / "saved", apply_pair, pair)
    assert isinstance(loaded.variables["params"], Pair)
    np.testing.assert_array_equal(loaded.predict_proba(blobs()[1]), ensemble.predict_proba(blobs()[1]))
    with pytest.raises(SettingsError, match="a tree of 3 leaves"):
        bend_jax.load(tmp_path / "saved", apply_pair)
    with pytest.raises(FileNotFoundError, match="no saved ensemble"):
        bend_jax.load(tmp_path / "nothing", blobs_apply)


def apply_pair(variables: Any, images: Any) -> Any:
    """`apply` for parameters in a Pair."""
    pair = variables["params"]
    return blobs_apply({"params": {"hidden": pair.hidden, "head": pair.head}}, images)
