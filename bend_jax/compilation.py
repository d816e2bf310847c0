"""Compiled programs on disk: JAX's persistent compilation cache, where the user has not chosen one."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from bend_jax.checks import SettingsError, expanded

LEAST = 0.0  # seconds: every program is kept, since a run has more than a hundred small ones
FOLDER, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"  # in jax.config


def folder() -> Path | None:
    """Where they are kept: bend_jax/compiled in XDG_CACHE_HOME, or in ~/.cache; None where there is no home."""
    try:
        home = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except SettingsError:
        return None
    return home / "bend_jax" / "compiled"


def keep() -> None:
    """Keep compiled programs from process to process. What the user has set, JAX_COMPILATION_CACHE_DIR or in
    jax.config, stays; a folder that cannot be written is left alone."""
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # one for each program
    place = folder()
    if not getattr(jax.config, FOLDER) and place is not None and _is_writable(place):
        jax.config.update(FOLDER, str(place))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update(SECONDS, LEAST)


@contextmanager
def kept() -> Iterator[None]:
    """`keep`, and afterwards the user's own programs are compiled as before."""
    if getattr(jax.config, FOLDER):
        yield
        return
    least = getattr(jax.config, SECONDS)
    keep()
    try:
        yield
    finally:
        jax.config.update(FOLDER, None)
        jax.config.update(SECONDS, least)
        compilation_cache.reset_cache()  # it would go on with the folder


def _is_writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK)
