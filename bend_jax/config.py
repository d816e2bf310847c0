"""Every setting as a frozen dataclass, and the one door from an ml_collections ConfigDict to them.

Defaults are the published values (BEND; p-diff's release of March 2024) unless a comment says otherwise.
"""

import dataclasses
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bend_jax.checks import SettingsError, at_least, did_you_mean, one_of, positive, share

RUN_ONLY = {"digest": False}  # changes speed or memory, never a number: not part of a stage's digest
SCHEDULES = ("step", "cosine")
VARIANCES = ("beta", "posterior")
AUTOENCODERS = ("mlp",)
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Data:
    """The images, their split and their augmentation."""

    name: str = "cifar10"
    dir: str = field(default="", metadata=RUN_ONLY)  # where sets are prepared; empty: TFDS_DATA_DIR, or TFDS's default
    noise: float = 0.0  # sd of Gaussian pixel noise on [0, 1], added once to every split
    split_seed: int = 0  # of the split and of the noise; the same in every run
    validation: float = 0.1  # share of the training images held out, stratified
    validation_most: int = 5000  # and at most so many
    crop: int = 4  # random shifts by up to so many pixels
    flip: bool = True
    rotation: float = 0.0  # random turns by up to so many degrees
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2023, 0.1994, 0.2010)

    def __post_init__(self) -> None:
        at_least(self, 0, "noise", "crop", "rotation")
        at_least(self, 0, "split_seed")
        at_least(self, 1, "validation_most")
        if not 0 < self.validation < 1:
            raise SettingsError(f"validation must be in (0, 1); got {self.validation}")
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise SettingsError(f"mean and std need one number a channel, std above 0; got {self.mean}, {self.std}")


@dataclass(frozen=True)
class Backbone:
    """The network; empty widths and blocks mean the published ones."""

    name: str = "resnet50"
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        one_of(self, "dtype", DTYPES)
        if min((1, *self.widths, *self.blocks)) < 1:
            raise SettingsError(f"widths and blocks must be at least 1; got {self.widths}, {self.blocks}")


@dataclass(frozen=True)
class Base:
    """Training of the base: SGD with coupled weight decay, as p-diff's release trains it."""

    epochs: int = 100
    batch: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "step"
    milestones: tuple[int, ...] = (30, 60, 90)  # epochs after which the step schedule multiplies by decay
    decay: float = 0.2
    warmup: int = 0  # epochs of linear warm-up

    def __post_init__(self) -> None:
        at_least(self, 1, "epochs", "batch")
        at_least(self, 0, "weight_decay", "warmup")
        positive(self, "lr", "decay")
        share(self, "momentum")
        one_of(self, "schedule", SCHEDULES)


@dataclass(frozen=True)
class Trajectory:
    """BEND's collector: fine-tune the subset for k epochs, save after each."""

    k: int = 200
    views: int = 4  # augmented views whose features are cached; epoch e reads view e mod views [ours]
    batch: int = 64
    cache_dtype: str = "float32"  # of the cached features; bfloat16 on an accelerator [ours]
    lr: float = 1.6e-4  # the base's rate after its last step, 0.1 * 0.2**4
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _check_fine_tuning(self)


@dataclass(frozen=True)
class Bootstrap:
    """Bagging in Breiman's sense [ours]: k fine-tunings from the base, each on its own bootstrap resample."""

    k: int = 200
    views: int = 4
    batch: int = 64
    cache_dtype: str = "float32"
    epochs: int = 2
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    reinitialise: bool = False  # start from fresh random values of the subset: a tree ensemble

    def __post_init__(self) -> None:
        _check_fine_tuning(self)
        at_least(self, 1, "epochs")


def _check_fine_tuning(settings: Trajectory | Bootstrap) -> None:
    at_least(settings, 2, "k")
    at_least(settings, 1, "views", "batch")
    at_least(settings, 0, "weight_decay")
    positive(settings, "lr")
    share(settings, "momentum")
    one_of(settings, "cache_dtype", DTYPES)


