"""A linear probe on a frozen trunk: `split` computes the trunk's features once for all steps. See docs/split.md."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from bend_jax.split import split

images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32), jnp.asarray(labels)
trunk = nn.Sequential([nn.Conv(32, (3, 3)), nn.relu, nn.Conv(64, (8, 8), padding=0), nn.relu, lambda x: x[:, 0, 0]])
frozen = trunk.init(jax.random.key(0), images[:1])  # or the variables of a trained network


def logits(probe, images):
    """[n, 10]; the probe may be any tree of arrays."""
    return trunk.apply(frozen, images) @ probe["kernel"] + probe["bias"]


def train(logits, probe, data):
    """200 full-batch steps of Adam on the first 900 images or features; also returns the compiled step."""

    def loss(probe, data):
        return optax.softmax_cross_entropy_with_integer_labels(logits(probe, data), labels[:900]).mean()

    def step(probe, state, data):
        updates, state = adam.update(jax.grad(loss)(probe, data), state)
        return optax.apply_updates(probe, updates), state

    adam = optax.adam(1e-2)
    state, data = adam.init(probe), jax.tree.map(lambda x: x[:900], data)
    run = jax.jit(step).lower(probe, state, data).compile()
    for _ in range(200):
        probe, state = run(probe, state, data)
    return probe, run


probe = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros((1, 10))}
prefix, suffix = split(logits, probe, images[:1], any_batch=True)  # traces `logits`, once for all batch sizes
batches = [prefix(images[begin : begin + 500]) for begin in range(0, len(images), 500)]  # of 500, 500, 500 and 297
features = jax.tree.map(lambda *rows: jnp.concatenate(rows), *batches)
(fast, short), (slow, long) = train(suffix, probe, features), train(logits, probe, images)
a, b = suffix(fast, features), logits(slow, images)
programs = long, jax.jit(prefix).lower(images).compile(), short
many, once, few = ((program.cost_analysis() or {})["flops"] / 1e6 for program in programs)
print(f"millions of operations: {200 * many:,.0f} in 200 full steps, {once + 200 * few:,.0f} with features")
print(f"accuracy on new images: {jnp.mean((a.argmax(1) == labels)[900:]):.3f}")
print(f"the logits agree to 1e-3: {jnp.allclose(a, b, atol=1e-3)}")
