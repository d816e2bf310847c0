"""Settings of every algorithm - base training, collectors, generators - as frozen dataclasses.

Defaults are the published values (BEND; p-diff's release of March 2024) unless a comment says otherwise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bend_jax.checks import SettingsError, at_least, one_of, positive, share

SCHEDULES = ("step", "cosine")
STATISTICS = ("frozen", "drift")
NOISES = ("none", "langevin", "momentum")
VARIANCES = ("beta", "posterior")
AUTOENCODERS = ("mlp", "conv", "pca")
PREDICTIONS = ("eps", "v")
SAMPLERS = ("ddpm", "ddim")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Base:
    """Training of the base: SGD with coupled weight decay, as p-diff's release trains it."""

    epochs: int = 100  # passes over the training images
    batch: int = 64  # images a step
    lr: float = 0.1  # learning rate at the start, after the warm-up
    momentum: float = 0.9  # of SGD
    nesterov: bool = False  # whether that momentum looks ahead
    weight_decay: float = 5e-4  # coupled: added to the gradient, as PyTorch's SGD does
    schedule: str = "step"  # of the learning rate: steps at the milestones, or half a cosine
    milestones: tuple[int, ...] = (30, 60, 90)  # epochs after which the step schedule multiplies by decay
    decay: float = 0.2  # what the step schedule multiplies by
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
    batch: int = 64  # images a step
    cache_dtype: str = "float32"  # of the cached features; bfloat16 on an accelerator [ours]
    lr: float = 1.6e-4  # the base's rate after its last step, 0.1 * 0.2**4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    statistics: str = "frozen"  # of BN; "drift": the literal variant, in which all of them follow the minibatches

    def __post_init__(self) -> None:
        _check_fine_tuning(self)
        one_of(self, "statistics", STATISTICS)


@dataclass(frozen=True)
class Bootstrap:
    """Bagging in Breiman's sense [ours]: k fine-tunings from the base, each on its own bootstrap resample."""

    k: int = 200
    views: int = 4
    batch: int = 64
    cache_dtype: str = "float32"
    epochs: int = 2
    lr: float = 0.05  # learning rate of each fine-tuning
    momentum: float = 0.9
    weight_decay: float = 5e-4
    resample: bool = True  # False: every fine-tuning sees the whole training set
    reinitialise: bool = False  # start from fresh random values of the subset: a tree ensemble
    perturb: float = 0.0  # p of a start sqrt(1 - p^2) w + p std(w) eps, leaf by leaf

    def __post_init__(self) -> None:
        _check_fine_tuning(self)
        at_least(self, 1, "epochs")
        at_least(self, 0, "perturb")
        if self.perturb > 1 or (self.perturb and self.reinitialise):
            raise SettingsError(f"perturb must be in [0, 1], and 0 with reinitialise; got {self.perturb}")


@dataclass(frozen=True)
class Cyclical:
    """Cosine cycles from the base: snapshots, FGE, cSGLD and cSGHMC (Huang et al. 2017; Zhang et al. 2020).

    The base is the first of the k checkpoints.
    """

    k: int = 200
    views: int = 4
    batch: int = 64
    cache_dtype: str = "float32"
    epochs: int = 4  # of a cycle
    per_cycle: int = 1  # checkpoints of a cycle, at the ends of its last epochs
    lr: float = 0.05  # at the start of a cycle; half a cosine from there to 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    noise: str = (
        "none"  # in the epochs that end with a checkpoint; "langevin" (cSGLD, no momentum), "momentum" (cSGHMC)
    )
    temperature: float = 1.0  # of that noise; below 1: a sharpened posterior

    def __post_init__(self) -> None:
        _check_fine_tuning(self)
        at_least(self, 1, "epochs", "per_cycle")
        at_least(self, 0, "temperature")
        one_of(self, "noise", NOISES)
        if self.per_cycle > self.epochs:
            raise SettingsError(f"per_cycle={self.per_cycle} is more than the {self.epochs} epochs of a cycle")
        if (self.k - 1) % self.per_cycle:
            raise SettingsError(f"k={self.k} is not 1 (the base) and a multiple of per_cycle={self.per_cycle}")


