"""From the predictions of base, checkpoints and members to the figures of a report (HOUSE names: table, votes, ...)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from bend_jax import conformal, ensemble, metrics
from bend_jax.checks import Settings, SettingsError, did_you_mean, names, setting
from bend_jax.data.augment import VIEWS
from bend_jax.data.corruptions import CORRUPTIONS
from bend_jax.evaluation import certainty, uncertainty
from bend_jax.evaluation.curves import SINGLE
from bend_jax.evaluation.memorisation import from_nearest, mean_and_tenth
from bend_jax.evaluation.predict import Outputs, Weights, over_voters


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
    coverage: float = setting(
        "that conformal sets are calibrated for on validation", default=0.9, above=0, below=1, added=True
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
    originals = accuracies(checkpoints, labels)
    of_checkpoints = {"orig_max": originals.max(), "orig_mean": originals.mean(), "orig_median": np.median(originals)}
    row = members_row(members, labels, num_classes, key, draws)
    return row | {name: float(value) for name, value in of_checkpoints.items()}


def members_row(
    members: Int[np.ndarray, "m n"], labels: Int[np.ndarray, " n"], num_classes: int, key: Key[Array, ""], draws: int
) -> dict[str, float]:
    """The part of `table_row` that needs no checkpoints."""
    sbend = np.asarray(ensemble.majority_vote(jnp.asarray(members), num_classes))
    sampled = [np.asarray(ensemble.sampled_vote(k, jnp.asarray(members))) for k in jax.random.split(key, draws)]
    drawn = np.array([(s == labels).mean() for s in sampled])
    own = accuracies(members, labels)
    return {
        "sbend": float((sbend == labels).mean()),
        "abend": float(drawn.mean()),
        "abend_std": float(drawn.std()),
        "max": float(own.max()),
        "mean": float(own.mean()),
        "median": float(np.median(own)),
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
    validation: Int[np.ndarray, " v"] | None = None  # labels; without them there are no conformal sets


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
    rows = vote_rows(e, settings)
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
        "vote": None if e.validation is None else chosen(e),
        "coverage": settings.coverage,
        "calibrations": calibrations(e, settings.bins),
        "doubt": certainty.right_and_wrong(e.outputs[e.main], _right(e, e.main, "mean")),
    }


def vote_rows(e: Evaluated, settings: Evaluate) -> dict[str, dict[str, dict[str, Any]]]:
    """`vote_row` of every vote of every set, and the quality of its conformal sets (`certainty.set_row`): "sets"."""
    rows: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in e.votes}
    for name, own in e.votes.items():
        for vote, p in own.items():
            temperature = e.temperatures[name][vote]
            rows[name][vote] = vote_row(p.test, temperature, e.labels, settings.bins)
            if e.validation is not None:
                before, after = (np.asarray(metrics.scale_temperature(jnp.asarray(x), temperature)) for x in p)
                calibrated = conformal.calibrate(before, e.validation)
                rows[name][vote]["sets"] = certainty.set_row(calibrated, after, e.labels, settings.coverage)
    return rows


def calibrations(e: Evaluated, bins: int) -> dict[str, dict[str, dict[str, float] | None]] | None:
    """`certainty.calibrations` of certainty.CALIBRATED, votes of the base and of the main generator."""
    if e.validation is None:
        return None
    found = {}
    for vote in certainty.CALIBRATED:
        name, own = ("base", "mean") if vote == "base" else (e.main, vote)
        p, temperature = e.votes[name][own], e.temperatures[name][own]
        found[vote] = certainty.calibrations((p.validation, e.validation), (p.test, e.labels), temperature, bins)
    return found


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


def _loss(e: Evaluated, name: str, vote: str) -> Float[np.ndarray, " n"]:
    """-log p(label) of a set's vote after temperature scaling."""
    p = metrics.scale_temperature(jnp.asarray(e.votes[name][vote].test), e.temperatures[name][vote])
    return -np.log(np.maximum(np.asarray(p)[np.arange(len(e.labels)), e.labels], metrics.TINY))


def differences(e: Evaluated, others: list[str]) -> dict[str, dict[str, Any]]:
    """Mean and 95% interval (paired bootstrap over test images) of the main generator's votes minus those of the base
    and of each null: of the accuracy, with McNemar's p-value, and of the NLL after temperature scaling, which sBEND has
    not. Mean and pool are held against the other set's own mean and pool."""
    gaps: dict[tuple[str, str], Any] = {}
    result: dict[str, dict[str, Any]] = {}
    for name in others:
        for vote in ("sbend", *probability_votes(e)):
            theirs = _vote_of(name) if vote == "sbend" else vote
            ours, other = _right(e, e.main, vote), _right(e, name, theirs)
            result[f"{vote}_vs_{name}"] = {"mcnemar_p": metrics.mcnemar(ours, other)}
            gaps[f"{vote}_vs_{name}", "accuracy"] = ours.astype(float) - other
            if vote != "sbend":
                gaps[f"{vote}_vs_{name}", "nll_ts"] = _loss(e, e.main, vote).astype(float) - _loss(e, name, vote)
    intervals = metrics.paired_bootstraps(np.stack(list(gaps.values()))[:, None], metrics.DRAWS)
    for (pair, measure), interval in zip(gaps, intervals, strict=True):
        result[pair][measure] = interval._asdict()
    return result


def probability_votes(e: Evaluated) -> list[str]:
    """The votes of the main generator that `fit` chooses from."""
    return [vote for vote in ensemble.VOTES if vote in e.votes[e.main]]


def chosen(e: Evaluated) -> str:
    """The main generator's vote of least NLL on validation images after temperature scaling, as `fit` chooses it."""

    def loss(vote: str) -> float:
        p = metrics.scale_temperature(jnp.asarray(e.votes[e.main][vote].validation), e.temperatures[e.main][vote])
        return float(metrics.nll(p, jnp.asarray(e.validation)))

    return min(probability_votes(e), key=loss)
