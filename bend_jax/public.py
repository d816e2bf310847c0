"""What a user imports: every name here is one of the package itself, `bend_jax.fit` say."""

from bend_jax.api import collect_checkpoints, fit, generate_members, reestimator, scorer
from bend_jax.checks import Settings, SettingsError, setting
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.collector import Checkpoints, Collector, Cost, Problem, Work
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.independent import Independent
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.combination import Combination, combine, load_combination
from bend_jax.ensemble import Ensemble, load
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.average import Average
from bend_jax.generate.average16 import Average16
from bend_jax.generate.bend import PUBLISHED, Bend
from bend_jax.generate.diffusion import Diffusion
from bend_jax.generate.gaussian import Gaussian
from bend_jax.generate.generator import Generator, Size
from bend_jax.generate.identity import Identity
from bend_jax.generate.interpolate import Interpolate
from bend_jax.generate.low_rank_gaussian import LowRankGaussian
from bend_jax.generate.noise import Noise
from bend_jax.generate.noised import Noised
from bend_jax.generate.random_latent import RandomLatent
from bend_jax.generate.reconstruction import Reconstruction
from bend_jax.generate.resample import Resample
from bend_jax.given_logits import Evaluation, evaluate
from bend_jax.recipe import Base
from bend_jax.storage import DamagedError
from bend_jax.subset import Subset
from bend_jax.training import Callbacks, Examples, Model, NonFiniteError

__all__ = [
    "PUBLISHED",
    "Autoencoder",
    "Average",
    "Average16",
    "Base",
    "Bend",
    "Boosting",
    "Bootstrap",
    "Callbacks",
    "Checkpoints",
    "Collector",
    "Combination",
    "Cost",
    "Cyclical",
    "DamagedError",
    "Diffusion",
    "Ensemble",
    "Evaluation",
    "Examples",
    "Gaussian",
    "Generator",
    "Identity",
    "Independent",
    "Interpolate",
    "LowRankGaussian",
    "McBn",
    "Model",
    "Noise",
    "Noised",
    "NonFiniteError",
    "Problem",
    "RandomLatent",
    "Reconstruction",
    "Resample",
    "Settings",
    "SettingsError",
    "Size",
    "Subset",
    "Trajectory",
    "Work",
    "collect_checkpoints",
    "combine",
    "evaluate",
    "fit",
    "generate_members",
    "load",
    "load_combination",
    "reestimator",
    "scorer",
    "setting",
]
