"""An ensemble out of your own network: any pure function apply(variables, images) -> logits.

python examples/own_model.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import bend_jax


class Net(nn.Module):
    """A perceptron with LayerNorm."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1) / 16
        for i in range(2):
            x = nn.relu(nn.LayerNorm(name=f"norm{i}")(nn.Dense(64, name=f"dense{i}")(x)))
        return nn.Dense(10, name="head")(x)


net, optimizer = Net(), optax.adam(1e-2)


def apply(variables, images):
    """What bend_jax needs to know about a network."""
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
x, y, x_test, y_test = images[:900], labels[:900], images[900:], labels[900:]
variables = jax.jit(net.init)(jax.random.key(0), x[:1])
state = jax.jit(optimizer.init)(variables)
for _ in range(100):
    variables, state = step(variables, state, x, y)

ensemble = bend_jax.fit(apply, variables, x, y, subset="norm1,head", collect=bend_jax.Bootstrap(k=50), members=100)
base = (apply(variables, x_test).argmax(-1) == y_test).mean()
print(f"base {base:.2%}, ensemble {(ensemble.predict(x_test) == y_test).mean():.2%}")
