"""What to do with one training budget, on all of CIFAR-10 with a small ResNet: one table.

python launch.py --config=configs/compare_cifar10_small.py
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

VIEWS = "identity,flip,right"


def get_config() -> ConfigDict:
    """cifar10_resnet.py; the rows change it."""
    config = run_path(str(Path(__file__).with_name("cifar10_resnet.py")))["get_config"]()
    config.task = "compare_cifar10_small"
    config.generate.nulls = ""
    config.members = 20
    return config


def longer(config: Any, share: float) -> dict[str, Any]:
    """The base trained for that many times its epochs."""
    return {"base.epochs": round(config.base.epochs * share)}


def whole(name: str, k: int, **settings: Any) -> dict[str, Any]:
    """A collector of whole networks whose checkpoints are the members."""
    own = {f"collect.{name}.{key}": value for key, value in settings.items()}
    return {"collect.name": name, "collect.subset": "*", "collect.k": k, "generate.name": "identity", **own}


def rows_of_base(config: Any) -> list[dict[str, Any]]:
    """What a user would do instead: scale, look twice, train longer; MC-BN, which costs no training either."""
    free = {"collect.name": "mc_bn", "collect.subset": "batch_stats", "collect.k": 4, "generate.name": "identity"}
    views = {"evaluate.views": VIEWS}
    rows = [
        dict(name="base", vote="base", settings=free),
        dict(name="base + views", vote="base", settings=free | views),
        dict(name="MC-BN, 4", vote="mean", settings=free),
    ]
    for share in (1.2, 1.5, 2):
        rows += [
            dict(name=f"base x {share:g}", vote="base", settings=free | longer(config, share)),
            dict(name=f"base x {share:g} + views", vote="base", settings=free | longer(config, share) | views),
        ]
    return rows


def rows_of_whole_networks(config: Any) -> list[dict[str, Any]]:
    """Averages, snapshots, samplers, boosting and independent networks, each within 1.2 or 1.5 trainings."""
    views, average = {"evaluate.views": VIEWS}, {"generate.name": "average"}
    two, five = dict(against="base x 1.2"), dict(against="base x 1.5")
    two_views, five_views = dict(against="base x 1.2 + views"), dict(against="base x 1.5 + views")
    cycles = whole("cyclical", 3, epochs=1)
    snapshot = whole("cyclical", 3, epochs=2)  # of 1.4 trainings
    hmc = whole("cyclical", 5, epochs=2, per_cycle=2, noise="momentum")
    swa = whole("trajectory", 5, lr=0.02)
    swag = {"generate.name": "low_rank_gaussian", "generate.low_rank_gaussian.diagonal": 0.5, "members": 10}
    boosting = whole("boosting", 5, epochs=1)
    pair = whole("independent", 2)
    short = pair | longer(config, 0.7)
    return [
        dict(name="2 cycles averaged", vote="mean", settings=cycles | average, **two),
        dict(name="2 cycles averaged + views", vote="mean", settings=cycles | average | views, **two_views),
        dict(name="2 cycles, 3 voting", vote="mean", settings=cycles, **two),
        dict(name="2 long cycles averaged", vote="mean", settings=snapshot | average, **five),
        dict(name="2 long cycles averaged + views", vote="mean", settings=snapshot | average | views, **five_views),
        dict(name="snapshot, 3", vote="mean", settings=snapshot, **five),
        dict(name="snapshot, 3 + views", vote="mean", settings=snapshot | views, **five_views),
        dict(name="SWA", vote="mean", settings=swa | average, **five),
        dict(name="SWA + views", vote="mean", settings=swa | average | views, **five_views),
        dict(name="SWAG, 10", vote="mean", settings=swa | swag, **five),
        dict(name="cSGHMC, 5", vote="mean", settings=hmc, **five),
        dict(name="CBNN, 5", vote="weighted", settings=boosting, **five),
        dict(name="deep ensemble, 2 x 0.7", vote="mean", settings=short, **five),
        dict(
            name="deep ensemble, 2 x 0.7 + views",
            vote="mean",
            settings=short | views,
            **five_views,
        ),
        dict(name="deep ensemble, 2", vote="mean", settings=pair, against="base x 2"),
        dict(name="deep ensemble, 2 + views", vote="mean", settings=pair | views, against="base x 2 + views"),
    ]


def rows_of_members(config: Any) -> list[dict[str, Any]]:
    """Members on one trunk: p-diff, BEND, tails, and nulls."""
    bootstrap = {"collect.name": "bootstrap", "collect.k": 20}
    views = {"evaluate.views": VIEWS}
    greedy = {"members": 200, "evaluate.greedy": 10}
    tail = {"collect.subset": "layer3", "collect.k": 4, "collect.views": 2, "generate.name": "identity"}
    tail |= {"collect.name": "bootstrap", "collect.bootstrap.epochs": 3}
    tree = {"collect.bootstrap.reinitialise": True, "collect.bootstrap.lr": 0.01}  # 0.05 ends in NaN
    half = {"collect.bootstrap.perturb": 0.5, "collect.bootstrap.resample": False}
    half_seen = tail | longer(config, 2) | {"data.unseen": 0.5}  # as many steps of the base as on all images
    two = dict(against="base x 1.2")
    null = {"generate.name": "low_rank_gaussian"}
    return [
        dict(name="p-diff, best on validation", vote="best", settings={}, against="base"),
        dict(name="p-diff, mean of single members", vote="single", settings={}, against="base"),
        dict(name="BEND as published (sBEND)", vote="sbend", settings={}, against="base"),
        dict(name="BEND on bootstraps (mean)", vote="mean", settings=bootstrap, against="base"),
        dict(name="BEND on bootstraps + greedy", vote="greedy", settings=bootstrap | greedy, against="base"),
        dict(name="BEND on bootstraps + views", vote="mean", settings=bootstrap | views, against="base + views"),
        dict(name="Gaussian on bootstraps", vote="mean", settings=bootstrap | null, against="base"),
        dict(name="tree ensemble, 4", vote="mean", settings=tail | tree, **two),
        dict(name="tails half new, 4", vote="mean", settings=tail | half, **two),
        dict(name="base on half of the images", vote="base", settings=half_seen),
        dict(name="tails on the other half, 4", vote="mean", settings=half_seen, **two),
    ]


def rows_of_generators() -> list[dict[str, Any]]:
    """Those of the digits, on 20 bootstraps."""
    rows = run_path(str(Path(__file__).with_name("compare_digits.py")))["rows_of_generators"]()
    return [row | {"settings": row["settings"] | {"collect.k": 20}} for row in rows]


def get_rows(config: Any) -> list[dict[str, Any]]:
    """name; vote: which of the run's votes counts; settings: differences; against: a row of the same budget."""
    return [*rows_of_base(config), *rows_of_whole_networks(config), *rows_of_members(config), *rows_of_generators()]
