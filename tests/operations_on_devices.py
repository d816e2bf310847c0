"""Floating-point operations of one of several devices, counted by XLA in the programs that it compiled for them, beside
those of a device alone: members in an evaluation, and bootstraps. Nothing is run.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.operations_on_devices [--large]
"""

import json
import sys
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices, ensemble, models
from bend_jax.collect import bootstrap
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.evaluation import predict
from bend_jax.subset import Subset, select
from bend_jax.training import Callbacks, Examples, Model

MESH = devices.all_devices()
CLASSES = 10


class Case(NamedTuple):
    """A network and a vector in it; members: of either; size: of images; batch: of an evaluation; train: of a
    bootstrap's step; memory: for all of these members, and not for features of many views."""

    model: Model
    variables: Any
    subset: Subset
    members: int
    size: int
    batch: int
    train: int
    memory: int


def case(large: bool) -> Case:
    """The last BN of a ResNet: of the whole ResNet-18 on 32x32 pixels, or of one with two narrow blocks."""
    size, how = (32, {}) if large else (8, {"widths": (8, 16), "blocks": (1, 1)})
    module = models.build("resnet18", CLASSES, **how)
    init = jax.jit(lambda key: module.init(key, jnp.zeros((1, size, size, 3))))
    pattern = "layer4.1.bn2" if large else "layer2.0.bn2"
    numbers = (200, size, 256, 64, 2**34) if large else (16, size, 64, 16, 2**24)
    variables = init(jax.random.key(0))
    model = Model(module.apply, None, init)
    return Case(model, variables, select(variables, [pattern]), *numbers)


def flops(compiled: Any) -> float:
    """Of one device; a loop's body counts once."""
    return float(compiled.cost_analysis()["flops"])


def at_once(fn: Any, values: Any, batch_size: Any = None) -> Any:
    """In place of jax.lax.map, whose loop counts once: the same operations without it."""
    return jax.vmap(fn)(values)


def members(own: Case, mesh: Any) -> dict[str, float]:
    """Of a batch of an evaluation: all members' logits, then what is kept of them."""
    vectors = jnp.zeros((own.members, own.subset.dim))
    images = jnp.zeros((own.batch, own.size, own.size, 3))
    placed = devices.replicate((own.variables, vectors, images), mesh)
    with mock.patch("jax.lax.map", at_once):
        how = {"chunk": None, "mesh": mesh}
        program = ensemble.member_logits.lower(own.model.apply, placed[0], own.subset, *placed[1:], **how).compile()
    logits = devices.replicate(jnp.zeros((own.members, own.batch, CLASSES)), mesh)
    rows, firsts = predict._stack(own.members, 1, {}), predict._firsts(own.members, 1, (1, 2, 5, 10, 20, 50, 100, 200))
    kept = predict._summary.lower([logits], 0, rows, firsts, np.zeros(own.batch, np.int32), True, mesh).compile()
    return {"logits": flops(program), "votes": flops(kept)}


def bootstraps(own: Case, mesh: Any) -> dict[str, float]:
    """Of a training on cached features, without filling the cache, and of one on streamed features."""
    n = 2 * own.train
    images = jnp.zeros((n, own.size, own.size, 3))
    examples = Examples(images, jnp.zeros(n, jnp.int32), lambda keys, x, index=0: x, lambda x: x)
    counts: list[float] = []

    def count(name: str, step: Any, state: Any, data: Any, *, steps: int, callbacks: Callbacks, **more: Any) -> Any:
        assert steps == 2  # all members at once
        kept = devices.shardings(state)
        out = None if kept is None else (kept, devices.everywhere(callbacks.mesh))
        counts.append(steps * flops(jax.jit(step, out_shardings=out).lower(state, data).compile()))
        return state

    with mock.patch.object(bootstrap, "train", count):
        for views in (1, 10_000):  # whose features fit, and do not fit
            settings = Bootstrap(k=own.members, views=views, batch=own.train, epochs=1)
            arguments = (own.model, own.variables, own.subset, examples, jax.random.key(0), settings)
            bootstrap.collect(*arguments, callbacks=Callbacks(mesh=mesh, memory=own.memory))
    return dict(zip(("cached", "streamed"), counts, strict=True))


def main(large: bool) -> None:
    """One line of JSON: how near each is to its share, 1 of one device's operations over as many devices."""
    own = case(large)
    one, each = ({**members(own, mesh), **bootstraps(own, mesh)} for mesh in (None, MESH))
    for counts in (one, each):
        counts["evaluation"] = counts["logits"] + counts["votes"]
    shares = devices.count(MESH)
    found = {name: one[name] / shares / each[name] for name in one}
    print(json.dumps({"devices": shares, "of the ideal": found, "one device": one}))


if __name__ == "__main__":
    main("--large" in sys.argv)
