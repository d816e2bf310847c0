"""What the four CIFAR-100 tasks share; a task of its own with default.py's ResNet-50."""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """CIFAR-100 and its longer schedule."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "cifar100"
    config.data.name = "cifar100"
    config.data.mean = (0.5071, 0.4865, 0.4409)
    config.data.std = (0.2673, 0.2564, 0.2762)
    config.data.rotation = 15.0
    config.base.epochs = 200
    config.base.milestones = (60, 120, 160)
    return config