@dataclass(frozen=True)
class Boosting:
    """CBNN: warm-started multi-class AdaBoost over checkpoints. The base is the first of the k checkpoints."""

    k: int = 200
    views: int = 4
    batch: int = 64
    cache_dtype: str = "float32"
    epochs: int = 2  # between two checkpoints
    eta: float = 0.1  # damping of the weights' update; 1 is SAMME, which leaves a few images all the weight [ours]
    lr: float = 0.01  # learning rate between two checkpoints
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _check_fine_tuning(self)
        at_least(self, 1, "epochs")
        if not 0 < self.eta <= 1:
            raise SettingsError(f"eta must be in (0, 1]; got {self.eta}")


@dataclass(frozen=True)
class Independent:
    """A deep ensemble (Lakshminarayanan et al. 2017): the base and k - 1 more trainings by its recipe."""

    k: int = 200
    base: Base = Base()

    def __post_init__(self) -> None:
        at_least(self, 2, "k")


@dataclass(frozen=True)
class McBn:
    """MC-BN (Teye et al. 2018): the base with BN statistics of k random training batches; trains nothing."""

    k: int = 200
    batch: int = 64

    def __post_init__(self) -> None:
        at_least(self, 2, "k", "batch")


def _check_fine_tuning(settings: Trajectory | Bootstrap | Cyclical | Boosting) -> None:
    at_least(settings, 2, "k")
    at_least(settings, 1, "views", "batch")
    at_least(settings, 0, "weight_decay")
    positive(settings, "lr")
    share(settings, "momentum")
    one_of(settings, "cache_dtype", DTYPES)


@dataclass(frozen=True)
class Autoencoder:
    """Encoder and decoder between standardised vectors and latents."""

    kind: str = "mlp"  # 4 + 4 layers; "conv": 1-D convolutions, as published; "pca": principal components, no training
    latent: int = 64
    hidden: int = 256  # width of mlp's hidden layers
    fold: int = 5  # stride and kernel of the published convolutions (medium; small: 3), each divides the length by it
    steps: int = 500  # on all vectors; longer training pulls what lies between the vectors towards their mean [ours]
    segment: int = 250  # steps between two checks
    lr: float = 3e-4  # of AdamW, at the start; half a cosine from there to 0
    weight_decay: float = 2e-6  # of AdamW
    input_noise: float = 1e-3  # x <- noise * eps + (1 - noise) * x
    latent_noise: float = 0.1  # z <- noise * eps + (1 - noise) * z

    def __post_init__(self) -> None:
        one_of(self, "kind", AUTOENCODERS)
        at_least(self, 1, "latent", "hidden", "steps", "segment")
        at_least(self, 2, "fold")
        at_least(self, 0, "weight_decay")
        positive(self, "lr")
        share(self, "input_noise", "latent_noise")


@dataclass(frozen=True)
class Diffusion:
    """The latent DDPM (BEND eq. 1-6 and 9; Ho et al. 2020)."""

    timesteps: int = 1000  # T, from data to noise
    beta_start: float = 1e-4  # both ends scale with 1000 / timesteps
    beta_end: float = 0.02  # the noise of the last timestep
    prediction: str = "eps"  # what the net predicts: the noise, or v = sqrt(abar) eps - sqrt(1 - abar) x_0
    sampler: str = "ddpm"  # ancestral, all timesteps; or "ddim", deterministic in ddim_steps
    ddim_steps: int = 50  # timesteps that ddim visits
    variance: str = "beta"  # beta_t as in eq. 3: exact for whitened latents, which a Gaussian would be
    width: int = 64  # of the denoiser; a large one that is trained long makes copies [ours]
    blocks: int = 3  # residual blocks of the denoiser
    steps: int = 2000  # at most: the held-out loss may end it before
    segment: int = 250  # steps between two looks at the held-out loss
    patience: int = 2  # segments without a better held-out loss before it stops
    holdout: float = 0.1  # share of the vectors held out, none below 20 vectors
    batch: int = 256  # (vector, timestep, noise) triples a step
    lr: float = 1e-3  # of AdamW
    weight_decay: float = 0.0  # of AdamW
    ema: float = 0.9999  # decay, after a warm-up, of the average of the parameters that samples

    def __post_init__(self) -> None:
        one_of(self, "variance", VARIANCES)
        one_of(self, "prediction", PREDICTIONS)
        one_of(self, "sampler", SAMPLERS)
        at_least(self, 1, "timesteps", "width", "blocks", "steps", "segment", "patience", "batch", "ddim_steps")
        at_least(self, 0, "weight_decay")
        positive(self, "lr", "beta_start", "beta_end")
        share(self, "holdout", "ema")
        if self.sampler == "ddim" and self.ddim_steps > self.timesteps:
            raise SettingsError(f"ddim_steps={self.ddim_steps} is more than timesteps={self.timesteps}")
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
    temperature: float = 1.0  # sd of all of the sampler's noise: below 1 nearer to the mean, above 1 more diverse

    def __post_init__(self) -> None:
        at_least(self, 0, "temperature")


