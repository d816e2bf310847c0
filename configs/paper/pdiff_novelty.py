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


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-18, at full scale on CIFAR-100 as published, with noise-added networks and a Gaussian beside."""
    config = SHARED["start"](PAPER, scale, "res18_cifar100")
    config.generate.nulls = "noise,gaussian"
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The published trajectory, and bootstraps, whose checkpoints differ."""
    return [
        dict(name="trajectory", vote="sbend", settings={}),
        dict(name="bootstraps", vote="sbend", settings={"collect.name": "bootstrap"}),
    ]
