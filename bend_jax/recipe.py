"""How a base is trained: its settings, learning rates, and minibatches whose images and targets are mixed."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from bend_jax.checks import Settings, SettingsError, names, setting
from bend_jax.subset import dotted_names, select

PROGRAMS = 32  # settings, at most, for which a training's functions are kept
SCHEDULES = ("step", "cosine", "linear", "one_cycle")


class Base(Settings):
    """Training of the base: SGD with coupled weight decay, as p-diff's release trains it."""

    epochs: int = setting("passes over the training images", default=100, least=1)
    batch: int = setting("images a step", default=64, least=1)
    lr: float = setting("learning rate at the start, after the warm-up", default=0.1, above=0)
    momentum: float = setting("of SGD", default=0.9, least=0, below=1)
    nesterov: bool = setting("whether that momentum looks ahead", default=False)
    weight_decay: float = setting("coupled: added to the gradient, as PyTorch's SGD does", default=5e-4, least=0)
    schedule: str = setting(
        "of the learning rate: steps at the milestones, half a cosine, a line down to 0, or one cycle: half a cosine "
        "up from lr / 25 in the warm-up and another down to lr / 250000 (Smith & Topin 2017, as PyTorch's OneCycleLR)",
        default="step",
        choices=SCHEDULES,
    )
    milestones: tuple[int, ...] = setting(
        "epochs after which the step schedule multiplies by decay", default=(30, 60, 90)
    )
    decay: float = setting("what the step schedule multiplies by", default=0.2, above=0)
    warmup: int = setting("epochs of warm-up, linear but for one cycle", default=0, least=0)
    lr_factors: str = setting(
        "layers whose learning rate is another: NAME:FACTOR,..., named as in collect.subset, such as "
        "layer*.bn*.bias:64. Their learning rate times weight decay stays what it is (Jordan 2024). 0: they are not "
        "trained",
        default="",
        added=True,
    )
    label_smoothing: float = setting(
        "the share of each target that all classes get alike (Szegedy et al. 2016)",
        default=0.0,
        least=0,
        below=1,
        added=True,
    )
    mixup: float = setting(
        "a of Beta(a, a): a minibatch's images are mixed in pairs, and so are their targets (Zhang et al. 2018); 0: "
        "not at all",
        default=0.0,
        least=0,
        added=True,
    )
    cutmix: float = setting(
        "a of Beta(a, a): a box of each image is another image's, and so is that share of the target (Yun et al. "
        "2019); 0: not at all; beside mixup: each in half of the steps",
        default=0.0,
        least=0,
        added=True,
    )
    ema: float = setting(
        "decay a step of the moving average of parameters and BN statistics that is the base (Polyak & Juditsky 1992); "
        "0: the last ones are",
        default=0.0,
        least=0,
        below=1,
        added=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in names(self.lr_factors):
            _factor(text)
        if self.schedule == "one_cycle" and not 0 < self.warmup < self.epochs:
            raise SettingsError(
                f"schedule=one_cycle rises for warmup epochs and falls for the others: warmup must be in [1, "
                f"{self.epochs - 1}] of {self.epochs} epochs; got {self.warmup}"
            )


def _factor(text: str) -> tuple[str, float]:
    """("bn1.bias", 64.0) of "bn1.bias:64"; raises SettingsError."""
    name, colon, number = text.rpartition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = -1.0
    if not (name and colon and 0 <= factor < float("inf")):
        raise SettingsError(f"lr_factors must be NAME:FACTOR with a factor of at least 0; got {text!r}")
    return name, factor


def factors(settings: Base, variables: Any) -> Any:
    """What each parameter's learning rate is multiplied by, as a tree like variables["params"]; the last one that names
    a parameter holds. None where all are 1. Raises SettingsError for a name that is none of the variables'."""
    if not settings.lr_factors:
        return None
    found: dict[str, float] = {}
    for text in names(settings.lr_factors):
        name, factor = _factor(text)
        try:
            paths = select(variables, [name]).paths
        except ValueError as error:
            raise SettingsError(f"base.lr_factors: {error}") from None
        found |= dict.fromkeys(paths, factor)
    return jax.tree.map(lambda path: found.get(path, 1.0), dotted_names(variables)["params"])


def schedule(settings: Base, steps_per_epoch: int) -> optax.Schedule:
    """The base's learning rate by step."""
    warmup = settings.warmup * steps_per_epoch
    total = settings.epochs * steps_per_epoch
    if settings.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(total, settings.lr, settings.warmup / settings.epochs)
    if settings.schedule == "cosine":
        main = optax.cosine_decay_schedule(settings.lr, max(total - warmup, 1))
    elif settings.schedule == "linear":
        main = optax.linear_schedule(settings.lr, 0.0, max(total - warmup, 1))
    else:
        bounds = {epoch * steps_per_epoch - warmup: settings.decay for epoch in settings.milestones}
        main = optax.piecewise_constant_schedule(settings.lr, bounds)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, settings.lr, warmup), main], [warmup])


