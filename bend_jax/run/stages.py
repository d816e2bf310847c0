"""The stages base, collect, generate, evaluate, report: each reads what is before it, computes, and writes a folder."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bend_jax import devices, metrics, storage, subset, training
from bend_jax.api import collect_checkpoints, reestimator, scorer
from bend_jax.checks import SettingsError, names
from bend_jax.data import augment, corruptions, sources
from bend_jax.evaluate import curves, memorisation, predict, scores
from bend_jax.generate import average16
from bend_jax.generate.generator import FittedGenerator, Reestimate, check_finite, fit_generator
from bend_jax.report import document, run_report
from bend_jax.rng import stream
from bend_jax.run import summary
from bend_jax.run.context import RunContext
from bend_jax.run.export import export_ensemble, latency, save_members
from bend_jax.run.given_network import look
from bend_jax.run.progress import TrainingLog, loss_curves

IMAGES = 1000  # test images, at most, that the evaluate stage writes beside its predictions, for whoever loads them


class StageContext(NamedTuple):
    """One stage's work: where it reads (by input name), where it writes, and who watches."""

    inputs: dict[str, Path]
    output: Path
    callbacks: training.Callbacks
    log: TrainingLog
    generator: str = ""


def base(s: RunContext, task: StageContext) -> str:
    """Train the backbone, or take the trained one. Writes variables/."""
    variables = s.initial
    if variables is None:
        key = stream(s.seed, "base")
        variables = training.train_base(s.model, s.examples, key, s.config.base, callbacks=task.callbacks)
    storage.save_tree(task.output / "variables", variables)
    accuracy = _accuracy(s, variables, s.dataset.validation)
    seconds = task.log.seconds.get("base")
    t_epoch = seconds / s.config.base.epochs if seconds else None
    measured = {"validation_accuracy": accuracy, "t_pre": seconds, "t_epoch": t_epoch}
    if s.initial is None:
        _write_result(task, measured)
        return f"{s.config.base.epochs} epochs, validation accuracy {accuracy:.2%}"
    seen = look(s.model, variables, s.dataset.train, s.config.data, s.config.evaluate.batch)
    _write_result(task, {**measured, "training_accuracy": seen.accuracy, "warning": seen.warning or None})
    warning = f"; warning: {seen.warning}" if seen.warning else ""
    on_training = f"accuracy {seen.accuracy:.2%} on {seen.images} training images"
    return f"from --init, validation accuracy {accuracy:.2%}, {on_training}{warning}"


def _accuracy(s: RunContext, variables: Any, split: sources.Split) -> float:
    """Of the base alone, in batches; the last one is filled up with the images before it."""
    label = jax.jit(lambda variables, images: jnp.argmax(s.model.apply(variables, s.examples.plain(images)), axis=1))
    n = len(split.labels)
    size, right = min(s.config.evaluate.batch, n), np.zeros(n, bool)
    for begin in range(0, n, size):
        rows = slice(min(begin, n - size), min(begin, n - size) + size)
        right[rows] = np.asarray(label(variables, jnp.asarray(split.images[rows]))) == split.labels[rows]
    return float(right.mean())


def collect(s: RunContext, task: StageContext) -> str:
    """Collect k checkpoints of the subset. Writes checkpoints/ and subset.json."""
    started = time.perf_counter()
    variables = storage.load_tree(task.inputs["base"] / "variables")
    found = collect_checkpoints(
        s.model,
        variables,
        s.collected,
        subset=s.chosen,
        collect=s.config.collect.algorithm,
        seed=s.seed,
        callbacks=task.callbacks,
    )
    vectors, weights = devices.to_host((found.vectors, found.weights))
    tree = {"vectors": vectors} if weights is None else {"vectors": vectors, "weights": weights}
    storage.save_tree(task.output / "checkpoints", tree)
    storage.write_json(task.output / "subset.json", subset.to_json(s.chosen))
    elapsed = time.perf_counter() - started + sum(task.log.before.values())
    _write_result(task, {"t_collect": elapsed - sum(task.log.compile.values())})
    return f"{len(vectors)} checkpoints of {s.chosen.dim} numbers by {s.config.collect.name}"


