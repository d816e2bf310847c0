"""BEND's Fig. 5a: accuracy against k, the number of checkpoints.

python launch.py --config=configs/paper/figure5a.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "figure5a"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
SMALL = (2, 10, 50, 100, 200)
VALUES = {"digits": SMALL, "cifar10_small": SMALL, "full": (2, 10, 50, 100, 200, 350, 500)}  # seven, the last 500


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50, 100 members."""
    return SHARED["start"](PAPER, scale)


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """One for each k; a single checkpoint, which the figure begins with, has no distribution."""
    return [dict(name=f"k = {k}", vote="sbend", settings={"collect.k": k}) for k in VALUES[scale]]
