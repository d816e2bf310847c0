"""report.json of one run or of several seeds, assembled from what the stages measured."""

import json
import math
from dataclasses import fields, replace
from typing import Any

from flax.traverse_util import flatten_dict

from bend_jax.checks import settings_json
from bend_jax.data.splits import Dataset
from bend_jax.report.content import Averaged, Cost, Report, Setup, Stage
from bend_jax.report.records import from_json, to_json
from bend_jax.run.config import SHARED, Config


def assemble(
    config: Config,
    config_name: str,
    seed: int,
    dim: int,
    results: dict[str, dict[str, Any]],
    dataset: Dataset | None = None,
) -> Report:
    """The report of one run. results: each stage's result.json by its name; dataset: what it was run on."""
    found = results["evaluate"]
    tuned = {n.removeprefix("generate "): r["knob"] for n, r in results.items() if n.startswith("generate ")}
    setup = Setup(
        data=config.data.name,
        noise=config.data.noise,
        test_images=found["images"],
        backbone=config.backbone.name,
        collect=config.collect.name,
        subset=",".join(config.collect.subset),
        generate=config.generate.name,
        views=config.evaluate.views,
        validation=validation_of(config, len(dataset.validation.labels) if dataset else 0, found["images"]),
        warning="; ".join(filter(None, (results[n].get("warning") for n in ("base", "collect", "evaluate")))) or None,
        notes=[*dataset.notes] if dataset and dataset.notes else None,
    )
    own = {
        "task": config.task,
        "config": config_name,
        "seed": seed,
        "k": config.collect.settings.k,
        "dim": dim,
        "setup": to_json(setup),
        "cost": to_json(cost(config, results)),
        "tuned": tuned,
        "knobs": {name: algorithm.knob for name, algorithm in config.generate.algorithms.items()},
        "training": trainings(config.generate.name, results),
        "settings": settings_of(config),
        "learnt": results[f"generate {config.generate.name}"].get("learnt"),  # not of stores that are older
        "memorisation": results.get("memorisation"),  # rows of a comparison have none
    }
    return from_json(Report, {**found, **own})


def validation_of(config: Config, validation: int, test: int) -> str | None:
    """Where the validation images are from, None for the training images."""
    if config.data.init_unseen != "test":
        return None
    return (
        f"Validation images are {validation} of the {validation + test} test images, stratified, since the network has "
        f"seen every training image; test figures are of the other {test}."
    )


def trainings(main: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every training's loss curve, a null's with the name of that generator."""
    return {
        name
        if stage in ("base", "collect", f"generate {main}")
        else f"{name} of {stage.removeprefix('generate ')}": curve
        for stage, result in results.items()
        if stage != "memorisation"  # fits of the same generators to fewer checkpoints
        for name, curve in result.get("training", {}).items()
    }


def with_stages(report: Report, manifests: dict[str, Any], folders: dict[str, str]) -> Report:
    """The report with each stage's seconds and folder in the store, and with the versions that made them."""
    versions: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for name, number in manifest["versions"].items():
            if number not in versions.setdefault(name, []):
                versions[name].append(number)
    stages = {name: Stage(seconds=m["seconds"], folder=folders[name]) for name, m in manifests.items()}
    return replace(report, stages=stages, versions={name: " and ".join(own) for name, own in versions.items()})


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting that a number depends on, by its dotted name; of collectors and generators those that were used."""
    collect, generate = config.collect, config.generate
    nested: dict[str, Any] = {"task": config.task, "members": config.members}
    nested |= {name: settings_json(getattr(config, name)) for name in ("data", "backbone", "base")}
    own = settings_json(collect.settings)
    own.pop("base", None)  # the base's recipe, borrowed
    nested["collect"] = {"name": collect.name, "subset": collect.subset}
    nested["collect"] |= {name: own.pop(name) for name in SHARED if name in own} | {collect.name: own}
    nested["generate"] = {"name": generate.name, "nulls": generate.nulls, "tune": generate.tune}
    nested["generate"] |= {name: settings_json(s) for name, s in generate.settings.items()}
    nested["evaluate"] = settings_json(config.evaluate)
    return json.loads(json.dumps(flatten_dict(nested, sep=".")))  # as it will be read from report.json


def cost(config: Config, results: dict[str, dict[str, Any]]) -> Cost:
    """Seconds of each part (BEND eq. 10-11), compilation apart, and the break-even m of eq. 13.

    BEND costs t_pre + t_collect + t_autoencoder + t_diffusion + m t_one, m independent trainings cost m t_pre.
    """
    base, collect = results["base"], results["collect"]
    main = results[f"generate {config.generate.name}"]
    pre = base["t_pre"]  # None for a trained model that was brought along: no break-even then
    fixed = collect["t_collect"] + (main["t_autoencoder"] or 0.0) + (main["t_diffusion"] or 0.0)
    gain = pre - main["t_sample"] / results["evaluate"]["m"] if pre is not None else 0.0
    return Cost(
        t_pre=pre,
        t_collect=collect["t_collect"],
        t_autoencoder=main["t_autoencoder"],
        t_diffusion=main["t_diffusion"],
        t_sample=main["t_sample"],
        t_evaluate=results["evaluate"]["t_evaluate"],
        t_epoch=base["t_epoch"],
        break_even_m=(pre + fixed) / gain if gain > 0 else None,
        compile=math.fsum(seconds for result in results.values() for seconds in result["compile"].values()),
    )


def combine(reports: list[Report]) -> Report:
    """One report over several seeds: every number the mean, `sd` the standard deviations (n - 1)."""
    names = [own.name for own in fields(Averaged)]
    mean, sd = _moments([to_json(Averaged(**{name: getattr(report, name) for name in names})) for report in reports])
    averaged = from_json(Averaged, mean)
    return replace(
        reports[0],
        **{name: getattr(averaged, name) for name in names},
        seed=[report.seed for report in reports],
        sd=from_json(Averaged, sd),
        runs=reports,
        test=dict.fromkeys(reports[0].test),  # p-values have no mean: they are in `runs`, as curves are
        vote=None,
        differences=None,
        curves=None,
        training=None,
        stages=None,
        learnt=None,
    )


def _moments(values: list[Any]) -> tuple[Any, Any]:
    if isinstance(values[0], dict):
        known = [key for key in values[0] if all(key in value for value in values)]  # an older run lacks some votes
        pairs = {key: _moments([value[key] for value in values]) for key in known}
        return {k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}
    if any(value is None for value in values):
        return None, None
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
