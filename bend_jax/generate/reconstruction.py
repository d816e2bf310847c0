"""The null `autoencoder`: the checkpoints that `identity` takes, through bend's autoencoder and back."""

from dataclasses import dataclass, field
from functools import partial

import flax.struct
import jax
from jaxtyping import Array, Float, Key

from bend_jax.generate import identity
from bend_jax.generate import latents as coding
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.latents import Latents, decode, fit_latents
from bend_jax.training import SILENT, Watch


@dataclass(frozen=True)
class Reconstruction:
    """A null: checkpoints through bend's autoencoder and back."""

    autoencoder: Autoencoder = field(default_factory=Autoencoder)


class Fitted(flax.struct.PyTreeNode):
    """The autoencoder and what it was fitted to."""

    latents: Latents
    vectors: Float[Array, "k dim"]


def fit(
    vectors: Float[Array, "k dim"], key: Key[Array, ""], settings: Reconstruction, *, watch: Watch = SILENT
) -> Fitted:
    """Train the autoencoder."""
    latents, _ = fit_latents(vectors, key, settings.autoencoder, watch)
    return Fitted(latents, vectors)


@partial(jax.jit, static_argnames="m")
def sample(fitted: Fitted, key: Key[Array, ""], m: int) -> Float[Array, "members dim"]:
    """min(m, k) reconstructions."""
    return decode(fitted.latents, coding.encode(fitted.latents, identity.sample(fitted.vectors, key, m)))
