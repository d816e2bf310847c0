"""The figures of members that came from anywhere, from their logits alone."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bend_jax import conformal, ensemble, metrics
from bend_jax.ensemble import choose_vote
from bend_jax.evaluation import certainty, curves, scores, shift, uncertainty
from bend_jax.evaluation.predict import Outputs, Wanted, of_logits
from bend_jax.rng import stream

MEMBERS = "members"  # the set of all of them; "base" is the one that is most accurate on validation images


class Given(NamedTuple):
    """Logits and labels of test and of validation images, the logits of other data sets by name, members' weights."""

    test: Float[np.ndarray, "m n classes"]
    labels: Int[np.ndarray, " n"]
    validation: Float[np.ndarray, "m v classes"]
    validation_labels: Int[np.ndarray, " v"]
    others: dict[str, Float[np.ndarray, "m _ classes"]]
    weights: Float[np.ndarray, " m"] | None


class Images(NamedTuple):
    """Of each test image: the probabilities of the vote that validation chose, after its temperature scaling, its
    conformal sets by method, and the parts of the members' doubt."""

    probabilities: Float[np.ndarray, "n classes"]
    sets: dict[str, Any]
    doubt: uncertainty.Parts


def measure(given: Given, settings: scores.Evaluate) -> tuple[dict[str, Any], Images]:
    """Everything that a report says, by the names of its record, and what is known of each image."""
    m, _, classes = given.test.shape
    labels = scores.Labels(given.validation_labels, given.labels)
    weighted = {} if given.weights is None else {MEMBERS: given.weights}
    asked = Wanted({name: {"weighted": own} for name, own in weighted.items()}, keep=True)
    validation = {MEMBERS: of_logits(given.validation, asked, MEMBERS)}
    chosen = scores.choose_weights(validation, labels.validation, {MEMBERS: m}, weighted, 0)[MEMBERS]
    best = int(chosen.pop("best").argmax())
    steps = {MEMBERS: curves.steps(m)}
    wanted = Wanted({MEMBERS: chosen}, running=steps, labels=labels.test)
    test = {MEMBERS: of_logits(given.test, wanted, MEMBERS)}
    test["base"] = of_logits(given.test[best : best + 1], Wanted(), "base")
    validation["base"] = of_logits(given.validation[best : best + 1], Wanted(), "base")
    votes = scores.all_votes(validation, test, {MEMBERS: chosen}, classes)
    scale = scores.temperatures(votes, labels)
    e = scores.Evaluated(MEMBERS, labels.test, classes, {}, test, votes, scale, labels.validation)
    vote, temperature = choose_vote({name: votes[MEMBERS][name].validation for name in ensemble.VOTES}, labels[0])
    result = _figures(e, settings) | {"vote": vote, "temperature": temperature, "base": best}
    result["shift"] = _others(e, given, best)
    return result, _images(e, vote, settings.coverage)


def _figures(e: scores.Evaluated, settings: scores.Evaluate) -> dict[str, Any]:
    """Those of test images."""
    rows, own, classes = scores.vote_rows(e, settings), e.outputs[MEMBERS], e.num_classes
    key = stream(0, "evaluate", "abend")
    table = scores.members_row(own.predictions, e.labels, classes, key, settings.draws)
    sampled = {**rows[MEMBERS]["sbend"], "accuracy": table["abend"]}
    shown = {
        vote: (e.votes[a][b].test, e.temperatures[a][b]) for vote, (a, b) in scores.reported_votes(MEMBERS).items()
    }
    predictions, y = jnp.asarray(own.predictions), jnp.asarray(e.labels)
    return {
        "table": table,
        "votes": {"base": rows["base"]["mean"], **rows[MEMBERS], "abend": sampled},
        "disagreement": metrics.disagreement(predictions) if len(predictions) > 1 else None,
        "error_iou": metrics.ensemble_iou(predictions, y),
        "temperatures": e.temperatures,
        "test": {"sbend_vs_base_mcnemar_p": scores.mcnemar(e, "base")},
        "differences": scores.differences(e, ["base"]),
        "calibrations": scores.calibrations(e, settings.bins),
        "doubt": certainty.right_and_wrong(own, own.mean.argmax(axis=1) == e.labels),
        "coverage": settings.coverage,
        "curves": {
            "by_members": curves.by_members(own, e.labels, 1, classes),
            "members": {MEMBERS: curves.members(own, None, e.labels, 1)} if len(own.predictions) > 1 else {},
            **curves.of_votes(shown, e.labels, settings.bins),
        },
    }


def _others(e: scores.Evaluated, given: Given, best: int) -> dict[str, Any] | None:
    """How well each score tells the other data sets' images from the test images, and the members' doubt on them."""
    if not given.others:
        return None
    inside = shift.uncertainties(e.outputs, MEMBERS, e.num_classes)
    result: dict[str, Any] = {"ood": {}, "doubt": {}, "corruptions": {}}
    for name, logits in given.others.items():
        found: dict[str, Outputs] = {MEMBERS: of_logits(logits, Wanted(), MEMBERS)}
        found["base"] = of_logits(logits[best : best + 1], Wanted(), "base")
        result["ood"][name] = shift.detection(inside, shift.uncertainties(found, MEMBERS, e.num_classes))
        result["doubt"][name] = certainty.doubt(found[MEMBERS])
    return result


def _images(e: scores.Evaluated, vote: str, coverage: float) -> Images:
    assert e.validation is not None
    temperature, p = e.temperatures[MEMBERS][vote], e.votes[MEMBERS][vote]
    before, after = (np.asarray(metrics.scale_temperature(jnp.asarray(x), temperature)) for x in p)
    found = conformal.all_sets(conformal.calibrate(before, e.validation), after, coverage)
    sets = {method: own for method, own in found.items() if own is not None}
    return Images(after, sets, certainty.parts(e.outputs[MEMBERS]))
