"""BEND's Fig. 4: the diversity among members, among checkpoints, and between the two.

python launch.py --config=configs/paper/figure4.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "figure4"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50; the rows change it."""
    return SHARED["start"](PAPER, scale)


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The networks of Table 3, and bootstraps beside the published trajectory."""
    rows = [
        dict(name=name, vote="sbend", settings=settings) for name, settings in SHARED["tasks"](config, scale).items()
    ]
    return [*rows, dict(name="res50 on bootstraps", vote="sbend", settings={"collect.name": "bootstrap"})]