def generate(s: RunContext, task: StageContext) -> str:
    """Fit one generator to the checkpoints and draw m members. Writes members/, stacked/ and subset.json; latents/ too
    where the generator has any."""
    generator = s.config.generate.algorithms[task.generator]
    vectors = jnp.asarray(storage.load_tree(task.inputs["collect"] / "checkpoints")["vectors"])
    variables, reestimate = storage.load_tree(task.inputs["base"] / "variables"), _reestimator(s, task)
    validation = (s.dataset.validation.images, s.dataset.validation.labels)
    score = scorer(s.model, variables, s.chosen, validation, plain=s.examples.plain, reestimate=reestimate)
    callbacks = task.callbacks._replace(score=score, lengths=s.chosen.lengths)
    fitted = fit_generator(generator, vectors, seed=s.seed, reestimate=reestimate, callbacks=callbacks)
    started = time.perf_counter()
    jax.block_until_ready(fitted.draw(s.config.members))
    first = time.perf_counter() - started
    fitted, knob = _tune(s, task, fitted)
    started = time.perf_counter()
    members = np.asarray(fitted.draw(s.config.members))  # again, so that t_sample holds no compilation
    seconds = time.perf_counter() - started
    check_finite(generator.name, members)
    task.log.compile["sample"] = max(first - seconds, 0.0)
    storage.save_tree(task.output / "members", {"vectors": members})
    storage.save_tree(task.output / "stacked", subset.stack(s.chosen, members))
    storage.write_json(task.output / "subset.json", subset.to_json(s.chosen))
    if generator.encode is not None:
        latents = {
            "checkpoints": generator.encode(fitted.fitted, vectors),
            "members": generator.encode(fitted.fitted, jnp.asarray(members)),
        }
        if generator.noised is not None:
            key = stream(s.seed, "generate", generator.name, "noised")
            latents["noised"] = generator.noised(fitted.fitted, key, vectors)
        storage.save_tree(task.output / "latents", latents)
    trained = {f"t_{part}": task.log.seconds.get(part) for part in ("autoencoder", "diffusion")}
    _write_result(task, {**trained, "t_sample": seconds, "knob": knob})
    return f"{len(members)} members" + ("" if knob is None else f", {generator.knob} {knob:g} by validation NLL")


def _reestimator(s: RunContext, task: StageContext) -> Reestimate | None:
    """How new vectors get BN statistics of their own, where the subset holds weights and statistics."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    return reestimator(s.model, variables, s.chosen, s.examples, seed=s.seed, images=s.config.generate.statistics)


def _tune(s: RunContext, task: StageContext, fitted: FittedGenerator) -> tuple[FittedGenerator, float | None]:
    """The knob's value of least NLL of the mean vote on validation images (ties: the first), where there is a choice.

    Every generator that has a knob gets the same values, so that none has had more of the validation images.
    """
    values = s.config.generate.tune
    if not fitted.generator.knob or not values:
        return fitted, None
    candidates = [fitted.with_knob(value) for value in values]
    variables = storage.load_tree(task.inputs["base"] / "variables")
    sets = {str(value): one.draw(s.config.members) for value, one in zip(values, candidates, strict=True)}
    found = _predict(s, task, variables, sets, s.dataset.validation)
    labels = jnp.asarray(s.dataset.validation.labels)
    best = int(np.argmin([metrics.nll(jnp.asarray(outputs.mean), labels) for outputs in found.values()]))
    return candidates[best], values[best]


def evaluate(s: RunContext, task: StageContext) -> str:
    """Run base, checkpoints, their average and all members on validation and test. Writes predictions/."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    collected = storage.load_tree(task.inputs["collect"] / "checkpoints")
    main, settings = s.config.generate.name, s.config.evaluate
    sets = _sets(s, task, variables, collected["vectors"])
    started = time.perf_counter()
    members = {name: len(vectors) for name, vectors in sets.items()}
    given = _given_weights(s, collected, members)
    wanted = predict.Wanted({name: {"weighted": own} for name, own in given.items()}, keep=True)
    validation = _predict(s, task, variables, sets, s.dataset.validation, wanted)
    labels = scores.Labels(s.dataset.validation.labels, s.dataset.test.labels)
    weights = scores.choose_weights(validation, labels.validation, members, given, settings.greedy)
    running = {name: curves.steps(members[name]) for name in (main, "checkpoints")}  # identity's run as checkpoints
    wanted = predict.Wanted(weights, running=running, labels=labels.test)
    test = _predict(s, task, variables, sets, s.dataset.test, wanted)
    seconds = time.perf_counter() - started - sum(task.log.compile.values())
    votes = scores.all_votes(validation, test, weights, s.dataset.num_classes)
    scale = scores.temperatures(votes, labels)
    key = stream(s.seed, "evaluate", "abend")
    evaluated = scores.Evaluated(main, labels.test, s.dataset.num_classes, sets, test, votes, scale)
    result = scores.scores(evaluated, settings, key)
    views, reported = len(names(settings.views)), scores.reported_votes(main).items()
    shown = {vote: (votes[a][b].test, scale[a][b]) for vote, (a, b) in reported}
    result["curves"] = curves.curves(test, shown, labels.test, main, views, settings.bins, s.dataset.num_classes)
    result["shift"] = _shift(s, task, variables, evaluated)
    images = s.dataset.test.images[:IMAGES]
    predictions: dict[str, Any] = {"base": test["base"].predictions[0], "checkpoints": test["checkpoints"].predictions}
    predictions |= {"members": test[main].predictions, "labels": labels.test, "images": images}
    predictions["votes"] = {name: {vote: p.test for vote, p in own.items()} for name, own in votes.items()}
    storage.save_tree(task.output / "predictions", predictions)
    used = {name: int((own["greedy"] > 0).sum()) for name, own in weights.items() if "greedy" in own}
    more = {"images": len(labels.test), "temperatures": scale, "greedy_members": used, "t_evaluate": seconds}
    _write_result(task, {**result, **more})
    row = result["table"]
    return f"sBEND {row['sbend']:.2%}, base {result['votes']['base']['accuracy']:.2%} on {len(labels.test)} test images"


