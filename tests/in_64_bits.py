"""Every collector and every generator on a tiny problem, in a process whose environment says how JAX computes.

Prints a line of JSON for each: its kind and name, the type, shape and finiteness of its vectors, or its error.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from bend_jax.collect import COLLECTORS
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import fit_generator
from tests import problems

SMALL = {"k": 4, "batch": 8, "epochs": 2, "steps": 4, "milestones": (1,), "warmup": 0, "width": 8, "hidden": 8}


X64, PRNG = "jax_enable_x64", "jax_default_prng_impl"


def small(settings: Any) -> Any:
    """The same settings with as little to compute as they allow."""
    changed = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        changed[field.name] = small(value) if dataclasses.is_dataclass(value) else SMALL.get(field.name, value)
    return dataclasses.replace(settings, **changed)


def tell(kind: str, name: str, work: Callable[[], Any]) -> None:
    """One line."""
    try:
        found = np.asarray(work())
        said = [str(found.dtype), list(found.shape), bool(np.isfinite(found).all())]
    except Exception as error:  # noqa: BLE001  any error is what is looked for
        said = [f"{type(error).__name__}: {error}"]
    print(json.dumps([kind, name, *said]), flush=True)


def main() -> None:
    """All of them, and first how JAX computes here."""
    print(json.dumps([bool(getattr(jax.config, X64)), str(getattr(jax.config, PRNG))]))
    model, variables, subset, examples = problems.dense("bn")
    vectors = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)

    def collected(c: Any) -> Any:
        return c.collect(model, variables, subset, examples, jax.random.key(0), small(c.settings)).vectors

    def generated(g: Any) -> Any:
        return fit_generator(dataclasses.replace(g, settings=small(g.settings)), vectors).draw(5)

    for kind, table, work in (("collect", COLLECTORS, collected), ("generate", GENERATORS, generated)):
        for name, record in table.items():
            tell(kind, name, partial(work, record))


if __name__ == "__main__":
    main()
