"""Backbones have the published sizes, names, shapes and modes."""

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models
from bend_jax.models.resnet import PaddedBlock
from bend_jax.subset import select

SMALL = {"widths": (4, 8), "blocks": (1, 1)}


def shapes_of(name: str, num_classes: int, **settings: Any) -> Any:
    """Variables as shapes, nothing computed."""
    module = models.build(name, num_classes, **settings)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


@cache
def shapes(name: str) -> Any:
    """The published net's, for 10 classes."""
    return shapes_of(name, 10)


def small(dtype: str = "float32") -> tuple[Any, Any, jax.Array]:
    """A narrow ResNet of two blocks, its variables and four images."""
    module = models.build("resnet18", 3, dtype=dtype, **SMALL)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    return module, jax.jit(module.init)(jax.random.key(0), images), images


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("resnet20", 269_722),  # those of He et al. 2016, section 4.2: 0.27, 0.46, 0.66, 0.85 and 1.7 million
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("airbench94", 1_971_640),  # Jordan 2024: 1.97 million
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    """CIFAR stem, 10 classes."""
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(name)["params"])) == count


@pytest.mark.parametrize(
    ("name", "patterns", "dim"),
    [
        ("resnet20", ["layer3.-1.bn2"], 128),
        ("resnet20", ["layer3.2.bn1", "layer3.2.bn2"], 256),
        ("resnet56", ["layer3.-1.bn1", "layer3.-1.bn2"], 256),
        ("resnet20", ["linear"], 650),
        ("resnet20", ["layer3.-1"], 2 * 9 * 64 * 64 + 256),
        ("resnet20", ["bn1", "layer*.*.bn*"], 2 * (16 + 6 * (16 + 32 + 64))),
        ("resnet50", ["layer4.0.bn2", "layer4.0.bn3"], 5120),
        ("resnet50", ["layer4.2.bn2", "layer4.2.bn3"], 5120),
        ("resnet50", ["layer3.5.bn2", "layer3.5.bn3"], 2560),
        ("resnet50", ["layer1.0.conv1.weight"], 4096),
        ("resnet50", ["layer3.5.conv3.weight"], 262_144),
        ("resnet50", ["fc"], 20_490),
        ("resnet18", ["layer4.1.bn1", "layer4.1.bn2"], 2048),
        ("regnetx_400mf", ["layer4.11.bn2", "layer4.11.bn3"], 1536),
        ("regnety_400mf", ["layer4.11.bn2", "layer4.11.bn3"], 1536),
    ],
)
def test_layers_have_the_dimensions_of_table_5(name: str, patterns: list[str], dim: int) -> None:
    """BEND's Table 5, by the papers' own layer names."""
    assert select(shapes(name), patterns).dim == dim


def test_modules_are_named_and_nested_as_in_the_papers() -> None:
    """conv1, bn1, layer1 .. layer4, fc; blocks by number; shortcut.0 and shortcut.1."""
    params = shapes("resnet50")["params"]
    assert set(params) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    assert [len(params[f"layer{i}"]) for i in range(1, 5)] == [3, 4, 6, 3]
    inner = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    assert set(params["layer4"]["0"]) == inner | {"shortcut"}
    assert set(params["layer4"]["1"]) == inner
    assert set(params["layer4"]["0"]["shortcut"]) == {"0", "1"}
    assert set(params["layer4"]["2"]["bn3"]) == {"bias", "scale"}
    assert set(shapes("resnet50")["batch_stats"]["layer4"]["2"]["bn3"]) == {"mean", "var"}
    assert "shortcut" not in shapes("resnet18")["params"]["layer1"]["0"]


