"""Backbones by name."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from bend_jax.checks import did_you_mean
from bend_jax.models.airbench import Airbench
from bend_jax.models.backbone import ResidualNet
from bend_jax.models.convnext import ConvNeXt
from bend_jax.models.efficientnet import EfficientNet
from bend_jax.models.regnet import RegNetBlock
from bend_jax.models.resnet import BasicBlock, Bottleneck, PaddedBlock, PreactivatedBlock
from bend_jax.models.vit import VisionTransformer


class Architecture(NamedTuple):
    """A network as its paper gives it: net(num_classes=, widths=, blocks=, dtype=) with one number a stage in widths
    and blocks; stem: channels of a stem that is a setting of its own, else 0."""

    net: Callable[..., nn.Module]
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem: int = 0


PATCH = 16  # pixels a side of the published vision transformers'
RESNET_WIDTHS, RESNET_STRIDES = (64, 128, 256, 512), (1, 2, 2, 2)
RESNETS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110)  # 6 n + 2 layers: n blocks of two convolutions in each of three stages
REGNET = ((32, 64, 160, 384), (1, 2, 7, 12), 64)  # of the 400MF nets


def _residual(block: Callable[..., nn.Module], strides: tuple[int, ...], **more: object) -> Callable[..., nn.Module]:
    return partial(ResidualNet, block, strides=strides, **more)


BACKBONES = {
    **{name: Architecture(_residual(b, RESNET_STRIDES), RESNET_WIDTHS, n, 64) for name, (b, n) in RESNETS.items()},
    **{
        f"{name}_imagenet": Architecture(_residual(b, RESNET_STRIDES, reduces=True), RESNET_WIDTHS, n, 64)
        for name, (b, n) in RESNETS.items()
    },
    **{
        f"resnet{depth}": Architecture(
            _residual(PaddedBlock, (1, 2, 2), head="linear"), (16, 32, 64), (depth // 6,) * 3, 16
        )
        for depth in CIFAR_DEPTHS
    },
    "wrn_28_10": Architecture(
        _residual(PreactivatedBlock, (1, 2, 2), is_preactivated=True), (160, 320, 640), (4, 4, 4), 16
    ),
    "regnetx_400mf": Architecture(_residual(RegNetBlock, (1, 1, 2, 2)), *REGNET),
    "regnety_400mf": Architecture(_residual(partial(RegNetBlock, se_ratio=0.25), (1, 1, 2, 2)), *REGNET),
    "airbench94": Architecture(Airbench, (64, 256, 256), (2, 2, 2)),
    "airbench96": Architecture(Airbench, (128, 384, 512), (3, 3, 3)),
    "vit_tiny": Architecture(VisionTransformer, (192,), (12,)),
    "vit_small": Architecture(VisionTransformer, (384,), (12,)),
    "vit_base": Architecture(VisionTransformer, (768,), (12,)),
    "convnext_tiny": Architecture(ConvNeXt, (96, 192, 384, 768), (3, 3, 9, 3)),
    "convnext_base": Architecture(ConvNeXt, (128, 256, 512, 1024), (3, 3, 27, 3)),
    "efficientnet_b0": Architecture(EfficientNet, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
}
NAMES = tuple(BACKBONES)


def build(
    name: str,
    num_classes: int,
    *,
    widths: Sequence[int] = (),
    blocks: Sequence[int] = (),
    patch: int = PATCH,
    dtype: str = "float32",
) -> nn.Module:
    """The backbone of that name. `module.apply(variables, images[n, h, w, c]) -> logits[n, classes]`.

    widths, blocks: one number a stage; empty means the published ones; with widths of one's own the stem of a residual
    net is as wide as the first stage. patch: pixels a side of a vision transformer's patch. dtype: "float32" or
    "bfloat16", of the computation. Inference mode unless `train=True` is passed to apply. Raises ValueError for an
    unknown name, or for settings that do not fit each other; init and apply raise it for images that are too small.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}{did_you_mean(name, NAMES)}; there are {', '.join(NAMES)}")
    published = BACKBONES[name]
    depths = tuple(blocks) or published.blocks
    channels = tuple(widths) or published.widths[: len(depths)]
    if len(channels) != len(depths) or len(depths) > len(published.blocks):
        stages = len(published.blocks)
        raise ValueError(
            f"widths {channels} and blocks {depths} need one number for each stage, and {name} has at most "
            f"{stages} stage{'s' * (stages > 1)}"
        )
    if getattr(published.net, "args", ()) == (PaddedBlock,) and sorted(channels) != list(channels):
        raise ValueError(f"widths {channels} must not fall: the shortcuts of {name} can only add channels")
    if min(num_classes, patch, *channels, *depths) < 1:
        raise ValueError(
            "num_classes, patch, widths and blocks must be at least 1; "
            f"got {num_classes}, {patch}, {channels}, {depths}"
        )
    more = {"stem": widths[0] if widths else published.stem} if published.stem else {}
    if published.net is VisionTransformer:
        more["patch"] = patch
    elif patch != PATCH:
        raise ValueError(f"patch={patch} is of vision transformers; {name} has no patches")
    return published.net(num_classes=num_classes, widths=channels, blocks=depths, dtype=dtype, **more)
