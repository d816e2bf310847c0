"""Wide ResNet-28-10 on CIFAR-10 with cutout (DeVries & Taylor 2017, who report 3.08% errors), 200 epochs.

python launch.py --config=configs/wrn28_10_cifar10.py
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The published schedule (Zagoruyko & Komodakis 2016)."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "wrn28_10_cifar10"
    config.data.name = "cifar10"
    config.data.cutout = 16
    config.backbone.name = "wrn_28_10"

    config.base.epochs = 200
    config.base.batch = 128
    config.base.nesterov = True
    config.base.milestones = (60, 120, 160)

    config.collect.subset = "bn1"  # the last BN, which follows the last stage
    config.collect.cache_dtype = "bfloat16"
    return config