@pytest.mark.parametrize("name", ["regnetx_400mf", "regnety_400mf"])
def test_regnets_are_counted_by_hand(name: str) -> None:
    """Depths 1, 2, 7, 12, widths 32, 64, 160, 384, groups of 16; Y squeezes to a quarter of the block's input."""
    params = shapes(name)["params"]
    assert [len(params[f"layer{i}"]) for i in range(1, 5)] == [1, 2, 7, 12]
    expected, width_in = 3 * 3 * 3 * 64 + 2 * 64, 64
    for width, depth in ((32, 1), (64, 2), (160, 7), (384, 12)):
        for i in range(depth):
            expected += width_in * width + 3 * 3 * 16 * width + width * width + 3 * 2 * width
            expected += width_in * width + 2 * width if i == 0 else 0  # the shortcut
            squeezed = width_in // 4 if name == "regnety_400mf" else 0
            expected += 2 * squeezed * width + squeezed + width if squeezed else 0
            width_in = width
    expected += 384 * 10 + 10
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == expected
    inner = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"} | ({"se"} if name == "regnety_400mf" else set())
    assert set(params["layer4"]["0"]) == inner | {"shortcut"}
    assert set(params["layer4"]["11"]) == inner


@pytest.mark.parametrize(
    ("name", "classes", "images", "settings"),
    [
        ("resnet18", 10, (2, 32, 32, 3), {}),
        ("resnet50", 100, (5, 32, 32, 3), {}),
        ("resnet18", 3, (1, 8, 8, 1), SMALL),
        ("resnet50", 3, (7, 9, 11, 2), SMALL),
        ("regnety_400mf", 3, (2, 8, 8, 3), {"widths": (16, 32), "blocks": (1, 1)}),
    ],
)
def test_logits_are_one_row_an_image(
    name: str, classes: int, images: tuple[int, ...], settings: dict[str, tuple[int, ...]]
) -> None:
    """Any number of images, channels and any size."""
    module = models.build(name, classes, **settings)  # pyright: ignore[reportArgumentType]
    x = jax.ShapeDtypeStruct(images, jnp.float32)
    logits = jax.eval_shape(lambda v, x: module.apply(v, x), jax.eval_shape(module.init, jax.random.key(0), x), x)
    assert isinstance(logits, jax.ShapeDtypeStruct)
    assert logits.shape == (images[0], classes)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "sides", "channels"),
    [
        ("resnet18", (32, 16, 8, 4), (64, 128, 256, 512)),
        ("resnet50", (32, 16, 8, 4), (256, 512, 1024, 2048)),
        ("regnetx_400mf", (32, 32, 16, 8), (32, 64, 160, 384)),
    ],
)
def test_stages_have_the_published_strides(name: str, sides: tuple[int, ...], channels: tuple[int, ...]) -> None:
    """ResNets halve the image in all stages but the first, RegNets in the last two; the stem does neither."""
    module = models.build(name, 10)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    def blocks(variables: Any, x: jax.Array) -> Any:
        return module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])[1]["intermediates"]

    seen: Any = jax.eval_shape(blocks, shapes(name), x)
    assert seen["conv1"]["__call__"][0].shape == (1, 32, 32, 64)
    found = [seen[f"layer{i}"]["__call__"][0].shape for i in range(1, 5)]
    assert found == [(1, side, side, width) for side, width in zip(sides, channels, strict=True)]


def test_inference_mode_is_the_default() -> None:
    """An image's logits do not depend on its neighbours, and no collection has to be mutable."""
    module, variables, images = small()
    apply = jax.jit(lambda x: module.apply(variables, x))
    mixed = jnp.concatenate([images[:1], 5 + 3 * images[1:]])
    np.testing.assert_allclose(apply(images)[0], apply(mixed)[0], atol=1e-6)


def test_inference_reads_the_running_statistics() -> None:
    """Other statistics, other logits."""
    module, variables, images = small()
    apply = jax.jit(module.apply)
    moved = {**variables, "batch_stats": jax.tree.map(lambda x: x + 0.5, variables["batch_stats"])}
    assert not np.allclose(apply(variables, images), apply(moved, images), atol=1e-3)


