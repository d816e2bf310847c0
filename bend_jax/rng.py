"""Random keys by name: the same seed and names give the same key in every process."""

import hashlib

import jax
from jaxtyping import Array, Key


def stream(seed: int, *names: str | int) -> Key[Array, ""]:
    """The key of one named use of randomness, e.g. `stream(0, "base", "init")`.

    Names are hashed with SHA-256: Python's `hash(str)` differs from process to process.
    """
    key = jax.random.key(seed)
    for name in names:
        word = hashlib.sha256(str(name).encode()).digest()[:4]
        key = jax.random.fold_in(key, int.from_bytes(word, "big"))
    return key
