"""BEND's Fig. 5b: accuracy against m, the number of members.

python launch.py --config=configs/paper/figure5b.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "figure5b"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50, 500 members: the first m of them are every smaller ensemble."""
    config = SHARED["start"](PAPER, scale)
    config.members = 500
    config.generate.nulls = ""
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The published trajectory, and bootstraps, whose members differ."""
    return [
        dict(name="trajectory", vote="sbend", settings={}),
        dict(name="bootstraps", vote="sbend", settings={"collect.name": "bootstrap"}),
    ]
