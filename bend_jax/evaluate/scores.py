"""From the predictions of base, checkpoints and members to the figures of a report (HOUSE names: table, votes, ...)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bend_jax import ensemble, metrics
from bend_jax.checks import Settings, SettingsError, did_you_mean, names, setting
from bend_jax.data.augment import VIEWS
from bend_jax.data.corruptions import CORRUPTIONS
from bend_jax.evaluate import uncertainty
from bend_jax.evaluate.curves import SINGLE
from bend_jax.evaluate.predict import Outputs, Weights, over_voters


class Evaluate(Settings):
    """The votes and measures."""

    draws: int = setting("of aBEND; the paper's table averages ten", default=10, least=1)
    bins: int = setting("of the calibration error", default=15, least=1)
    views: str = setting(
        f"of each image, with commas between: {', '.join(VIEWS)} (the last four by a pixel); votes are "
        f"over members x views",
        default="identity",
    )
    greedy: int = setting(
        "members that the greedy vote chooses on validation, with replacement; 0: no such vote", default=0, least=0
    )
    ood: str = setting("data sets to be told from the test images, with commas between: names or npz:PATH", default="")
    corruptions: str = setting(f"of the test images, each at five severities: {', '.join(CORRUPTIONS)}", default="")
    batch: int = setting("images a program; changes no number", default=500, least=1, digest=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        views = names(self.views)
        unknown = [view for view in views if view not in VIEWS]
        if unknown or not views or len(set(views)) < len(views):
            raise SettingsError(f"views takes different ones of {', '.join(VIEWS)}; got {self.views!r}")
        for name in names(self.corruptions):
            if name not in CORRUPTIONS:
                near = did_you_mean(name, CORRUPTIONS)
                raise SettingsError(f"corruptions: unknown {name!r}{near}; there are {', '.join(CORRUPTIONS)}")
        for word in ("ood", "corruptions"):
            if len(set(names(getattr(self, word)))) < len(names(getattr(self, word))):
                raise SettingsError(f"{word} names something twice: {getattr(self, word)!r}")


def accuracies(predictions: Int[np.ndarray, "m n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Of every member."""
    return (predictions == labels).mean(axis=1)


