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

from bend_jax import batch_norm, devices, metrics, storage, subset, training
from bend_jax.checks import names
from bend_jax.collect import COLLECT
from bend_jax.data import augment, corruptions, sources
from bend_jax.evaluate import curves, predict, scores
from bend_jax.generate import GENERATE, KNOBS
from bend_jax.report import document, run_report
from bend_jax.rng import stream
from bend_jax.run import summary
from bend_jax.run.context import Setting
from bend_jax.run.export import export_ensemble, latency, save_members
from bend_jax.run.progress import Clock, loss_curves

IMAGES = 1000  # test images, at most, that the evaluate stage writes beside its predictions, for whoever loads them


class Task(NamedTuple):
    """One stage's work: where it reads (by input name), where it writes, and who watches."""

    inputs: dict[str, Path]
    output: Path
    watch: training.Watch
    clock: Clock
    generator: str = ""


def base(s: Setting, task: Task) -> str:
    """Train the backbone, or take the trained one. Writes variables/."""
    variables = s.initial
    if variables is None:
        key = stream(s.seed, "base")
        variables = training.train_base(s.model, s.examples, key, s.config.base, watch=task.watch)
    storage.save_tree(task.output / "variables", variables)
    accuracy = _accuracy(s, variables, s.dataset.validation)
    seconds = task.clock.seconds.get("base")
    t_epoch = seconds / s.config.base.epochs if seconds else None
    _write_result(task, {"validation_accuracy": accuracy, "t_pre": seconds, "t_epoch": t_epoch})
    how = f"{s.config.base.epochs} epochs" if s.initial is None else "from --init"
    return f"{how}, validation accuracy {accuracy:.2%}"


def _accuracy(s: Setting, variables: Any, split: sources.Split) -> float:
    """Of the base alone, in batches; the last one is filled up with the images before it."""
    label = jax.jit(lambda variables, images: jnp.argmax(s.model.apply(variables, s.examples.plain(images)), axis=1))
    n = len(split.labels)
    size, right = min(s.config.evaluate.batch, n), np.zeros(n, bool)
    for begin in range(0, n, size):
        rows = slice(min(begin, n - size), min(begin, n - size) + size)
        right[rows] = np.asarray(label(variables, jnp.asarray(split.images[rows]))) == split.labels[rows]
    return float(right.mean())


def collect(s: Setting, task: Task) -> str:
    """Collect k checkpoints of the subset. Writes checkpoints/ and subset.json."""
    started = time.perf_counter()
    c = s.config.collect
    variables = storage.load_tree(task.inputs["base"] / "variables")
    found = COLLECT[c.name](
        s.model, variables, s.chosen, s.collected, stream(s.seed, "collect", c.name), c.settings, watch=task.watch
    )
    vectors, weights = devices.fetch((found.vectors, found.weights))
    tree = {"vectors": vectors} if weights is None else {"vectors": vectors, "weights": weights}
    storage.save_tree(task.output / "checkpoints", tree)
    storage.write_json(task.output / "subset.json", subset.to_json(s.chosen))
    elapsed = time.perf_counter() - started + sum(task.clock.before.values())
    _write_result(task, {"t_collect": elapsed - sum(task.clock.compile.values())})
    return f"{len(vectors)} checkpoints of {s.chosen.dim} numbers by {c.name}"


