"""From the predictions of base, checkpoints and members to the figures of a report (HOUSE names: table, votes, ...)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bend_jax import ensemble, metrics
from bend_jax.checks import Settings, SettingsError, did_you_mean, names, setting
from bend_jax.data.augment import VIEWS
from bend_jax.data.corruptions import CORRUPTIONS
from bend_jax.evaluate import uncertainty
from bend_jax.evaluate.curves import SINGLE
from bend_jax.evaluate.memorisation import from_nearest, mean_and_tenth
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
    held_out: float = setting(
        "share of the checkpoints without which a report fits every generator once more, for the data-copying score; "
        "0: no such fit",
        default=0.2,
        least=0,
        below=1,
        added=True,
    )
    ood: str = setting("data sets to be told from the test images, with commas between: names or npz:PATH", default="")
    corruptions: str = setting(f"of the test images, each at five severities: {', '.join(CORRUPTIONS)}", default="")
    batch: int = setting("images a program; it can move the last bits of a logit", default=500, least=1, added=True)

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
        name: {vote: metrics.fit_temperature(jnp.asarray(p.validation), y) for vote, p in own.items()}
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


def choose_weights(
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
    """Every vote of every set: "mean", "pool", those of its weights, and of generators and checkpoints "sbend"; a pool
    where validation has it too."""
    result: dict[str, dict[str, Vote]] = {}
    for name, own in test.items():
        before = validation[name]
        result[name] = {"mean": Vote(before.mean, own.mean)}
        result[name] |= {vote: Vote(p, own.pools[vote]) for vote, p in before.pools.items()}
        if name not in ("base", "swa"):
            result[name]["sbend"] = Vote(shares(before, num_classes), shares(own, num_classes))
        for vote, row in weights.get(name, {}).items():
            result[name][vote] = Vote(_average(before, row), own.weighted[vote])
    return result


def shares(outputs: Outputs, num_classes: int) -> Float[np.ndarray, "n classes"]:
    """sBEND's probabilities."""
    return np.asarray(ensemble.vote_probabilities(jnp.asarray(outputs.predictions), num_classes))


