"""Members in other JAX code: plain orbax, plain JAX, no bend_jax. For a run of configs/digits.py.

python launch.py --config=configs/digits.py --workdir=runs/digits
python examples/load_members.py runs/digits
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

run = Path(sys.argv[1]).resolve()
with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore((run / "base" / "variables").resolve())
    stacked = checkpointer.restore((run / "generate" / "stacked").resolve())
    test = checkpointer.restore((run / "evaluate" / "predictions").resolve())


def conv(x, kernel, stride=1):
    """3x3 padded by one, or 1x1."""
    pad = kernel.shape[0] // 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=numbers)


def norm(x, weights, statistics):
    """Batch normalisation with running statistics."""
    scale = weights["scale"] * jax.lax.rsqrt(statistics["var"] + 1e-5)
    return (x - statistics["mean"]) * scale + weights["bias"]


def block(x, p, s, stride):
    """A basic residual block."""
    y = jax.nn.relu(norm(conv(x, p["conv1"]["kernel"], stride), p["bn1"], s["bn1"]))
    y = norm(conv(y, p["conv2"]["kernel"]), p["bn2"], s["bn2"])
    if "shortcut" in p:
        x = norm(conv(x, p["shortcut"]["0"]["kernel"], stride), p["shortcut"]["1"], s["shortcut"]["1"])
    return jax.nn.relu(x + y)


def net(variables, images):
    """The three-block ResNet of configs/digits.py."""
    p, s = variables["params"], variables["batch_stats"]
    x = (images / 255.0 - 0.36) / 0.37
    x = jax.nn.relu(norm(conv(x, p["conv1"]["kernel"]), p["bn1"], s["bn1"]))
    for i in (1, 2, 3):
        x = block(x, p[f"layer{i}"]["0"], s[f"layer{i}"]["0"], 1 if i == 1 else 2)
    return x.mean((1, 2)) @ p["fc"]["kernel"] + p["fc"]["bias"]


def merge(tree, new):
    """The tree with the leaves of `new` in their places."""
    return {k: merge(v, new[k]) if k in new else v for k, v in tree.items()} if isinstance(tree, dict) else new


@jax.jit
def member_labels(member):
    """The labels that one member gives to the test images."""
    return net(merge(variables, member), test["images"]).argmax(-1)


labels = jax.lax.map(member_labels, stacked)
votes = jax.nn.one_hot(labels, variables["params"]["fc"]["bias"].shape[0]).sum(0)
accuracy = float((jnp.argmax(votes, axis=-1) == test["labels"]).mean())
reported = json.loads((run / "report" / "report.json").read_text())["table"]["sbend"]
print(f"sBEND {accuracy:.6f}, reported {reported:.6f}")
sys.exit(0 if abs(accuracy - reported) < 1e-6 else 1)
