"""BEND's Table 5: which layers are collected and generated.

python launch.py --config=configs/paper/table5.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "table5"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
ROLES = {  # the published subset of ResNet-50, and the one with its role in a small net of three stages
    "last stage, last block, BN": ("layer4.2.bn2,layer4.2.bn3", "layer3.1.bn2,layer3.1.bn3"),
    "last stage, first block, BN": ("layer4.0.bn2,layer4.0.bn3", "layer3.0.bn2,layer3.0.bn3"),
    "stage before, last block, BN": ("layer3.5.bn2,layer3.5.bn3", "layer2.1.bn2,layer2.1.bn3"),
    "stage before, first block, BN": ("layer3.0.bn2,layer3.0.bn3", "layer2.0.bn2,layer2.0.bn3"),
    "first convolution of the first block": ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
    "last convolution of the stage before": ("layer3.5.conv3.weight", "layer2.1.conv3.weight"),
    "last layer": ("fc", "fc"),
}


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50; small: with two blocks in the stages that have a first and a last one."""
    config = SHARED["start"](PAPER, scale)
    if scale != "full":
        config.backbone.blocks = (1, 2, 2)
        config.collect.subset = ROLES["last stage, last block, BN"][1]
        config.collect.k = config.members = 50  # early layers leave little to run once
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The seven subsets."""
    which = 0 if scale == "full" else 1
    return [dict(name=name, vote="sbend", settings={"collect.subset": s[which]}) for name, s in ROLES.items()]
