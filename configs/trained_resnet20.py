"""A trained ResNet-20 on all of CIFAR-10, on 2 CPU cores: its frozen part runs once, and everything else on features.

python launch.py --config=configs/trained_resnet20.py --init=FILE

FILE holds weights of the public PyTorch release akamaster/pytorch_resnet_cifar10 or of any network with its layers.
Layers are named as there, -1 is the last block: --config.collect.subset=layer3.-1.bn2 is the last BN, linear the last
layer, layer3.-1 the last block, bn1,layer*.*.bn* all BN. Other depths: --config.backbone.name=resnet44 (or resnet110).
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """200 checkpoints of the last block's BN along a trajectory, as BEND collects them."""
    config = run_path(str(Path(__file__).with_name("default.py")))["get_config"]()
    config.task = "trained_resnet20"

    config.data.init_unseen = "test"  # the network has seen every training image
    config.data.validation = 0.5  # of the test images; the other half is the test
    config.data.mean = (0.485, 0.456, 0.406)  # what the release normalises with
    config.data.std = (0.229, 0.224, 0.225)

    config.backbone.name = "resnet20"

    config.collect.subset = "layer3.-1.bn1,layer3.-1.bn2"
    config.collect.views = 2
    config.compute.memory_mb = 4096  # room for the features of both views: 3.1 GiB
    return config
