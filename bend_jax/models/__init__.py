"""Backbones by name."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from bend_jax.models.backbone import ResidualNet
from bend_jax.models.regnet import RegNetBlock
from bend_jax.models.resnet import BasicBlock, Bottleneck, PaddedBlock


class Architecture(NamedTuple):
    """A network as its paper gives it, with one number a stage; head: the name of its last layer."""

    block: Callable[..., nn.Module]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    stem: int = 64
    head: str = "fc"


RESNET_WIDTHS, RESNET_STRIDES = (64, 128, 256, 512), (1, 2, 2, 2)
CIFAR_DEPTHS = (20, 32, 44, 56, 110)  # 6 n + 2 layers: n blocks of two convolutions in each of three stages
REGNET = ((32, 64, 160, 384), (1, 2, 7, 12), (1, 1, 2, 2))  # of the 400MF nets
BACKBONES = {
    "resnet18": Architecture(BasicBlock, RESNET_WIDTHS, (2, 2, 2, 2), RESNET_STRIDES),
    "resnet34": Architecture(BasicBlock, RESNET_WIDTHS, (3, 4, 6, 3), RESNET_STRIDES),
    "resnet50": Architecture(Bottleneck, RESNET_WIDTHS, (3, 4, 6, 3), RESNET_STRIDES),
    **{
        f"resnet{depth}": Architecture(PaddedBlock, (16, 32, 64), (depth // 6,) * 3, (1, 2, 2), 16, "linear")
        for depth in CIFAR_DEPTHS
    },
    "regnetx_400mf": Architecture(RegNetBlock, *REGNET),
    "regnety_400mf": Architecture(partial(RegNetBlock, se_ratio=0.25), *REGNET),
}
NAMES = tuple(BACKBONES)


def build(
    name: str, num_classes: int, *, widths: Sequence[int] = (), blocks: Sequence[int] = (), dtype: str = "float32"
) -> nn.Module:
    """The backbone of that name. `module.apply(variables, images[n, h, w, c]) -> logits[n, classes]`.

    widths, blocks: one number a stage; empty means the published ones; with widths of one's own the stem is as wide
    as the first stage. dtype: "float32" or "bfloat16", of the computation. Inference mode unless `train=True` is
    passed to apply. Raises ValueError for an unknown name, or for settings that do not fit each other.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; there are {', '.join(NAMES)}")
    published = BACKBONES[name]
    depths = tuple(blocks) or published.blocks
    channels = tuple(widths) or published.widths[: len(depths)]
    if len(channels) != len(depths) or len(depths) > len(published.strides):
        raise ValueError(
            f"widths {channels} and blocks {depths} need one number for each stage, and {name} has at most "
            f"{len(published.strides)} stages"
        )
    stem = widths[0] if widths else published.stem
    if published.block is PaddedBlock and sorted(channels) != list(channels):
        raise ValueError(f"widths {channels} must not fall: the shortcuts of {name} can only add channels")
    strides = published.strides[: len(depths)]
    return ResidualNet(published.block, num_classes, stem, channels, depths, strides, dtype, published.head)
