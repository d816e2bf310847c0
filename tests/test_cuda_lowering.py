"""Every program of a run is also lowered for CUDA, which needs no GPU: what a CPU alone can do is found here."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax._src.interpreters import mlir

from bend_jax import devices
from bend_jax.checks import SettingsError
from bend_jax.collect import COLLECTORS
from bend_jax.collect.collector import Problem
from bend_jax.data import splits
from bend_jax.generate import GENERATORS
from bend_jax.run import config, context, pipeline
from bend_jax.subset import select
from bend_jax.training import Callbacks
from tests import launching
from tests.problems import write_images

OF_A_CPU = ("lapack_", "python_cpu", "python_gpu")  # and what waits for the host
Lowered = dict[str, str]  # by the name of a program: what CUDA has to say against it


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lowered]:
    """Every program that JAX lowers in the test, lowered for CUDA as well."""
    found: Lowered = {}
    lower = mlir.lower_jaxpr_to_module

    def both(name: str, jaxpr: Any, **how: Any) -> Any:
        try:
            text = str(lower(name, jaxpr, **how | {"platforms": ("cuda",), "backend": None}).module)
            found[name] = next((word for word in OF_A_CPU if word in text), "")
        except Exception as error:  # noqa: BLE001  whatever a rule raises is named with the program
            found[name] = f"{type(error).__name__}: {error}"
        return lower(name, jaxpr, **how)

    jax.clear_caches()
    with monkeypatch.context() as patched:
        patched.setattr(mlir, "lower_jaxpr_to_module", both)
        yield found
    jax.clear_caches()


def check(found: Lowered, *names: str) -> None:
    """All of them can be lowered, and programs of these names are among them."""
    assert not {name: why for name, why in found.items() if why}
    assert all(any(name in program for program in found) for name in names), sorted(found)


def tiny(folder: Path, **changes: Any) -> context.RunContext:
    """The small run of the tests, with some settings changed by dotted name."""
    raw = run_path(str(launching.ROOT / launching.TINY))["get_config"]()
    images = write_images(folder / "images.npz")
    few = {"data.name": f"npz:{images}", "base.epochs": 2, "base.milestones": (1,), "generate.tune": (0.5, 1.0)}
    for name, value in (few | changes).items():
        raw.update_from_flattened_dict({name: value})
    read = config.parse(raw)
    return context.prepare(read, "tiny", 0, folder, splits.load(read.data))


@pytest.mark.slow
def test_every_program_of_a_run(tmp_path: Path, lowered: Lowered) -> None:
    """Base, collector, all generators, evaluation, what tells copies. (What is exported is lowered for CUDA anyway.)"""
    s = tiny(tmp_path, **{"collect.k": 20, "generate.nulls": ",".join(set(GENERATORS) - {"bend"})})
    pipeline.run(s, ("base", "collect", "generate", "evaluate", "report"), print)
    check(lowered, "sample", "member_logits", "_summary", "_labels", "body")


@pytest.mark.slow
@pytest.mark.parametrize("name", COLLECTORS)
@pytest.mark.parametrize("pattern", ["layer2.0.bn2", "*"])
def test_every_collector(name: str, pattern: str, tmp_path: Path, lowered: Lowered) -> None:
    """On features and on the whole network, where it takes such a subset."""
    s = tiny(tmp_path)
    assert s.model.init is not None
    variables = s.model.init(jax.random.key(0))
    chosen = select(variables, [pattern])
    settings = replace(COLLECTORS[name].settings, k=2)
    own = {"base": s.config.base} if hasattr(settings, "base") else {"batch": 32} if hasattr(settings, "batch") else {}
    settings = replace(settings, **own)
    try:
        COLLECTORS[name].needs(settings, Problem(s.model, variables, chosen, len(s.examples.labels)))
    except SettingsError as refused:
        pytest.skip(str(refused))
    how = {"callbacks": Callbacks(mesh=devices.all_devices())}
    COLLECTORS[name].collect(s.model, variables, chosen, s.examples, jax.random.key(1), settings, **how)
    check(lowered)
    assert len(lowered) > 2


def on_host(x: Any) -> Any:
    """A program that calls the host."""
    return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((3,), jnp.float32), x)


def on_cpu_alone(x: Any) -> Any:
    """A call that only the CPU's libraries have."""
    return jax.ffi.ffi_call("lapack_sgetrf_ffi", jax.ShapeDtypeStruct((3,), jnp.float32))(x)


@pytest.mark.parametrize("program", [on_cpu_alone, on_host])
def test_what_only_a_cpu_can_do_is_found(program: Any, lowered: Lowered) -> None:
    """A plain product passes; a call of the CPU's own libraries and a call of the host do not."""
    jax.jit(jnp.dot).lower(jnp.ones((3, 3)), jnp.ones(3))
    assert set(lowered.values()) == {""}
    jax.jit(program).lower(jnp.ones(3))
    assert [why for why in lowered.values() if why]
