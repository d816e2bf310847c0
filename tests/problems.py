"""Small problems that several files of tests share: images of a run, blobs for `fit`, and a dense net with BN that is
trained by hand."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bend_jax
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.ensemble import Ensemble
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.bend import Bend
from bend_jax.generate.diffusion import Diffusion
from bend_jax.recipe import cross_entropy
from bend_jax.subset import Subset, flatten, insert, select
from bend_jax.training import Examples, Model


def write_images(path: Path, train: int = 256, test: int = 300) -> Path:
    """The images of tests/configs/tiny.py as an .npz: stripes in four directions, under so much noise that no
    network is always right."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((8, 8))
    phase = np.stack([rows, columns, rows + columns, rows - columns])
    patterns = np.where(phase % 4 < 2, 80, 176)[..., None]
    content = {}
    for name, n in (("train", train), ("test", test)):
        labels = np.arange(n, dtype=np.int32) % 4
        images = np.clip(patterns[labels] + rng.normal(0, 110, (n, 8, 8, 1)), 0, 255)
        content |= {f"x_{name}": images.astype(np.uint8), f"y_{name}": labels}
    np.savez(path, **content)
    return path


# blobs, and an ensemble of plain functions on them

QUICK = Bend(
    autoencoder=Autoencoder(kind="mlp", steps=20, latent=4, hidden=16), diffusion=Diffusion(steps=20, width=8, blocks=1)
)


def blobs_apply(variables: Any, images: Any) -> Any:
    """Two dense layers as plain functions of plain dicts."""
    p = variables["params"]
    h = jnp.tanh(images @ p["hidden"]["kernel"])
    return h @ p["head"]["kernel"] + p["head"]["bias"][None]


def blobs(n: int = 80) -> tuple[Any, Any, Any]:
    """Variables, images and labels of three blobs."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = rng.normal(size=(n, 5)).astype(np.float32) + 2 * np.eye(5, dtype=np.float32)[labels]
    hidden = rng.normal(size=(5, 8)).astype(np.float32)
    head = {"kernel": rng.normal(size=(8, 3)).astype(np.float32), "bias": np.zeros(3, np.float32)}
    labels[::7] = (labels[::7] + 1) % 3  # no network is always right
    return {"params": {"hidden": {"kernel": hidden}, "head": head}}, images, labels


@cache
def fitted_once() -> Ensemble:
    """The ensemble that `fitted` gives without changes, for all tests that only look at it."""
    return fitted()


def fitted(**changes: Any) -> Ensemble:
    """A small ensemble on the head."""
    variables, images, labels = blobs()
    settings: dict[str, Any] = {
        "subset": "head",
        "collect": Bootstrap(k=8, batch=16, lr=0.1),
        "generate": QUICK,
        "members": 6,
        "unseen": True,
    }
    return bend_jax.fit(blobs_apply, variables, images, labels, **(settings | changes))


# a dense net with BN, and its training by hand

N, BATCH = 26, 8  # an epoch is 3 steps and leaves 2 images out


STEPS = N // BATCH


Problem = tuple[Model, Any, Subset, Examples]


def plain(images: Any) -> Any:
    """No normalisation."""
    return images.astype(jnp.float32)


def view(keys: Any, images: Any, index: Any = 0) -> Any:
    """Every image gets noise from its own key."""
    return plain(images) + 0.1 * jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)


def _logits(variables: Any, hidden: Any, statistics: Any, noise: Any = 0.0) -> Any:
    p = variables["params"]
    normal = (hidden - statistics["mean"][None]) / jnp.sqrt(statistics["var"] + 1e-5)[None]
    active = jnp.maximum(normal * p["bn"]["scale"][None] + p["bn"]["bias"][None] + noise, 0)
    return active @ p["last"]["kernel"] + p["last"]["bias"][None]


def dense_apply(variables: Any, images: Any) -> Any:
    """A linear layer, BN and a linear layer, in inference mode."""
    return _logits(variables, images @ variables["params"]["first"]["kernel"], variables["batch_stats"]["bn"])


def dense_train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
    """The same with the minibatch's statistics, of which a fifth goes into the running ones, and with noise."""
    hidden = images @ variables["params"]["first"]["kernel"]
    found = {"mean": hidden.mean(0), "var": hidden.var(0)}
    logits = _logits(variables, hidden, found, 0.1 * jax.random.normal(key, hidden.shape))
    new = jax.tree.map(lambda r, b: 0.8 * r + 0.2 * b, variables["batch_stats"]["bn"], found)
    return logits, {**variables, "batch_stats": {"bn": new}}


