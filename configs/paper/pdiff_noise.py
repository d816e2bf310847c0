"""p-diff's ablation of the autoencoder's noise: none, on the input, on the latent, on both.

python launch.py --config=configs/paper/pdiff_noise.py:digits
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

PAPER = "pdiff_noise"
SHARED = run_path(str(Path(__file__).with_name("_scales.py")))
SCALES = SHARED["SCALES"]


def get_config(scale: str = "digits") -> ConfigDict:
    """ResNet-18, at full scale on CIFAR-100 as published."""
    config = SHARED["start"](PAPER, scale, "res18_cifar100")
    config.members = 200
    return config


def get_rows(config: Any, scale: str) -> list[dict[str, Any]]:
    """The same checkpoints, four autoencoders."""
    on = {name: config.generate.bend.autoencoder[name] for name in ("input_noise", "latent_noise")}
    chosen = {"none": (), "input": ("input_noise",), "latent": ("latent_noise",), "both": tuple(on)}
    rows = []
    for name, kept in chosen.items():
        off = {f"generate.bend.autoencoder.{noise}": on[noise] if noise in kept else 0.0 for noise in on}
        trained = {"generate.bend.autoencoder.kind": "mlp"}  # principal components have no noise to train with
        rows.append(dict(name=name, vote="sbend", settings=trained | off))
    return rows
