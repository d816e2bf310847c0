"""The parameter autoencoder (BEND 3.2): four encoder and four decoder layers, MSE, noise on input and latent.

Three kinds: `mlp` (`Coder`), `conv` (`convolutional.py`), and `pca`, whitened principal components without training:
k vectors span at most k - 1 dimensions, so that it is exact for k - 1 <= latent.
"""

from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from bend_jax.checks import Settings, SettingsError, setting
from bend_jax.generate import convolutional
from bend_jax.generate.whitening import EXACT, Whitening, from_white, to_white, whiten
from bend_jax.operations import flops
from bend_jax.recipe import PROGRAMS
from bend_jax.training import Callbacks, Step, make_step, start, train

AUTOENCODERS = ("mlp", "conv", "pca")
RATES = ("cosine", "constant")


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
    lr: float = setting("of AdamW, at the start", default=3e-4, above=0)
    schedule: str = setting(
        'of the learning rate: half a cosine to 0; or "constant", as p-diff\'s',
        default="cosine",
        choices=RATES,
        added=True,
    )
    weight_decay: float = setting("of AdamW", default=2e-6, least=0)
    input_noise: float = setting("x <- noise * eps + (1 - noise) * x", default=1e-3, least=0, below=1)
    latent_noise: float = setting("z <- noise * eps + (1 - noise) * z", default=0.1, least=0, below=1)
    standardise: bool = setting(
        "each coordinate of the vectors first; p-diff's release takes them as they are", default=True, added=True
    )
    instance_norm: bool = setting(
        "before every convolution of conv, as in p-diff's release: it loses each vector's own mean and scale",
        default=False,
        added=True,
    )
    clamp_latents: bool = setting(
        "to +-1 in the training, after their noise, as in p-diff's", default=False, added=True
    )
    scale_latents: bool = setting(
        "latents times 1 - latent_noise, as the decoder saw them; p-diff's are not", default=True, added=True
    )
    whiten: bool = setting(
        "latents for the diffusion: uncorrelated, of unit variance; p-diff's release takes them as they are",
        default=True,
        added=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.instance_norm and self.kind != "conv":
            raise SettingsError(f"kind={self.kind} has no instance_norm: leave it, or take kind=conv")


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
    step, optimizer = _training(settings, vectors.shape[1])
    state = train(
        "autoencoder",
        step,
        start(initial(vectors, key_init, settings), optimizer),
        {"vectors": vectors, "key": key_steps},
        steps=settings.steps,
        segment=settings.segment,
        callbacks=callbacks,
    )
    return state.params


@lru_cache(maxsize=PROGRAMS)
def _training(settings: Autoencoder, dim: int) -> tuple[Step, optax.GradientTransformation]:
    """The step and its optimiser: the same ones for the same settings, so that `train` compiles them once."""
    encoder, decoder = _coders(settings, dim)

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Array, Any]:
        key_x, key_z = jax.random.split(key)
        x = data["vectors"]
        noisy = mix(key_x, x, settings.input_noise)
        latents = noised(key_z, _apply(encoder, params["encoder"], noisy), settings)
        return jnp.mean((_apply(decoder, params["decoder"], latents) - x) ** 2), extra

    rate = settings.lr if settings.schedule == "constant" else optax.cosine_decay_schedule(settings.lr, settings.steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay)
    return make_step(loss, optimizer), optimizer


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


def noised(key: Key[Array, ""], latents: Float[Array, "n latent"], settings: Autoencoder) -> Float[Array, "n latent"]:
    """The encoder's output as the decoder sees it in the training."""
    found = mix(key, latents, settings.latent_noise)
    return jnp.clip(found, -1, 1) if settings.clamp_latents else found


@partial(jax.jit, static_argnames="settings")
def encode(params: Any, vectors: Float[Array, "n dim"], settings: Autoencoder) -> Float[Array, "n latent"]:
    """Latents, as the decoder saw them without their noise (scale_latents), or as the encoder gives them."""
    if isinstance(params, Whitening):
        return to_white(params, vectors)
    encoder, _ = _coders(settings, vectors.shape[1])
    found = _apply(encoder, params["encoder"], vectors)
    return (1 - settings.latent_noise) * found if settings.scale_latents else found


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
        how = settings.instance_norm
        return convolutional.Encoder(settings.fold, how), convolutional.Decoder(settings.fold, dim, how)
    return Coder(settings.hidden, settings.latent), Coder(settings.hidden, dim)


def width(settings: Autoencoder, k: int, dim: int) -> int:
    """How many numbers a latent of k vectors has for the diffusion."""
    found = settings.latent
    if settings.kind == "conv":
        found = convolutional.latent_size(dim, settings.fold, settings.instance_norm)
    return min(found, k - 1) if settings.whiten or settings.kind == "pca" else found


def cost(settings: Autoencoder, k: int, dim: int) -> float:
    """Floating-point operations of its training on k vectors: each step is three times a pass."""
    if settings.kind == "pca":
        return 0.0

    def both(params: Any, vectors: Any) -> Any:
        return decode(params, encode(params, vectors, settings), dim, settings)

    vectors = jax.ShapeDtypeStruct((k, dim), jnp.float32)
    params = jax.eval_shape(lambda x: initial(x, jax.random.key(0), settings), vectors)
    return settings.steps * 3 * flops(both, params, vectors)
