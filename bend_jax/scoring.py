"""From the predictions of base, checkpoints and members to the figures of a report (HOUSE names: table, votes, ...)."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from bend_jax import ensemble, metrics
from bend_jax.config import Evaluate
from bend_jax.split import cut
from bend_jax.subset import Subset, insert


class Outputs(NamedTuple):
    """What a set of m vectors says of n images."""

    predictions: Int[np.ndarray, "m n"]
    mean: Float[np.ndarray, "n classes"]  # of the members' probabilities


def predict(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    sets: dict[str, Any],
    images: Callable[[slice], Any],
    n: int,
    *,
    batch: int,
    memory: int,
    progress: Callable[[int], None] = lambda done: None,
    compiled: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Outputs]:
    """Run every vector of every set on n images, all in one program a batch: the frozen part runs once for all of them.

    images(slice) gives them as `apply` takes them; the last batch is filled up with the last images again.
    """
    vectors = jnp.concatenate(list(sets.values()))
    ends = np.cumsum([len(v) for v in sets.values()])
    size = min(batch, n)
    first = images(slice(0, size))
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), vectors[0], first)
    chunk = min(ensemble.chunk_size(parts, memory), len(vectors))
    started = time.perf_counter()
    run = ensemble.member_logits.lower(apply, variables, subset, vectors, first, chunk=chunk).compile()
    compiled(time.perf_counter() - started)
    labels: list[np.ndarray] = []
    means: list[list[np.ndarray]] = []
    done = 0
    while done < n:
        begin = min(done, n - size)
        logits = run(variables, vectors, images(slice(begin, begin + size)))
        fresh = slice(done - begin, None)
        labels.append(np.asarray(_labels(logits))[:, fresh])
        means.append([np.asarray(p)[fresh] for p in _means(logits, tuple(int(e) for e in ends[:-1]))])
        done = begin + size
        progress(done)
    every = np.split(np.concatenate(labels, axis=1), ends[:-1])
    return {
        name: Outputs(every[i], np.concatenate([batch_means[i] for batch_means in means]))
        for i, name in enumerate(sets)
    }


@jax.jit
def _labels(logits: Float[Array, "m n classes"]) -> Int[Array, "m n"]:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@partial(jax.jit, static_argnames="ends")
def _means(logits: Float[Array, "m n classes"], ends: tuple[int, ...]) -> list[Float[Array, "n classes"]]:
    return [ensemble.mean_vote(part) for part in jnp.split(logits, ends)]


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


class Labelled(NamedTuple):
    """Probabilities of one vote on validation and test images."""

    validation: Float[np.ndarray, "v classes"]
    test: Float[np.ndarray, "n classes"]


def vote_row(
    vote: Labelled, validation: Int[np.ndarray, " v"], test: Int[np.ndarray, " n"], bins: int
) -> dict[str, float]:
    """Accuracy and calibration on test; nll_ts: after temperature scaling fitted on validation."""
    p, y = jnp.asarray(vote.test), jnp.asarray(test)
    temperature = metrics.fit_temperature(jnp.asarray(vote.validation), jnp.asarray(validation))
    return {
        "accuracy": float((vote.test.argmax(axis=1) == test).mean()),
        "nll": float(metrics.nll(p, y)),
        "nll_ts": float(metrics.nll(metrics.scale_temperature(p, temperature), y)),
        "brier": float(metrics.brier(p, y)),
        "ece": float(metrics.ece(p, y, bins)),
    }


class Labels(NamedTuple):
    """The true labels."""

    validation: Int[np.ndarray, " v"]
    test: Int[np.ndarray, " n"]


def generator_scores(
    validation: Outputs,
    test: Outputs,
    checkpoints: Outputs,
    labels: Labels,
    num_classes: int,
    key: Key[Array, ""],
    settings: Evaluate,
) -> dict[str, Any]:
    """Table 3's row and the votes of one generator's members."""
    row = table_row(test.predictions, checkpoints.predictions, labels.test, num_classes, key, settings.draws)
    shares = Labelled(
        *(np.asarray(ensemble.vote_probabilities(jnp.asarray(o.predictions), num_classes)) for o in (validation, test))
    )
    majority = vote_row(shares, *labels, settings.bins)
    votes = {
        "sbend": majority,
        "abend": {**majority, "accuracy": row["abend"]},  # the same probabilities, another way to draw a label
        "mean": vote_row(Labelled(validation.mean, test.mean), *labels, settings.bins),
    }
    return {"m": len(test.predictions), "table": row, "votes": votes}


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
    validation: dict[str, Outputs],
    test: dict[str, Outputs],
    sets: dict[str, Any],
    labels: Labels,
    main: str,
    num_classes: int,
    key: Key[Array, ""],
    settings: Evaluate,
) -> dict[str, Any]:
    """Everything that a report says of accuracy, calibration, diversity and novelty.

    validation, test: by the names of `sets` ("base", "swa", "checkpoints" and the generators); main: the generator
    that the report is about, the other ones are its nulls.
    """
    generators = {
        name: generator_scores(validation[name], test[name], test["checkpoints"], labels, num_classes, key, settings)
        for name in sets
        if name not in ("base", "swa", "checkpoints")
    }
    votes = {
        name: vote_row(Labelled(validation[name].mean, test[name].mean), *labels, settings.bins)
        for name in ("base", "swa", "checkpoints")
    }
    votes["checkpoints_mean"] = votes.pop("checkpoints")
    for name, score in generators.items():
        score["novelty"] = novelty(sets[name], test[name], test["checkpoints"], sets["checkpoints"], labels.test)
    sbend = {name: _majority(test[name].predictions, num_classes) == labels.test for name in generators}
    base_right = test["base"].predictions[0] == labels.test
    tests = {"sbend_vs_base_mcnemar_p": metrics.mcnemar(sbend[main], base_right)}
    for name in generators:
        if name != main:
            tests[f"sbend_vs_{name}_mcnemar_p"] = metrics.mcnemar(sbend[main], sbend[name])
    own = generators.pop(main)
    return {
        "m": own["m"],
        "table": own["table"],
        "votes": {**own["votes"], **votes},
        "diversity": diversity(test[main].predictions, test["checkpoints"].predictions, labels.test),
        "novelty": own["novelty"],
        "generators": generators,
        "test": tests,
    }


def novelty(
    members: Any, own: Outputs, checkpoints: Outputs, vectors: Any, labels: Int[np.ndarray, " n"]
) -> dict[str, float | None]:
    """How new members are: in their vectors (`metrics.novelty`) and in the errors they make (p-diff's similarity)."""
    similar = metrics.max_iou(jnp.asarray(own.predictions), jnp.asarray(checkpoints.predictions), jnp.asarray(labels))
    return {**metrics.novelty(members, vectors)._asdict(), "max_iou": float(jnp.mean(similar))}


def _majority(predictions: Int[np.ndarray, "m n"], num_classes: int) -> Int[np.ndarray, " n"]:
    return np.asarray(ensemble.majority_vote(jnp.asarray(predictions), num_classes))
