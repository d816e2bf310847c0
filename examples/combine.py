"""Three networks of different architectures vote together: weights and temperature from validation images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import bend_jax
from bend_jax import metrics

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
train, validation, test = slice(0, 300), slice(300, 800), slice(800, None)


def flat(x):
    """Pixels in a row."""
    return x.reshape(len(x), -1)


networks = {
    "dense": nn.Sequential([flat, nn.Dense(64), nn.relu, nn.Dense(10)]),
    "convolutional": nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, flat, nn.Dense(10)]),
    "deeper": nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, nn.Conv(32, (3, 3), (2, 2)), nn.relu, flat, nn.Dense(10)]),
}


def trained(net):
    """100 full-batch steps of Adam on the training images."""
    variables = net.init(jax.random.key(0), images[:1])
    adam = optax.adam(3e-3)

    @jax.jit
    def step(variables, state):
        def loss(v):
            logits = net.apply(v, images[train])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[train]).mean()

        updates, state = adam.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    state = adam.init(variables)
    for _ in range(100):
        variables, state = step(variables, state)
    return variables


def row(name, vote):
    """Accuracy and NLL on test images."""
    p = jnp.asarray(vote.predict_proba(images[test]))
    accuracy, nll = (p.argmax(axis=1) == labels[test]).mean(), metrics.nll(p, labels[test])
    print(f"{name:18} {100 * accuracy:5.1f} {nll:.3f}")


own = [(net.apply, trained(net)) for net in networks.values()]
vote = bend_jax.combine(own, validation=(images[validation], labels[validation]))
print(f"{'':18} accuracy % and NLL, each with its temperature from validation")
for name, network in zip(networks, vote.networks, strict=True):
    row(name, network)
row("vote of all three", vote)
weights = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(networks, vote.weights, strict=True))
print(f"{vote.vote}, temperature {vote.temperature:.2f}, weights: {weights}")