def _given_weights(s: RunContext, collected: dict[str, Any], members: dict[str, int]) -> predict.Weights:
    """The collector's weights, for every set that is its checkpoints themselves."""
    if "weights" not in collected:
        return {}
    own = [name for name, generator in s.config.generate.algorithms.items() if generator.is_all_checkpoints]
    k = len(collected["weights"])
    return {name: collected["weights"] for name in ("checkpoints", *own) if members[name] == k}


def _shift(s: RunContext, task: StageContext, variables: Any, clean: scores.Evaluated) -> dict[str, Any] | None:
    """Base and main generator's members on other data sets and on corrupted test images; None where none is asked for.

    One data set or severity at a time, in batches: of each only labels and averages are kept.
    """
    main, classes, wanted = clean.main, clean.num_classes, names(s.config.evaluate.corruptions)
    if not s.ood and not wanted:
        return None
    asked = {name: clean.vectors[name] for name in ("base", main)}
    inside = scores.uncertainties(clean.outputs, main, classes)
    ood: dict[str, Any] = {}
    for name, images in s.ood.items():
        found = _predict(s, task, variables, asked, sources.Split(images, np.zeros(len(images), np.int32)))
        ood[name] = scores.detection(inside, scores.uncertainties(found, main, classes))
    rows: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for name in wanted:
        for severity in corruptions.SEVERITIES:
            images = corruptions.corrupt(s.dataset.test.images, name, severity)
            found = _predict(s, task, variables, asked, sources.Split(images, clean.labels))
            rows[name][str(severity)] = scores.corrupted_rows(clean, found, s.config.evaluate.bins)
    return {"ood": ood, "corruptions": rows}


def _sets(s: RunContext, task: StageContext, variables: Any, vectors: Any) -> dict[str, Any]:
    """The vectors to evaluate, by name: base, average of the checkpoints ("swa"), checkpoints, every generator's."""
    swa = jnp.asarray(vectors.mean(axis=0)[None])
    reestimate = _reestimator(s, task)
    swa = swa if reestimate is None else reestimate(swa)
    sets = {"base": np.asarray(subset.flatten(s.chosen, variables))[None], "swa": swa, "checkpoints": vectors}
    for name in (s.config.generate.name, *s.config.generate.nulls):
        sets[name] = storage.load_tree(task.inputs[f"generate {name}"] / "members")["vectors"]
    return sets


def _predict(
    s: RunContext,
    task: StageContext,
    variables: Any,
    sets: dict[str, Any],
    split: sources.Split,
    wanted: predict.Wanted = predict.Wanted(),  # noqa: B008
) -> dict[str, predict.Outputs]:
    """`predict.predict` of one split; checkpoints that are also a null's members run once."""
    n = len(split.labels)
    views = names(s.config.evaluate.views)
    others = {} if "checkpoints" not in sets else {n: x for n, x in sets.items() if n != "checkpoints"}
    again = {name for name, x in others.items() if np.array_equal(x, sets["checkpoints"])}
    once = {name: vectors for name, vectors in sets.items() if name not in again}
    with tqdm(total=n, desc=task.generator or "evaluate", unit="image", disable=None, leave=False) as bar:
        found = predict.predict(
            s.model.apply,
            variables,
            s.chosen,
            once,
            lambda rows, view: s.examples.plain(augment.shifted_view(jnp.asarray(split.images[rows]), view)),
            n,
            batch=min(s.config.evaluate.batch, len(s.dataset.validation.labels), len(s.dataset.test.labels)),
            views=views,
            wanted=wanted,
            callbacks=task.callbacks,
            progress=lambda done: (bar.update(done - bar.n), None)[1],
        )
    return {name: found["checkpoints" if name in again else name] for name in sets}