def optimizer(settings: Base, steps_per_epoch: int, variables: Any) -> optax.GradientTransformation:
    """SGD by these settings. A factor multiplies the gradient before the decay is added; 0 leaves out both."""
    rate = schedule(settings, steps_per_epoch)
    of = factors(settings, variables)
    if of is None:
        return sgd(rate, settings.momentum, settings.weight_decay, settings.nesterov)
    decay = optax.add_decayed_weights(settings.weight_decay, jax.tree.map(lambda f: f > 0, of))
    scale = optax.stateless(lambda updates, _: jax.tree.map(lambda g, f: f * g, updates, of))
    return optax.chain(scale, decay, optax.sgd(rate, settings.momentum, nesterov=settings.nesterov))


@lru_cache(maxsize=PROGRAMS)
def sgd(
    lr: float | optax.Schedule, momentum: float, weight_decay: float, nesterov: bool = False
) -> optax.GradientTransformation:
    """SGD as PyTorch's: the decay is added to the gradient before the momentum."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum, nesterov=nesterov))


def cross_entropy(
    logits: Float[Array, "n classes"],
    labels: Int[Array, " n"] | Float[Array, "n classes"],
    smoothing: float = 0.0,
) -> Float[Array, " n"]:
    """Per image, in nats. smoothing: the share of each target that all classes get alike (Szegedy et al. 2016)."""
    if labels.ndim == 1 and not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))


def mix(settings: Base, key: Key[Array, ""], images: Any) -> tuple[Any, Float[Array, ""]]:
    """A minibatch [n, h, w, c] in random order, each image mixed with the one before it (the first with the last), and
    the share of each target that stays its own."""
    if not (hasattr(images, "ndim") and images.ndim == 4):
        raise SettingsError("base.mixup and base.cutmix are of lone images [n, h, w, c]: set them to 0")
    key_mixup, key_cutmix, key_box, key_choice = jax.random.split(key, 4)
    others = jnp.roll(images, 1, axis=0)
    share = jax.random.beta(key_mixup, settings.mixup or 1.0, settings.mixup or 1.0)
    blended = share.astype(images.dtype) * images + (1 - share).astype(images.dtype) * others
    if not settings.cutmix:
        return blended, share
    box = _box(key_box, images.shape[1:3], jax.random.beta(key_cutmix, settings.cutmix, settings.cutmix))
    pasted = jnp.where(box[None, :, :, None], others, images)
    kept = 1 - jnp.mean(box)
    if not settings.mixup:
        return pasted, kept
    blends = jax.random.bernoulli(key_choice)
    return jnp.where(blends, blended, pasted), jnp.where(blends, share, kept)


def _box(key: Key[Array, ""], shape: tuple[int, ...], share: Float[Array, ""]) -> Array:
    """Which pixels [h, w] lie in a box of this share's complement about a random centre; what is outside is lost."""
    inside = []
    for key_axis, side in zip(jax.random.split(key), shape, strict=True):
        centre, half = jax.random.randint(key_axis, (), 0, side), jnp.floor(side * jnp.sqrt(1 - share)) / 2
        at = jnp.arange(side)
        inside.append((at >= jnp.floor(centre - half)) & (at < jnp.floor(centre + half)))
    return inside[0][:, None] & inside[1][None, :]
