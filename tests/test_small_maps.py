"""Convolutions of few pixels as dense products: against `lax`, and where the split uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import small_maps
from bend_jax.split import cut

# size, taps, strides, padding, dilation
CASES = [
    ((2, 2), (3, 3), (1, 1), "SAME", (1, 1)),
    ((2, 2), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    ((1, 2), (2, 3), (1, 1), ((0, 1), (2, 0)), (1, 1)),
    ((4, 1), (3, 1), (1, 1), ((2, 2), (0, 0)), (2, 1)),
    ((2, 2), (3, 3), (1, 1), ((0, 0), (-1, 2)), (1, 1)),
]


def convolution(size, taps, strides, padding, dilation, layout=("NHWC", "HWIO", "NHWC")):
    """The one equation of a convolution with 3 channels in and 5 out, and its operands."""
    keys = jax.random.split(jax.random.key(0))
    lengths = {"N": 7, "H": size[0], "W": size[1], "C": 3}
    kernel = {"H": taps[0], "W": taps[1], "I": 3, "O": 5}
    x = jax.random.normal(keys[0], [lengths[a] for a in layout[0]])
    w = jax.random.normal(keys[1], [kernel[a] for a in layout[1]])
    how = {"window_strides": strides, "padding": padding, "rhs_dilation": dilation, "dimension_numbers": layout}
    run = lambda x, w: jax.lax.conv_general_dilated(x, w, **how)  # noqa: E731
    return run, x, w, jax.make_jaxpr(run)(x, w).eqns[0].params


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "CHWN")])
def test_the_dense_product_is_the_convolution(case, layout):
    run, x, w, params = convolution(*case, layout)
    expected = run(x, w)
    np.testing.assert_allclose(small_maps.convolve(x, w, expected.shape, params), expected, atol=1e-5)
    assert small_maps.is_small(x.shape, w.shape, expected.shape, params) == (expected.size <= 4 * 7 * 5)


def test_larger_maps_single_taps_and_groups_stay_convolutions():
    run, x, w, params = convolution(*CASES[0])
    out = run(x, w).shape
    assert small_maps.is_small(x.shape, w.shape, out, params)
    assert not small_maps.is_small((7, 4, 4, 3), w.shape, (7, 2, 2, 5), params)
    assert not small_maps.is_small(x.shape, (1, 1, 3, 5), out, params)
    assert not small_maps.is_small(x.shape, w.shape, out, {**params, "feature_group_count": 3})
    assert not small_maps.is_small(x.shape, w.shape, out, {**params, "lhs_dilation": (2, 2)})


@pytest.mark.parametrize("any_batch", [False, True])
def test_a_split_runs_a_constant_kernel_as_a_product_and_one_of_the_vector_as_it_is(any_batch):
    run, x, w, _ = convolution(*CASES[0])
    scale, fixed = jnp.ones(3), jnp.asarray(w)

    def frozen(scale, x):
        return run(x * scale[None, None, None], fixed).mean(axis=(1, 2))

    def own(w, x):
        return run(x, w).mean(axis=(1, 2))

    for fn, params, convolves in ((frozen, scale, False), (own, w, True)):
        parts = cut(fn, params, x, any_batch=any_batch)
        found = jax.make_jaxpr(lambda p, parts=parts: parts.suffix(p, parts.prefix(x)))(params)
        assert ("conv_general_dilated" in str(found)) == convolves
        np.testing.assert_allclose(parts.suffix(params, parts.prefix(x)), fn(params, x), atol=1e-5)
        gradient = jax.grad(lambda p, parts=parts: parts.suffix(p, parts.prefix(x)).sum())(params)
        np.testing.assert_allclose(gradient, jax.grad(lambda p, fn=fn: fn(p, x).sum())(params), atol=1e-4)
