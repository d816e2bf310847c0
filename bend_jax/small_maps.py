"""Convolutions on maps of few pixels as one dense product: the same sums, without the taps that fall on padding.

On a CPU a 3x3 convolution of a 2x2 map runs at a tenth of the speed of a matrix product, and 20 of its 36 taps read
padding. As a product of [n, pixels * channels] and [pixels * channels, pixels * channels] it has the other 16.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PIXELS = 4  # of a map before and after; on 4x4 maps the product is slower


def is_small(lhs: Any, kernel: Any, out: Any, params: dict[str, Any]) -> bool:
    """Whether a `lax.conv_general_dilated` of these shapes and parameters is better as a dense product."""
    spec = params["dimension_numbers"]
    sizes = [np.prod([shape[i] for i in axes[2:]]) for shape, axes in ((lhs, spec.lhs_spec), (out, spec.out_spec))]
    taps = np.prod([kernel[i] for i in spec.rhs_spec[2:]])
    groups = params["feature_group_count"] * params["batch_group_count"]
    return bool(max(sizes) <= PIXELS and taps > 1 and groups == 1 and set(params["lhs_dilation"]) <= {1})


def convolve(x: jax.Array, kernel: jax.Array, out: Any, params: dict[str, Any]) -> jax.Array:
    """`lax.conv_general_dilated` as a dense product; `is_small` says where. out: the shape of the result."""
    spec = params["dimension_numbers"]
    images = x.transpose(spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1])
    taps = kernel.transpose(*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0])
    n, *before, channels = images.shape
    after = [out[i] for i in spec.out_spec[2:]]
    index, is_inside = _taps(before, after, taps.shape[:-2], params)
    dense = jnp.where(is_inside[..., None, None], taps[index], 0)  # [pixels, pixels', channels, channels']
    dense = dense.swapaxes(1, 2).reshape(int(np.prod(before)) * channels, -1)
    dtype = params["preferred_element_type"]
    found = jnp.dot(images.reshape(n, -1), dense, precision=params["precision"], preferred_element_type=dtype)
    found = found.reshape(n, *after, taps.shape[-1])
    return found.transpose(np.argsort((spec.out_spec[0], *spec.out_spec[2:], spec.out_spec[1])))


def _taps(before: Any, after: Any, size: Any, params: dict[str, Any]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The tap of the kernel from each pixel to each one of the result [pixels, pixels'], by axis, and whether there
    is one."""
    index, is_inside = [], np.ones((int(np.prod(before)), int(np.prod(after))), bool)
    sources, targets = np.indices(before).reshape(len(before), -1), np.indices(after).reshape(len(after), -1)
    rows = zip(sources, targets, size, params["window_strides"], params["padding"], params["rhs_dilation"], strict=True)
    for source, target, taps, stride, (low, _), dilation in rows:
        offset = source[:, None] + low - target[None] * stride
        tap = offset // dilation
        is_inside &= (offset % dilation == 0) & (tap >= 0) & (tap < taps)
        index.append(np.clip(tap, 0, taps - 1))
    return tuple(index), is_inside
