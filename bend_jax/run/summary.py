"""report.json of one run or of several seeds, assembled from what the stages measured."""

import json
import math
from typing import Any

from bend_jax.checks import settings_json
from bend_jax.run.config import SHARED, Config


def assemble(
    config: Config, config_name: str, seed: int, dim: int, results: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """report.json of one run. results: each stage's result.json by its name."""
    found = dict(results["evaluate"])
    content = {
        "task": config.task,
        "config": config_name,
        "seed": seed,
        "k": config.collect.settings.k,
        "m": found["m"],
        "dim": dim,
        "setup": {
            "data": config.data.name,
            "noise": config.data.noise,
            "test_images": found["images"],
            "backbone": config.backbone.name,
            "collect": config.collect.name,
            "subset": ",".join(config.collect.subset),
            "generate": config.generate.name,
            "views": config.evaluate.views,
        },
    }
    content |= {name: found[name] for name in ("table", "votes", "diversity", "novelty", "generators")}
    content["cost"] = cost(config, results)
    content["test"] = found["test"]
    main = f"generate {config.generate.name}"
    content["temperatures"] = found["temperatures"]
    content["tuned"] = {n.removeprefix("generate "): r["knob"] for n, r in results.items() if n.startswith("generate ")}
    content["knobs"] = {name: algorithm.knob for name, algorithm in config.generate.algorithms.items()}
    content["curves"], content["shift"] = found.get("curves"), found.get("shift")  # a store made before has none
    content["training"] = {
        name if stage in ("base", "collect", main) else f"{name} of {stage.removeprefix('generate ')}": curve
        for stage, result in results.items()
        for name, curve in result.get("training", {}).items()
    }
    content["settings"] = settings_of(config)
    return content


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
    return json.loads(json.dumps(_flat(nested)))  # as it will be read from report.json


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def cost(config: Config, results: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Seconds of each part (BEND eq. 10-11), compilation apart, and the break-even m of eq. 13.

    BEND costs t_pre + t_collect + t_autoencoder + t_diffusion + m t_one, m independent trainings cost m t_pre.
    """
    base, collect = results["base"], results["collect"]
    main = results[f"generate {config.generate.name}"]
    pre = base["t_pre"]  # None for a trained model that was brought along: no break-even then
    fixed = collect["t_collect"] + (main["t_autoencoder"] or 0.0) + (main["t_diffusion"] or 0.0)
    gain = pre - main["t_sample"] / results["evaluate"]["m"] if pre is not None else 0.0
    return {
        "t_pre": base["t_pre"],
        "t_collect": collect["t_collect"],
        "t_autoencoder": main["t_autoencoder"],
        "t_diffusion": main["t_diffusion"],
        "t_sample": main["t_sample"],
        "t_evaluate": results["evaluate"]["t_evaluate"],
        "t_epoch": base["t_epoch"],
        "break_even_m": (pre + fixed) / gain if gain > 0 else None,
        "compile": sum(sum(result["compile"].values()) for result in results.values()),
    }


def combine(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One report over several seeds: every number the mean, "sd" the same tree of standard deviations (n - 1)."""
    averaged = ("table", "votes", "diversity", "novelty", "generators", "cost", "temperatures", "tuned", "shift")
    keys = [key for key in averaged if key in reports[0]]
    mean, sd = _moments([{key: r[key] for key in keys} for r in reports])
    first = {key: value for key, value in reports[0].items() if key not in keys}
    first["test"] = dict.fromkeys(reports[0]["test"])  # p-values have no mean: they are in "runs", as are curves
    first |= dict.fromkeys(("curves", "training", "stages"))
    return {**first, "seed": [r["seed"] for r in reports], **mean, "sd": sd, "runs": reports}


def _moments(values: list[Any]) -> tuple[Any, Any]:
    if isinstance(values[0], dict):
        pairs = {key: _moments([value[key] for value in values]) for key in values[0]}
        return {k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}
    if any(value is None for value in values):
        return None, None
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
