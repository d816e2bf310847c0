"""Saved ensembles whose files hold something else: refused in one line, when read and before written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import files, saved, storage, subset
from bend_jax.checks import SettingsError
from bend_jax.conformal import Calibration
from bend_jax.example import Example

Both = tuple[Any, Path]  # an ensemble, and where it is saved


def refused(act: Callable[[], Any]) -> str:
    """The one line."""
    with pytest.raises(SettingsError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def apply(variables: Any, x: Any) -> Any:
    """A linear network."""
    return x @ variables["params"]["fc"]["kernel"] + variables["params"]["fc"]["bias"][None]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Five members in the biases, and where they are saved."""
    variables = {"params": {"fc": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}}}
    chosen = subset.select(variables, ["fc.bias"])
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    image = Example.of(np.zeros((2, 4), np.float32))
    calibration = Calibration(np.zeros(3, int), *[np.zeros(3, np.float32)] * 3)
    own = bend_jax.Ensemble(apply, variables, chosen, vectors, np.ones(5), image=image, calibration=calibration)
    path = tmp_path_factory.mktemp("saved") / "e"
    own.save(path)
    return own, path


def test_a_tilde_is_the_home_folder(ensemble: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an ensemble and a combination are saved, and where they are loaded from."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    ensemble[0].save("~/one")
    assert bend_jax.load(Path("~/one"), apply) == ensemble[0]
    bend_jax.Combination((ensemble[0],), np.ones(1), 1.0, "mean", None).save("~/several")
    assert len(bend_jax.load_combination("~/several", [apply]).networks) == 1
    assert sorted(path.name for path in home.iterdir()) == ["one", "several"]
    assert not any(here.iterdir())


CONTENTS: dict[str, tuple[dict[str, Any] | bytes, str]] = {
    "temperature 0": ({"temperature": 0}, "the temperature must be a number above 0; it is 0"),
    "temperature NaN": ({"temperature": float("nan")}, "the temperature must be a number above 0; it is nan"),
    "temperature beyond float32": ({"temperature": 1e300}, "the temperature must be a number above 0"),
    "a word for the temperature": ({"temperature": "1"}, "the temperature must be a number above 0; it is '1'"),
    "a list for the temperature": ({"temperature": [1.0]}, "the temperature must be a number above 0"),
    "weights NaN": ({"weights": [float("nan")] * 5}, "weights hold NaN or Inf"),
    "weights 0": ({"weights": [0] * 5}, "5 weights of at least 0 are needed, not all 0"),
    "weights below 0": ({"weights": [-1, 1, 1, 1, 1]}, "5 weights of at least 0"),
    "weights of others": ({"weights": [1, 1]}, "5 weights of at least 0"),
    "words for weights": ({"weights": ["a"] * 5}, "weights must be numbers [n]; they are <U1[5]"),
    "no weights": ({"weights": None}, "no ensemble that can be read"),
    "another vote": ({"vote": "x"}, "votes are some of mean, pool"),
    "a list for a vote": ({"vote": ["mean"]}, "no ensemble that can be read"),
    "no image": ({"image": 3}, "no ensemble that can be read"),
    "other classes": ({"classes": 4}, "tells 4 classes apart; this network gives 3"),
    "a list": (b"[]", "no ensemble that can be read"),
    "nothing": (b"", "no ensemble that can be read"),
    "no text": (b"\xff\xfe", "no ensemble that can be read"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_an_ensemble_whose_content_is_none(kind: str, ensemble: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its sums are right, as those of a program that writes nonsense are."""
    content, says = CONTENTS[kind]
    _, path = ensemble
    read = storage.read_json

    def other(file: Path) -> Any:
        if file.name != "ensemble.json":
            return read(file)
        return files.read_json(content) if isinstance(content, bytes) else read(file) | content

    monkeypatch.setattr(storage, "read_json", other)
    assert says in refused(lambda: bend_jax.load(path, apply))


def nan(*shape: int) -> np.ndarray:
    """Not one number."""
    return np.full(shape, np.nan, np.float32)


def zero(*shape: int) -> np.ndarray:
    """Numbers."""
    return np.zeros(shape, np.float32)


def fc(kernel: np.ndarray, bias: np.ndarray) -> Any:
    """Variables."""
    return {"params": {"fc": {"kernel": kernel, "bias": bias}}}


TREES: dict[str, tuple[str, Any, str]] = {
    "members NaN": ("members", {"vectors": nan(5, 3)}, "vectors hold NaN or Inf"),
    "members of other numbers": ("members", {"vectors": zero(5, 4)}, "vectors have 4 numbers, the subset 3"),
    "members in one row": ("members", {"vectors": zero(15)}, "vectors must be numbers [n, m]; they are float32[15]"),
    "other members": ("members", {"vectors": zero(3, 3)}, "3 weights of at least 0"),
    "no members": ("members", {"v": zero(5, 3)}, "no ensemble that can be read"),
    "variables NaN": ("variables", fc(nan(4, 3), zero(3)), "variables['params']['fc']['kernel'] hold NaN or Inf"),
    "other variables": ("variables", fc(zero(5, 3), zero(3)), "this network does not take the variables"),
    "an apply for others": ("variables", {"params": {}}, "this network does not take the variables"),
    "another subset": ("variables", fc(zero(4, 2), zero(2)), "params.fc.bias has shape [2]; the subset was made for"),
    "scores NaN": (
        "calibration",
        {"labels": np.zeros(3, int), "lac": nan(3), "aps": zero(3), "raps": zero(3)},
        "calibration hold NaN or Inf",
    ),
    "labels of 10^9": (
        "calibration",
        {"labels": np.full(3, 10**9), "lac": zero(3), "aps": zero(3), "raps": zero(3)},
        "not of one label below 3",
    ),
    "no scores": ("calibration", {"labels": np.zeros(3, int)}, "no ensemble that can be read"),
}


@pytest.mark.parametrize("kind", TREES)
def test_an_ensemble_whose_arrays_do_not_fit(kind: str, ensemble: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of its arrays."""
    part, tree, says = TREES[kind]
    _, path = ensemble
    load = storage.load_tree
    monkeypatch.setattr(storage, "load_tree", lambda folder: tree if folder.name == part else load(folder))
    assert says in refused(lambda: bend_jax.load(path, apply))


def without_sums(manifest: Path) -> None:
    """As before manifests had a sum of their own, and with no file in it."""
    content = storage.read_json(manifest)
    del content["sum"]
    manifest.write_text(json.dumps({**content, "sha256": {}}))


EDITS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "emptied sums": (lambda path: without_sums(path / "manifest.json"), "does not belong here"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "holds no saved ensemble"),
    "a file more": (lambda path: (path / "more").touch(), "does not belong here"),
    "a link": (lambda path: (path / "more").symlink_to(path), "is a link"),
    "an edited temperature": (
        lambda path: (path / "ensemble.json").write_text(
            (path / "ensemble.json").read_text().replace('"temperature": 1.0', '"temperature": 2.0')
        ),
        "ensemble.json is damaged",
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_ensemble_that_was_edited(kind: str, ensemble: Both, tmp_path: Path) -> None:
    """Its files are those that were written, or it is refused."""
    edit, says = EDITS[kind]
    path = Path(shutil.copytree(ensemble[1], tmp_path / "e"))
    assert bend_jax.load(path, apply) == ensemble[0]
    edit(path)
    with pytest.raises((FileNotFoundError, bend_jax.DamagedError), match=says) as error:
        bend_jax.load(path, apply)
    assert "\n" not in str(error.value)


def test_what_could_not_be_read_again_is_not_written(ensemble: Both, tmp_path: Path) -> None:
    """And what was saved comes back."""
    own, path = ensemble
    assert bend_jax.load(path, apply) == own
    for changes in ({"temperature": 0.0}, {"vectors": nan(5, 3)}, {"weights": np.zeros(5)}):
        assert "nothing was written" in refused(lambda changes=changes: own.replace(**changes).save(tmp_path / "e"))
    assert not (tmp_path / "e").exists()
    with pytest.raises(SettingsError, match="2 weights of at least 0"):
        saved.check_vote("here", 1.0, np.ones(3), 2)
