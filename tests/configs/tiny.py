"""Noisy stripes in four directions, on 8x8 pixels, and a net of two narrow blocks: a run in seconds.

It stands in for the digits in tests of what a run writes, reuses and survives. `tests.problems.write_images` writes
its images, and `--config.data.name=npz:PATH` names them.
"""

from pathlib import Path
from runpy import run_path

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """k = 6 checkpoints and m = 5 members; everything else as default.py."""
    config = run_path(str(Path(__file__).parents[2] / "configs" / "default.py"))["get_config"]()
    config.task = "tiny"
    config.data.validation = 1 / 4
    config.data.crop = 1
    config.data.flip = False
    config.data.mean = (0.5,)
    config.data.std = (0.3,)
    config.backbone.name = "resnet18"
    config.backbone.widths = (4, 8)
    config.backbone.blocks = (1, 1)
    config.base.epochs = 12
    config.base.batch = 32
    config.base.milestones = (9,)
    config.collect.subset = "layer2.0.bn1,layer2.0.bn2"
    config.collect.k = 6
    config.collect.batch = 32
    config.collect.views = 2
    config.collect.trajectory.lr = 0.05  # far enough apart for votes over different sets to differ
    config.members = 5
    config.generate.bend.autoencoder.kind = "mlp"
    config.generate.bend.autoencoder.steps = 60
    config.generate.bend.diffusion.steps = 60
    config.generate.bend.diffusion.segment = 20
    config.generate.bend.diffusion.timesteps = 50
    config.compute.memory_mb = 256
    return config
