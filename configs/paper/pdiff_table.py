"""p-diff's main table: the original, the weight average and the best generated network.

python launch.py --config=configs/paper/pdiff_table.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "pdiff_table"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-18; the rows change it."""
    config = SHARED["start"](PAPER, scale, "res18_cifar10")
    config.members = 200  # of which p-diff shows the best
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """ResNet-18 and ResNet-50, at full scale on both data sets."""
    nets = SHARED["tasks"](config, scale, ("res18", "res50"))
    return [dict(name=name, vote="best", settings=settings) for name, settings in nets.items()]
