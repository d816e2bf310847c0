"""Every system on the noisy digits, in one table: what to do with one training budget.

python launch.py --config=configs/compare_digits.py --seed=0,1,2
"""

from pathlib import Path
from runpy import run_path
from typing import Any

from ml_collections import ConfigDict

VIEWS = "identity,left,right,up,down"
TUNE = (0.5, 1.0, 2.0, 4.0, 8.0)  # of each generator's knob, on validation
TUNED = ("bend", "gaussian", "low_rank_gaussian", "noise", "random_latent")
OTHERS = ("average16", "resample", "interpolate", "autoencoder", "identity", "average")  # have nothing to tune


def get_config() -> ConfigDict:
    """digits.py; the rows change it."""
    config = run_path(str(Path(__file__).with_name("digits.py")))["get_config"]()
    config.task = "compare_digits"
    config.generate.nulls = ""
    config.collect.k = config.members = 50
    return config


def longer(config: Any, share: float) -> dict[str, Any]:
    """The base trained for that many times its epochs, with the same schedule stretched."""
    epochs = round(config.base.epochs * share)
    return {"base.epochs": epochs, "base.milestones": tuple(round(epochs * x) for x in (0.5, 0.75, 0.9))}


def whole(name: str, k: int, **settings: Any) -> dict[str, Any]:
    """A collector of whole networks whose checkpoints are the members."""
    own = {f"collect.{name}.{key}": value for key, value in settings.items()}
    return {"collect.name": name, "collect.subset": "*", "collect.k": k, "generate.name": "identity", **own}


def rows_of_base(config: Any) -> list[dict[str, Any]]:
    """What a user would do instead: scale, look twice, train longer; MC-BN, which costs no training either."""
    free = {"collect.name": "mc_bn", "collect.subset": "batch_stats", "collect.k": 20, "generate.name": "identity"}
    views, three = {"evaluate.views": VIEWS}, {"evaluate.views": "identity,left,right"}
    rows = [
        dict(name="base", vote="base", settings=free),
        dict(name="base + views", vote="base", settings=free | views),
        dict(name="base + 3 views", vote="base", settings=free | three),
        dict(name="MC-BN, 20", vote="mean", settings=free),
    ]
    for share in (1.1, 1.25, 1.5, 2, 4.5):  # 4.5: as long as the dearest row
        rows += [
            dict(name=f"base x {share:g}", vote="base", settings=free | longer(config, share)),
            dict(name=f"base x {share:g} + views", vote="base", settings=free | longer(config, share) | views),
        ]
    return rows


def rows_of_whole_networks(config: Any) -> list[dict[str, Any]]:
    """Averages, snapshots, samplers, boosting and independent networks."""
    views, average = {"evaluate.views": VIEWS}, {"generate.name": "average"}
    cycles = whole("cyclical", 3, epochs=5)
    swa = whole("trajectory", 20, lr=0.02)
    snapshot = whole("cyclical", 6, epochs=4)
    hmc = whole("cyclical", 11, epochs=4, per_cycle=2, noise="momentum")
    swag = {"generate.name": "low_rank_gaussian", "generate.low_rank_gaussian.diagonal": 0.5, "members": 10}
    pair, four = whole("independent", 2), whole("independent", 4)
    same = dict(against="base x 1.5")
    return [
        dict(name="2 cycles averaged", vote="mean", settings=cycles | average, against="base x 1.25"),
        dict(
            name="2 cycles averaged + views",
            vote="mean",
            settings=cycles | average | views,
            against="base x 1.25 + views",
        ),
        dict(name="2 cycles, 3 voting", vote="mean", settings=cycles, against="base x 1.25"),
        dict(name="SWA", vote="mean", settings=swa | average, **same),
        dict(name="SWAG, 10", vote="mean", settings=swa | swag, **same),
        dict(name="snapshot, 6", vote="mean", settings=snapshot, **same),
        dict(name="snapshot, 6 + views", vote="mean", settings=snapshot | views, against="base x 1.5 + views"),
        dict(name="cSGHMC, 11", vote="mean", settings=hmc, **same),
        dict(name="CBNN, 11", vote="weighted", settings=whole("boosting", 11), **same),
        dict(name="deep ensemble, 2 x 0.75", vote="mean", settings=pair | longer(config, 0.75), **same),
        dict(
            name="deep ensemble, 2 x 0.75 + views",
            vote="mean",
            settings=pair | longer(config, 0.75) | views,
            against="base x 1.5 + views",
        ),
        dict(name="deep ensemble, 2", vote="mean", settings=pair, against="base x 2"),
        dict(name="deep ensemble, 4", vote="mean", settings=four, against="base x 4.5"),
        dict(
            name="deep ensemble, 4 + views",
            vote="mean",
            settings=whole("independent", 4) | views,
            against="base x 4.5 + views",
        ),
    ]


