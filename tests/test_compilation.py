"""What is compiled again, and what is kept on disk."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import bend_jax
from bend_jax import compilation, training
from bend_jax.generate import denoiser_training
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.diffusion import Diffusion
from tests.problems import fitted, fitted_once

COUNTED: Counter[str] = Counter()
jax.monitoring.register_event_listener(lambda name, **_: COUNTED.update([name.rsplit("/", 1)[-1]]))
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **more: COUNTED.update([more.get("fun_name", "")] if "backend_compile" in name else [])
)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """The events of JAX's compiler in this block, by name: "compile_requests_use_cache", "cache_misses", and each
    program that was compiled or read from disk, "jit(f)"."""
    before, found = Counter(COUNTED), Counter()
    yield found
    found.update(COUNTED - before)


SMALL = {"steps": 4, "segment": 2}
BENDS = {
    "pca": bend_jax.Bend(diffusion=Diffusion(**SMALL, width=8, blocks=1, folds=2)),
    "mlp": bend_jax.Bend(
        autoencoder=Autoencoder(kind="mlp", latent=3, hidden=4, **SMALL),
        diffusion=Diffusion(**SMALL, width=8, blocks=1, folds=0),
    ),
}


@pytest.mark.parametrize("kind", BENDS)
def test_the_same_generator_again_compiles_nothing(kind: str) -> None:
    """Whatever the checkpoints and the seed are: programs go by settings and shapes."""
    draws = np.random.default_rng(0).normal(size=(2, 12, 9)).astype(np.float32)
    for i, (vectors, seed) in enumerate(zip(draws, (0, 3), strict=True)):
        checkpoints = bend_jax.Checkpoints(jnp.asarray(vectors))
        with counting() as found:
            bend_jax.generate_members(checkpoints, generate=BENDS[kind], members=5, seed=seed)
        assert (found["compile_requests_use_cache"] == 0) == (i == 1)


def test_nearly_as_many_checkpoints_share_the_steps_of_the_diffusion() -> None:
    """So that a generator that is fitted again without some of them compiles them no second time."""
    latents = jax.random.normal(jax.random.key(0), (24, 3))
    for k in (24, 20):
        with counting() as found:
            denoiser_training.fit(latents[:k], [1], jax.random.key(1), BENDS["pca"].diffusion, training.SILENT)
        assert found["jit(_look)"] == 1
        assert found["jit(body)"] == (k == 24)


def test_a_second_fit_takes_every_program_from_memory_or_disk() -> None:
    """Collectors make new functions of the network each time; their programs are the same ones."""
    fitted()
    with counting() as found:
        fitted()
    assert found["cache_misses"] == 0


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process in which nobody has chosen a folder; the one that is taken instead."""
    before = {name: getattr(jax.config, name) for name in (compilation.FOLDER, compilation.SECONDS)}
    jax.config.update(compilation.FOLDER, None)
    compilation_cache.reset_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update(compilation.SECONDS, 1.0)  # JAX's default, with which no program of these tests is kept
    yield tmp_path / "bend_jax" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_one(shift: float) -> None:
    jax.block_until_ready(jax.jit(lambda x: x + shift)(jnp.arange(3.0)))


def test_programs_are_kept_inside_of_the_block_alone(unset: Path) -> None:
    """And what the configuration was before, it is afterwards. `fit` is such a block."""
    seen: list[Any] = []

    def look(vectors: Any, key: Any, settings: Any, *, callbacks: Any) -> Any:
        seen.append(getattr(jax.config, compilation.FOLDER))
        return vectors

    spy = bend_jax.Generator("spy", bend_jax.Identity(), look, lambda vectors, key, m: vectors)
    fitted(collect=fitted_once().checkpoints, generate=spy)
    assert seen == [str(unset)]
    least = getattr(jax.config, compilation.SECONDS)
    with compilation.kept():
        compile_one(1.25)
    kept = sorted(unset.iterdir())
    assert kept
    compile_one(2.25)
    assert sorted(unset.iterdir()) == kept
    assert getattr(jax.config, compilation.FOLDER) is None
    assert getattr(jax.config, compilation.SECONDS) == least


def test_a_folder_of_the_users_stays_and_one_that_cannot_be_written_is_left_alone(unset: Path, tmp_path: Path) -> None:
    (tmp_path / "bend_jax").write_text("no folder")
    with compilation.kept():
        assert getattr(jax.config, compilation.FOLDER) is None
        compile_one(3.25)
    own = str(tmp_path / "own")
    jax.config.update(compilation.FOLDER, own)
    with compilation.kept():
        assert getattr(jax.config, compilation.FOLDER) == own
    assert getattr(jax.config, compilation.FOLDER) == own
