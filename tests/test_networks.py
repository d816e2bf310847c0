"""The backbones for larger images: known parameter counts, and each new piece by hand in NumPy."""

import math
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit, softmax

from bend_jax import models, storage
from bend_jax.checks import SettingsError
from bend_jax.ensemble import member_logits
from bend_jax.models import convnext, efficientnet, pytorch, vit
from bend_jax.models.backbone import ResidualNet
from bend_jax.models.resnet import PreactivatedBlock
from bend_jax.split import cut
from bend_jax.subset import flatten, insert, select

F32 = jnp.float32


@cache
def shapes(name: str) -> Any:
    """Of the published net's variables for 1,000 classes, a WRN-28-10's for 10."""
    module = models.build(name, 10 if name == "wrn_28_10" else 1000)
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), F32))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18_imagenet", 11_689_512),  # torchvision's
        pytest.param("resnet34_imagenet", 21_797_672, marks=pytest.mark.slow),
        ("resnet50_imagenet", 25_557_032),
        ("vit_tiny", 5_717_416),  # timm's
        pytest.param("vit_small", 22_050_664, marks=pytest.mark.slow),
        ("vit_base", 86_567_656),
        ("convnext_tiny", 28_589_128),
        pytest.param("convnext_base", 88_591_464, marks=pytest.mark.slow),
        ("efficientnet_b0", 5_288_548),
        ("wrn_28_10", 36_479_194),  # 36.5 million (Zagoruyko & Komodakis 2016, table 5)
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    """At 224 pixels."""
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(name)["params"])) == count


@pytest.mark.parametrize(
    ("name", "pattern", "dim"),
    [
        ("vit_tiny", "blocks.11.norm2", 2 * 192),
        ("vit_tiny", "blocks.-1.norm2", 2 * 192),
        ("vit_tiny", "head", 193 * 1000),
        ("vit_tiny", "norm", 2 * 192),
        ("vit_base", "lora:blocks.*.attn.qkv", 12 * 8 * (768 + 3 * 768)),
        ("vit_base", "lora:blocks.-1.mlp", 2 * 8 * (768 + 4 * 768)),
        ("convnext_tiny", "stages.3.blocks.-1.norm", 2 * 768),
        ("convnext_tiny", "head.fc", 769 * 1000),
        ("convnext_tiny", "lora:stages.3.blocks.*.mlp.fc1", 3 * 8 * (768 + 4 * 768)),
        ("efficientnet_b0", "blocks.6.0.bn3", 2 * 320),
        ("efficientnet_b0", "classifier", 1281 * 1000),
        ("wrn_28_10", "layer3.3.bn2", 2 * 640),
        ("resnet50_imagenet", "layer4.2.bn3", 2 * 2048),
    ],
)
def test_layers_are_found_by_the_names_that_users_know(name: str, pattern: str, dim: int) -> None:
    """Those of timm and torchvision."""
    assert select(shapes(name), [pattern]).dim == dim


# by hand


def drawn(module: Any, *arguments: Any) -> Any:
    """Its variables, with random numbers in every leaf."""
    arguments = tuple(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in arguments)
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (rng.uniform(0.2, 1, x.shape) * rng.choice([-1, 1], x.shape)).astype(np.float32), tree
    )


def run(module: Any, variables: Any, x: np.ndarray, *more: Any) -> Any:
    """What the module makes of x."""
    return jax.jit(lambda v, x: module.apply(v, x, *more))(variables, jnp.asarray(x))


def standardised(x: np.ndarray, p: Any) -> np.ndarray:
    """Layer normalisation."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x: np.ndarray, p: Any) -> np.ndarray:
    """A linear layer."""
    return x @ p["kernel"] + p["bias"]


def mlp(x: np.ndarray, p: Any) -> np.ndarray:
    """Two of them, with x times the normal distribution function between."""
    h = dense(x, p["fc1"])
    return dense(h * (1 + erf(h / np.sqrt(2))) / 2, p["fc2"])


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int, pad: int, groups: int = 1) -> np.ndarray:
    """Each output is the sum of its window times the kernel; the channels in `groups` that do not mix."""
    side, n_in = kernel.shape[0], kernel.shape[2]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (1 + (size - side) // stride for size in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    each = kernel.shape[3] // groups
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            for c in range(kernel.shape[3]):
                first = c // each * n_in
                own = window[..., first : first + n_in] * kernel[..., c]
                out[:, i, j, c] = own.sum((1, 2, 3))
    return out


def batch_norm(x: np.ndarray, p: Any, s: Any) -> np.ndarray:
    """With running statistics."""
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]


def positive(variables: Any) -> Any:
    """The same, with variances that are above 0."""
    return {**variables, "batch_stats": jax.tree.map(np.abs, variables["batch_stats"])}


def block_by_hand(x: np.ndarray, p: Any, heads: int) -> np.ndarray:
    """A transformer's, one head and one image after the other."""
    n, width = len(x), x.shape[-1]
    h, each, mixed = dense(standardised(x, p["norm1"]), p["attn"]["qkv"]), width // heads, np.zeros(x.shape)
    for i in range(n):
        for head in range(heads):
            q, k, v = (h[i, :, part * width + head * each :][:, :each] for part in range(3))
            mixed[i, :, head * each : (head + 1) * each] = softmax(q @ k.T / np.sqrt(each), axis=-1) @ v
    x = x + dense(mixed, p["attn"]["proj"])
    return x + mlp(standardised(x, p["norm2"]), p["mlp"])


