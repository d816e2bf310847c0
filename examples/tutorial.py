"""From a trained Flax model to a calibrated ensemble; docs/tutorial.md is this script, block by block, with its output.

python examples/tutorial.py
"""

# %% A trained network
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits


class Net(nn.Module):
    """A perceptron with LayerNorm."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1)
        for i in range(2):
            x = nn.relu(nn.LayerNorm(name=f"norm{i}")(nn.Dense(64, name=f"dense{i}")(x)))
        return nn.Dense(10, name="head")(x)


net, optimizer = Net(), optax.adam(1e-2)


def apply(variables, images):
    """Logits [n, 10]: a pure function of a tree of arrays and of images. bend_jax needs no more than this."""
    return jnp.asarray(net.apply(variables, images))


def loss(variables, images, labels):
    """Mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(apply(variables, images), labels).mean()


@jax.jit
def step(variables, state, images, labels):
    """One step of Adam."""
    updates, state = optimizer.update(jax.grad(loss)(variables, images, labels), state)
    return optax.apply_updates(variables, updates), state


images, labels = load_digits(return_X_y=True)
images = images / 16 + np.random.default_rng(0).normal(0, 0.3, images.shape)  # noise: clean digits are too easy
images = images.astype(np.float32)
train, validation, test = ((images[part], labels[part]) for part in (slice(600), slice(600, 900), slice(900, None)))

variables = jax.jit(net.init)(jax.random.key(0), train[0][:1])
state = jax.jit(optimizer.init)(variables)
for _ in range(40):
    variables, state = step(variables, state, *train)

# %% What it says, and how sure it is
from bend_jax import metrics


def show(name, probabilities):
    """Accuracy, negative log-likelihood and calibration error on the test images."""
    p, y = jnp.asarray(probabilities), jnp.asarray(test[1])
    row = [metrics.accuracy(p.argmax(axis=1), y), metrics.nll(p, y), metrics.ece(p, y)]
    print(f"{name:30} accuracy {row[0]:6.2%}  NLL {row[1]:.4f}  ECE {row[2]:.4f}")


plain = jax.nn.softmax(apply(variables, test[0]))
held = jax.nn.softmax(apply(variables, validation[0]))
temperature = metrics.fit_temperature(held, jnp.asarray(validation[1]))
show("base", plain)
show("base, temperature-scaled", metrics.scale_temperature(plain, temperature))

# %% Collect, generate, vote
import bend_jax

bootstrap = bend_jax.Bootstrap(k=20, epochs=3, lr=0.5)
given = {"subset": "norm1,head", "members": 100, "validation": validation}
ensemble = bend_jax.fit(apply, variables, *train, collect=bootstrap, generate=bend_jax.Bend(), **given)
print(f"{len(ensemble.vectors)} members of {ensemble.subset.dim} numbers each: {', '.join(ensemble.subset.paths)}")
print(f"temperature of the vote {ensemble.temperature:.2f}, of the base {temperature:.2f}")
show("ensemble of generated members", ensemble.predict_proba(test[0]))

# %% Is it the diffusion?
same = ensemble.checkpoints  # nothing is trained again
null = bend_jax.fit(apply, variables, *train, collect=same, generate=bend_jax.Gaussian(), **given)
show("ensemble by a Gaussian", null.predict_proba(test[0]))

# %% Do the members differ?
logits = ensemble.member_logits(test[0])  # [members, images, classes]
own = logits.argmax(axis=2)
print(f"two members disagree on {metrics.disagreement(jnp.asarray(own)):.2%} of the test images")
right = (own == test[1]).mean(axis=1)
print(f"members' accuracies from {right.min():.2%} to {right.max():.2%}, mean {right.mean():.2%}")
base_right = np.asarray(plain.argmax(axis=1)) == test[1]
vote_right = ensemble.predict(test[0]) == test[1]
print(f"McNemar, ensemble against base: p = {metrics.mcnemar(vote_right, base_right):.2f}")

# %% How sure is it?
sets = ensemble.predict_set(test[0], coverage=0.9)  # booleans [images, classes]
held = sets[np.arange(len(sets)), test[1]]
print(f"sets of {sets.sum(axis=1).mean():.2f} labels hold the right one on {held.mean():.2%} of the test images")

# %% Save and load
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp()) / "ensemble"
ensemble.save(folder)
again = bend_jax.load(folder, apply)
print("the same probabilities:", np.array_equal(again.predict_proba(test[0]), ensemble.predict_proba(test[0])))

# %% The members in other JAX code
import json

import orbax.checkpoint as ocp

with ocp.StandardCheckpointer() as checkpointer:
    saved = checkpointer.restore(folder / "variables")
    vectors = checkpointer.restore(folder / "members")["vectors"]  # [members, numbers]
chosen = json.loads((folder / "subset.json").read_text())


def member(vector):
    """The variables of one member: the saved ones, with its numbers in their places."""
    result, begin = jax.tree.map(jnp.asarray, saved), 0
    for path, shape in zip(chosen["paths"], chosen["shapes"], strict=True):
        *groups, leaf = path.split(".")
        node = result
        for group in groups:
            node = node[group]
        size = int(np.prod(shape))
        node[leaf] = vector[begin : begin + size].reshape(shape)
        begin += size
    return result


logits_by_hand = jax.vmap(lambda vector: apply(member(vector), test[0]))(jnp.asarray(vectors))
print("the same logits:", np.allclose(logits_by_hand, logits, atol=1e-4))
