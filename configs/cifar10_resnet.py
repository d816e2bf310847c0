"""A three-block ResNet on the full CIFAR-10, ten epochs: the small network of the comparison and of the papers' tables.

python launch.py --config=configs/cifar10_resnet.py
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A small net and a short schedule; everything else as default.py."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "cifar10_resnet"

    config.backbone.name = "resnet18"
    config.backbone.widths = (16, 32, 64)
    config.backbone.blocks = (1, 1, 1)

    config.base.epochs = 10
    config.base.schedule = "cosine"  # a step schedule needs more epochs than this

    config.collect.subset = "layer3.0.bn2"  # the last BN: its suffix holds no convolution
    config.collect.k = 50  # an epoch on cached features costs seconds, not nothing
    config.collect.views = 2
    config.compute.memory_mb = 4096  # room for the features of both views: 2.7 GiB
    return config
