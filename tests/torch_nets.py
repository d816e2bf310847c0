"""ResNet-18, ResNet-20 and RegNetY-400MF with the CIFAR stem in PyTorch, for the parity test (named as kuangliu's)."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias, padded to keep the size."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        """Two convolutions and the skip."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class PlainShortcut(nn.Module):
    """Every second pixel, a quarter of the new channels' zeros before and after: without parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Any) -> Any:
        """Sliced and padded."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.width // 4, self.width // 4))


class PlainBlock(Block):
    """A basic block with that shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.shortcut = PlainShortcut(width) if stride > 1 else nn.Sequential()


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.se1, self.se2 = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Any) -> Any:
        """Channels times their gate."""
        return x * torch.sigmoid(self.se2(functional.relu(self.se1(x.mean((2, 3), keepdim=True)))))


class RegBlock(nn.Module):
    """A RegNetY block."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, width // 16), nn.BatchNorm2d(width)
        self.se = Gate(width, round(inputs * 0.25))
        self.conv3, self.bn3 = conv(width, width, 1), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        """Three convolutions, the gate and the skip."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.se(functional.relu(self.bn2(self.conv2(y))))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class Net(nn.Module):
    """Stem, stages, mean over the image, linear."""

    def __init__(
        self, block: Any, widths: tuple[int, ...], blocks: tuple[int, ...], strides: tuple[int, ...], stem: int = 64
    ) -> None:
        super().__init__()
        self.stages = len(widths)
        self.conv1, self.bn1, inputs = conv(3, stem, 3), nn.BatchNorm2d(stem), stem
        for i, (width, count, stride) in enumerate(zip(widths, blocks, strides, strict=True), start=1):
            layers = [block(inputs if j == 0 else width, width, stride if j == 0 else 1) for j in range(count)]
            setattr(self, f"layer{i}", nn.Sequential(*layers))
            inputs = width
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x: Any) -> Any:
        """Logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.linear(x.mean((2, 3)))


def build(name: str) -> nn.Module:
    """ "resnet18", "resnet20" or "regnety_400mf"."""
    if name == "resnet20":
        return Net(PlainBlock, (16, 32, 64), (3, 3, 3), (1, 2, 2), 16)
    if name == "resnet18":
        return Net(Block, (64, 128, 256, 512), (2, 2, 2, 2), (1, 2, 2, 2))
    return Net(RegBlock, (32, 64, 160, 384), (1, 2, 7, 12), (1, 1, 2, 2))


class WideBlock(nn.Module):
    """A block of a Wide ResNet, as its authors have it: BN and ReLU first."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.convShortcut = conv(inputs, width, 1, stride) if inputs != width else None

    def forward(self, x: Any) -> Any:
        """The skip is taken after the first BN and ReLU where it is a convolution."""
        y = functional.relu(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(y)
        return self.conv2(functional.relu(self.bn2(self.conv1(y)))) + skip


class WideStage(nn.Module):
    """Blocks under the name `layer`."""

    def __init__(self, inputs: int, width: int, stride: int, blocks: int) -> None:
        super().__init__()
        own = [WideBlock(inputs if i == 0 else width, width, stride if i == 0 else 1) for i in range(blocks)]
        self.layer = nn.Sequential(*own)

    def forward(self, x: Any) -> Any:
        """One after the other."""
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-(6 blocks + 4)-k: three stages of 16, 32 and 64 times k channels."""

    def __init__(self, blocks: int, k: int) -> None:
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        self.block1 = WideStage(16, 16 * k, 1, blocks)
        self.block2 = WideStage(16 * k, 32 * k, 2, blocks)
        self.block3 = WideStage(32 * k, 64 * k, 2, blocks)
        self.bn1, self.fc = nn.BatchNorm2d(64 * k), nn.Linear(64 * k, 10)

    def forward(self, x: Any) -> Any:
        """Logits."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))
