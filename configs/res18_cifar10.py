"""ResNet-18 on CIFAR-10 as BEND trains it: 2048 numbers of the last block's BN.

python launch.py --config=configs/res18_cifar10.py
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The published schedule."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "res18_cifar10"
    config.backbone.name = "resnet18"
    config.collect.subset = "layer4.1.bn1,layer4.1.bn2"
    config.collect.cache_dtype = "bfloat16"  # half the memory, on an accelerator at no cost
    return config
