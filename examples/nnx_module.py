"""An ensemble of a Flax NNX module in one line: a perceptron with BatchNorm on scikit-learn's digits.

python examples/nnx_module.py
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import bend_jax


class Net(nnx.Module):
    """Two dense layers, BatchNorm, Dropout and a head."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(width, 64, rngs=rngs) for width in (64, 64)])
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [n, 10]."""
        for layer in self.layers:
            images = nnx.relu(layer(images))
        return self.head(self.drop(self.norm(images)))


images, labels = load_digits(return_X_y=True)
images = images / 16 + np.random.default_rng(0).normal(0, 0.3, images.shape)
images = images.astype(np.float32)
train, validation, test = ((images[part], labels[part]) for part in (slice(900), slice(900, 1200), slice(1200, None)))

net = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)


@nnx.jit
def step(net, optimizer, images, labels):
    """One step of Adam on all images."""

    def loss(net):
        return optax.softmax_cross_entropy_with_integer_labels(net(images), labels).mean()

    optimizer.update(net, nnx.grad(loss)(net))


for _ in range(60):
    step(net, optimizer, *train)

given = {"validation": validation, "collect": bend_jax.Bootstrap(k=10, batch=32, lr=0.1), "members": 20}
ensemble = bend_jax.fit(net, *train, subset="norm,head", generate=bend_jax.Gaussian(), **given)
print(f"{len(ensemble.vectors)} members that differ in {', '.join(ensemble.subset.paths)}")
print(f"accuracy on new images: {(ensemble.predict(test[0]) == test[1]).mean():.3f}")
