"""Small problems that several files of tests share."""

from pathlib import Path

import numpy as np


def write_images(path: Path, train: int = 256, test: int = 300) -> Path:
    """The images of tests/configs/tiny.py as an .npz: stripes in four directions, under so much noise that no
    network is always right."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((8, 8))
    phase = np.stack([rows, columns, rows + columns, rows - columns])
    patterns = np.where(phase % 4 < 2, 80, 176)[..., None]
    content = {}
    for name, n in (("train", train), ("test", test)):
        labels = np.arange(n, dtype=np.int32) % 4
        images = np.clip(patterns[labels] + rng.normal(0, 110, (n, 8, 8, 1)), 0, 255)
        content |= {f"x_{name}": images.astype(np.uint8), f"y_{name}": labels}
    np.savez(path, **content)
    return path
