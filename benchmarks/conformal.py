"""What it costs the coverage of conformal sets that the temperature is fitted on the same images: python -m
benchmarks.conformal

Made-up networks of 10 classes that are too sure of themselves. Mean coverage at 90%, over draws of the calibration
images and of 500 test images for each, with the temperature of the calibration images and with that of other ones.
"""

import argparse

import jax.numpy as jnp
import numpy as np
from scipy import special

from bend_jax import conformal, metrics

CLASSES, TEST, COVERAGE = 10, 500, 0.9
METHODS = ("lac", "aps", "raps")


def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of n images: the labels follow the probabilities at a temperature of 3."""
    logits = 3 * rng.normal(size=(n, CLASSES)) * rng.uniform(0.5, 3, (n, 1))
    true = special.softmax(logits / 1.5, axis=1)
    labels = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return special.softmax(2 * logits, axis=1).astype(np.float32), labels.clip(0, CLASSES - 1)


def coverages(rng: np.random.Generator, images: int) -> dict[tuple[str, str], float]:
    """Of one draw, by method and by whose the temperature is."""
    calibration, other, test = drawn(rng, images), drawn(rng, images), drawn(rng, TEST)
    found = {}
    for whose, own in (("same", calibration), ("other", other)):
        temperature = metrics.fit_temperature(jnp.asarray(own[0]), jnp.asarray(own[1]))
        p, q = (np.asarray(metrics.scale_temperature(jnp.asarray(x[0]), temperature)) for x in (calibration, test))
        calibrated, scored = conformal.calibrate(p, calibration[1]), conformal.scores(q)
        for method in METHODS:
            sets = conformal.sets(calibrated, scored, method, COVERAGE)
            found[method, whose] = float(sets[np.arange(TEST), test[1]].mean())
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--sizes", default="20,50,200", help="numbers of calibration images, with commas between")
    own = parser.parse_args()
    rng = np.random.default_rng(0)
    print("images  k/(v+1)  " + "  ".join(f"{m} same, other, difference ± its error" for m in METHODS))
    for images in map(int, own.sizes.split(",")):
        found = [coverages(rng, images) for _ in range(own.draws)]
        promised = conformal.place(images, COVERAGE) / (images + 1)
        cells = []
        for method in METHODS:
            same, other = (np.array([one[method, whose] for one in found]) for whose in ("same", "other"))
            error = (same - other).std() / np.sqrt(own.draws)
            cells.append(f"{same.mean():.4f} {other.mean():.4f} {(same - other).mean():+.4f}±{error:.4f}")
        print(f"{images:6}  {promised:.4f}   " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