def _average(outputs: Outputs, weights: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n classes"]:
    """The members' probabilities averaged with these weights, over views too."""
    assert outputs.probabilities is not None
    views = len(outputs.probabilities) // len(weights)
    return np.tensordot(over_voters(weights, views), outputs.probabilities, axes=1)


def reported_votes(main: str) -> dict[str, tuple[str, str]]:
    """Set and vote of those that get curves and are asked about other images: the base's, and two of the members."""
    return {"base": ("base", "mean"), "mean": (main, "mean"), "sbend": (main, "sbend")}


def reported_probabilities(
    found: dict[str, Outputs], main: str, num_classes: int
) -> dict[str, Float[np.ndarray, "n classes"]]:
    """The probabilities of the reported votes."""
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
        for vote, p in reported_probabilities(found, main, num_classes).items()
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
    result: dict[str, Any] = {}
    for vote, own in inside.items():
        for score, negatives in own.items():
            both = (negatives, outside[vote][score])
            found = {"auroc": uncertainty.auroc(*both), "fpr95": uncertainty.fpr95(*both)}
            result.setdefault(vote, {})[score] = found
    return result


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


def novelty(
    members: Any, own: Outputs, checkpoints: Outputs, vectors: Any, labels: Int[np.ndarray, " n"]
) -> dict[str, float | None]:
    """How new members are: in their vectors (`metrics.novelty`), in the errors they make (p-diff's similarity), and in
    the labels that they give otherwise than their nearest checkpoint (`memorisation.from_nearest`)."""
    similar = metrics.max_iou(jnp.asarray(own.predictions), jnp.asarray(checkpoints.predictions), jnp.asarray(labels))
    found = {**metrics.novelty(members, vectors)._asdict(), "max_iou": float(jnp.mean(similar))}
    apart = from_nearest(own.predictions, checkpoints.predictions, metrics.nearest(members, vectors)[1])
    return {**found, **mean_and_tenth(apart)}


class Evaluated(NamedTuple):
    """What was measured of the test images, by the names of the sets: "base", "swa", "checkpoints", the generators."""

    main: str  # the generator that the report is about; the other ones are its nulls
    labels: Int[np.ndarray, " n"]
    num_classes: int
    vectors: dict[str, Any]  # [m, dim] of each set
    outputs: dict[str, Outputs]
    votes: dict[str, dict[str, Vote]]
    temperatures: dict[str, dict[str, float]]


def corrupted_rows(clean: Evaluated, found: dict[str, Outputs], bins: int) -> dict[str, dict[str, float]]:
    """Rows of the reported votes on corrupted test images, with the temperatures of clean validation images."""
    votes = reported_probabilities(found, clean.main, clean.num_classes)
    places = reported_votes(clean.main)
    return {
        vote: vote_row(p, clean.temperatures[places[vote][0]][places[vote][1]], clean.labels, bins)
        for vote, p in votes.items()
    }


def scores(e: Evaluated, settings: Evaluate, key: Key[Array, ""]) -> dict[str, Any]:
    """Everything that a report says of accuracy, calibration, diversity and novelty on test images; key: of aBEND."""
    rows = {
        name: {vote: vote_row(p.test, e.temperatures[name][vote], e.labels, settings.bins) for vote, p in own.items()}
        for name, own in e.votes.items()
    }
    nulls = [name for name in e.outputs if name not in (*SINGLE, e.main)]
    own = generator_scores(e, e.main, rows[e.main], settings.draws, key)
    single = {name: rows[name]["mean"] for name in ("base", "swa")}
    pooled = ("base", "checkpoints") if len(e.outputs["base"].predictions) > 1 else ("checkpoints",)  # over views
    single |= {f"{name}_pool": rows[name]["pool"] for name in pooled}
    single |= {f"checkpoints_{vote}": rows["checkpoints"][vote] for vote in ("mean", "best")}
    members, checkpoints = e.outputs[e.main].predictions, e.outputs["checkpoints"].predictions
    return {
        **own,
        "votes": {**own["votes"], **single},
        "diversity": diversity(members, checkpoints, e.labels),
        "generators": {name: generator_scores(e, name, rows[name], settings.draws, key) for name in nulls},
        "test": {f"sbend_vs_{name}_mcnemar_p": mcnemar(e, name) for name in ("base", *nulls)},
        "differences": differences(e, ["base", *nulls]),
    }


def generator_scores(
    e: Evaluated, name: str, rows: dict[str, dict[str, float]], draws: int, key: Key[Array, ""]
) -> dict[str, Any]:
    """Table 3's row, the votes and the novelty of one generator's m members. rows: of its votes without aBEND."""
    own, checkpoints, vectors = e.outputs[name], e.outputs["checkpoints"], e.vectors[name]
    table = table_row(own.predictions, checkpoints.predictions, e.labels, e.num_classes, key, draws)
    sampled = {**rows["sbend"], "accuracy": table["abend"]}  # the same probabilities, another way to draw a label
    found = novelty(vectors, own, checkpoints, e.vectors["checkpoints"], e.labels)
    return {"m": len(vectors), "table": table, "votes": {**rows, "abend": sampled}, "novelty": found}


def mcnemar(e: Evaluated, other: str) -> float:
    """The p-value of the difference between the main generator's sBEND and that of another set (the base: itself)."""
    return metrics.mcnemar(_right(e, e.main, "sbend"), _right(e, other, _vote_of(other)))


def _vote_of(name: str) -> str:
    """The vote that sBEND of the main generator is held against."""
    return "mean" if name == "base" else "sbend"


def _right(e: Evaluated, name: str, vote: str) -> Bool[np.ndarray, " n"]:
    """Which test images a vote labels rightly."""
    return e.votes[name][vote].test.argmax(axis=1) == e.labels


def _loss(e: Evaluated, name: str) -> Float[np.ndarray, " n"]:
    """-log p(label) of a set's mean vote after temperature scaling."""
    p = metrics.scale_temperature(jnp.asarray(e.votes[name]["mean"].test), e.temperatures[name]["mean"])
    return -np.log(np.maximum(np.asarray(p)[np.arange(len(e.labels)), e.labels], metrics.TINY))


def differences(e: Evaluated, others: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95% interval (paired bootstrap over test images) of the main generator's votes minus those of the base
    and of each null: of the accuracy, and of the mean vote's NLL after temperature scaling."""
    gaps: dict[tuple[str, str], Any] = {}
    sbend, mean, loss = (_right(e, e.main, "sbend"), _right(e, e.main, "mean"), _loss(e, e.main))
    for name in others:
        gaps[f"sbend_vs_{name}", "accuracy"] = sbend.astype(float) - _right(e, name, _vote_of(name))
        gaps[f"mean_vs_{name}", "accuracy"] = mean.astype(float) - _right(e, name, "mean")
        gaps[f"mean_vs_{name}", "nll_ts"] = loss.astype(float) - _loss(e, name)
    intervals = metrics.paired_bootstraps(np.stack(list(gaps.values()))[:, None], metrics.DRAWS)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for (pair, measure), interval in zip(gaps, intervals, strict=True):
        result.setdefault(pair, {})[measure] = interval._asdict()
    return result
