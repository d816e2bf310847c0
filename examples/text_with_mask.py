"""Inputs that are not one array: tokens and the mask of their sentence, and batches of them from a loader.

The text is made up: a sentence is of the class whose words it holds most of. The rest of a row is padding.

python examples/text_with_mask.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bend_jax

CLASSES, WORDS, LENGTH = 3, 30, 12


def sentences(n, seed):
    """(inputs, labels): {"tokens": [n, 12] whole numbers, "mask": [n, 12] booleans} and classes [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    tokens = rng.integers(0, WORDS, (n, LENGTH))
    mask = np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (n, 1))
    own = mask & (rng.random((n, LENGTH)) < 0.3)
    return {"tokens": np.where(own, tokens // CLASSES * CLASSES + labels[:, None], tokens), "mask": mask}, labels


def apply(variables, inputs):
    """Logits [n, 3] from the mean of the words that the mask leaves in."""
    p = variables["params"]
    words = jnp.tanh(p["embedding"][inputs["tokens"]] @ p["dense"]) * inputs["mask"][..., None]
    return words.sum(axis=1) / inputs["mask"].sum(axis=1, keepdims=True) @ p["head"]


keys = jax.random.split(jax.random.key(0), 3)
shapes = {"embedding": (WORDS, 16), "dense": (16, 16), "head": (16, CLASSES)}
params = {name: 0.3 * jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
variables, optimizer = {"params": params}, optax.adam(3e-2)
state = optimizer.init(variables)
train, validation, test = sentences(600, 0), sentences(300, 1), sentences(600, 2)


@jax.jit
def step(variables, state, inputs, labels):
    """One step of Adam on all sentences."""

    def loss(variables):
        return optax.softmax_cross_entropy_with_integer_labels(apply(variables, inputs), labels).mean()

    updates, state = optimizer.update(jax.grad(loss)(variables), state)
    return optax.apply_updates(variables, updates), state


for _ in range(60):
    variables, state = step(variables, state, *train)


def batches():
    """Pairs of inputs and labels, as a loader gives them: the sentences need not fit the device."""
    for begin in range(0, 600, 100):
        yield {name: array[begin : begin + 100] for name, array in train[0].items()}, train[1][begin : begin + 100]


given = {"subset": "dense,head", "validation": validation, "collect": bend_jax.Bootstrap(k=10, batch=32, lr=0.1)}
ensemble = bend_jax.fit(apply, variables, batches(), generate=bend_jax.Gaussian(), members=20, **given)
print(f"{len(ensemble.vectors)} members that differ in {', '.join(ensemble.subset.paths)}")
print(f"accuracy on new sentences: {(ensemble.predict(test[0]) == test[1]).mean():.3f}")


def without_last_word(inputs):
    """A view of a sentence: its last word is masked, where it has more than three."""
    kept = inputs["mask"] & jnp.roll(inputs["mask"], -1, axis=1).at[:, -1].set(False)
    return inputs | {"mask": jnp.where(inputs["mask"].sum(axis=1, keepdims=True) > 3, kept, inputs["mask"])}


views = (lambda inputs: inputs, without_last_word)
print(f"and over two views of each: {(ensemble.predict(test[0], views) == test[1]).mean():.3f}")
