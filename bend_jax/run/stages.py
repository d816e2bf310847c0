"""The stages base, collect, generate, evaluate, report: each reads what is before it, computes, and writes a folder."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices, metrics, storage, subset, training
from bend_jax.api import collect_checkpoints, scorer
from bend_jax.checks import names
from bend_jax.collect.collector import sameness
from bend_jax.data import corruptions, sources
from bend_jax.evaluation import certainty, curves, predict, scores, shift
from bend_jax.generate.generator import FittedGenerator, check_finite, fit_generator, mixed_adapters
from bend_jax.report import document, run_report
from bend_jax.rng import stream
from bend_jax.run import memorisation_stage, summary
from bend_jax.run.context import RunContext
from bend_jax.run.export import export_ensemble, latency, save_members
from bend_jax.run.given_network import look
from bend_jax.run.stage import StageContext, predict_split, reestimator_of, sets_of, write_result

IMAGES = 1000  # test images, at most, that the evaluate stage writes beside its predictions, for whoever loads them


def base(s: RunContext, task: StageContext) -> str:
    """Train the backbone, or take the trained one; with a new last layer train it on. Writes variables/."""
    variables, trains = s.initial, s.initial is None or s.config.backbone.init_head
    if trains:
        variables = training.train_base(
            s.model,
            s.examples,
            stream(s.seed, "base"),
            s.config.base,
            initial=variables,
            callbacks=task.callbacks,
        )
    storage.save_tree(task.output / "variables", variables)
    accuracy = _accuracy(s, variables, s.dataset.validation)
    seconds = task.log.seconds.get("base")
    t_epoch = seconds / s.config.base.epochs if seconds else None
    measured = {"validation_accuracy": accuracy, "t_pre": seconds, "t_epoch": t_epoch}
    if trains:
        write_result(task, measured)
        start = "" if s.initial is None else " from --init with a new last layer"
        return f"{s.config.base.epochs} epochs{start}, validation accuracy {accuracy:.2%}"
    seen = look(s.model, variables, s.dataset.train, s.config.data, s.config.evaluate.batch)
    write_result(task, {**measured, "training_accuracy": seen.accuracy, "warning": seen.warning or None})
    on_training = f"accuracy {seen.accuracy:.2%} on {seen.images} training images"
    return f"from --init, validation accuracy {accuracy:.2%}, {on_training}{_warned(seen.warning)}"


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
    warning = sameness(vectors)
    write_result(
        task, {"t_collect": elapsed - sum(task.log.compile.values()), **({"warning": warning} if warning else {})}
    )
    return f"{len(vectors)} checkpoints of {s.chosen.dim} numbers by {s.config.collect.name}" + _warned(warning)


def _warned(warning: str) -> str:
    """At the end of a stage's line."""
    return f"; warning: {warning}" if warning else ""


def generate(s: RunContext, task: StageContext) -> str:
    """Fit one generator to the checkpoints and draw m members. Writes members/, stacked/ and subset.json; latents/ too
    where the generator has any."""
    generator = s.config.generate.algorithms[task.generator]
    vectors = jnp.asarray(storage.load_tree(task.inputs["collect"] / "checkpoints")["vectors"])
    variables, reestimate = storage.load_tree(task.inputs["base"] / "variables"), reestimator_of(s, task)
    validation = (s.dataset.validation.images, s.dataset.validation.labels)
    score = scorer(s.model, variables, s.chosen, validation, plain=s.examples.plain, reestimate=reestimate)
    callbacks = task.callbacks._replace(score=score, subset=s.chosen)
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
    learnt = generator.learnt(fitted.fitted)
    write_result(task, {**trained, "t_sample": seconds, "knob": knob, "learnt": learnt})
    warning = mixed_adapters(generator, vectors, s.chosen)
    chosen = "" if knob is None else f", {generator.knob} {knob:g} by validation NLL"
    return f"{len(members)} members{chosen}" + _warned(warning)


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
    found = predict_split(s, task, variables, sets, s.dataset.validation)
    labels = jnp.asarray(s.dataset.validation.labels)
    best = int(np.argmin([metrics.nll(jnp.asarray(outputs.mean), labels) for outputs in found.values()]))
    return candidates[best], values[best]