def measure_memorisation(s: RunContext, task: StageContext) -> str:
    """What tells copies from new networks besides the evaluation (Zeng et al. 2025): generators fitted without some of
    the checkpoints, networks that nothing has learnt, and two planes. Writes figures/, arrays that a report draws."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    vectors = storage.load_tree(task.inputs["collect"] / "checkpoints")["vectors"]
    sets = _sets(s, task, variables, vectors)
    result = _copying(s, task, sets)
    result["references"] = _references(s, task, variables, sets)
    of = {"checkpoints": vectors, "members": sets[s.config.generate.name], "base": sets["base"]}
    arrays: dict[str, Any] = {
        "distances": memorisation.distances(sets),
        "heat": memorisation.heat(vectors, of["members"]),
    }
    arrays["boundaries"] = _boundaries(s, task, variables, of)
    arrays |= _landscape(s, task, variables, of)
    result["boundaries"] = float((arrays["boundaries"]["members"] != arrays["boundaries"]["checkpoints"]).mean())
    storage.save_tree(task.output / "figures", arrays)
    _write_result(task, result)
    z = result["copying"][s.config.generate.name]["z_u"]
    return f"{result['held_out'] or 0} checkpoints held out" + ("" if z is None else f", Z_U {z:+.1f}")


def _copying(s: RunContext, task: StageContext, sets: dict[str, Any]) -> dict[str, Any]:
    """Every generator fitted without a share of the checkpoints, with the knob that it was tuned to; and, as one that
    learns nothing, the base again and again."""
    share, key = s.config.evaluate.held_out, stream(s.seed, "memorisation")
    parts = memorisation.split(sets["checkpoints"], share, key)
    rows: dict[str, Any] = {}

    def draw(name: str, some: Any) -> Any:
        if name == "base":
            return np.repeat(sets["base"], s.config.members, axis=0)
        knob = storage.read_json(task.inputs[f"generate {name}"] / "result.json")["knob"]
        callbacks = training.renamed(task.callbacks, f"held-out {name}")
        generator = s.config.generate.algorithms[name]
        more = {"seed": s.seed, "reestimate": _reestimator(s, task), "callbacks": callbacks}
        fitted = fit_generator(generator, jnp.asarray(some), **more)
        members = np.asarray((fitted if knob is None else fitted.with_knob(knob)).draw(s.config.members))
        check_finite(name, members)
        return members

    for name in (*s.config.generate.algorithms, "base"):
        try:
            found = memorisation.held_out(sets["checkpoints"], share, key, partial(draw, name))
        except (SettingsError, training.NonFiniteError):  # too few checkpoints are left for it; it diverged on them
            found = None
        rows[name] = memorisation.copying(found)
    sizes = (None, None) if parts is None else map(len, parts)
    return {**dict(zip(("fitted_to", "held_out"), sizes, strict=True)), "copying": rows}


def _references(s: RunContext, task: StageContext, variables: Any, sets: dict[str, Any]) -> dict[str, Any]:
    """Rows of the checkpoints themselves, of the base, of checkpoints with noise and of means of 16, on test images."""
    vectors, key = sets["checkpoints"], stream(s.seed, "memorisation", "references")
    asked = {"base": sets["base"], **memorisation.noised_sets(s.chosen, vectors, key)}
    if len(vectors) >= average16.MEANS_OF:
        asked["average16"] = fit_generator(average16.GENERATOR, vectors, seed=s.seed).draw(memorisation.EACH)
    evaluated = storage.load_tree(task.inputs["evaluate"] / "predictions")
    labels, theirs = evaluated["labels"], evaluated["checkpoints"]
    found = {name: own.predictions for name, own in _predict(s, task, variables, asked, s.dataset.test).items()}
    if len(vectors) > 1:
        asked, found = {"checkpoints": vectors, **asked}, {"checkpoints": theirs, **found}
    return {name: memorisation.reference(asked[name], own, vectors, theirs, labels) for name, own in found.items()}


def _landscape(s: RunContext, task: StageContext, variables: Any, of: dict[str, Any]) -> dict[str, Any]:
    """Accuracy on validation images over the checkpoints' plane; nothing where they span none."""
    found = memorisation.landscape(of)
    if found is None:
        return {}
    some = sources.Split(*(x[: memorisation.IMAGES] for x in s.dataset.validation))
    outputs = _predict(s, task, variables, {"plane": found.vectors}, some)["plane"]
    right = (outputs.predictions == some.labels).mean(axis=1)
    accuracy = right.reshape(len(found.vectors), -1).mean(axis=1).reshape(memorisation.GRID, -1)
    places = {f"at_{name}": x for name, x in found.places.items()}
    return {"plane": {"accuracy": accuracy, "along": found.along, "shares": found.shares, **places}}


