"""BEND's Fig. 5a: accuracy against k, the number of checkpoints.

python launch.py --config=configs/paper/figure5a.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "figure5a"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
SMALL = (1, 2, 10, 50, 100, 200)
VALUES = {"digits": SMALL, "cifar10_small": SMALL, "full": (1, 10, 50, 100, 200, 350, 500)}  # seven, the last 500
STEPS = 1000  # of both trainings on a single checkpoint at a small scale; as published at full scale


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-50, 100 members."""
    return SHARED["start"](PAPER, scale)


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """One for each k. A single checkpoint, with which the figure begins, has no spread to scale by: its generator is
    the published one, which scales nothing."""
    single: dict[str, Any] = {"generate.bend.preset": "published"}
    if scale != "full":
        single |= {f"generate.bend.{part}.steps": STEPS for part in ("autoencoder", "diffusion")}
        single["generate.bend.diffusion.segment"] = STEPS // 10
    rows = []
    for k in VALUES[scale]:
        rows.append(dict(name=f"k = {k}", vote="sbend", settings={"collect.k": k, **(single if k == 1 else {})}))
    return rows
