"""RegNetX-400MF on CIFAR-10 as BEND trains it: 1536 numbers of the last block's BN.

python launch.py --config=configs/regx_cifar10.py
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The published schedule."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "regx_cifar10"
    config.backbone.name = "regnetx_400mf"
    config.collect.subset = "layer4.11.bn2,layer4.11.bn3"
    config.collect.cache_dtype = "bfloat16"  # half the memory, on an accelerator at no cost
    return config