def _boundaries(s: RunContext, task: StageContext, variables: Any, of: dict[str, Any]) -> dict[str, Any]:
    """What some members and their nearest checkpoints say of images on the validation images' plane."""
    images = memorisation.image_plane(s.dataset.validation.images[: memorisation.IMAGES])
    members = of["members"][: memorisation.PAIRS]
    near = of["checkpoints"][metrics.nearest(members, of["checkpoints"])[1]]
    split = sources.Split(images, np.zeros(len(images), np.int32))
    found = _predict(s, task, variables, {"members": members, "nearest": near}, split)
    views = len(names(s.config.evaluate.views))
    shape = (len(members), memorisation.PIXELS, memorisation.PIXELS)
    of_first_view = {name: own.predictions[::views].reshape(shape) for name, own in found.items()}
    return {"members": of_first_view["members"], "checkpoints": of_first_view["nearest"]}


def export(s: RunContext, task: StageContext) -> str:
    """Write the voting ensemble as one jax.export artefact, and the members as safetensors with PyTorch's names."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    members = storage.load_tree(task.inputs[f"generate {s.config.generate.name}"] / "members")["vectors"]
    own = storage.load_tree(task.inputs["collect"] / "checkpoints").get("weights")
    main = s.config.generate.algorithms[s.config.generate.name]
    weights = own if own is not None and main.is_all_checkpoints else np.ones(len(members))
    net = (s.model.apply, s.examples.plain, variables, s.chosen)
    serialised = export_ensemble(*net, members, weights, s.dataset.test)
    (task.output / "ensemble.jax").write_bytes(serialised)
    save_members(task.output / "members.safetensors", subset.stack(s.chosen, members))
    seconds = latency(serialised, s.model.apply, s.examples.plain, variables, s.dataset.test)
    _write_result(task, {"bytes": len(serialised), **seconds})
    times = f"one image {1e3 * seconds['t_ensemble']:.2f} ms, base alone {1e3 * seconds['t_base']:.2f} ms"
    return f"ensemble.jax, {len(serialised) / 2**20:.2f} MiB; {times}"


def render(s: RunContext, task: StageContext) -> str:
    """Assemble report.json from what the stages measured, and write it with all its faces."""
    results = {name: storage.read_json(path / "result.json") for name, path in task.inputs.items()}
    report = summary.assemble(s.config, s.config_name, s.seed, s.chosen.dim, results, len(s.dataset.validation.labels))
    manifests = {name: storage.read_manifest(path) for name, path in task.inputs.items()}
    report = summary.with_stages(report, manifests, {name: path.name for name, path in task.inputs.items()})
    encoded = task.inputs[f"generate {s.config.generate.name}"] / "latents"
    latents = storage.load_tree(encoded) if encoded.is_dir() else None  # of generators that encode
    arrays = storage.load_tree(task.inputs["memorisation"] / "figures")
    return document.write(
        run_report.document(report, latents, arrays), task.output, report, run_report.rows_csv(report)
    )


def _write_result(task: StageContext, values: dict[str, Any]) -> None:
    """result.json: what the stage measured, with seconds, compilations and loss curves by training."""
    clock = {"seconds": task.log.seconds, "compile": task.log.compile, "training": loss_curves(task.log.lines)}
    storage.write_json(task.output / "result.json", {**values, **clock})


WORK: dict[str, Callable[[RunContext, StageContext], str]] = {
    "base": base,
    "collect": collect,
    "generate": generate,
    "evaluate": evaluate,
    "memorisation": measure_memorisation,
    "report": render,
    "export": export,
}