@dataclass(frozen=True)
class Autoencoder:
    """Four encoder and four decoder layers between standardised vectors and latents."""

    kind: str = "mlp"
    latent: int = 64
    hidden: int = 256
    steps: int = 500  # longer training pulls what lies between the vectors towards their mean [ours]
    segment: int = 250  # steps between two checks
    lr: float = 3e-4
    weight_decay: float = 2e-6
    input_noise: float = 1e-3  # x <- noise * eps + (1 - noise) * x
    latent_noise: float = 0.1  # z <- noise * eps + (1 - noise) * z

    def __post_init__(self) -> None:
        one_of(self, "kind", AUTOENCODERS)
        at_least(self, 1, "latent", "hidden", "steps", "segment")
        at_least(self, 0, "weight_decay")
        positive(self, "lr")
        share(self, "input_noise", "latent_noise")


@dataclass(frozen=True)
class Diffusion:
    """The latent DDPM (BEND eq. 1-6 and 9; Ho et al. 2020)."""

    timesteps: int = 1000
    beta_start: float = 1e-4  # both ends scale with 1000 / timesteps
    beta_end: float = 0.02
    variance: str = "beta"  # beta_t as in eq. 3: exact for whitened latents, which a Gaussian would be
    width: int = 64
    blocks: int = 3
    steps: int = 2000
    segment: int = 250  # steps between two looks at the held-out loss
    patience: int = 2  # segments without a better held-out loss before it stops
    holdout: float = 0.1  # share of the vectors held out, none below 20 vectors
    batch: int = 256  # (vector, timestep, noise) triples a step
    lr: float = 1e-3
    weight_decay: float = 0.0
    ema: float = 0.9999

    def __post_init__(self) -> None:
        one_of(self, "variance", VARIANCES)
        at_least(self, 1, "timesteps", "width", "blocks", "steps", "segment", "patience", "batch")
        at_least(self, 0, "weight_decay")
        positive(self, "lr", "beta_start", "beta_end")
        share(self, "holdout", "ema")
        alpha_bar(self)


def alpha_bar(settings: Diffusion) -> np.ndarray:
    """[T] cumulative products of 1 - beta_t for the linear schedule, in float64 (BEND below eq. 5).

    Raises SettingsError for a schedule that has a beta of 1 or more, or that leaves alpha_bar[T] > 1e-3: its last
    step would still show the data, and sampling starts from pure noise.
    """
    scale = 1000 / settings.timesteps  # the same total noise for any T
    betas = np.linspace(settings.beta_start * scale, settings.beta_end * scale, settings.timesteps)
    if betas.max() >= 1:
        raise SettingsError(f"timesteps={settings.timesteps} gives beta_t up to {betas.max():.3g}, must be below 1")
    result = np.cumprod(1 - betas)
    if result[-1] > 1e-3:
        raise SettingsError(f"beta_end leaves alpha_bar[T] = {result[-1]:.3g}, must be at most 1e-3: raise it")
    return result


@dataclass(frozen=True)
class Bend:
    """BEND's and p-diff's generator: autoencoder, then a DDPM on its latents."""

    autoencoder: Autoencoder = Autoencoder()
    diffusion: Diffusion = Diffusion()


@dataclass(frozen=True)
class Gaussian:
    """A null: an independent Gaussian for every coordinate."""


@dataclass(frozen=True)
class Identity:
    """A null: the checkpoints themselves."""


COLLECTORS = {"trajectory": Trajectory, "bootstrap": Bootstrap}
GENERATORS = {"bend": Bend, "gaussian": Gaussian, "identity": Identity}
Collector = Trajectory | Bootstrap
Generator = Bend | Gaussian | Identity


@dataclass(frozen=True)
class Collect:
    """Which collector, of which subset of the parameters."""

    name: str
    subset: tuple[str, ...]
    settings: Collector


@dataclass(frozen=True)
class Generate:
    """The main generator first, then the nulls on the same checkpoints."""

    name: str
    nulls: tuple[str, ...]
    settings: dict[str, Generator]


@dataclass(frozen=True)
class Evaluate:
    """The votes and measures."""

    draws: int = 10  # of aBEND; the paper's table averages ten
    bins: int = 15  # of the calibration error
    batch: int = field(default=500, metadata=RUN_ONLY)  # images a program

    def __post_init__(self) -> None:
        at_least(self, 1, "draws", "bins", "batch")


@dataclass(frozen=True)
class Compute:
    """What changes speed and memory, never a number."""

    memory_mb: int = 16384  # of intermediates in one program, and of cached features
    save_seconds: float = 30.0  # a running stage saves its state at segment ends, this far apart at least

    def __post_init__(self) -> None:
        at_least(self, 1, "memory_mb")
        at_least(self, 0, "save_seconds")


