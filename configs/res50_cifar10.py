"""ResNet-50 on CIFAR-10 as BEND trains it: 5120 numbers of the last block's BN.

python launch.py --config=configs/res50_cifar10.py
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The published schedule."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "res50_cifar10"
    config.backbone.name = "resnet50"
    config.collect.subset = "layer4.2.bn2,layer4.2.bn3"
    config.collect.cache_dtype = "bfloat16"  # half the memory, on an accelerator at no cost
    return config
