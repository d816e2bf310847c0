"""Backbones by name."""

from collections.abc import Sequence

import flax.linen as nn

from bend_jax.models.resnet import BasicBlock, Bottleneck, ResNet

# name -> (block, blocks of each stage)
RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
NAMES = tuple(RESNETS)


def build(
    name: str, num_classes: int, *, widths: Sequence[int] = (), blocks: Sequence[int] = (), dtype: str = "float32"
) -> nn.Module:
    """The backbone of that name. `module.apply(variables, images[n, h, w, c]) -> logits[n, classes]`.

    widths, blocks: one number a stage; empty means the published ones. dtype: "float32" or "bfloat16", of the
    computation. Inference mode unless `train=True` is passed to apply. Raises ValueError for an unknown name.
    """
    if name not in RESNETS:
        raise ValueError(f"unknown backbone {name!r}; there are: {', '.join(NAMES)}")
    block, published = RESNETS[name]
    depths = tuple(blocks) or published
    channels = tuple(widths) or tuple(64 * 2**i for i in range(len(depths)))
    if len(channels) != len(depths):
        raise ValueError(f"widths {channels} and blocks {depths} must have one number for each stage")
    return ResNet(block, num_classes, channels, depths, dtype)