def test_a_transformers_block_by_hand() -> None:
    """Two heads; for all tokens, and for the class token alone."""
    x = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    block = vit.Block(2, F32)
    variables = drawn(block, x, 5)
    expected = block_by_hand(x, variables["params"], 2)
    for queries in (5, 1):
        found = run(block, variables, x, queries)
        np.testing.assert_allclose(found, expected[:, :queries], rtol=1e-4, atol=1e-4)


def test_a_vision_transformer_by_hand() -> None:
    """Patches in rows, the class token before them, positions added, and the class token read at the end."""
    net = models.build("vit_tiny", 3, widths=(4,), blocks=(2,), patch=2)
    images = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    variables = drawn(net, images)
    p = variables["params"]
    patches = images.reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 12)
    proj = p["patch_embed"]["proj"]
    tokens = patches @ proj["kernel"].reshape(12, 4) + proj["bias"]
    x = np.concatenate([np.tile(p["cls_token"], (2, 1, 1)), tokens], axis=1) + p["pos_embed"]
    for i in range(2):
        x = block_by_hand(x, p["blocks"][str(i)], 1)
    expected = dense(standardised(x[:, 0], p["norm"]), p["head"])
    np.testing.assert_allclose(run(net, variables, images), expected, rtol=1e-3, atol=1e-3)