def table_row(
    members: Int[np.ndarray, "m n"],
    checkpoints: Int[np.ndarray, "k n"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    key: Key[Array, ""],
    draws: int,
) -> dict[str, float]:
    """BEND's Table 3: the votes, the members, the checkpoints, and `potential`: some member is right."""
    sbend = np.asarray(ensemble.majority_vote(jnp.asarray(members), num_classes))
    sampled = [np.asarray(ensemble.sampled_vote(k, jnp.asarray(members))) for k in jax.random.split(key, draws)]
    drawn = np.array([(s == labels).mean() for s in sampled])
    own, originals = accuracies(members, labels), accuracies(checkpoints, labels)
    return {
        "sbend": float((sbend == labels).mean()),
        "abend": float(drawn.mean()),
        "abend_std": float(drawn.std()),
        "max": float(own.max()),
        "mean": float(own.mean()),
        "median": float(np.median(own)),
        "orig_max": float(originals.max()),
        "orig_mean": float(originals.mean()),
        "orig_median": float(np.median(originals)),
        "potential": float((members == labels).any(axis=0).mean()),
    }


class Labels(NamedTuple):
    """The true labels."""

    validation: Int[np.ndarray, " v"]
    test: Int[np.ndarray, " n"]


class Vote(NamedTuple):
    """Probabilities of one vote on validation and test images."""

    validation: Float[np.ndarray, "v classes"]
    test: Float[np.ndarray, "n classes"]


def temperatures(votes: dict[str, dict[str, Vote]], labels: Labels) -> dict[str, dict[str, float]]:
    """The temperature of every vote, fitted on validation."""
    y = jnp.asarray(labels.validation)
    return {
        name: {vote: float(metrics.fit_temperature(jnp.asarray(p.validation), y)) for vote, p in own.items()}
        for name, own in votes.items()
    }


def vote_row(
    probabilities: Float[np.ndarray, "n classes"], temperature: float, labels: Int[np.ndarray, " n"], bins: int
) -> dict[str, float]:
    """Accuracy and calibration on test images, "_ts": with this temperature; aurc: by the largest probability."""
    p, y = jnp.asarray(probabilities), jnp.asarray(labels)
    scaled = metrics.scale_temperature(p, temperature)
    right = probabilities.argmax(axis=1) == labels
    return {
        "accuracy": float(right.mean()),
        "nll": float(metrics.nll(p, y)),
        "nll_ts": float(metrics.nll(scaled, y)),
        "brier": float(metrics.brier(p, y)),
        "brier_ts": float(metrics.brier(scaled, y)),
        "ece": float(metrics.ece(p, y, bins)),
        "ece_ts": float(metrics.ece(scaled, y, bins)),
        "aurc": uncertainty.aurc(probabilities.max(axis=1), ~right),
    }


def choose(
    validation: dict[str, Outputs],
    labels: Int[np.ndarray, " v"],
    members: dict[str, int],
    given: Weights,
    greedy: int,
) -> dict[str, Weights]:
    """The weighted votes that validation images decide, by set: "best" (the most accurate member), "greedy" (where
    greedy > 0); and "weighted", by `given` weights.

    members: how many each set has, a member is the mean of its views; given: the collector's weights [k], by the sets
    that are its k checkpoints themselves.
    """
    weights: dict[str, Weights] = {}
    for name, m in members.items():
        if name in ("base", "swa"):
            continue
        p = validation[name].probabilities
        assert p is not None
        by_member = p.reshape(m, -1, *p.shape[1:]).mean(axis=1)
        best = (by_member.argmax(axis=2) == labels).mean(axis=1).argmax()
        weights[name] = {"best": np.eye(m)[best]}
        if greedy:
            likelihoods = jnp.asarray(by_member[:, np.arange(len(labels)), labels])
            weights[name]["greedy"] = np.asarray(ensemble.greedy_weights(likelihoods, greedy))
        if name in given:
            weights[name]["weighted"] = given[name]
    return weights


def all_votes(
    validation: dict[str, Outputs], test: dict[str, Outputs], weights: dict[str, Weights], num_classes: int
) -> dict[str, dict[str, Vote]]:
    """Every vote of every set: "mean", those of its weights, and of generators and checkpoints "sbend"."""
    result: dict[str, dict[str, Vote]] = {}
    for name, own in test.items():
        before = validation[name]
        result[name] = {"mean": Vote(before.mean, own.mean)}
        if name not in ("base", "swa"):
            result[name]["sbend"] = Vote(shares(before, num_classes), shares(own, num_classes))
        for vote, row in weights.get(name, {}).items():
            result[name][vote] = Vote(_average(before, row), own.weighted[vote])
    return result


def shares(outputs: Outputs, num_classes: int) -> Float[np.ndarray, "n classes"]:
    """sBEND's probabilities."""
    return np.asarray(ensemble.vote_probabilities(jnp.asarray(outputs.predictions), num_classes))


def three(main: str) -> dict[str, tuple[str, str]]:
    """Set and vote of those that get curves and are asked about other images: the base's, and two of the members."""
    return {"base": ("base", "mean"), "mean": (main, "mean"), "sbend": (main, "sbend")}


def probabilities_of_three(
    found: dict[str, Outputs], main: str, num_classes: int
) -> dict[str, Float[np.ndarray, "n classes"]]:
    """What these votes say."""
    return {"base": found["base"].mean, "mean": found[main].mean, "sbend": shares(found[main], num_classes)}


def uncertainties(
    found: dict[str, Outputs], main: str, num_classes: int
) -> dict[str, dict[str, Float[np.ndarray, " n"]]]:
    """By vote and score, how unsure each image leaves it: the larger, the less like what it was trained on.

    max_probability is minus the largest probability, entropy the probabilities' own. The members' vote disagreement and
    mutual information belong to both of their votes; the base, one net, has neither.
    """
    result = {
        vote: {"max_probability": -p.max(axis=1), "entropy": np.asarray(uncertainty.entropy(jnp.asarray(p)))}
        for vote, p in probabilities_of_three(found, main, num_classes).items()
    }
    counts = metrics.counts(jnp.asarray(found[main].predictions), num_classes)
    information = found[main].information
    assert information is not None
    for vote in ("mean", "sbend"):
        result[vote]["vote_disagreement"] = np.asarray(uncertainty.vote_disagreement(counts))
        result[vote]["mutual_information"] = information
    return result


def detection(inside: dict[str, dict[str, Any]], outside: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How well each score of `uncertainties` tells other images (positives) from test images (negatives)."""

    def of(negatives: Any, positives: Any) -> dict[str, float]:
        return {"auroc": uncertainty.auroc(negatives, positives), "fpr95": uncertainty.fpr95(negatives, positives)}

    return {
        vote: {score: of(values, outside[vote][score]) for score, values in own.items()} for vote, own in inside.items()
    }


def corrupted_rows(
    found: dict[str, Outputs],
    scale: dict[str, dict[str, float]],
    labels: Int[np.ndarray, " n"],
    main: str,
    num_classes: int,
    bins: int,
) -> dict[str, dict[str, float]]:
    """Rows of the three votes on corrupted test images, with the temperatures of clean validation images."""
    votes = probabilities_of_three(found, main, num_classes)
    return {vote: vote_row(votes[vote], scale[a][b], labels, bins) for vote, (a, b) in three(main).items()}


def _average(outputs: Outputs, weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n classes"]:
    """The members' probabilities averaged with these weights, over views too."""
    assert outputs.probabilities is not None
    views = len(outputs.probabilities) // len(weights)
    return np.tensordot(over_voters(weights, views), outputs.probabilities, axes=1)


def generator_scores(
    test: Outputs,
    checkpoints: Outputs,
    rows: dict[str, dict[str, float]],
    m: int,
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    key: Key[Array, ""],
    draws: int,
) -> dict[str, Any]:
    """Table 3's row and the votes of one generator's m members."""
    row = table_row(test.predictions, checkpoints.predictions, labels, num_classes, key, draws)
    sampled = {**rows["sbend"], "accuracy": row["abend"]}  # the same probabilities, another way to draw a label
    return {"m": m, "table": row, "votes": {**rows, "abend": sampled}}


def diversity(
    members: Int[np.ndarray, "m n"], checkpoints: Int[np.ndarray, "k n"], labels: Int[np.ndarray, " n"]
) -> dict[str, float | None]:
    """BEND's eq. 14 and 15, normalised and as printed, and p-diff's error IoU."""
    a, b, y = jnp.asarray(members), jnp.asarray(checkpoints), jnp.asarray(labels)
    return {
        "members": metrics.disagreement(a),
        "checkpoints": metrics.disagreement(b),
        "cross": metrics.cross_disagreement(a, b),
        "eq14_members": metrics.eq14(a),
        "eq14_checkpoints": metrics.eq14(b),
        "eq15": metrics.eq15(a, b),
        "iou_members": metrics.ensemble_iou(a, y),
        "iou_checkpoints": metrics.ensemble_iou(b, y),
        "iou_cross": float(jnp.mean(metrics.max_iou(a, b, y))),
    }


def scores(
    test: dict[str, Outputs],
    sets: dict[str, Any],
    every: dict[str, dict[str, Vote]],
    scale: dict[str, dict[str, float]],
    labels: Int[np.ndarray, " n"],
    main: str,
    num_classes: int,
    key: Key[Array, ""],
    settings: Evaluate,
) -> dict[str, Any]:
    """Everything that a report says of accuracy, calibration, diversity and novelty on test images.

    test, every (its `votes`) and scale (their `temperatures`): by the names of `sets` ("base", "swa", "checkpoints" and
    the generators); main: the generator that the report is about, the other ones are its nulls.
    """
    checkpoints = test["checkpoints"]
    rows = {
        name: {vote: vote_row(p.test, scale[name][vote], labels, settings.bins) for vote, p in own.items()}
        for name, own in every.items()
    }
    generators = {
        name: generator_scores(own, checkpoints, rows[name], len(sets[name]), labels, num_classes, key, settings.draws)
        for name, own in test.items()
        if name not in SINGLE
    }
    single = {name: rows[name]["mean"] for name in ("base", "swa")}
    single |= {f"checkpoints_{vote}": rows["checkpoints"][vote] for vote in ("mean", "best")}
    for name, score in generators.items():
        score["novelty"] = novelty(sets[name], test[name], checkpoints, sets["checkpoints"], labels)
    right = {
        name: own["sbend" if "sbend" in own else "mean"].test.argmax(axis=1) == labels for name, own in every.items()
    }
    others = ["base", *(name for name in generators if name != main)]
    tests = {f"sbend_vs_{name}_mcnemar_p": metrics.mcnemar(right[main], right[name]) for name in others}
    own = generators.pop(main)
    return {
        "m": own["m"],
        "table": own["table"],
        "votes": {**own["votes"], **single},
        "diversity": diversity(test[main].predictions, checkpoints.predictions, labels),
        "novelty": own["novelty"],
        "generators": generators,
        "test": tests,
        "differences": differences(every, scale, labels, main, others),
    }


def differences(
    every: dict[str, dict[str, Vote]],
    scale: dict[str, dict[str, float]],
    labels: Int[np.ndarray, " n"],
    main: str,
    others: list[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95% interval (paired bootstrap over test images) of the main generator's votes minus the base's and each
    null's: of the accuracy, and of the mean vote's NLL after temperature scaling."""

    def right(name: str, vote: str) -> Float[np.ndarray, "1 n"]:
        return (every[name][vote].test.argmax(axis=1) == labels).astype(float)[None]

    def loss(name: str) -> Float[np.ndarray, "1 n"]:
        p = np.asarray(metrics.scale_temperature(jnp.asarray(every[name]["mean"].test), scale[name]["mean"]))
        return -np.log(np.maximum(p[np.arange(len(labels)), labels], metrics.TINY)).astype(float)[None]

    gaps: dict[tuple[str, str], Any] = {}
    for name in others:
        gaps[f"sbend_vs_{name}", "accuracy"] = right(main, "sbend") - right(name, "mean" if name == "base" else "sbend")
        gaps[f"mean_vs_{name}", "accuracy"] = right(main, "mean") - right(name, "mean")
        gaps[f"mean_vs_{name}", "nll_ts"] = loss(main) - loss(name)
    intervals = metrics.paired_bootstraps(np.stack(list(gaps.values())), metrics.DRAWS)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for (pair, measure), interval in zip(gaps, intervals, strict=True):
        result.setdefault(pair, {})[measure] = interval._asdict()
    return result


def novelty(
    members: Any, own: Outputs, checkpoints: Outputs, vectors: Any, labels: Int[np.ndarray, " n"]
) -> dict[str, float | None]:
    """How new members are: in their vectors (`metrics.novelty`) and in the errors they make (p-diff's similarity)."""
    similar = metrics.max_iou(jnp.asarray(own.predictions), jnp.asarray(checkpoints.predictions), jnp.asarray(labels))
    return {**metrics.novelty(members, vectors)._asdict(), "max_iou": float(jnp.mean(similar))}
