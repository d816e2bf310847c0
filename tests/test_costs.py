"""Costs of generators: floating-point operations counted by hand, from the layers' sizes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from bend_jax.generate import GENERATORS, autoencoder, bend, convolutional, diffusion, published
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.bend import Bend
from bend_jax.generate.convolutional_denoiser import multiplications
from bend_jax.generate.diffusion import Diffusion
from bend_jax.generate.generator import Size
from bend_jax.generate.random_latent import RandomLatent
from bend_jax.generate.reconstruction import Reconstruction

PERCEPTRON = Autoencoder(kind="mlp", latent=8, hidden=32, steps=10)
FEW = Diffusion(width=16, blocks=2, steps=30, batch=7, folds=4, axes=0, timesteps=100, ddim_steps=20)
FLAT = Diffusion(denoiser="conv", steps=30, segment=10, timesteps=100, ddim_steps=20)


@pytest.mark.parametrize(("axes", "diffused"), [(0, 12), (5, 5), (16, 12)])
def test_the_diffusion_costs_what_its_weights_do(axes: int, diffused: int) -> None:
    """Two operations a weight and row; three times that in a training step, for each fold's denoiser and the last."""
    net = diffusion.Denoiser(FEW.width, FEW.blocks)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, diffused)), jnp.zeros(1, jnp.int32))
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim == 2)
    assert weights == 16 * (diffused + diffused) + 16 * 16 * (1 + 2 * 2)
    own = replace(FEW, axes=axes)
    assert diffusion.cost(own, 12, 50) == 2 * weights * (3 * 5 * 30 * 7 + 100 * 50)
    assert diffusion.cost(replace(own, sampler="ddim"), 12, 50) == 2 * weights * (3 * 5 * 30 * 7 + 20 * 50)


def test_the_published_denoiser_costs_what_its_weights_do() -> None:
    """All checkpoints a step; ten samples after every segment where they choose the step."""
    once = 2 * multiplications(6)
    assert published.cost(FLAT, 3, 6, 50) == once * (3 * 30 * 3 + 100 * 50)
    assert published.cost(replace(FLAT, sampler="ddim"), 3, 6, 50) == once * (3 * 30 * 3 + 20 * 50)
    assert published.cost(replace(FLAT, select="accuracy"), 3, 6, 50) == once * (3 * 30 * 3 + 100 * (50 + 3 * 10))


def test_the_autoencoder_costs_three_passes_a_step() -> None:
    """Of its matrix products, but for the little beside them; principal components are not trained."""
    k, dim = 5, 300
    weights = 2 * (dim * 8 + dim * 32 + 2 * 32 * 32 + 32 * 8)
    assert autoencoder.cost(PERCEPTRON, k, dim) == pytest.approx(10 * 3 * 2 * k * weights, rel=0.05)
    assert autoencoder.cost(Autoencoder(kind="pca"), k, dim) == 0


def test_a_generator_costs_what_its_parts_do() -> None:
    """Members are drawn `draws` times; of two nulls the autoencoder alone counts."""
    size = Size(k=30, dim=200, m=40, draws=3)
    coder = autoencoder.cost(PERCEPTRON, 30, 200)
    assert coder > 0
    own = Bend(autoencoder=PERCEPTRON, diffusion=FEW)
    assert bend.cost(own, size) == coder + diffusion.cost(FEW, 8, 120)
    flat = Bend(autoencoder=PERCEPTRON, diffusion=FLAT)
    assert bend.cost(flat, size) == coder + published.cost(FLAT, 30, 8, 120)
    for name, settings in (
        ("random_latent", RandomLatent(autoencoder=PERCEPTRON)),
        ("autoencoder", Reconstruction(autoencoder=PERCEPTRON)),
    ):
        assert GENERATORS[name].cost(settings, size) == coder
    for name in set(GENERATORS) - {"bend", "random_latent", "autoencoder"}:
        assert GENERATORS[name].cost(GENERATORS[name].settings, size) == 0


@pytest.mark.parametrize(
    ("settings", "k", "width"),
    [
        (Autoencoder(kind="pca", latent=64), 9, 8),
        (Autoencoder(kind="pca", latent=4), 9, 4),
        (Autoencoder(kind="pca", latent=64, whiten=False), 9, 8),
        (Autoencoder(kind="mlp", latent=64), 9, 8),
        (Autoencoder(kind="mlp", latent=64, whiten=False), 9, 64),
        (Autoencoder(kind="conv", fold=3), 90, 52),
        (Autoencoder(kind="conv", fold=3), 9, 8),
        (Autoencoder(kind="conv", fold=3, whiten=False), 9, 52),
    ],
)
def test_the_width_of_a_latent(settings: Autoencoder, k: int, width: int) -> None:
    """Whitened ones have k - 1 axes at most."""
    assert autoencoder.width(settings, k, 2048) == width


@pytest.mark.parametrize("dim", [10, 300, 2048])
@pytest.mark.parametrize("fold", [3, 5])
@pytest.mark.parametrize("instance_norm", [False, True])
def test_the_width_is_that_of_the_encoders_output(fold: int, instance_norm: bool, dim: int) -> None:
    """Of convolutions, whose latents grow with the vectors; InstanceNorm has two positions at least."""
    settings = Autoencoder(kind="conv", fold=fold, instance_norm=instance_norm, whiten=False)
    encoder = convolutional.Encoder(fold, instance_norm)
    latents, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((1, dim)))
    assert autoencoder.width(settings, 9, dim) == latents.shape[1]
