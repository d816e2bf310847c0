"""`bend_jax.evaluate` and `launch.py --evaluate` on logits that are known to the last class."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import bend_jax
from bend_jax import conformal, given_logits, storage
from bend_jax.checks import SettingsError
from bend_jax.report import document
from bend_jax.run import command_line, driver
from tests import launching
from tests.reports import check_page

M, N, V, CLASSES = 4, 80, 60, 3
RNG = np.random.default_rng(0)


def made(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of members of which the third is the best, and labels."""
    labels = RNG.integers(0, CLASSES, n)
    signal = np.array([0.8, 1.0, 2.5, 0.6])[:, None, None] * np.eye(CLASSES)[labels]
    return (signal + RNG.normal(size=(M, n, CLASSES))).astype(np.float32), labels


TEST, LABELS = made(N)
VALIDATION, VALIDATION_LABELS = made(V)
OTHER = RNG.normal(size=(M, 30, CLASSES)).astype(np.float32) / 4
GIVEN: dict[str, Any] = {
    "logits": TEST,
    "labels": LABELS,
    "validation": (VALIDATION, VALIDATION_LABELS),
    "weights": np.array([0, 1, 2, 1]),
}


@pytest.fixture(scope="module")
def found() -> bend_jax.Evaluation:
    """Everything."""
    return bend_jax.evaluate(**GIVEN, ood={"noise": OTHER}, coverage=0.8)


def row_of(found: bend_jax.Evaluation, vote: str, method: str) -> Any:
    """How good its sets are."""
    return (found.numbers.votes[vote].sets or {})[method]


def test_votes_are_those_of_the_logits(found: bend_jax.Evaluation) -> None:
    """By NumPy: the third member, which is the best on validation, the mean, the pool, the weighted ones, sBEND."""
    p = special.softmax(TEST.astype(float), axis=2)
    majority = np.array([np.bincount(column, minlength=CLASSES).argmax() for column in TEST.argmax(axis=2).T])
    weights = np.array([0, 1, 2, 1]) / 4
    expected = {
        "base": p[2],
        "mean": p.mean(axis=0),
        "pool": special.softmax(TEST.mean(axis=0).astype(float), axis=1),
        "weighted": np.tensordot(weights, p, 1),
        "weighted_pool": special.softmax(np.tensordot(weights, TEST.astype(float), 1), axis=1),
        "sbend": np.eye(CLASSES)[majority],
    }
    numbers = found.numbers
    assert set(numbers.votes) == {*expected, "abend"}
    assert numbers.base == 2
    for vote, q in expected.items():
        assert numbers.votes[vote].accuracy == pytest.approx((q.argmax(axis=1) == LABELS).mean()), vote
        if vote != "sbend":
            assert numbers.votes[vote].nll == pytest.approx(-np.log(q[np.arange(N), LABELS]).mean(), rel=1e-4), vote
    right = TEST.argmax(axis=2) == LABELS
    assert numbers.table.potential == right.any(axis=0).mean()
    assert numbers.table.mean == pytest.approx(right.mean())
    only = [(expected["sbend"].argmax(axis=1) == LABELS), p[2].argmax(axis=1) == LABELS]
    counts = int((only[0] & ~only[1]).sum()), int((~only[0] & only[1]).sum())
    assert numbers.test["sbend_vs_base_mcnemar_p"] == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    gap = numbers.differences["mean_vs_base"].accuracy
    assert gap.mean == pytest.approx(numbers.votes["mean"].accuracy - numbers.votes["base"].accuracy)
    assert gap.low <= gap.mean <= gap.high
    assert numbers.differences["sbend_vs_base"].mcnemar_p == numbers.test["sbend_vs_base_mcnemar_p"]
    assert set(numbers.differences) == {"sbend_vs_base", "mean_vs_base", "pool_vs_base"}