def test_a_convnexts_block_by_hand() -> None:
    """A depthwise convolution, and an MLP of each pixel's channels, scaled by gamma."""
    x = np.random.default_rng(1).normal(size=(1, 8, 9, 3)).astype(np.float32)
    block = convnext.Block(F32)
    variables = drawn(block, x)
    p = variables["params"]
    y = convolved(x, p["conv_dw"]["kernel"], 1, 3, groups=3) + p["conv_dw"]["bias"]
    expected = x + p["gamma"] * mlp(standardised(y, p["norm"]), p["mlp"])
    np.testing.assert_allclose(run(block, variables, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("expansion", "stride"), [(1, 1), (6, 1), (6, 2)])
def test_an_efficientnets_block_by_hand(expansion: int, stride: int) -> None:
    """Expansion, depthwise 5x5, gate, projection; a skip where the shape stays."""
    x = np.random.default_rng(1).normal(size=(2, 6, 5, 4)).astype(np.float32)
    block = efficientnet.InvertedResidual(4, stride, 5, expansion, F32)
    variables = positive(drawn(block, x, False))
    p, s, y, number = variables["params"], variables["batch_stats"], x, 1
    last = "conv_pw" if expansion == 1 else "conv_pwl"
    if expansion > 1:
        y = batch_norm(y @ p["conv_pw"]["kernel"][0, 0], p["bn1"], s["bn1"])
        y, number = y * expit(y), 2
    y = convolved(y, p["conv_dw"]["kernel"], stride, 2, groups=4 * expansion)
    y = batch_norm(y, p[f"bn{number}"], s[f"bn{number}"])
    y = y * expit(y)
    gate = y.mean((1, 2), keepdims=True) @ p["se"]["conv_reduce"]["kernel"][0, 0] + p["se"]["conv_reduce"]["bias"]
    gate = gate * expit(gate) @ p["se"]["conv_expand"]["kernel"][0, 0] + p["se"]["conv_expand"]["bias"]
    y = (y * expit(gate)) @ p[last]["kernel"][0, 0]
    expected = batch_norm(y, p[f"bn{number + 1}"], s[f"bn{number + 1}"]) + (x if stride == 1 else 0)
    assert p["se"]["conv_reduce"]["kernel"].shape[-1] == 1  # a quarter of the block's input, not of what is inside
    found = run(block, variables, x, False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_wide_resnets_block_by_hand() -> None:
    """The skip is convolved after the first BN and ReLU where the width changes, and is the input itself elsewhere."""
    x = np.random.default_rng(1).normal(size=(1, 5, 4, 2)).astype(np.float32)
    for width, stride in ((2, 1), (3, 2)):
        block = PreactivatedBlock(width, stride, F32)
        variables = positive(drawn(block, x, False))
        p, s = variables["params"], variables["batch_stats"]
        y = np.maximum(batch_norm(x, p["bn1"], s["bn1"]), 0)
        skip = x if width == 2 else convolved(y, p["shortcut"]["kernel"], stride, 0)
        y = np.maximum(batch_norm(convolved(y, p["conv1"]["kernel"], stride, 1), p["bn2"], s["bn2"]), 0)
        expected = skip + convolved(y, p["conv2"]["kernel"], 1, 1)
        found = run(block, variables, x, False)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_stem_for_imagenet_by_hand() -> None:
    """7x7 with stride 2, BN, ReLU, and the largest of 3x3 with stride 2; with no stages the mean is classified."""
    x = np.random.default_rng(1).normal(size=(1, 13, 12, 2)).astype(np.float32)
    net = ResidualNet(PreactivatedBlock, 2, 3, (), (), (), reduces=True)
    variables = positive(drawn(net, x))
    p, s = variables["params"], variables["batch_stats"]
    y = np.maximum(batch_norm(convolved(x, p["conv1"]["kernel"], 2, 3), p["bn1"], s["bn1"]), 0)
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = (1 + (side - 3) // 2 for side in padded.shape[1:3])
    pooled = [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for i in range(rows) for j in range(columns)]
    expected = dense(np.mean(pooled, axis=0), p["fc"])
    np.testing.assert_allclose(run(net, variables, x), expected, rtol=1e-4, atol=1e-4)


# sizes


@pytest.mark.parametrize(
    ("name", "settings", "image", "text"),
    [
        ("vit_tiny", {}, (8, 8, 3), "images of 8x8 pixels are no whole number of patches of 16x16"),
        ("vit_tiny", {}, (32, 40, 3), "images of 32x40 pixels are no whole number"),
        ("vit_tiny", {"widths": (193,)}, (16, 16, 3), "193 is no multiple of its 3 attention heads"),
        ("convnext_tiny", {}, (28, 28, 3), "images of 28x28 pixels are too small: 4 stages need at least 32x32"),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, settings: Any, image: Any, text: str) -> None:
    """Before anything is computed."""
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(
            models.build(name, 2, **settings).init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), F32)
        )


def test_settings_that_do_not_fit_are_refused() -> None:
    """A hint for names that are nearly right; patches are of vision transformers, which have one stage."""
    with pytest.raises(ValueError, match=r"'vit_tyni' \(did you mean 'vit_tiny'\?\); there are resnet18, "):
        models.build("vit_tyni", 2)
    with pytest.raises(ValueError, match="patch=8 is of vision transformers; resnet18 has no patches"):
        models.build("resnet18", 2, patch=8)
    with pytest.raises(ValueError, match=r"vit_tiny has at most 1 stage$"):
        models.build("vit_tiny", 2, widths=(64, 64), blocks=(1, 1))


def small_vit(side: int) -> tuple[Any, Any]:
    """A ViT of three blocks, and its variables for images of side x side."""
    net = models.build("vit_tiny", 3, widths=(8,), blocks=(3,), patch=2)
    return net, drawn(net, np.zeros((1, side, side, 3), np.float32))


def test_positions_are_resampled_for_another_image_size(tmp_path: Path) -> None:
    """On loading, with one line; the class token's stays, a constant stays a constant, an even slope stays one. Grids
    that are not square are left alone, and refused by their shape."""
    slope = np.broadcast_to(np.arange(8.0, dtype=np.float32)[None, :, None], (8, 8, 1))
    grid = np.concatenate([np.full((8, 8, 1), 7.0, np.float32), slope], axis=-1).reshape(1, 64, 2)
    old = jnp.asarray(np.concatenate([np.full((1, 1, 2), -1.0, np.float32), grid], axis=1))
    new = np.asarray(vit.resample_positions(old, 1 + 16 * 16))
    np.testing.assert_array_equal(new[:, 0], old[:, 0])
    np.testing.assert_allclose(new[:, 1:, 0], 7.0, rtol=1e-6)
    inside = new[0, 1:, 1].reshape(16, 16)[4:-4, 4:-4]
    np.testing.assert_allclose(np.diff(inside, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(inside, axis=1), 0.5, atol=1e-5)
    np.testing.assert_array_equal(vit.resample_positions(old, 65), old)

    _, variables = small_vit(8)
    storage.save_tree(tmp_path / "tree", variables)
    wanted = jax.eval_shape(lambda: small_vit(4)[1])
    with pytest.warns(UserWarning, match="are for 16 patches and were resampled to 4"):
        loaded = pytorch.load_init(tmp_path / "tree", wanted)
    expected = vit.resample_positions(jnp.asarray(variables["params"]["pos_embed"]), 5)
    np.testing.assert_array_equal(loaded["params"]["pos_embed"], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pytorch.load_init(tmp_path / "tree", jax.eval_shape(lambda: variables))
    odd = drawn(small_vit(8)[0], np.zeros((1, 8, 6, 3), np.float32))
    with pytest.raises(SettingsError, match=r"pos_embed \[1, 17, 8\], expected \[1, 13, 8\]"):
        pytorch.load_init(tmp_path / "tree", odd)


@pytest.mark.parametrize("name", ["vit_tiny", "convnext_tiny", "efficientnet_b0", "wrn_28_10", "resnet18_imagenet"])
def test_names_and_layouts_come_back_from_pytorch(name: str) -> None:
    """to_torch and from_torch are inverses, for every leaf."""
    tree = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes(name))
    flat = pytorch.flat_names(tree)
    back = pytorch.from_torch(pytorch.to_torch(flat), shapes(name))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in flat.items()}


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [  # torchvision's names
        ("vit_base", "class_token", "params.cls_token"),
        (
            "vit_base",
            "encoder.layers.encoder_layer_11.self_attention.in_proj_weight",
            "params.blocks.11.attn.qkv.kernel",
        ),
        ("vit_base", "encoder.layers.encoder_layer_0.mlp.linear_2.bias", "params.blocks.0.mlp.fc2.bias"),
        ("vit_base", "heads.head.weight", "params.head.kernel"),
        ("convnext_tiny", "features.1.0.layer_scale", "params.stages.0.blocks.0.gamma"),
        ("convnext_tiny", "features.4.1.weight", "params.stages.2.downsample.1.kernel"),
        ("convnext_tiny", "classifier.0.weight", "params.head.norm.scale"),
        ("efficientnet_b0", "features.1.0.block.2.0.weight", "params.blocks.0.0.conv_pw.kernel"),
        ("efficientnet_b0", "features.7.0.block.2.fc1.bias", "params.blocks.6.0.se.conv_reduce.bias"),
        ("efficientnet_b0", "features.6.3.block.3.1.running_mean", "batch_stats.blocks.5.3.bn3.mean"),
        ("wrn_28_10", "module.block3.layer.0.convShortcut.weight", "params.layer3.0.shortcut.kernel"),
    ],
)
def test_the_names_of_other_libraries(name: str, theirs: str, ours: str) -> None:
    """Each library's spelling of a layer is ours."""
    shape = pytorch.flat_names(shapes(name))[ours].shape
    value = np.broadcast_to(np.float32(0), shape)
    value = pytorch.to_torch({ours: value}).popitem()[1] if ours.endswith("kernel") else value
    value = value.reshape(-1, 1, 1) if theirs.endswith("layer_scale") else value
    assert {key: x.shape for key, x in pytorch.from_torch({theirs: value}, shapes(name)).items()} == {ours: shape}


# split


@pytest.mark.parametrize("pattern", ["blocks.-1.norm2", "blocks.1.attn.qkv"])
def test_attention_may_be_on_either_side_of_a_cut(pattern: str) -> None:
    """All members at once are each one alone, and both halves the whole. For norm2 of the last block an image's
    features are of one token."""
    net, variables = small_vit(8)
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 3)), F32)
    subset = select(variables, [pattern])
    vector, apply = flatten(subset, variables), jax.jit(net.apply)
    halves = cut(lambda v, x: net.apply(insert(subset, variables, v), x), vector, images, any_batch=True)
    assert not halves.has_vector_kernel
    if pattern == "blocks.-1.norm2":
        assert sum(map(math.prod, halves.feature_shapes)) == 2 * 8 + 1
    joined = jax.jit(lambda v, x: halves.suffix(v, halves.prefix(x)))(vector, images)
    np.testing.assert_allclose(joined, apply(variables, images), rtol=2e-4, atol=2e-4)
    vectors = vector[None] * jnp.linspace(0.5, 1.5, 4)[:, None]
    found = member_logits(net.apply, variables, subset, vectors, images)
    alone = [apply(insert(subset, variables, v), images) for v in vectors]
    np.testing.assert_allclose(found, jnp.stack(alone), rtol=2e-4, atol=2e-4)
    assert np.std(np.asarray(found), axis=0).min() > 1e-3
