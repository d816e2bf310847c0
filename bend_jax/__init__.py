"""A cheap, honest, well-calibrated ensemble out of one training run: collect, generate, vote."""

from bend_jax.api import Ensemble, fit, load
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.independent import Independent
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.generate.average import Average
from bend_jax.generate.average16 import Average16
from bend_jax.generate.bend import Bend
from bend_jax.generate.gaussian import Gaussian
from bend_jax.generate.identity import Identity
from bend_jax.generate.interpolate import Interpolate
from bend_jax.generate.low_rank_gaussian import LowRankGaussian
from bend_jax.generate.noise import Noise
from bend_jax.generate.random_latent import RandomLatent
from bend_jax.generate.reconstruction import Reconstruction
from bend_jax.generate.resample import Resample
from bend_jax.training import Base

__all__ = [
    "Average",
    "Average16",
    "Base",
    "Bend",
    "Boosting",
    "Bootstrap",
    "Cyclical",
    "Ensemble",
    "Gaussian",
    "Identity",
    "Independent",
    "Interpolate",
    "LowRankGaussian",
    "McBn",
    "Noise",
    "RandomLatent",
    "Reconstruction",
    "Resample",
    "Trajectory",
    "fit",
    "load",
]
