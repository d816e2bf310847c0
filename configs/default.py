"""Every setting of a run, from the dataclasses that hold them: published values unless a description says otherwise.

python launch.py --config=configs/<task>.py --config.collect.k=100 --config.collect.subset=layer4.1.bn2

docs/settings.md lists all settings; tasks are short differences from this configuration.
"""

from ml_collections import ConfigDict

from bend_jax.run.config import defaults


def get_config() -> ConfigDict:
    """ResNet-50 on CIFAR-10 as BEND trains it."""
    return ConfigDict(defaults())