def generate(s: Setting, task: Task) -> str:
    """Fit one generator to the checkpoints and draw m members. Writes members/, stacked/ and subset.json; latents/ too
    where the generator has any."""
    name, c = task.generator, s.config.generate
    vectors = jnp.asarray(storage.load_tree(task.inputs["collect"] / "checkpoints")["vectors"])
    module = GENERATE[name]
    key_fit, key_sample = jax.random.split(stream(s.seed, "generate", name))
    fitted = module.fit(vectors, key_fit, c.settings[name], watch=task.watch)
    draw = partial(_draw, s, task, module, key_sample)
    started = time.perf_counter()
    jax.block_until_ready(draw(fitted))
    first = time.perf_counter() - started
    fitted, knob = _tune(s, task, fitted, draw)
    started = time.perf_counter()
    members = np.asarray(draw(fitted))  # again, so that t_sample holds no compilation
    seconds = time.perf_counter() - started
    if not np.isfinite(members).all():
        raise training.NonFiniteError(name, "members")
    task.clock.compile["sample"] = max(first - seconds, 0.0)
    storage.save_tree(task.output / "members", {"vectors": members})
    storage.save_tree(task.output / "stacked", subset.stack(s.chosen, members))
    storage.write_json(task.output / "subset.json", subset.to_json(s.chosen))
    if hasattr(module, "encode"):
        key = stream(s.seed, "generate", name, "noised")
        noised = module.noised(fitted, key, vectors)
        latents = {
            "checkpoints": module.encode(fitted, vectors),
            "members": module.encode(fitted, jnp.asarray(members)),
        }
        storage.save_tree(task.output / "latents", {**latents, "noised": noised})
    trained = {f"t_{part}": task.clock.seconds.get(part) for part in ("autoencoder", "diffusion")}
    _write_result(task, {**trained, "t_sample": seconds, "knob": knob})
    return f"{len(members)} members" + ("" if knob is None else f", {KNOBS[name]} {knob:g} by validation NLL")


def _draw(s: Setting, task: Task, module: Any, key: Any, fitted: Any) -> Any:
    """m members; where their subset holds BN statistics and they are new weights, with the statistics measured."""
    members = module.sample(fitted, key, s.config.members)
    if not batch_norm.must_measure(s.chosen, task.generator):
        return members
    variables = storage.load_tree(task.inputs["base"] / "variables")
    key, count = stream(s.seed, "statistics"), s.config.generate.statistics
    return batch_norm.recompute(s.model, variables, s.chosen, members, s.examples, key, count)


def _tune(s: Setting, task: Task, fitted: Any, draw: Callable[[Any], Any]) -> tuple[Any, float | None]:
    """The knob's value of least NLL of the mean vote on validation images (ties: the first), where there is a choice.

    Every generator that has a knob gets the same values, so that none has had more of the validation images.
    """
    knob, values = KNOBS.get(task.generator), s.config.generate.tune
    if knob is None or not values:
        return fitted, None
    candidates = [fitted.replace(**{knob: jnp.float32(value)}) for value in values]
    variables = storage.load_tree(task.inputs["base"] / "variables")
    sets = {str(value): draw(candidate) for value, candidate in zip(values, candidates, strict=True)}
    found = _predict(s, task, variables, sets, s.dataset.validation)
    labels = jnp.asarray(s.dataset.validation.labels)
    best = int(np.argmin([metrics.nll(jnp.asarray(outputs.mean), labels) for outputs in found.values()]))
    return candidates[best], values[best]


def evaluate(s: Setting, task: Task) -> str:
    """Run base, checkpoints, their average and all members on validation and test. Writes predictions/."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    collected = storage.load_tree(task.inputs["collect"] / "checkpoints")
    main, settings = s.config.generate.name, s.config.evaluate
    sets = _sets(s, task, variables, collected["vectors"])
    started = time.perf_counter()
    validation = _predict(s, task, variables, sets, s.dataset.validation, keep=True)
    members = {name: len(vectors) for name, vectors in sets.items()}
    labels = scores.Labels(s.dataset.validation.labels, s.dataset.test.labels)
    weights = scores.choose_weights(validation, labels.validation, members, collected.get("weights"), settings.greedy)
    running = {name: curves.steps(members[name]) for name in (main, "checkpoints")}  # identity's run as checkpoints
    asked = {"weights": weights, "running": running, "labels": labels.test}
    test = _predict(s, task, variables, sets, s.dataset.test, **asked)
    seconds = time.perf_counter() - started - sum(task.clock.compile.values())
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


def _shift(s: Setting, task: Task, variables: Any, clean: scores.Evaluated) -> dict[str, Any] | None:
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


def _sets(s: Setting, task: Task, variables: Any, vectors: Any) -> dict[str, Any]:
    """The vectors to evaluate, by name: base, average of the checkpoints ("swa"), checkpoints, every generator's."""
    swa = jnp.asarray(vectors.mean(axis=0)[None])
    if batch_norm.must_measure(s.chosen, "average"):
        key, count = stream(s.seed, "statistics"), s.config.generate.statistics
        swa = batch_norm.recompute(s.model, variables, s.chosen, swa, s.examples, key, count)
    sets = {"base": np.asarray(subset.flatten(s.chosen, variables))[None], "swa": swa, "checkpoints": vectors}
    for name in (s.config.generate.name, *s.config.generate.nulls):
        sets[name] = storage.load_tree(task.inputs[f"generate {name}"] / "members")["vectors"]
    return sets