@dataclass(frozen=True)
class Gaussian:
    """A null: an independent Gaussian for every coordinate."""

    scale: float = 1.0  # of the spread

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")


@dataclass(frozen=True)
class LowRankGaussian:
    """A null: a Gaussian with the checkpoints' covariance, and SWAG (Maddox et al. 2019)."""

    scale: float = 1.0  # of the spread
    diagonal: float = 0.0  # share of the variance that independent coordinates have; SWAG's is 0.5

    def __post_init__(self) -> None:
        at_least(self, 0, "scale", "diagonal")
        if self.diagonal > 1:
            raise SettingsError(f"diagonal must be in [0, 1]; got {self.diagonal}")


@dataclass(frozen=True)
class Noise:
    """A null: the checkpoints' mean and white noise of their root mean square sd."""

    scale: float = 1.0  # of the spread

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")


@dataclass(frozen=True)
class Average16:
    """A null: each member is the mean of 16 different checkpoints (Zeng et al. 2025)."""


@dataclass(frozen=True)
class Average:
    """One member, the mean of the checkpoints: SWA, p-diff's "ensemble"."""


@dataclass(frozen=True)
class Resample:
    """A null: checkpoints drawn with replacement."""


@dataclass(frozen=True)
class Interpolate:
    """A null: uniform points between two different random checkpoints."""


@dataclass(frozen=True)
class RandomLatent:
    """A null: the decoder on Gaussian latents, with bend's autoencoder and no diffusion."""

    autoencoder: Autoencoder = Autoencoder()
    scale: float = 1.0  # of the latents

    def __post_init__(self) -> None:
        at_least(self, 0, "scale")


@dataclass(frozen=True)
class Reconstruction:
    """A null: checkpoints through bend's autoencoder and back."""

    autoencoder: Autoencoder = Autoencoder()


@dataclass(frozen=True)
class Identity:
    """A null: the checkpoints themselves."""


Collector = Trajectory | Bootstrap | Cyclical | Boosting | Independent | McBn
FineTuning = Trajectory | Bootstrap | Cyclical | Boosting
COLLECTORS: dict[str, Any] = {
    "trajectory": Trajectory,
    "bootstrap": Bootstrap,
    "cyclical": Cyclical,
    "boosting": Boosting,
    "independent": Independent,
    "mc_bn": McBn,
}
GENERATORS: dict[str, Any] = {
    "bend": Bend,
    "gaussian": Gaussian,
    "low_rank_gaussian": LowRankGaussian,
    "noise": Noise,
    "average16": Average16,
    "average": Average,
    "resample": Resample,
    "interpolate": Interpolate,
    "random_latent": RandomLatent,
    "autoencoder": Reconstruction,
    "identity": Identity,
}
Generator = (
    Bend
    | Gaussian
    | LowRankGaussian
    | Noise
    | Average16
    | Average
    | Resample
    | Interpolate
    | RandomLatent
    | Reconstruction
    | Identity
)
MEANS_OF = 16  # checkpoints, in a member of average16


def count_members(generator: str, m: int, k: int) -> int:
    """How many members a generator gives that is asked for m, from k checkpoints."""
    return {"average": 1, "identity": min(m, k), "autoencoder": min(m, k)}.get(generator, m)


def check_checkpoints(collector: str, generator: str, m: int, k: int) -> None:
    """Raise SettingsError where a generator of m members cannot do with a collector's k checkpoints."""
    if generator == "average16" and k < MEANS_OF:
        raise SettingsError(f"average16 takes means of {MEANS_OF} checkpoints, and there are k={k}: raise k")
    if collector == "boosting" and generator == "identity" and m < k:
        raise SettingsError(f"members={m} do not match boosting's {k} weights: at least as many are needed")


# the one number of a generator that sets how far its members spread; a leaf of what `fit` returns
KNOBS = {
    "bend": "temperature",
    "gaussian": "scale",
    "low_rank_gaussian": "scale",
    "noise": "scale",
    "random_latent": "scale",
}
