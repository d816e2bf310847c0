"""Generators: new vectors out of k checkpoints. One file an algorithm; `GENERATE` is the table of them.

fit(vectors [k, dim], key, settings, *, watch) -> fitted;  sample(fitted, key, m) -> [m, dim]
"""

from types import ModuleType

from bend_jax.generate import bend, gaussian, identity

GENERATE: dict[str, ModuleType] = {"bend": bend, "gaussian": gaussian, "identity": identity}
