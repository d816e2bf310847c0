"""CBNN: boosted checkpoints against one network trained as long, on balanced and on long-tailed data.

python launch.py --config=configs/paper/cbnn.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "cbnn"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]
# checkpoints, and epochs between two of them: half a training more, at full scale a quarter more
BOOSTED = {"digits": (11, 2), "cifar10_small": (6, 1), "full": (11, 5)}
IMBALANCE = {"digits": 10.0, "cifar10_small": 50.0, "full": 50.0}  # the largest class over the smallest


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-18, at full scale on CIFAR-100; all of its weights are boosted."""
    config = SHARED["start"](PAPER, scale, "res18_cifar100")
    k, epochs = BOOSTED[scale]
    config.generate.nulls = ""
    config.collect.name, config.collect.subset, config.generate.name = "boosting", "*", "identity"
    config.collect.k = config.members = k
    config.collect.boosting.epochs = epochs
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """On each data set: the base, the base trained as long as CBNN, CBNN."""
    k, epochs = BOOSTED[scale]
    before = config.base.epochs
    longer = before + (k - 1) * epochs
    stretched = tuple(round(m * longer / before) for m in config.base.milestones)
    # the vote of the base alone; what is collected beside it costs no training
    alone = {"collect.name": "mc_bn", "collect.subset": "batch_stats", "collect.k": 2}
    longer_base = alone | {"base.epochs": longer, "base.milestones": stretched}
    rows = []
    for name, data in (("balanced", {}), ("long-tailed", {"data.imbalance": IMBALANCE[scale]})):
        rows += [
            dict(name=f"{name}: base", vote="base", settings=data | alone),
            dict(name=f"{name}: base as long", vote="base", settings=data | longer_base),
            dict(name=f"{name}: CBNN", vote="weighted", settings=data, against=f"{name}: base as long"),
        ]
    return rows
