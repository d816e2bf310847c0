"""The stage that tells copies from new networks (Zeng et al. 2025; Meehan et al. 2020); `report` runs it."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from bend_jax import metrics, storage, training
from bend_jax.checks import SettingsError, names
from bend_jax.data import sources
from bend_jax.evaluation import memorisation
from bend_jax.generate import average16
from bend_jax.generate.generator import check_finite, fit_generator
from bend_jax.rng import stream
from bend_jax.run.context import RunContext
from bend_jax.run.stage import StageContext, label_split, reestimator_of, sets_of, write_result


def measure(s: RunContext, task: StageContext) -> str:
    """What tells copies from new networks besides the evaluation (Zeng et al. 2025): generators fitted without some of
    the checkpoints, networks that nothing has learnt, and two planes. Writes figures/, arrays that a report draws."""
    variables = storage.load_tree(task.inputs["base"] / "variables")
    vectors = storage.load_tree(task.inputs["collect"] / "checkpoints")["vectors"]
    sets = sets_of(s, task, variables, vectors)
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
    write_result(task, result)
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
        callbacks = renamed(task.callbacks, f"held-out {name}")
        generator = s.config.generate.algorithms[name]
        more = {"seed": s.seed, "reestimate": reestimator_of(s, task), "callbacks": callbacks}
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
        asked["average16"] = fit_generator(average16.GENERATOR, jnp.asarray(vectors), seed=s.seed).draw(
            memorisation.EACH
        )
    evaluated = storage.load_tree(task.inputs["evaluate"] / "predictions")
    labels, theirs = evaluated["labels"], evaluated["checkpoints"]
    found = label_split(s, task, variables, asked, s.dataset.test)
    if len(vectors) > 1:
        asked, found = {"checkpoints": vectors, **asked}, {"checkpoints": theirs, **found}
    return {name: memorisation.reference(asked[name], own, vectors, theirs, labels) for name, own in found.items()}


def _landscape(s: RunContext, task: StageContext, variables: Any, of: dict[str, Any]) -> dict[str, Any]:
    """Accuracy on validation images over the checkpoints' plane; nothing where they span none."""
    found = memorisation.landscape(of)
    if found is None:
        return {}
    some = sources.Split(*(x[: memorisation.IMAGES] for x in s.dataset.validation))
    right = (label_split(s, task, variables, {"plane": found.vectors}, some)["plane"] == some.labels).mean(axis=1)
    accuracy = right.reshape(len(found.vectors), -1).mean(axis=1).reshape(memorisation.GRID, -1)
    places = {f"at_{name}": x for name, x in found.places.items()}
    return {"plane": {"accuracy": accuracy, "along": found.along, "shares": found.shares, **places}}


def _boundaries(s: RunContext, task: StageContext, variables: Any, of: dict[str, Any]) -> dict[str, Any]:
    """What some members and their nearest checkpoints say of images on the validation images' plane."""
    images = memorisation.image_plane(s.dataset.validation.images[: memorisation.IMAGES])
    members = of["members"][: memorisation.PAIRS]
    near = of["checkpoints"][metrics.nearest(members, of["checkpoints"])[1]]
    split = sources.Split(images, np.zeros(len(images), np.int32))
    found = label_split(s, task, variables, {"members": members, "nearest": near}, split)
    views = len(names(s.config.evaluate.views))
    shape = (len(members), memorisation.PIXELS, memorisation.PIXELS)
    of_first_view = {name: own[::views].reshape(shape) for name, own in found.items()}
    return {"members": of_first_view["members"], "checkpoints": of_first_view["nearest"]}


def renamed(callbacks: training.Callbacks, prefix: str) -> training.Callbacks:
    """The same, told of trainings with this word before their names."""
    return callbacks._replace(
        resume=lambda name, *more: callbacks.resume(f"{prefix} {name}", *more),
        segment=lambda name, *more: callbacks.segment(f"{prefix} {name}", *more),
        compiled=lambda name, *more: callbacks.compiled(f"{prefix} {name}", *more),
    )
