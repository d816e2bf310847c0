"""A trained ResNet-32 on all of CIFAR-10, on 2 CPU cores: all else as trained_resnet20.py.

python launch.py --config=configs/trained_resnet32.py --init=FILE
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Another depth."""
    config = run_path(str(Path(__file__).with_name("trained_resnet20.py")))["get_config"]()
    config.task = "trained_resnet32"
    config.backbone.name = "resnet32"
    return config