def _predict(
    s: Setting, task: Task, variables: Any, sets: dict[str, Any], split: sources.Split, **how: Any
) -> dict[str, predict.Outputs]:
    """`predict.predict` of one split; checkpoints that are also a null's members run once."""
    n = len(split.labels)
    views = names(s.config.evaluate.views)
    again = "checkpoints" in sets and np.array_equal(sets.get("identity", ()), sets["checkpoints"])
    once = {name: vectors for name, vectors in sets.items() if not (again and name == "identity")}
    with tqdm(total=n, desc=task.generator or "evaluate", unit="image", disable=None, leave=False) as bar:
        found = predict.predict(
            s.model.apply,
            variables,
            s.chosen,
            once,
            lambda rows, view: s.examples.plain(augment.shifted_view(jnp.asarray(split.images[rows]), view)),
            n,
            batch=min(s.config.evaluate.batch, len(s.dataset.validation.labels), len(s.dataset.test.labels)),
            memory=task.watch.memory,
            mesh=s.mesh,
            views=views,
            progress=lambda done: (bar.update(done - bar.n), None)[1],
            compiled=lambda seconds: task.watch.compiled("evaluate", seconds),
            **how,
        )
    return {name: found["checkpoints" if again and name == "identity" else name] for name in sets}


def export(s: Setting, task: Task) -> str:
    """Write the voting ensemble as one jax.export artefact, and the members as safetensors with PyTorch's names."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    members = storage.load_tree(task.inputs[f"generate {s.config.generate.name}"] / "members")["vectors"]
    own = storage.load_tree(task.inputs["collect"] / "checkpoints").get("weights")
    weights = own if own is not None and s.config.generate.name == "identity" else np.ones(len(members))
    net = (s.model.apply, s.examples.plain, variables, s.chosen)
    serialised = export_ensemble(*net, members, weights, s.dataset.test)
    (task.output / "ensemble.jax").write_bytes(serialised)
    save_members(task.output / "members.safetensors", subset.stack(s.chosen, members))
    seconds = latency(serialised, s.model.apply, s.examples.plain, variables, s.dataset.test)
    _write_result(task, {"bytes": len(serialised), **seconds})
    times = f"one image {1e3 * seconds['t_ensemble']:.2f} ms, base alone {1e3 * seconds['t_base']:.2f} ms"
    return f"ensemble.jax, {len(serialised) / 2**20:.2f} MiB; {times}"


def render(s: Setting, task: Task) -> str:
    """Assemble report.json from what the stages measured, and write it with all its faces."""
    results = {name: storage.read_json(path / "result.json") for name, path in task.inputs.items()}
    report = summary.assemble(s.config, s.config_name, s.seed, s.chosen.dim, results)
    manifests = {name: storage.read_manifest(path) for name, path in task.inputs.items()}
    report = summary.with_stages(report, manifests, {name: path.name for name, path in task.inputs.items()})
    encoded = task.inputs[f"generate {s.config.generate.name}"] / "latents"
    latents = storage.load_tree(encoded) if encoded.is_dir() else None  # of generators that encode
    return document.write(run_report.document(report, latents), task.output, report, run_report.rows_csv(report))


def _write_result(task: Task, values: dict[str, Any]) -> None:
    """result.json: what the stage measured, with seconds, compilations and loss curves by training."""
    clock = {"seconds": task.clock.seconds, "compile": task.clock.compile, "training": loss_curves(task.clock.lines)}
    storage.write_json(task.output / "result.json", {**values, **clock})


WORK: dict[str, Callable[[Setting, Task], str]] = {
    "base": base,
    "collect": collect,
    "generate": generate,
    "evaluate": evaluate,
    "report": render,
    "export": export,
}
