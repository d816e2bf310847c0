"""Keys by name are the same everywhere."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from bend_jax.checks import SettingsError
from bend_jax.rng import stream

CODE = "import jax; from bend_jax.rng import stream; print(jax.random.key_data(stream(3, 'base', 'init')).tolist())"


def test_the_same_names_give_the_same_key_in_another_process() -> None:
    """Python's own string hash would not."""
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120).stdout
    assert out.strip() == str(jax.random.key_data(stream(3, "base", "init")).tolist())


def test_names_seeds_and_their_order_all_count() -> None:
    """Different uses get different keys."""
    keys = [stream(0), stream(1), stream(0, "a"), stream(0, "b"), stream(0, "a", "b"), stream(0, "b", "a")]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == len(keys)


def test_a_seed_is_a_whole_number() -> None:
    """Of NumPy too."""
    assert stream(np.int64(3), "a") == stream(3, "a")
    with pytest.raises(SettingsError, match="seed must be a whole number; got 'a'"):
        stream("a")
