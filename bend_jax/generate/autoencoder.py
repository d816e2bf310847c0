"""The parameter autoencoder (BEND 3.2): four encoder and four decoder layers, MSE, noise on input and latent.

Three kinds: `mlp` (`Coder`), `conv` (`convolutional.py`), and `pca`, whitened principal components without training:
k vectors span at most k - 1 dimensions, so that it is exact for k - 1 <= latent.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, setting
from bend_jax.generate import convolutional
from bend_jax.generate.whitening import EXACT, Whitening, from_white, to_white, whiten
from bend_jax.operations import flops
from bend_jax.training import Callbacks, make_step, start, train

AUTOENCODERS = ("mlp", "conv", "pca")


class Autoencoder(Settings):
    """Encoder and decoder between standardised vectors and latents."""

    kind: str = setting(
        'principal components, without training; "mlp": four layers and four layers; "conv": 1-D convolutions',
        default="pca",
        choices=AUTOENCODERS,
    )
    latent: int = setting("numbers in a latent of mlp and pca", default=64, least=1)
    hidden: int = setting("width of mlp's hidden layers", default=256, least=1)
    fold: int = setting("stride and kernel of conv: 5 is p-diff's medium, 3 its small one", default=5, least=2)
    steps: int = setting(
        "on all vectors; longer training shrinks what lies between the checkpoints [ours]", default=500, least=1
    )
    segment: int = setting("steps between two checks", default=250, least=1)
    lr: float = setting("of AdamW, at the start; half a cosine from there to 0", default=3e-4, above=0)
    weight_decay: float = setting("of AdamW", default=2e-6, least=0)
    input_noise: float = setting("x <- noise * eps + (1 - noise) * x", default=1e-3, least=0, below=1)
    latent_noise: float = setting("z <- noise * eps + (1 - noise) * z", default=0.1, least=0, below=1)


LAYERS = 4


class Coder(nn.Module):
    """A four-layer perceptron beside a linear map; the perceptron's last layer is zero at the start.

    The linear maps start as whitened principal components and back, so that training starts from the best linear
    autoencoder; a plain perceptron shrinks what lies between the few vectors it has seen [ours].
    """

    hidden: int
    out: int

    @nn.compact
    def __call__(self, x: Float[Array, "n width"]) -> Float[Array, "n out"]:
        linear = nn.Dense(self.out, use_bias=False, precision=EXACT, name="linear")(x)
        for i in range(LAYERS - 1):
            x = nn.leaky_relu(nn.Dense(self.hidden, name=f"layer{i + 1}")(x))
        return linear + nn.Dense(self.out, kernel_init=nn.initializers.zeros, name=f"layer{LAYERS}")(x)


def fit(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Autoencoder, callbacks: Callbacks) -> Any:
    """Train on all (standardised) vectors at once; returns the parameters of `encode` and `decode`. Eq. 8."""
    if settings.kind == "pca":
        return whiten(vectors, settings.latent)
    key_init, key_steps = jax.random.split(key)
    encoder, decoder = _coders(settings, vectors.shape[1])

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Array, Any]:
        key_x, key_z = jax.random.split(key)
        x = data["vectors"]
        noisy = mix(key_x, x, settings.input_noise)
        latents = mix(key_z, _apply(encoder, params["encoder"], noisy), settings.latent_noise)
        return jnp.mean((_apply(decoder, params["decoder"], latents) - x) ** 2), extra

    rate = optax.cosine_decay_schedule(settings.lr, settings.steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay)
    state = train(
        "autoencoder",
        make_step(loss, optimizer),
        start(initial(vectors, key_init, settings), optimizer),
        {"vectors": vectors, "key": key_steps},
        steps=settings.steps,
        segment=settings.segment,
        callbacks=callbacks,
    )
    return state.params


@partial(jax.jit, static_argnames="settings")
def initial(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Autoencoder) -> dict[str, Any]:
    """Parameters before the first step: principal components, for an mlp."""
    key_encoder, key_decoder = jax.random.split(key)
    encoder, decoder = _coders(settings, vectors.shape[1])
    latents, params = encoder.init_with_output(key_encoder, vectors[:1])
    result: dict[str, Any] = {"encoder": params, "decoder": decoder.init(key_decoder, latents)}
    if settings.kind == "mlp":
        axes = whiten(vectors, settings.latent)
        rest = settings.latent - axes.back.shape[0]  # columns of zeros: k vectors have k - 1 components at most
        result["encoder"]["params"]["linear"]["kernel"] = jnp.pad(axes.forward, ((0, 0), (0, rest)))
        back = jnp.pad(axes.back, ((0, rest), (0, 0)))
        result["decoder"]["params"]["linear"]["kernel"] = back / (1 - settings.latent_noise)
    return result


def mix(key: Key[Array, ""], x: Float[Array, "n width"], noise: float) -> Float[Array, "n width"]:
    """noise * eps + (1 - noise) * x, as p-diff's release augments."""
    return noise * jax.random.normal(key, x.shape) + (1 - noise) * x


@partial(jax.jit, static_argnames="settings")
def encode(params: Any, vectors: Float[Array, "n dim"], settings: Autoencoder) -> Float[Array, "n latent"]:
    """Latents, as the decoder saw them without their noise."""
    if isinstance(params, Whitening):
        return to_white(params, vectors)
    encoder, _ = _coders(settings, vectors.shape[1])
    return (1 - settings.latent_noise) * _apply(encoder, params["encoder"], vectors)


def decode(params: Any, latents: Float[Array, "n latent"], dim: int, settings: Autoencoder) -> Float[Array, "n dim"]:
    """Standardised vectors of latents."""
    if isinstance(params, Whitening):
        return from_white(params, latents)
    _, decoder = _coders(settings, dim)
    return _apply(decoder, params["decoder"], latents)


def _apply(coder: nn.Module, params: Any, x: Float[Array, "n width"]) -> Float[Array, "n out"]:
    return jnp.asarray(coder.apply(params, x))


def _coders(settings: Autoencoder, dim: int) -> tuple[nn.Module, nn.Module]:
    if settings.kind == "conv":
        return convolutional.Encoder(settings.fold), convolutional.Decoder(settings.fold, dim)
    return Coder(settings.hidden, settings.latent), Coder(settings.hidden, dim)


def cost(settings: Autoencoder, k: int, dim: int) -> float:
    """Floating-point operations of its training on k vectors: each step is three times a pass."""
    if settings.kind == "pca":
        return 0.0

    def both(params: Any, vectors: Any) -> Any:
        return decode(params, encode(params, vectors, settings), dim, settings)

    vectors = jax.ShapeDtypeStruct((k, dim), jnp.float32)
    params = jax.eval_shape(lambda x: initial(x, jax.random.key(0), settings), vectors)
    return settings.steps * 3 * flops(both, params, vectors)
