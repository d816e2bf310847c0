"""The parameter autoencoder (BEND 3.2): four encoder and four decoder layers, MSE, noise on input and latent."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from bend_jax.settings import Autoencoder
from bend_jax.training import Watch, make_step, start, train

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
        linear = nn.Dense(self.out, use_bias=False, name="linear")(x)
        for i in range(LAYERS - 1):
            x = nn.leaky_relu(nn.Dense(self.hidden, name=f"layer{i + 1}")(x))
        return linear + nn.Dense(self.out, kernel_init=nn.initializers.zeros, name=f"layer{LAYERS}")(x)


KINDS = {"mlp": Coder}


def fit(vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Autoencoder, watch: Watch) -> Any:
    """Train on all (standardised) vectors at once; returns the parameters of `encode` and `decode`. Eq. 8."""
    dim = vectors.shape[1]
    key_encoder, key_decoder, key_steps = jax.random.split(key, 3)
    encoder, decoder = _coders(settings, dim)
    params = {
        "encoder": encoder.init(key_encoder, vectors[:1]),
        "decoder": decoder.init(key_decoder, jnp.zeros((1, settings.latent))),
    }
    forward, back = principal_axes(vectors, settings.latent)
    params["encoder"]["params"]["linear"]["kernel"] = forward
    params["decoder"]["params"]["linear"]["kernel"] = back / (1 - settings.latent_noise)

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
        start(params, optimizer),
        {"vectors": vectors, "key": key_steps},
        steps=settings.steps,
        segment=settings.segment,
        watch=watch,
    )
    return state.params


def principal_axes(
    vectors: Float[Array, "k dim"], latent: int
) -> tuple[Float[Array, "dim latent"], Float[Array, "latent dim"]]:
    """The map to the first `latent` principal components, each of unit variance, and the map back.

    k vectors have k - 1 components at most; further columns are zero.
    """
    k, dim = vectors.shape
    _, values, axes = jnp.linalg.svd(vectors, full_matrices=False)
    rank = min(latent, k - 1, dim)
    sd = jnp.maximum(values[:rank], 1e-6 * values[0]) / jnp.sqrt(k)
    forward = jnp.zeros((dim, latent)).at[:, :rank].set(axes[:rank].T / sd[None])
    back = jnp.zeros((latent, dim)).at[:rank].set(axes[:rank] * sd[:, None])
    return forward, back


def mix(key: Key[Array, ""], x: Float[Array, "n width"], noise: float) -> Float[Array, "n width"]:
    """noise * eps + (1 - noise) * x, as p-diff's release augments."""
    return noise * jax.random.normal(key, x.shape) + (1 - noise) * x


def encode(params: Any, vectors: Float[Array, "n dim"], settings: Autoencoder) -> Float[Array, "n latent"]:
    """Latents, as the decoder saw them without their noise."""
    encoder, _ = _coders(settings, vectors.shape[1])
    return (1 - settings.latent_noise) * _apply(encoder, params["encoder"], vectors)


def decode(params: Any, latents: Float[Array, "n latent"], dim: int, settings: Autoencoder) -> Float[Array, "n dim"]:
    """Standardised vectors of latents."""
    _, decoder = _coders(settings, dim)
    return _apply(decoder, params["decoder"], latents)


def _apply(coder: Coder, params: Any, x: Float[Array, "n width"]) -> Float[Array, "n out"]:
    return jnp.asarray(coder.apply(params, x))


def _coders(settings: Autoencoder, dim: int) -> tuple[Coder, Coder]:
    kind = KINDS[settings.kind]
    return kind(settings.hidden, settings.latent), kind(settings.hidden, dim)