def test_every_image_has_its_vote_its_sets_and_its_doubt(found: bend_jax.Evaluation) -> None:
    """Of the vote that validation chose: as conformal.sets makes them; total doubt is the entropy of the mean."""
    numbers, p = found.numbers, special.softmax(TEST.astype(float), axis=2)
    before = {"mean": special.softmax(VALIDATION.astype(float), axis=2).mean(axis=0)}
    before["pool"] = special.softmax(VALIDATION.mean(axis=0).astype(float), axis=1)
    after = {"mean": p.mean(axis=0), "pool": special.softmax(TEST.mean(axis=0).astype(float), axis=1)}
    scaled = [x[numbers.vote] ** (1 / numbers.temperature) for x in (before, after)]
    a, b = (x / x.sum(axis=1, keepdims=True) for x in scaled)
    np.testing.assert_allclose(found.probabilities, b, rtol=1e-3, atol=1e-6)
    expected = conformal.all_sets(conformal.calibrate(a, VALIDATION_LABELS), b.astype(np.float32), 0.8)
    assert set(found.sets) == set(conformal.METHODS)
    for method, own in found.sets.items():
        assert (own != expected[method]).mean() < 0.01  # rounding at the threshold
        row = row_of(found, numbers.vote, method)
        assert row.coverage == pytest.approx(own[np.arange(N), LABELS].mean())
        assert row.size == pytest.approx(own.sum(axis=1).mean())
        assert row.worst_class == min(own[c == LABELS, c].mean() for c in range(CLASSES))
    entropies = stats.entropy(p, axis=2)
    np.testing.assert_allclose(found.doubt.total, stats.entropy(p.mean(axis=0), axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.doubt.aleatoric, entropies.mean(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.doubt.epistemic, found.doubt.total - found.doubt.aleatoric, atol=1e-5)
    right = p.mean(axis=0).argmax(axis=1) == LABELS
    assert numbers.doubt["right"].epistemic == pytest.approx(found.doubt.epistemic[right].mean(), rel=1e-5)
    assert numbers.doubt["wrong"].total == pytest.approx(found.doubt.total[~right].mean(), rel=1e-5)


def test_another_data_set_is_told_apart_by_every_score(found: bend_jax.Evaluation) -> None:
    """Energy and largest logit of the mean logits, pair by pair."""
    assert found.numbers.shift is not None
    told = found.numbers.shift.ood["noise"]
    inside, outside = (x.mean(axis=0).astype(float) for x in (TEST, OTHER))
    scores: dict[str, Any] = {
        "energy": lambda z: -np.log(np.exp(z).sum(axis=1)),
        "max_logit": lambda z: -z.max(axis=1),
    }
    for name, score in scores.items():
        pairs = score(outside)[None] > score(inside)[:, None]
        assert told["mean"][name].auroc == pytest.approx(pairs.mean(), abs=1e-3)
        pairs = score(OTHER[2])[None] > score(TEST[2])[:, None]
        assert told["base"][name].auroc == pytest.approx(pairs.mean(), abs=1e-3)
    assert found.numbers.shift.doubt is not None


def test_a_notebook_shows_the_answer_and_its_table(found: bend_jax.Evaluation) -> None:
    """And no array."""
    text = found._repr_markdown_()
    assert text.startswith("# evaluation\n\n**Ensemble ")
    assert text.count("|\n") == 4
    assert str(found).startswith(text.split("**")[1])


def test_a_saved_report_is_whole(found: bend_jax.Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file once; a second save into the same folder is refused."""
    monkeypatch.setattr("bend_jax.report.plotting.available", lambda: False)
    found.save(tmp_path / "report")
    files = {path.name for path in (tmp_path / "report").iterdir()}
    wanted = {"report.html", "report.md", "report.json", "results.csv", "images.npz", "manifest.json"}
    assert files == wanted
    page = check_page((tmp_path / "report" / "report.html").read_text())
    assert {"All votes and their differences", "How sure", "Under shift", "Members"} <= set(page.text["h2"])
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["votes"]["mean"]["sets"]["lac"]["coverage"] == row_of(found, "mean", "lac").coverage
    rows = list(csv.DictReader((tmp_path / "report" / "results.csv").read_text().splitlines()))
    assert {row["vote"] for row in rows} == set(found.numbers.votes)
    with np.load(tmp_path / "report" / "images.npz") as arrays:
        np.testing.assert_array_equal(arrays["sets_aps"], found.sets["aps"])
        np.testing.assert_array_equal(arrays["epistemic"], found.doubt.epistemic)
    with pytest.raises(FileExistsError, match="is there already"):
        found.save(tmp_path / "report")
    assert f"{100 * found.numbers.votes['base'].accuracy:.2f}%" in str(found)


class Tensor:
    """What of a PyTorch tensor is asked for: one on another device, that needs gradients."""

    def __init__(self, x: np.ndarray, here: bool = False) -> None:
        self.x, self.here = x, here

    def detach(self) -> "Tensor":
        """Without gradients."""
        return Tensor(self.x)

    def cpu(self) -> "Tensor":
        """On this machine."""
        return Tensor(self.x, here=True)

    def is_floating_point(self) -> bool:
        """Whether it has to be made float32."""
        return self.x.dtype.kind == "f"

    def float(self) -> "Tensor":
        """As float32."""
        return Tensor(self.x.astype(np.float32), self.here)

    def numpy(self) -> np.ndarray:
        """As an array."""
        assert self.here
        return self.x


def test_arrays_of_other_libraries_give_the_same(found: bend_jax.Evaluation) -> None:
    """Tensors, bf16 of JAX, and an array instead of names for the other data set; the report of one member alone."""
    pairs = (Tensor(VALIDATION.astype(np.float64)), Tensor(VALIDATION_LABELS))
    same = bend_jax.evaluate(
        Tensor(TEST), Tensor(LABELS), validation=pairs, weights=jnp.array([0, 1, 2, 1]), ood=OTHER, coverage=0.8
    )
    assert same.numbers.votes == found.numbers.votes
    assert same.numbers.shift is not None
    assert set(same.numbers.shift.ood) == {"other"}
    half = bend_jax.evaluate(
        jnp.asarray(TEST[:1], jnp.bfloat16), LABELS, validation=(VALIDATION[:1], VALIDATION_LABELS)
    )
    assert half.numbers.disagreement is None
    assert half.numbers.votes["mean"].nll == pytest.approx(half.numbers.votes["base"].nll)
    assert "members" in str(half)


def spoilt(x: np.ndarray, value: float) -> np.ndarray:
    """With one such number."""
    x = x.copy()
    x[1, 7, 2] = value
    return x


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "one network": (
        {"logits": TEST[0]},
        r"logits must be \[members, images, classes\]; they are \[80, 3\]; .*logits\[None\]",
    ),
    "nan": ({"logits": spoilt(TEST, np.nan)}, "logits hold NaN or inf: of member 1 on image 7, counted from 0"),
    "inf": ({"validation": (spoilt(VALIDATION, np.inf), VALIDATION_LABELS)}, "validation logits hold NaN or inf"),
    "labels": ({"labels": LABELS + 1}, r"labels go from 1 to 3; the logits have 3 classes, from 0"),
    "negative": ({"labels": LABELS - 1}, r"labels go from -1 to 1"),
    "short": ({"labels": LABELS[:-1]}, r"labels must be 80 whole numbers, one for each image; int64\[79\] came"),
    "one-hot": ({"labels": np.eye(3)[LABELS]}, r"came; of one-hot rows take labels.argmax\(axis=1\)"),
    "members": (
        {"validation": (VALIDATION[:2], VALIDATION_LABELS)},
        r"must be \[4, images, 3\]; they are \[2, 60, 3\]",
    ),
    "classes": ({"ood": {"far": OTHER[:, :, :2]}}, r"ood logits 'far' must be \[4, images, 3\]; they are \[4, 30, 2\]"),
    "none": ({"validation": (VALIDATION,)}, r"validation=\(logits \[m, v, classes\], labels \[v\]\) is needed"),
    "coverage": ({"coverage": 1.2}, r"coverage must be in \(0, 1\); got 1.2"),
    "weights": ({"weights": [1, -1, 1, 1]}, "weights must be 4 numbers of at least 0, one for each member"),
    "probabilities": ({"logits": special.softmax(TEST, axis=2)}, "logits are probabilities .*: give their logarithm"),
    "seen": ({"validation": (TEST, LABELS)}, "validation logits are the test logits"),
    "axes": ({"logits": TEST.transpose(1, 0, 2), "labels": LABELS}, "are the first two axes swapped"),
    "names": ({"labels": LABELS.astype(str)}, "of names take numpy.unique"),
    "float": ({"labels": LABELS.astype(float)}, r"labels.astype\(int\)"),
    "complex": ({"logits": TEST + 1j}, "logits must be real numbers"),
    "other": ({"ood": (OTHER, LABELS[:30])}, "ood is logits .* alone"),
    "words": ({"logits": np.full((4, 80, 3), "a")}, "logits must be real numbers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_refused_in_one_line(name: str) -> None:
    """What was expected and what came."""
    changed, text = MISTAKES[name]
    with pytest.raises(SettingsError, match=text) as error:
        bend_jax.evaluate(**{**GIVEN, **changed})
    assert "\n" not in str(error.value)


def test_a_column_of_labels_and_a_list_of_tensors_are_taken(found: bend_jax.Evaluation) -> None:
    """As the arrays that they are."""
    torch = pytest.importorskip("torch")
    given = {**GIVEN, "labels": LABELS[:, None], "logits": [torch.tensor(x, requires_grad=True) for x in TEST]}
    again = bend_jax.evaluate(**given, ood={"noise": OTHER}, coverage=0.8)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)


def test_a_class_that_is_ruled_out_is_no_mistake() -> None:
    """Minus infinity is a logit."""
    masked = [spoilt(x, -np.inf) for x in (TEST, VALIDATION)]
    found = bend_jax.evaluate(masked[0], LABELS, validation=(masked[1], VALIDATION_LABELS))
    assert np.isfinite(found.probabilities).all()


@pytest.mark.filterwarnings("ignore:the temperature")
def test_with_too_few_validation_images_the_report_says_how_many_sets_take() -> None:
    """And has all else; one more image, and there are sets, but for those that take as many of every class."""
    few, enough = (
        bend_jax.evaluate(**{**GIVEN, "validation": (VALIDATION[:, :n], VALIDATION_LABELS[:n])}) for n in (8, 9)
    )
    assert few.sets == {}
    assert few.numbers.votes["mean"].sets == dict.fromkeys(conformal.METHODS)
    assert "No conformal sets: a coverage of 0.9 needs at least 9 validation images; there are 8." in str(few)
    assert "too few of these (9 are needed, by class of every class)" in str(few)
    assert enough.sets.keys() == {"lac", "aps", "raps"}
    assert "No conformal sets" not in str(enough)


def test_a_tilde_is_the_home_folder(
    found: bend_jax.Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the report goes, and where the logits are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(document, "write", lambda *_: None)
    found.save("~/report")
    assert (tmp_path / "report" / "manifest.json").exists()
    np.savez(tmp_path / "mine.npz", **ARRAYS)
    assert given_logits.read("~/mine.npz")["labels"].tolist() == LABELS.tolist()


ARRAYS = {"logits": TEST, "labels": LABELS, "validation_logits": VALIDATION, "validation_labels": VALIDATION_LABELS}


def test_a_report_of_another_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files of one name, or a run of the name of the file: without --workdir their reports have one place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(document, "write", lambda *_: None)
    for name in "ab":
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "good.npz", **ARRAYS)
    done = [command_line.main(["launch.py", f"--evaluate={name}/good.npz"]) for name in (f"{tmp_path}/a", "a", "b")]
    assert done == [0, 0, 2]
    assert (
        "report is the report of a/good.npz, which this one would replace: give a --workdir" in capsys.readouterr().err
    )
    assert command_line.main(["launch.py", "--evaluate=b/good.npz", "--workdir=runs/good"]) == 0
    for stage in ("report", "compare"):
        storage.write_json(tmp_path / "runs" / "good" / "report" / "manifest.json", {"stage": stage, "inputs": ["x"]})
        with pytest.raises(SettingsError, match="is the report of a run"):
            driver.check_source(tmp_path / "runs" / "good", Path("b/good.npz"))


def test_the_command_line_gives_the_same_report(found: bend_jax.Evaluation, tmp_path: Path) -> None:
    """From a file; what is wrong with a file or with the flags is one line, and code 2."""
    np.savez(tmp_path / "mine.npz", **ARRAYS, weights=GIVEN["weights"], ood_noise=OTHER)
    words = [f"--evaluate={tmp_path / 'mine.npz'}", f"--workdir={tmp_path / 'work'}"]
    done = launching.launch(tmp_path / "logs", [*words, "--config.evaluate.coverage=0.8"])
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "work" / "report" / "report.json").read_text())
    assert content["votes"]["pool"]["sets"]["raps"]["size"] == row_of(found, "pool", "raps").size
    assert content["shift"]["ood"]["noise"].keys() == {"base", "mean", "sbend"}
    assert done.out.startswith("Ensemble ")
    np.savez(tmp_path / "bad.npz", **{**ARRAYS, "lables": LABELS, "extra": LABELS})
    (tmp_path / "text.npz").write_text("no arrays")
    mistakes = {
        f"--evaluate={tmp_path}/bad.npz": "has lables, extra (did you mean 'labels'?); its arrays are logits, labels",
        f"--evaluate={tmp_path}/text.npz": "text.npz is no .npz file of numbers, or a damaged one",
        f"--evaluate={tmp_path}/none.npz": "there is no file",
        f"{words[0]} --config.members=3": "takes --workdir and --config.evaluate.coverage; got --config.members=3",
        f"{words[0]} --seed=3": "takes --workdir and --config.evaluate.coverage; got --seed",
        f"{words[0]} --config.evaluate.coverage=2": "coverage must be in (0, 1); got 2.0",
    }
    for line, text in mistakes.items():
        done = launching.launch(tmp_path / "logs", line.split())
        assert (done.code, text in done.err, done.err.count("\n")) == (2, True, 1), (line, done.err)
        assert re.match("launch.py: ", done.err)
