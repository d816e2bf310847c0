"""Networks of any library: votes, calibration and conformal sets from their logits, and a report of all of it.

python examples/evaluate_logits.py [FOLDER]   writes the report into FOLDER, a new one

The logits here are made up. Yours may be PyTorch tensors: `torch.stack([model(images) for model in models])`.
"""

import sys

import numpy as np

import bend_jax

rng = np.random.default_rng(0)


def run_networks(labels: np.ndarray) -> np.ndarray:
    """Logits [m, n, classes] of four networks that are right more often than not."""
    shared = rng.normal(size=(1, len(labels), 10))  # an image that is hard for one is hard for all
    return 2.5 * np.eye(10)[labels] + shared + rng.normal(size=(4, len(labels), 10))


labels, validation_labels = rng.integers(0, 10, 2000), rng.integers(0, 10, 1000)
logits, validation_logits = run_networks(labels), run_networks(validation_labels)
other = rng.normal(size=(4, 500, 10))  # of images of another kind

found = bend_jax.evaluate(
    logits,
    labels,
    validation=(validation_logits, validation_labels),  # images that no network was trained on
    ood={"noise": other},
    coverage=0.9,
)

numbers = found.numbers
print(f"the best network {numbers.votes['base'].accuracy:.2%}, the vote {numbers.votes[numbers.vote].accuracy:.2%}")
for method, sets in found.sets.items():  # booleans [n, classes]
    held = sets[np.arange(len(labels)), labels]
    print(f"{method}: sets of {sets.sum(axis=1).mean():.2f} labels hold the right one {held.mean():.2%} of the time")
unsure = np.argsort(-found.doubt.epistemic)[:3]
print("the networks differ most on images", ", ".join(map(str, unsure)))

if len(sys.argv) > 1:
    found.save(sys.argv[1])