def dense_init(key: Any) -> Any:
    """Random parameters."""
    keys = jax.random.split(key, 4)
    params = {
        "first": {"kernel": jax.random.normal(keys[0], (5, 6))},
        "bn": {"scale": 1 + 0.2 * jax.random.normal(keys[1], (6,)), "bias": 0.2 * jax.random.normal(keys[2], (6,))},
        "last": {"kernel": jax.random.normal(keys[3], (6, 3)), "bias": jnp.zeros(3)},
    }
    return {"params": params, "batch_stats": {"bn": {"mean": jnp.zeros(6), "var": jnp.ones(6)}}}


@cache
def dense(*patterns: str) -> Problem:
    """A net that compiles in no time; the base is wrong on every third label."""
    images = jax.random.normal(jax.random.key(10), (N, 5))
    variables = dense_init(jax.random.key(11))
    statistics = {"mean": jnp.linspace(-0.5, 0.5, 6), "var": jnp.linspace(2.0, 6.0, 6)}
    variables = {**variables, "batch_stats": {"bn": statistics}}
    labels = (jnp.argmax(dense_apply(variables, images), axis=1) + (jnp.arange(N) % 3 == 0)) % 3
    model = Model(dense_apply, dense_train_apply, dense_init)
    return model, variables, select(variables, patterns), Examples(images, labels.astype(jnp.int32), view, plain)


Update = Callable[[int, Any, Any], Any]


def momentum_sgd(settings: Any, rate: Callable[[int], float] | None = None) -> Update:
    """What is added to the vector at a step: v <- momentum v - rate (gradient + decay w), by hand."""
    velocity = [np.float32(0)]

    def update(step: int, gradient: Any, vector: Any) -> Any:
        lr = settings.lr if rate is None else rate(step)
        velocity[0] = settings.momentum * velocity[0] - lr * (gradient + settings.weight_decay * vector)
        return velocity[0]

    return update


def fine_tune(
    problem: Problem,
    keys: Any,
    settings: Any,
    update: Update,
    epochs: int,
    *,
    weigh: Callable[[Any], Any] = lambda index: np.ones(len(index), np.float32),
    whole: bool = False,
    start: Any = None,
) -> Iterator[np.ndarray]:
    """Plain training of one vector through the whole net, in a Python loop; yields the vector after every epoch.

    keys: of the views, of the order and of the steps; whole: BN in training mode, on views from the keys of the steps.
    """
    model, variables, subset, examples = problem
    rest = {name: value for name, value in variables.items() if name != "params"}
    vector = np.asarray(flatten(subset, variables) if start is None else start)
    is_trained = np.repeat([p.startswith("params.") for p in subset.paths], [math.prod(s) for s in subset.shapes])

    @jax.jit
    def gradient(vector: Any, rest: Any, images: Any, labels: Any, weights: Any, key: Any) -> Any:
        def loss(v: Any) -> Any:
            if not whole:
                return jnp.mean(
                    weights * cross_entropy(model.apply(insert(subset, variables, v), images), labels)
                ), rest
            assert model.train_apply is not None
            logits, new = model.train_apply({**insert(subset, variables, v), **rest}, images, key)
            return jnp.mean(weights * cross_entropy(logits, labels)), {name: new[name] for name in rest}

        return jax.grad(loss, has_aux=True)(vector)

    step = 0
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(keys[1], epoch), N))
        key_view = jax.random.fold_in(keys[0], epoch % settings.views)
        for begin in range(0, STEPS * BATCH, BATCH):
            index = order[begin : begin + BATCH]
            key, *new_keys = jax.random.split(jax.random.fold_in(keys[2], step), BATCH + 1)
            own_keys = jax.vmap(lambda i, k=key_view: jax.random.fold_in(k, i))(index)
            image_keys = jnp.stack(new_keys) if whole else own_keys
            images = view(image_keys, examples.images[index])
            slope, rest = gradient(vector, rest, images, examples.labels[index], weigh(index), key)
            vector = vector + is_trained * np.asarray(update(step, np.asarray(slope), vector))
            step += 1
        yield np.asarray(flatten(subset, {**insert(subset, variables, jnp.asarray(vector)), **rest}))


def coordinates(subset: Subset, name: str) -> np.ndarray:
    """Which numbers of the vector belong to leaves whose path begins so."""
    return np.repeat([p.startswith(name) for p in subset.paths], [math.prod(s) for s in subset.shapes])
