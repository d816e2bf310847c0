"""An ensemble of an Equinox module in one line: the module takes one image, the ensemble takes batches of them.

python examples/equinox_module.py
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import bend_jax

images, labels = load_digits(return_X_y=True)
images = images / 16 + np.random.default_rng(0).normal(0, 0.3, images.shape)
images = images.astype(np.float32)
train, validation, test = ((images[part], labels[part]) for part in (slice(900), slice(900, 1200), slice(1200, None)))

net = eqx.nn.MLP(64, 10, width_size=64, depth=2, key=jax.random.key(0))
optimizer = optax.adam(1e-2)
state = optimizer.init(eqx.filter(net, eqx.is_inexact_array))


@eqx.filter_jit
def step(net, state, images, labels):
    """One step of Adam on all images."""

    def loss(net):
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(net)(images), labels).mean()

    updates, state = optimizer.update(eqx.filter_grad(loss)(net), state)
    return eqx.apply_updates(net, updates), state


for _ in range(60):
    net, state = step(net, state, *train)

given = {"validation": validation, "collect": bend_jax.Bootstrap(k=10, batch=32, lr=0.1), "members": 20}
ensemble = bend_jax.fit(net, *train, subset="layers.-1", generate=bend_jax.Gaussian(), **given)
print(f"{len(ensemble.vectors)} members that differ in {', '.join(ensemble.subset.paths)}")
print(f"accuracy on new images: {(ensemble.predict(test[0]) == test[1]).mean():.3f}")
