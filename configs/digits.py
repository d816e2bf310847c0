"""scikit-learn's bundled 8x8 digits, made hard by pixel noise: the whole road in under a minute and a half on 2 cores.

python launch.py --config=configs/digits.py
python launch.py --config=configs/digits.py --config.collect.name=bootstrap
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A three-block ResNet, k = m = 100."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "digits"

    config.data.name = "digits"
    config.data.noise = 0.3  # clean digits are right 97% of the time: nothing left for a vote
    config.data.validation = 1 / 3  # of the half that is not test
    config.data.crop = 1  # of 8 pixels
    config.data.flip = False  # a mirrored digit is another digit
    config.data.mean = (0.36,)  # of the noisy training images
    config.data.std = (0.37,)

    config.backbone.name = "resnet18"
    config.backbone.widths = (16, 32, 64)
    config.backbone.blocks = (1, 1, 1)

    config.base.epochs = 40
    config.base.milestones = (20, 30, 36)

    config.collect.subset = "layer3.0.bn1,layer3.0.bn2"  # the last block's BN: 256 numbers
    config.collect.k = 100
    config.collect.views = 8  # 600 images are few: more views of each
    config.collect.bootstrap.lr = 0.5  # far enough from the base for resamples to differ

    config.compute.memory_mb = 1024
    return config
