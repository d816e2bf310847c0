"""Random keys by name: the same seed and names give the same key in every process."""

import hashlib
from numbers import Integral
from typing import Any

import jax
from jaxtyping import Array, Key

from bend_jax.checks import SettingsError


def stream(seed: Any, *names: str | int) -> Key[Array, ""]:
    """The key of one named use of randomness, e.g. `stream(0, "base", "init")`.

    Names are hashed with SHA-256: Python's `hash(str)` differs from process to process. Raises SettingsError for a
    seed that is no whole number.
    """
    if not isinstance(seed, Integral):
        raise SettingsError(f"seed must be a whole number; got {seed!r}")
    key = jax.random.key(int(seed))
    for name in names:
        word = hashlib.sha256(str(name).encode()).digest()[:4]
        key = jax.random.fold_in(key, int.from_bytes(word, "big"))
    return key