@dataclass(frozen=True)
class Config:
    """One run."""

    task: str
    data: Data
    backbone: Backbone
    base: Base
    collect: Collect
    generate: Generate
    members: int
    evaluate: Evaluate
    compute: Compute

    def __post_init__(self) -> None:
        at_least(self, 1, "members")


def parse(raw: Any) -> Config:
    """A ConfigDict (or nested dict) as a Config. Raises SettingsError for a key that is not a setting, one that is
    missing, a value of the wrong type or out of range."""
    raw = raw.to_dict() if hasattr(raw, "to_dict") else dict(raw)
    _check_keys("", raw, [f.name for f in dataclasses.fields(Config)])
    values = {
        name: _build(name, kind, raw[name])
        for name, kind in typing.get_type_hints(Config).items()
        if name not in ("collect", "generate")
    }
    return _guard("", Config, dict(values, collect=_collect(raw["collect"]), generate=_generate(raw["generate"])))


def _collect(raw: dict[str, Any]) -> Collect:
    shared = ("k", "views", "batch", "cache_dtype")
    _check_keys("collect.", raw, ["name", "subset", *shared, *COLLECTORS])
    name = _choice("collect.name", raw["name"], COLLECTORS)
    algorithms = {}
    for other, kind in COLLECTORS.items():  # all are checked; the one that was named is used
        try:
            algorithms[other] = _build(f"collect.{other}", kind, {**{s: raw[s] for s in shared}, **raw[other]})
        except SettingsError as error:
            text = str(error)
            for word in shared:
                text = text.replace(f"collect.{other}.{word}", f"collect.{word}")
            raise SettingsError(text) from None
    return Collect(name, names(_cast("collect.subset", str, raw["subset"])), algorithms[name])


def _generate(raw: dict[str, Any]) -> Generate:
    _check_keys("generate.", raw, ["name", "nulls", *GENERATORS])
    name = _choice("generate.name", raw["name"], GENERATORS)
    nulls = names(_cast("generate.nulls", str, raw["nulls"]))
    for null in nulls:
        _choice("generate.nulls", null, GENERATORS)
    settings = {other: _build(f"generate.{other}", kind, raw[other]) for other, kind in GENERATORS.items()}
    wanted = dict.fromkeys((name, *nulls))
    return Generate(name, tuple(n for n in wanted if n != name), {n: settings[n] for n in wanted})


def names(text: str) -> tuple[str, ...]:
    """The words of a comma-separated setting."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _choice(path: str, value: Any, choices: Iterable[str]) -> str:
    if value not in choices:
        raise SettingsError(
            f"{path}: unknown {value!r}{did_you_mean(str(value), choices)}; there are {', '.join(choices)}"
        )
    return value


def _build(path: str, kind: Any, raw: Any) -> Any:
    if not dataclasses.is_dataclass(kind):
        return _cast(path, kind, raw)
    fields = typing.get_type_hints(kind)
    _check_keys(f"{path}.", raw, fields)
    return _guard(path, kind, {name: _build(f"{path}.{name}", hint, raw[name]) for name, hint in fields.items()})


def _guard(path: str, kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}.{error}" if path else str(error)) from None


def _check_keys(prefix: str, raw: Any, expected: Iterable[str]) -> None:
    expected = list(expected)
    if not isinstance(raw, dict):
        raise SettingsError(f"{prefix.rstrip('.')} must be a group of settings; got {raw!r}")
    for key in raw:
        if key not in expected:
            raise SettingsError(f"unknown setting {prefix}{key}{did_you_mean(key, expected)}")
    missing = [prefix + key for key in expected if key not in raw]
    if missing:
        raise SettingsError(f"settings that the configuration lacks: {', '.join(missing)}")


def _cast(path: str, kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{path} must be several values with commas between, in brackets; got {value!r}")
        return tuple(_cast(f"{path}[{i}]", typing.get_args(kind)[0], item) for i, item in enumerate(value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        if not math.isfinite(value):
            raise SettingsError(f"{path} must be a finite number; got {value}")
        return float(value)
    if (kind is int and isinstance(value, bool)) or not isinstance(value, kind):
        raise SettingsError(f"{path} must be of type {kind.__name__}; got {value!r}")
    return value


def settings_json(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON for a digest: without the fields that are marked RUN_ONLY."""
    result = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if f.metadata.get("digest", True):
            result[f.name] = settings_json(value) if dataclasses.is_dataclass(value) else value
    return result
