"""The whole run on the full CIFAR-10 on 2 CPU cores: a narrow airbench94 (Jordan 2024) with its recipe, ten epochs.

python launch.py --config=configs/cifar10_small.py
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A small net and a short schedule; everything else as default.py."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "cifar10_small"

    config.data.crop = 2
    config.data.crop_padding = "reflect"
    config.data.flip_alternates = True

    config.backbone.name = "airbench94"
    config.backbone.widths = (16, 64, 128)  # most of the time is spent on the first group's large maps
    config.backbone.blocks = (2, 2, 2)

    config.base.epochs = 10
    config.base.batch = 128
    config.base.lr = 0.19
    config.base.momentum = 0.85
    config.base.nesterov = True
    config.base.weight_decay = 0.0013
    config.base.schedule = "linear"
    config.base.warmup = 2
    config.base.label_smoothing = 0.2
    config.base.lr_factors = "whiten.kernel:0,layer*.bn*.bias:64"

    config.collect.subset = "layer3.bn2"  # the last BN: its suffix holds no convolution
    config.collect.k = 50  # an epoch on cached features costs seconds, not nothing
    config.collect.views = 2
    config.compute.memory_mb = 4096  # room for the features of both views
    return config
