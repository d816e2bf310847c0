"""p-diff's question whether generated networks are copies: the error IoU of four pairings.

python launch.py --config=configs/paper/pdiff_novelty.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "pdiff_novelty"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
NOISE = (0.001, 0.05, 0.15)  # on a checkpoint, over the sd of each of its tensors: as p-diff's code


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-18, at full scale on CIFAR-100 as published, with a Gaussian beside."""
    config = SHARED["start"](PAPER, scale, "res18_cifar100")
    config.generate.nulls = "gaussian"
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The published trajectory, and bootstraps, whose checkpoints differ; of each also its checkpoints with noise."""
    rows = []
    for name, own in (("trajectory", {}), ("bootstraps", {"collect.name": "bootstrap"})):
        rows.append(dict(name=name, vote="sbend", settings=own))
        for sd in NOISE:
            noised = {**own, "generate.name": "noised", "generate.nulls": "", "generate.noised.scale": sd}
            rows.append(dict(name=f"{name}, noise {sd:g}", vote="sbend", settings=noised, against=name))
    return rows
