"""BEND's Table 4 and equations 10 to 13: what the parts cost, and from how many members on it pays.

python launch.py --config=configs/paper/table4.py --scale=digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "table4"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
PUBLISHED = {  # epochs, epochs, and seconds on one A100; the break-even is m > 3.64
    "k_pre": 100,
    "k": 200,
    "t_orge": 28.0,  # of an epoch
    "t_ate": 931.39,
    "t_ddpm": 857.14,
    "t_sgen": 2.35,
    "break_even": 3.64,
}


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50, as Table 3 has it."""
    return SHARED["start"](PAPER, scale)


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """One run."""
    return [dict(name="BEND", vote="sbend", settings={})]
