"""BEND's Table 3: the test accuracy of the votes, of the members and of the checkpoints.

python launch.py --config=configs/paper/table3.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "table3"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50; the rows change it."""
    return SHARED["start"](PAPER, scale)


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The four networks, at full scale on both data sets."""
    return [
        dict(name=name, vote="sbend", settings=settings) for name, settings in SHARED["tasks"](config, scale).items()
    ]
