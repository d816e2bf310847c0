"""A LoRA-Ensemble (arXiv 2405.14438): members are sets of adapters on one vision transformer.

python examples/vit_lora.py               # a tiny transformer, trained here on noisy digits
python examples/vit_lora.py FILE          # starts from timm's vit_tiny_patch16_224 (a .safetensors or .pth file)
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import bend_jax
from bend_jax import metrics, models
from bend_jax.models.pytorch import load_init

digits, labels = load_digits(return_X_y=True)
noise = np.random.default_rng(0).normal(0, 0.2, digits.shape)
images = np.asarray(digits / 16 + noise, np.float32).reshape(-1, 8, 8, 1) - 0.3
train, validation, test = slice(0, 600), slice(600, 1000), slice(1000, None)

if len(sys.argv) > 1:
    images = np.asarray(jax.image.resize(jnp.asarray(images), (len(images), 64, 64, 3), "bilinear"))
    net, published = models.build("vit_tiny", 10), models.build("vit_tiny", 1000)
    variables = load_init(Path(sys.argv[1]), jax.eval_shape(published.init, jax.random.key(0), images[:1]))
    variables["params"]["head"] = net.init(jax.random.key(0), images[:1])["params"]["head"]
    steps, rate = 100, 1e-4
else:
    net = models.build("vit_tiny", 10, widths=(32,), blocks=(2,), patch=2)
    variables = jax.jit(net.init)(jax.random.key(0), images[:1])
    steps, rate = 600, 3e-3

# the trunk: Adam on everything
apply = jax.jit(net.apply)
adam = optax.adam(rate)


@partial(jax.jit, donate_argnums=(0, 1))
def step(variables, state, x, y):
    """One minibatch."""

    def loss(v):
        return optax.softmax_cross_entropy_with_integer_labels(apply(v, x), y).mean()

    updates, state = adam.update(jax.grad(loss)(variables), state)
    return optax.apply_updates(variables, updates), state


state, rng = adam.init(variables), np.random.default_rng(1)
for _ in range(steps):
    index = rng.integers(0, train.stop, 64)
    variables, state = step(variables, state, images[index], labels[index])

# ten sets of adapters of all queries, keys and values, each from an A of its own and on its own bootstrap; the members
# are these checkpoints themselves, since adapters from different starts have no distribution in common
ensemble = bend_jax.fit(
    net.apply,
    variables,
    images[train],
    labels[train],
    subset="lora:blocks.*.attn.qkv",
    rank=4,
    collect=bend_jax.Bootstrap(k=10, epochs=5, lr=0.1),
    generate=bend_jax.Identity(),
    members=10,
    validation=(images[validation], labels[validation]),
)

held, new = (jax.nn.softmax(apply(variables, images[part])) for part in (validation, test))
scaled = metrics.scale_temperature(new, metrics.fit_temperature(held, jnp.asarray(labels[validation])))
for name, p in (
    ("trunk alone", scaled),
    (f"{len(ensemble.vectors)} sets of adapters", ensemble.predict_proba(images[test])),
):
    accuracy = np.mean(np.argmax(p, axis=1) == labels[test])
    loss = float(metrics.nll(jnp.asarray(p), jnp.asarray(labels[test])))
    print(f"{name:20} accuracy {accuracy:.1%}, NLL {loss:.3f}, both after temperature scaling on validation")
predictions = np.argmax(ensemble.member_logits(images[test]), axis=2)
print(f"members disagree on {float(metrics.disagreement(jnp.asarray(predictions))):.1%} of the images")
print(f"{ensemble.subset.dim:,} numbers a member, {sum(x.size for x in jax.tree.leaves(variables)):,} in the trunk")
