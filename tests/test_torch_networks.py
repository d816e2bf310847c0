"""Parity of logits with torchvision and timm, with random numbers in every tensor and in inference mode."""

import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import models
from bend_jax.models import pytorch, vit

torch = pytest.importorskip("torch")
warnings.filterwarnings("ignore", module="timm|torch|torchvision")

OURS = [  # our name, whose, their name, pixels a side; the large ones are slow
    ("resnet18_imagenet", "torchvision", "resnet18", 64),
    ("resnet50_imagenet", "timm", "resnet50", 65),
    ("vit_tiny", "timm", "vit_tiny_patch16_224", 224),
    ("convnext_tiny", "timm", "convnext_tiny", 70),
    ("efficientnet_b0", "timm", "efficientnet_b0", 64),
    ("wrn_28_10", "by hand", "", 16),
]
LARGE = [
    ("resnet34_imagenet", "timm", "resnet34", 64),
    ("resnet50_imagenet", "torchvision", "resnet50", 64),
    ("vit_small", "timm", "vit_small_patch16_224", 64),
    ("vit_base", "timm", "vit_base_patch16_224", 64),
    ("vit_base", "torchvision", "vit_b_16", 64),
    ("convnext_tiny", "torchvision", "convnext_tiny", 64),
    ("convnext_base", "timm", "convnext_base", 64),
    ("efficientnet_b0", "torchvision", "efficientnet_b0", 50),
]


def theirs(library: str, name: str, side: int) -> Any:
    """A network of another library for 10 classes, with random numbers in all of its tensors."""
    if library == "by hand":
        from tests import torch_nets

        net: Any = torch_nets.WideResNet(4, 10)
    elif library == "timm":
        more = {"img_size": side} if name.startswith("vit") else {}
        net = pytest.importorskip("timm").create_model(name, num_classes=10, **more)
    else:
        more = {"image_size": side} if name.startswith("vit") else {}
        net = getattr(pytest.importorskip("torchvision").models, name)(num_classes=10, **more)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.dtype.is_floating_point:
                size = 0.02 if value.ndim == 2 else 0.1
                noise = size * torch.randn(value.shape, generator=generator)
                value.add_(noise.abs() if key.endswith("running_var") else noise)
    return net.eval()


@pytest.mark.parametrize(
    ("ours", "library", "name", "side"), [*OURS, *(pytest.param(*own, marks=pytest.mark.slow) for own in LARGE)]
)
def test_logits_are_theirs(tmp_path: Path, ours: str, library: str, name: str, side: int) -> None:
    """The state dict comes in by --init; the logits are the same to 1e-4 of their size."""
    net = theirs(library, name, side)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    module = models.build(ours, 10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    found = np.asarray(jax.jit(module.apply)(pytorch.load_init(tmp_path / "net.pth", shapes), images))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def test_positions_are_resampled_as_timm_does() -> None:
    """To fewer and to more patches."""
    layers = pytest.importorskip("timm.layers")
    old = np.random.default_rng(0).normal(size=(1, 197, 8)).astype(np.float32)
    for side in (3, 6, 20):
        expected = layers.resample_abs_pos_embed(torch.from_numpy(old), (side, side)).numpy()
        found = vit.resample_positions(jnp.asarray(old), 1 + side**2)
        np.testing.assert_allclose(found, expected, atol=1e-5)