def evaluate(s: RunContext, task: StageContext) -> str:
    """Run base, checkpoints, their average and all members on validation and test. Writes predictions/."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    collected = storage.load_tree(task.inputs["collect"] / "checkpoints")
    main, settings = s.config.generate.name, s.config.evaluate
    sets = sets_of(s, task, variables, collected["vectors"])
    started = time.perf_counter()
    members = {name: len(vectors) for name, vectors in sets.items()}
    given = _given_weights(s, collected, members)
    wanted = predict.Wanted({name: {"weighted": own} for name, own in given.items()}, keep=True)
    validation = predict_split(s, task, variables, sets, s.dataset.validation, wanted)
    labels = scores.Labels(s.dataset.validation.labels, s.dataset.test.labels)
    weights = scores.choose_weights(validation, labels.validation, members, given, settings.greedy)
    running = {name: curves.steps(members[name]) for name in (main, "checkpoints")}  # identity's run as checkpoints
    wanted = predict.Wanted(weights, running=running, labels=labels.test)
    test = predict_split(s, task, variables, sets, s.dataset.test, wanted)
    seconds = time.perf_counter() - started - sum(task.log.compile.values())
    votes = scores.all_votes(validation, test, weights, s.dataset.num_classes)
    scale = scores.temperatures(votes, labels)
    key = stream(s.seed, "evaluate", "abend")
    classes = s.dataset.num_classes
    evaluated = scores.Evaluated(main, labels.test, classes, sets, test, votes, scale, labels.validation)
    result = scores.scores(evaluated, settings, key)
    views, reported = len(names(settings.views)), scores.reported_votes(main).items()
    shown = {vote: (votes[a][b].test, scale[a][b]) for vote, (a, b) in reported}
    result["curves"] = curves.curves(test, shown, labels.test, main, views, settings.bins, classes)
    result["shift"] = _shift(s, task, variables, evaluated)
    images = s.dataset.test.images[:IMAGES]
    predictions: dict[str, Any] = {"base": test["base"].predictions[0], "checkpoints": test["checkpoints"].predictions}
    predictions |= {"members": test[main].predictions, "labels": labels.test, "images": images}
    doubt = certainty.parts(test[main])._asdict()
    predictions["doubt"] = {name: part for name, part in doubt.items() if name != "total"}
    predictions["votes"] = {name: {vote: p.test for vote, p in own.items()} for name, own in votes.items()}
    storage.save_tree(task.output / "predictions", predictions)
    used = {name: int((own["greedy"] > 0).sum()) for name, own in weights.items() if "greedy" in own}
    more = {"images": len(labels.test), "temperatures": scale, "greedy_members": used, "t_evaluate": seconds}
    found = predictions["base"]
    constant = f"the base gives every test image the label {found[0]}" if (found == found[0]).all() else ""
    write_result(task, {**result, **more, **({"warning": constant} if constant else {})})
    row, base = result["table"], result["votes"]["base"]["accuracy"]
    return f"sBEND {row['sbend']:.2%}, base {base:.2%} on {len(labels.test)} test images" + _warned(constant)


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
    inside = shift.uncertainties(clean.outputs, main, classes)
    ood: dict[str, Any] = {}
    doubt: dict[str, Any] = {}
    for name, images in s.ood.items():
        found = predict_split(s, task, variables, asked, sources.Split(images, np.zeros(len(images), np.int32)))
        ood[name] = shift.detection(inside, shift.uncertainties(found, main, classes))
        doubt[name] = certainty.doubt(found[main])
    rows: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for name in wanted:
        for severity in corruptions.SEVERITIES:
            images = corruptions.corrupt(s.dataset.test.images, name, severity)
            found = predict_split(s, task, variables, asked, sources.Split(images, clean.labels))
            rows[name][str(severity)] = scores.corrupted_rows(clean, found, s.config.evaluate.bins)
    return {"ood": ood, "doubt": doubt, "corruptions": rows}


def export(s: RunContext, task: StageContext) -> str:
    """Write the voting ensemble as one jax.export artefact, and the members as safetensors with PyTorch's names."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    members = storage.load_tree(task.inputs[f"generate {s.config.generate.name}"] / "members")["vectors"]
    own = storage.load_tree(task.inputs["collect"] / "checkpoints").get("weights")
    if not devices.is_first():  # all processes read together, one writes
        return ""
    main = s.config.generate.algorithms[s.config.generate.name]
    weights = own if own is not None and main.is_all_checkpoints else np.ones(len(members))
    net = (s.model.apply, s.examples.plain, variables, s.chosen)
    serialised = export_ensemble(*net, members, weights, s.dataset.test)
    (task.output / "ensemble.jax").write_bytes(serialised)
    save_members(task.output / "members.safetensors", subset.stack(s.chosen, members))
    seconds = latency(serialised, s.model.apply, s.examples.plain, variables, s.dataset.test)
    write_result(task, {"bytes": len(serialised), **seconds})
    times = f"one image {1e3 * seconds['t_ensemble']:.2f} ms, base alone {1e3 * seconds['t_base']:.2f} ms"
    return f"ensemble.jax, {len(serialised) / 2**20:.2f} MiB; {times}"


def render(s: RunContext, task: StageContext) -> str:
    """Assemble report.json from what the stages measured, and write it with all its faces."""
    results = {name: storage.read_json(path / "result.json") for name, path in task.inputs.items()}
    report = summary.assemble(s.config, s.config_name, s.seed, s.chosen.dim, results, s.dataset)
    manifests = {name: storage.read_manifest(path) for name, path in task.inputs.items()}
    report = summary.with_stages(report, manifests, {name: path.name for name, path in task.inputs.items()})
    encoded = task.inputs[f"generate {s.config.generate.name}"] / "latents"
    latents = storage.load_tree(encoded) if encoded.is_dir() else None  # of generators that encode
    arrays = storage.load_tree(task.inputs["memorisation"] / "figures")
    return document.write(
        run_report.document(report, latents, arrays), task.output, report, run_report.rows_csv(report)
    )


WORK: dict[str, Callable[[RunContext, StageContext], str]] = {
    "base": base,
    "collect": collect,
    "generate": generate,
    "evaluate": evaluate,
    "memorisation": memorisation_stage.measure,
    "report": render,
    "export": export,
}
