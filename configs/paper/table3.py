"""BEND's Table 3: the test accuracy of the votes, of the members and of the checkpoints.

python launch.py --config=configs/paper/table3.py --scale=digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "table3"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
PUBLISHED = {  # sBEND, aBEND, max, mean, median; orig max, mean, median; potential
    "res18-cifar10": (94.58, 94.59, 94.64, 94.58, 94.58, 94.69, 94.58, 94.59, 94.71),
    "res18-cifar100": (76.51, 76.52, 76.62, 76.16, 76.52, 76.79, 76.49, 76.49, 79.11),
    "res50-cifar10": (94.32, 94.33, 94.37, 94.32, 94.32, 94.44, 94.28, 94.28, 94.87),
    "res50-cifar100": (77.49, 77.45, 77.61, 77.31, 77.49, 77.72, 77.43, 77.42, 84.10),
    "regx-cifar10": (94.75, 94.75, 94.78, 94.73, 94.75, 94.93, 94.77, 94.77, 95.61),
    "regx-cifar100": (75.91, 75.82, 75.96, 75.77, 75.91, 76.32, 76.03, 76.04, 80.48),
    "regy-cifar10": (94.42, 94.44, 94.49, 94.42, 94.42, 94.60, 94.48, 94.48, 95.14),
    "regy-cifar100": (76.97, 76.95, 77.05, 76.94, 76.95, 77.17, 76.82, 76.82, 78.66),
}


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50; the rows change it."""
    config = SHARED["start"](PAPER, scale)
    config.generate.nulls = "gaussian"  # in place of the diffusion, on the same checkpoints
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The four networks, at full scale on both data sets."""
    return [
        dict(name=name, vote="sbend", settings=settings) for name, settings in SHARED["tasks"](config, scale).items()
    ]
