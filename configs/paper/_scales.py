"""What the papers' configurations share: their three scales, and the papers' networks at each of them."""

from pathlib import Path
from runpy import run_path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

SCALES = ("digits", "cifar10_small", "full")
FILES = {"digits": "digits", "cifar10_small": "cifar10_resnet"}  # whose nets are the papers', with few layers
SMALL = {  # each family's name, and the BN of its last block
    "res18": ("resnet18", (16, 32, 64), "layer3.0.bn1,layer3.0.bn2"),
    "res50": ("resnet50", (8, 16, 32), "layer3.0.bn2,layer3.0.bn3"),
    "regx": ("regnetx_400mf", (16, 32, 64), "layer3.0.bn2,layer3.0.bn3"),
    "regy": ("regnety_400mf", (16, 32, 64), "layer3.0.bn2,layer3.0.bn3"),
}


def load(name: str) -> ConfigDict:
    """A configuration of the folder above."""
    return run_path(str(Path(__file__).parents[1] / f"{name}.py"))["get_config"]()


def start(paper: str, scale: str, full: str = "res50_cifar10") -> ConfigDict:
    """The configuration that a paper's rows change: of digits, of cifar10_resnet, or the published one."""
    config: Any = load(FILES.get(scale, full))
    if scale != "full":
        config.update_from_flattened_dict(small(full.split("_")[0]))
    config.task = f"{paper}_{scale}"
    config.generate.nulls = "gaussian"  # in place of the diffusion, on the same checkpoints
    return config


def small(net: str) -> dict[str, Any]:
    """Three stages of one block of that family, and the subset that the papers would take of it."""
    name, widths, subset = SMALL[net]
    return {"backbone.name": name, "backbone.widths": widths, "collect.subset": subset}


def task(config: Any, scale: str, net: str, data: str) -> dict[str, Any]:
    """The settings in which a network on a data set differs from that configuration."""
    if scale != "full":
        return small(net)
    now = flatten_dict(config.to_dict(), sep=".")
    other = flatten_dict(load(f"{net}_{data}").to_dict(), sep=".")
    kept = ("task", "generate.nulls")
    return {name: value for name, value in other.items() if value != now[name] and name not in kept}


def tasks(config: Any, scale: str, nets: tuple[str, ...] = tuple(SMALL)) -> dict[str, dict[str, Any]]:
    """The papers' tasks by name, such as res18_cifar10; at a small scale each network once, on that scale's data."""
    if scale != "full":
        return {f"{net}_{config.data.name}": task(config, scale, net, "") for net in nets}
    return {f"{net}_{data}": task(config, scale, net, data) for net in nets for data in ("cifar10", "cifar100")}
