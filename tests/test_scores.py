"""The figures of a report against NumPy, on votes that are known to the last probability."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bend_jax import ensemble, metrics
from bend_jax.checks import SettingsError
from bend_jax.evaluation import scores, shift
from bend_jax.evaluation.predict import Outputs

CLASSES, N, DIM, DRAWS = 3, 60, 5, 4
SIZES = {"base": 1, "swa": 1, "checkpoints": 4, "bend": 5, "gaussian": 7}
VOTES = {"mean": 2.0, "pool": 1.5, "sbend": 3.0, "best": 0.7}  # and the temperature of each
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, N).astype(np.int32)
KEY = jax.random.key(3)


def softened(m: int) -> Any:
    """Probabilities [m, N, classes] that are right more often than not."""
    p = RNG.dirichlet(np.ones(CLASSES), (m, N)) + RNG.uniform(0, 0.8, (m, 1, 1)) * np.eye(CLASSES)[LABELS]
    return (p / p.sum(axis=2, keepdims=True)).astype(np.float32)


PROBABILITIES = {name: softened(m) for name, m in SIZES.items()}
OTHER = {name: {vote: softened(1)[0] for vote in VOTES} for name in SIZES}  # each vote's own, on test images
VECTORS = {name: RNG.normal(size=(m, DIM)).astype(np.float32) for name, m in SIZES.items()}


@pytest.fixture(scope="module")
def evaluated() -> scores.Evaluated:
    """Every vote of every set has other probabilities and another temperature."""
    outputs = {
        name: Outputs(p.argmax(axis=2).astype(np.int32), p.mean(axis=0), {}, p) for name, p in PROBABILITIES.items()
    }
    votes = {name: {vote: scores.Vote(p, p) for vote, p in own.items()} for name, own in OTHER.items()}
    scale = {name: {vote: t + 0.1 * i for vote, t in VOTES.items()} for i, name in enumerate(SIZES)}
    return scores.Evaluated("bend", LABELS, CLASSES, VECTORS, outputs, votes, scale)


@pytest.fixture(scope="module")
def found(evaluated: scores.Evaluated) -> dict[str, Any]:
    """Everything."""
    return scores.scores(evaluated, scores.Evaluate(draws=DRAWS, bins=5), KEY)


def loss(p: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """-log p(label) of each image, p to the power 1 / T."""
    p = p.astype(np.float64) ** (1 / temperature)
    return -np.log((p / p.sum(axis=1, keepdims=True))[np.arange(N), LABELS])


def expected_row(p: np.ndarray, temperature: float) -> dict[str, float]:
    """By NumPy; the area under risk against coverage is the mean risk of the surest 1, 2, ... images."""
    scaled = p.astype(np.float64) ** (1 / temperature)
    scaled /= scaled.sum(axis=1, keepdims=True)
    one_hot, right = np.eye(CLASSES)[LABELS], p.argmax(axis=1) == LABELS

    def ece(q: np.ndarray) -> float:
        bins = np.ceil(q.max(axis=1) * 5).astype(int)
        return sum(abs((right - q.max(axis=1))[bins == b].sum()) for b in range(1, 6)) / N

    wrong = ~right[np.argsort(-p.max(axis=1), kind="stable")]
    return {
        "accuracy": right.mean(),
        "nll": loss(p).mean(),
        "nll_ts": loss(p, temperature).mean(),
        "brier": ((p - one_hot) ** 2).sum(axis=1).mean(),
        "brier_ts": ((scaled - one_hot) ** 2).sum(axis=1).mean(),
        "ece": ece(p),
        "ece_ts": ece(scaled),
        "aurc": (wrong.cumsum() / np.arange(1, N + 1)).mean(),
    }


def labels_of(name: str) -> np.ndarray:
    """Of each member of a set."""
    return PROBABILITIES[name].argmax(axis=2)


def test_every_vote_is_measured_at_its_own_temperature(found: dict[str, Any], evaluated: scores.Evaluated) -> None:
    """Those of the main generator by their own names, those of the others with theirs before."""
    places = {vote: ("bend", vote) for vote in VOTES}
    places |= {"base": ("base", "mean"), "swa": ("swa", "mean"), "checkpoints_pool": ("checkpoints", "pool")}
    places |= {"checkpoints_mean": ("checkpoints", "mean"), "checkpoints_best": ("checkpoints", "best")}
    assert set(found["votes"]) == {*places, "abend"}
    for vote, (name, own) in places.items():
        expected = expected_row(OTHER[name][own], evaluated.temperatures[name][own])
        assert found["votes"][vote] == pytest.approx(expected, rel=1e-4, abs=1e-5), vote
    nulls = found["generators"]["gaussian"]["votes"]
    assert nulls["mean"] == pytest.approx(expected_row(OTHER["gaussian"]["mean"], 2.4), rel=1e-4, abs=1e-5)
    assert {**nulls["abend"], "accuracy": 0} == {**nulls["sbend"], "accuracy": 0}
    assert nulls["abend"]["accuracy"] == found["generators"]["gaussian"]["table"]["abend"]


def test_the_base_has_a_pool_where_it_has_views(evaluated: scores.Evaluated) -> None:
    """Over them."""
    base = evaluated.outputs["base"]
    views = {**evaluated.outputs, "base": base._replace(predictions=np.concatenate([base.predictions] * 2))}
    votes = scores.scores(evaluated._replace(outputs=views), scores.Evaluate(draws=1, bins=5), KEY)["votes"]
    assert votes["base_pool"] == pytest.approx(expected_row(OTHER["base"]["pool"], 1.5), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["bend", "gaussian"])
def test_table_3_counts_votes_members_and_checkpoints(found: dict[str, Any], name: str) -> None:
    """sBEND by counting; aBEND's draws from the key; its mean is about that of the members."""
    table = found["table"] if name == "bend" else found["generators"][name]["table"]
    own, checkpoints = labels_of(name), labels_of("checkpoints")
    majority = np.array([np.bincount(column, minlength=CLASSES).argmax() for column in own.T])
    right, originals = (own == LABELS).mean(axis=1), (checkpoints == LABELS).mean(axis=1)
    keys = jax.random.split(KEY, DRAWS)
    drawn = [float((np.asarray(ensemble.sampled_vote(k, jnp.asarray(own))) == LABELS).mean()) for k in keys]
    assert table == pytest.approx(
        {
            "sbend": (majority == LABELS).mean(),
            "abend": np.mean(drawn),
            "abend_std": np.std(drawn),
            "max": right.max(),
            "mean": right.mean(),
            "median": np.median(right),
            "orig_max": originals.max(),
            "orig_mean": originals.mean(),
            "orig_median": np.median(originals),
            "potential": (own == LABELS).any(axis=0).mean(),
        }
    )
    assert len({round(x, 6) for x in (right.max(), right.mean(), originals.max(), originals.mean())}) == 4
    assert abs(np.mean(drawn) - right.mean()) < 4 * 0.5 / np.sqrt(DRAWS * N)


