"""RegNet blocks (Radosavovic et al. 2020) with bottleneck ratio 1."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from bend_jax.models.backbone import Shortcut, SqueezeExcitation, conv, norm


class RegNetBlock(nn.Module):
    """1x1, grouped 3x3, squeeze-excitation (where the ratio is above 0), 1x1, and a skip.

    se_ratio is of the block's input width, as the published RegNetY has it.
    """

    width: int
    stride: int
    dtype: Any
    group_width: int = 16
    se_ratio: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 c2"]:
        groups = max(1, self.width // self.group_width)
        y = conv(self.width, (1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(train, self.dtype, "bn1")(y))
        y = conv(
            self.width,
            (3, 3),
            self.stride,
            padding=1,
            feature_group_count=groups,
            dtype=self.dtype,
            name="conv2",
        )(y)
        y = nn.relu(norm(train, self.dtype, "bn2")(y))
        if self.se_ratio:
            y = SqueezeExcitation(round(x.shape[-1] * self.se_ratio), self.dtype, name="se")(y)
        y = conv(self.width, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = norm(train, self.dtype, "bn3")(y)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = Shortcut(self.width, self.stride, self.dtype, name="shortcut")(x, train)
        return nn.relu(x + y)
