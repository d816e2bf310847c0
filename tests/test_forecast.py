"""Forecasts: seconds of a run known by hand from those of its parts, and the clock without compilation."""

import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import training
from bend_jax.data import splits
from bend_jax.data.sources import Split
from bend_jax.run import cost, forecast
from bend_jax.run.context import prepare
from tests.test_config import read  # noqa: F401
