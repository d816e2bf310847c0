"""BEND's Table 4 and equations 10 to 13: what the parts cost, and from how many members on it pays.

python launch.py --config=configs/paper/table4.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "table4"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50, as Table 3 has it."""
    return SHARED["start"](PAPER, scale)


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """One run."""
    return [dict(name="BEND", vote="sbend", settings={})]
