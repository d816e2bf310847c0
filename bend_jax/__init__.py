"""A cheap, honest, well-calibrated ensemble out of one training run: collect, generate, vote."""

from bend_jax.api import Ensemble, fit, load
from bend_jax.settings import Bend, Bootstrap, Gaussian, Identity, Trajectory

__all__ = ["Bend", "Bootstrap", "Ensemble", "Gaussian", "Identity", "Trajectory", "fit", "load"]
