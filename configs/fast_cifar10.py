"""A base that trains fast: the network and the recipe of airbench96 (Jordan 2024, arXiv 2404.00498), 40 epochs.

python launch.py --config=configs/fast_cifar10.py

Its learning rates are those of a loss summed over the batch, written for the mean. Instead of its Lookahead the weights
are averaged over the last steps, and the biases of the first layer are trained throughout. Images are looked at
mirrored and moved by a pixel in the vote.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Nothing here was measured on a GPU."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "fast_cifar10"
    config.backbone.name = "airbench96"
    config.backbone.dtype = "bfloat16"

    config.data.crop_padding = "reflect"
    config.data.flip_alternates = True
    config.data.cutout = 12

    config.base.epochs = 40
    config.base.batch = 1024
    config.base.lr = 1.2
    config.base.momentum = 0.85
    config.base.nesterov = True
    config.base.weight_decay = 0.0013
    config.base.schedule = "linear"
    config.base.warmup = 9
    config.base.label_smoothing = 0.2
    config.base.lr_factors = "whiten.kernel:0,layer*.bn*.bias:64"
    config.base.ema = 0.99

    config.collect.subset = "layer3.bn3,fc"  # the last BN has no scale
    config.collect.cache_dtype = "bfloat16"
    config.evaluate.views = "identity,flip,left,right,up,down"
    return config
