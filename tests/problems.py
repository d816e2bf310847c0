"""Small problems that several files of tests share."""

from pathlib import Path

import numpy as np


def write_images(path: Path, train: int = 256, test: int = 300) -> Path:
    """The images of tests/configs/tiny.py as an .npz: hard enough for no network to be always right."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (4, 8, 8, 1))
    content = {}
    for name, n in (("train", train), ("test", test)):
        labels = np.arange(n, dtype=np.int32) % 4
        images = 0.35 * patterns[labels] + 0.65 * rng.integers(0, 256, (n, 8, 8, 1))
        content |= {f"x_{name}": images.astype(np.uint8), f"y_{name}": labels}
    np.savez(path, **content)
    return path