def test_diversity_is_that_of_pairs(found: dict[str, Any]) -> None:
    """Members among themselves, checkpoints among themselves, and each with each, pair by pair."""
    a, b = labels_of("bend"), labels_of("checkpoints")

    def apart(x: np.ndarray, y: np.ndarray, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return float(np.mean([(x[i] != y[j]).mean() for i, j in pairs]))

    def iou(x: np.ndarray, y: np.ndarray) -> float:
        return ((x != LABELS) & (y != LABELS)).sum() / ((x != LABELS) | (y != LABELS)).sum()

    def among(x: np.ndarray) -> float:
        return float(np.mean([max(iou(p, q) for j, q in enumerate(x) if j != i) for i, p in enumerate(x)]))

    assert found["diversity"] == pytest.approx(
        {
            "members": apart(a, a, True),
            "checkpoints": apart(b, b, True),
            "cross": apart(a, b, False),
            "eq14_members": apart(a, a, True) * len(a) * N,
            "eq14_checkpoints": apart(b, b, True) * len(b) * N,
            "eq15": np.mean([(a[i] != b[i]).sum() for i in range(4)]),
            "iou_members": among(a),
            "iou_checkpoints": among(b),
            "iou_cross": np.mean([max(iou(p, q) for q in b) for p in a]),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("name", ["bend", "gaussian"])
def test_novelty_is_measured_against_the_checkpoints(found: dict[str, Any], name: str) -> None:
    """In vectors, in errors, and in labels that are not the nearest checkpoint's."""
    own = found if name == "bend" else found["generators"][name]
    a, b = labels_of(name), labels_of("checkpoints")
    distance = np.linalg.norm(VECTORS[name][:, None].astype(float) - VECTORS["checkpoints"][None], axis=2)
    apart = (a != b[distance.argmin(axis=1)]).mean(axis=1)
    assert own["m"] == SIZES[name]
    assert own["novelty"]["nearest"] == pytest.approx(distance.min(axis=1).mean(), rel=1e-5)
    assert own["novelty"]["disagreement"] == pytest.approx(apart.mean())
    assert own["novelty"]["disagreement_p10"] == pytest.approx(np.percentile(apart, 10))
    wrong_a, wrong_b = a != LABELS, b != LABELS
    shared = (wrong_a[:, None] & wrong_b[None]).sum(axis=2) / (wrong_a[:, None] | wrong_b[None]).sum(axis=2)
    assert own["novelty"]["max_iou"] == pytest.approx(shared.max(axis=1).mean(), rel=1e-5)


def test_nulls_are_the_generators_that_are_neither_the_main_one_nor_single(found: dict[str, Any]) -> None:
    """Neither the base, the average of weights nor the checkpoints are."""
    assert set(found["generators"]) == {"gaussian"}
    assert set(found["test"]) == {"sbend_vs_base_mcnemar_p", "sbend_vs_gaussian_mcnemar_p"}


@pytest.mark.parametrize(("other", "vote"), [("base", "mean"), ("gaussian", "sbend")])
def test_the_tests_of_the_votes_are_paired(found: dict[str, Any], other: str, vote: str) -> None:
    """McNemar's by the binomial's two tails; differences of accuracy and of the loss with the bootstrap's intervals."""
    votes = ("mean", "pool", "sbend")
    right = {(name, v): OTHER[name][v].argmax(axis=1) == LABELS for name in ("bend", other) for v in votes}
    ours, theirs = right["bend", "sbend"], right[other, vote]
    only = (ours & ~theirs).sum(), (~ours & theirs).sum()
    p = stats.binomtest(int(only[0]), int(sum(only)), 0.5).pvalue
    assert found["test"][f"sbend_vs_{other}_mcnemar_p"] == pytest.approx(p)
    temperature = {"bend": 2.3, "base": 2.0, "gaussian": 2.4}
    gaps = {
        (f"sbend_vs_{other}", "accuracy"): ours.astype(float) - theirs,
        (f"mean_vs_{other}", "accuracy"): right["bend", "mean"].astype(float) - right[other, "mean"],
        (f"mean_vs_{other}", "nll_ts"): loss(OTHER["bend"]["mean"], 2.3)
        - loss(OTHER[other]["mean"], temperature[other]),
        (f"pool_vs_{other}", "accuracy"): right["bend", "pool"].astype(float) - right[other, "pool"],
    }
    assert found["differences"][f"sbend_vs_{other}"]["mcnemar_p"] == pytest.approx(p)
    b, c = (
        (right["bend", "pool"] & ~right[other, "pool"]).sum(),
        (~right["bend", "pool"] & right[other, "pool"]).sum(),
    )
    p = stats.binomtest(int(b), int(b + c), 0.5).pvalue
    assert found["differences"][f"pool_vs_{other}"]["mcnemar_p"] == pytest.approx(p)
    for (pair, measure), gap in gaps.items():
        interval = metrics.paired_bootstrap(gap[None], metrics.DRAWS)
        assert found["differences"][pair][measure] == pytest.approx(interval._asdict(), abs=1e-5)


def test_the_vote_is_the_one_of_least_scaled_loss_on_validation_images(evaluated: scores.Evaluated) -> None:
    """Not on test images, and not before its temperature: the other way round there."""
    good, bad = (np.eye(CLASSES)[labels] * 0.5 + 0.5 / CLASSES for labels in (LABELS, (LABELS + 1) % CLASSES))
    flat = (good**0.01 / (good**0.01).sum(axis=1, keepdims=True)).astype(np.float32)
    good, bad = good.astype(np.float32), bad.astype(np.float32)
    own = {"mean": scores.Vote(bad * 0.2 + good * 0.8, good), "pool": scores.Vote(flat, bad)}
    e = evaluated._replace(validation=LABELS, votes={"bend": own}, temperatures={"bend": {"mean": 1.0, "pool": 0.01}})
    assert scores.chosen(e) == "pool"
    assert scores.chosen(e._replace(temperatures={"bend": {"mean": 1.0, "pool": 1.0}})) == "mean"


def test_a_temperature_is_that_of_least_loss_on_validation_images() -> None:
    """Of each vote; the test images' probabilities, which are surer, do not count."""
    p = OTHER["bend"]["mean"]
    sure = p**3 / (p**3).sum(axis=1, keepdims=True)
    votes = {"bend": {"mean": scores.Vote(p, sure), "pool": scores.Vote(sure, p)}}
    found = scores.temperatures(votes, scores.Labels(LABELS, (LABELS + 1) % CLASSES))["bend"]
    assert found["pool"] == pytest.approx(3 * found["mean"], rel=1e-3)
    best = loss(p, found["mean"]).mean()
    assert all(best <= loss(p, found["mean"] * factor).mean() for factor in (0.97, 1.03))


def test_scores_of_doubt_and_how_well_they_tell() -> None:
    """By hand on two test images and two others: the surer, the smaller; the others are the positives."""
    sure, unsure = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32), np.array([[0.5, 0.5], [0.7, 0.3]], np.float32)

    def of(p: np.ndarray, predictions: list[list[int]]) -> dict[str, dict[str, Any]]:
        own = Outputs(np.array(predictions, np.int32), p, {}, information=np.array([0.1, 0.2], np.float32))
        base = own._replace(mean=p[::-1])
        return shift.uncertainties({"base": base, "bend": own}, "bend", 2)

    inside, outside = of(sure, [[0, 0], [0, 0], [0, 1], [0, 1]]), of(unsure, [[0, 0], [1, 0], [0, 1], [1, 0]])
    assert set(inside["base"]) == {"max_probability", "entropy"}
    np.testing.assert_allclose(inside["mean"]["max_probability"], [-0.9, -0.6], rtol=1e-6)
    np.testing.assert_allclose(inside["base"]["max_probability"], [-0.6, -0.9], rtol=1e-6)
    np.testing.assert_allclose(inside["mean"]["entropy"], stats.entropy(sure, axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        inside["sbend"]["max_probability"], [-0.9, -0.5], rtol=1e-6
    )  # (4 + 1/2) / 5, (2 + 1/2) / 5
    assert inside["sbend"]["vote_disagreement"][0] == 0 < inside["sbend"]["vote_disagreement"][1]
    np.testing.assert_allclose(inside["mean"]["mutual_information"], [0.1, 0.2], rtol=1e-6)
    told = shift.detection(inside, outside)
    assert told["mean"]["max_probability"]["auroc"] == pytest.approx(0.75)  # (.9, .6) against (.5, .7)
    assert told["mean"]["mutual_information"]["auroc"] == pytest.approx(0.5)
    assert set(told) == {"base", "mean", "sbend"}
    reversed_ = shift.detection(outside, inside)
    assert reversed_["mean"]["max_probability"]["auroc"] == pytest.approx(0.25)
    assert told["mean"]["max_probability"]["fpr95"] == pytest.approx(0.5)


@pytest.mark.parametrize("views", ["", "identity,identity", "identity,sideways"])
def test_views_are_known_and_different(views: str) -> None:
    """One at least."""
    with pytest.raises(SettingsError, match="views takes different ones of"):
        scores.Evaluate(views=views)