def rows_of_members(config: Any) -> list[dict[str, Any]]:
    """Members on one trunk: p-diff, BEND, and tails."""
    bootstrap, views = {"collect.name": "bootstrap"}, {"evaluate.views": VIEWS}
    greedy = {"members": 1000, "evaluate.greedy": 10}
    tail = {"collect.subset": "layer3", "collect.k": 6, "collect.bootstrap.lr": 0.1, "generate.name": "identity"}
    same, most = dict(against="base x 1.5"), dict(against="base x 4.5")
    tree = bootstrap | tail | {"collect.bootstrap.epochs": 8}
    half = {"collect.bootstrap.perturb": 0.5, "collect.bootstrap.resample": False}
    half_seen = tree | longer(config, 2) | {"data.unseen": 0.5}  # as many steps of the base as on all images
    every = whole("cyclical", 6) | {"collect.subset": "bn1,layer*.*.bn*,layer*.*.shortcut.1"}
    return [
        dict(name="p-diff, best on validation", vote="best", settings={}, **most),
        dict(name="p-diff, mean of single members", vote="single", settings={}, **most),
        dict(name="BEND as published (sBEND)", vote="sbend", settings={}, **most),
        dict(name="BEND on bootstraps (sBEND)", vote="sbend", settings=bootstrap, **most),
        dict(name="BEND on bootstraps (mean)", vote="mean", settings=bootstrap, **most),
        dict(name="BEND on bootstraps + greedy", vote="greedy", settings=bootstrap | greedy, **most),
        dict(name="BEND on bootstraps + views", vote="mean", settings=bootstrap | views, against="base x 4.5 + views"),
        dict(name="BN of all layers, 5 cycles", vote="mean", settings=every, against="base x 1.5"),
        dict(name="tree ensemble, 6", vote="mean", settings=tree | {"collect.bootstrap.reinitialise": True}, **same),
        dict(name="tails on bootstraps, 6", vote="mean", settings=tree, **same),
        dict(name="tails half new, 6", vote="mean", settings=tree | half, **same),
        dict(name="tails half new, 6 + views", vote="mean", settings=tree | half | views, against="base x 1.5 + views"),
        dict(name="base on half of the images", vote="base", settings=half_seen),
        dict(name="tails on the other half, 6", vote="mean", settings=half_seen, **same),
        dict(
            name="tails on the other half, 6 + views",
            vote="mean",
            settings=half_seen | views,
            against="base x 1.5 + views",
        ),
    ]


def rows_of_generators() -> list[dict[str, Any]]:
    """The diffusion and every null on the same bootstraps, each with its knob tuned on validation."""
    bootstrap = {"collect.name": "bootstrap", "generate.tune": TUNE}
    rows = []
    for name in (*TUNED, *OTHERS):
        label = f"{name}, tuned" if name in TUNED else name
        against = {} if name == "bend" else dict(against="bend, tuned")
        rows.append(dict(name=label, vote="mean", settings=bootstrap | {"generate.name": name}, **against))
    return rows


def get_rows(config: Any) -> list[dict[str, Any]]:
    """name; vote: which of the run's votes counts; settings: differences; against: a row of the same budget."""
    return [*rows_of_base(config), *rows_of_whole_networks(config), *rows_of_members(config), *rows_of_generators()]