def test_training_mode_moves_the_running_statistics_by_a_tenth() -> None:
    """Logits come from the batch's statistics, which enter the running ones at weight 0.1."""
    module, variables, images = small()
    train = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"], capture_intermediates=True))
    logits, state = train(variables, images)
    first = state["intermediates"]["conv1"]["__call__"][0]
    stats = state["batch_stats"]
    np.testing.assert_allclose(stats["bn1"]["mean"], 0.1 * first.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["bn1"]["var"], 0.9 + 0.1 * first.var((0, 1, 2)), rtol=1e-4)
    pairs = zip(jax.tree.leaves(stats), jax.tree.leaves(variables["batch_stats"]), strict=True)
    assert all(not np.array_equal(a, b) for a, b in pairs)
    assert not np.allclose(logits, jax.jit(module.apply)(variables, images), atol=1e-3)


def test_bfloat16_is_of_the_computation_only() -> None:
    """Parameters, statistics and logits stay float32; the logits are near to those of float32 but not the same."""
    module, variables, images = small("bfloat16")
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.jit(module.apply)(variables, images)
    assert logits.dtype == jnp.float32
    exact = jax.jit(small()[0].apply)(variables, images)
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.1 * float(jnp.abs(exact).max()))
    jaxpr = jax.make_jaxpr(module.apply)(variables, images)
    convolutions = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert {e.outvars[0].aval.dtype for e in convolutions} == {jnp.dtype("bfloat16")}  # pyright: ignore[reportAttributeAccessIssue]
    _, state = jax.eval_shape(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]), variables, images)
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_widths_and_blocks_are_settings() -> None:
    """One number a stage, lists and tuples alike."""
    params = shapes_of("resnet18", 5, widths=[4, 8, 16], blocks=[1, 2, 1])["params"]
    assert [len(params[f"layer{i}"]) for i in (1, 2, 3)] == [1, 2, 1]
    assert "layer4" not in params
    assert params["fc"]["kernel"].shape == (16, 5)
    assert hash(models.build("resnet18", 5, widths=[4], blocks=[1])) == hash(
        models.build("resnet18", 5, widths=(4,), blocks=(1,))
    )


def test_an_unknown_name_or_unequal_settings_are_errors() -> None:
    """The message says what there is."""
    with pytest.raises(ValueError, match=r"'resnet1'.*resnet18.*resnet50"):
        models.build("resnet1", 10)
    for wrong in ({"num_classes": 0}, {"widths": (0,) * 4}, {"blocks": (1, -1)}):
        with pytest.raises(ValueError, match="must be at least 1; got"):
            models.build(**{"name": "resnet18", "num_classes": 10, **wrong})
    with pytest.raises(ValueError, match="one number for each stage"):
        models.build("resnet18", 10, widths=(4, 8), blocks=(1, 1, 1))
    with pytest.raises(ValueError, match="at most 4 stages"):
        models.build("resnet18", 10, widths=(4,) * 5, blocks=(1,) * 5)


def test_a_padded_shortcut_is_every_second_pixel_between_zero_channels() -> None:
    """Option A: where the block's own branch is zero, what comes out is its input, sliced and padded, rectified."""
    block = PaddedBlock(width=9, stride=2, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    variables = block.init(jax.random.key(1), x, False)
    assert set(variables["params"]) == {"conv1", "bn1", "conv2", "bn2"}
    silent = jax.tree.map(jnp.zeros_like, variables["params"])
    found = np.asarray(block.apply({**variables, "params": silent}, x, False))
    assert found.shape == (2, 4, 3, 9)
    np.testing.assert_array_equal(found[..., 2:6], np.maximum(x[:, ::2, ::2], 0))
    np.testing.assert_array_equal(found[..., :2], 0)
    np.testing.assert_array_equal(found[..., 6:], 0)


def test_padded_shortcuts_cannot_drop_channels() -> None:
    """One error before anything is built."""
    with pytest.raises(ValueError, match=r"\(16, 8\) must not fall: the shortcuts of resnet20"):
        models.build("resnet20", 10, widths=(16, 8), blocks=(1, 1))
