"""A cheap, honest, well-calibrated ensemble out of one training run: collect, generate, vote.

All names of bend_jax/public.py, and the modules beside it. The first one that is used is imported, and jax with it:
`launch.py --help` needs none, and a user without jax gets a sentence and no traceback.
"""

from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bend_jax.public import *  # noqa: F403
    from bend_jax.public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        found = PathFinder.find_spec(f"bend_jax.{name}", [str(Path(__file__).parent)])
        if found and found.origin:  # a folder that an earlier version left behind has none, and is no module
            return import_module(f"bend_jax.{name}")
        return getattr(import_module("bend_jax.public"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
