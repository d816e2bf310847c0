"""A program for tests/test_devices.py: the same work on one device and on a mesh of all, differences as JSON."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices, ensemble, models, training
from bend_jax.collect import COLLECTORS, Collector
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.trajectory import Trajectory
from bend_jax.evaluation import predict
from bend_jax.recipe import Base
from bend_jax.subset import flatten, select
from bend_jax.training import Callbacks, Examples, Model

jax.config.update("jax_numpy_rank_promotion", "raise")
N, BATCH = 18, 8  # 18 images fill no 4 devices evenly
MODULE = models.build("resnet18", 3, widths=(4,), blocks=(1,), dtype="float32")
IMAGES = jax.random.normal(jax.random.key(1), (N, 6, 6, 1))
LABELS = jnp.arange(N, dtype=jnp.int32) % 3
BN, KERNEL = "layer1.0.bn2", "layer1.0.conv2"


def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
    """BN in training mode."""
    logits, new = MODULE.apply(variables, images, train=True, mutable=["batch_stats"])
    return logits, {**variables, **new}


def view(keys: Any, images: Any, index: Any = 0) -> Any:
    """Pixel noise, another for each key."""
    return images + 0.1 * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)


MODEL = Model(MODULE.apply, train_apply, jax.jit(lambda key: MODULE.init(key, IMAGES[:1])))
EXAMPLES = Examples(IMAGES, LABELS, view, lambda images: images)
VARIABLES = jax.device_get(jax.jit(MODULE.init)(jax.random.key(0), IMAGES[:1]))
MESH = devices.all_devices()


def difference(work: Callable[[Any], Any]) -> float:
    """The largest one between the arrays that `work(mesh)` gives without a mesh and with it."""
    one, many = (jax.tree.leaves(devices.to_host(work(mesh))) for mesh in (None, MESH))
    assert one
    assert all(np.isfinite(x).all() for x in one)
    return max(float(np.max(np.abs(np.float64(a) - b))) for a, b in zip(one, many, strict=True))


def members(pattern: str, m: int, chunk: int | None) -> Callable[[Any], Any]:
    """Logits of m members around the base, as `member_logits` and as `predict` has them."""
    chosen = select(VARIABLES, [pattern])
    base = flatten(chosen, VARIABLES)
    vectors = base[None] + 0.1 * jax.random.normal(jax.random.key(2), (m, chosen.dim))

    def work(mesh: Any) -> Any:
        placed = devices.replicate((VARIABLES, vectors, IMAGES), mesh)
        logits = ensemble.member_logits(MODULE.apply, placed[0], chosen, placed[1], placed[2], chunk=chunk, mesh=mesh)
        sets = {"a": np.asarray(vectors[:1]), "b": np.asarray(vectors)}
        ask = lambda rows, view: IMAGES[rows]  # noqa: E731
        how = {"wanted": predict.Wanted(keep=True), "callbacks": Callbacks(mesh=mesh, memory=2**20)}
        found = predict.predict(MODULE.apply, VARIABLES, chosen, sets, ask, N, batch=7, **how)
        return logits, found["b"].probabilities, found["b"].predictions, found["a"].mean

    return work


def one_step(mesh: Any) -> Any:
    """A step of the base."""
    settings = Base(epochs=1, batch=16, lr=0.1, milestones=())
    return training.train_base(MODEL, EXAMPLES, jax.random.key(3), settings, callbacks=Callbacks(mesh=mesh))


def collected(name: str, pattern: str, settings: Collector, memory: int = 2**30) -> Callable[[Any], Any]:
    """A collector's checkpoints of a subset."""
    chosen = select(VARIABLES, [pattern])

    def work(mesh: Any) -> Any:
        callbacks = Callbacks(mesh=mesh, memory=memory)
        return (
            COLLECTORS[name]
            .collect(MODEL, VARIABLES, chosen, EXAMPLES, jax.random.key(4), settings, callbacks=callbacks)
            .vectors
        )

    return work


@contextlib.contextmanager
def count_operations() -> Iterator[dict[str, list[float]]]:
    """The operations of one step of each training on one device, without a mesh and with it."""
    counts: dict[str, list[float]] = {}
    runner = training._segment_runner

    def count(name: str, step: Any, state: Any, data: Any, callbacks: Callbacks) -> Any:
        out = devices.shardings(state)
        both = None if out is None else (out, devices.everywhere(callbacks.mesh))
        compiled = jax.jit(step, out_shardings=both).lower(state, data).compile()
        analysis = compiled.cost_analysis()
        assert analysis
        counts.setdefault(name, []).append(analysis["flops"])
        return runner(name, step, state, data, callbacks)

    training._segment_runner = count
    yield counts
    training._segment_runner = runner


def main(everything: bool) -> None:
    """What is split over devices: a case of members, of minibatches, of trainings; or every case there is."""
    chain = Trajectory(k=2, views=2, batch=BATCH, lr=0.05)
    bags = Bootstrap(k=5, views=2, batch=BATCH, lr=0.05, epochs=1)
    works = {
        "members": members(BN, 11, 2),
        "a step of the base": one_step,
        "trajectory": collected("trajectory", BN, chain),
        "bootstrap of kernels": collected("bootstrap", KERNEL, bags),
    }
    if everything:
        works |= {
            "members of kernels": members(KERNEL, 3, None),
            "members, all at once": members(BN, 7, None),
            "trajectory, streamed": collected("trajectory", BN, chain, 40_000),
            "bootstrap": collected("bootstrap", BN, bags),
            "bootstrap, whole": collected("bootstrap", "*", bags),
            "boosting": collected("boosting", "*", Boosting(k=2, views=2, batch=BATCH, lr=0.01, epochs=1)),
            "cyclical, whole": collected("cyclical", "*", Cyclical(k=2, views=2, batch=BATCH, lr=0.01, epochs=1)),
        }
    with count_operations() as counts:
        found = {}
        for name, work in works.items():
            found[name] = difference(work)
            print(name, found[name], file=sys.stderr)
    shares = {name: many / one for name, (one, many, *_) in counts.items()}
    print(json.dumps({"devices": jax.device_count(), "differences": found, "shares": shares}))


if __name__ == "__main__":
    main("--all" in sys.argv)
