"""Made-up rows of a comparison's report, for the tests of documents and figures."""

from dataclasses import fields
from typing import Any

from bend_jax.report.content import Diversity, Novelty, Row
from bend_jax.report.papers import published
from bend_jax.report.records import from_json

VOTE = {"accuracy": 0.4, "nll": 1.0, "nll_ts": 0.9, "brier": 0.6, "ece": 0.1}


def row_json(name: str, **numbers: float) -> dict[str, Any]:
    """A row of report.json with made-up numbers; Table 3's columns 0.5 but for those given."""
    table = dict.fromkeys((*published.COLUMNS, "abend_std"), 0.5)
    names = ("base", "swa", "best", "weighted", "mean")
    votes = {vote: {**VOTE, "accuracy": 0.5} for vote in names}
    novelty = {**dict.fromkeys((f.name for f in fields(Novelty)), 0.5), "max_iou": 0.9}
    null = {"m": 4, "table": table, "votes": votes, "novelty": novelty}
    setup = {"data": "digits", "noise": 0.0, "test_images": 200, "backbone": "resnet18", "collect": "trajectory"}
    row = {
        **{"name": name, "vote": "sbend", "settings": {}, "training": 60.0, "inference": 3.0},
        **{"accuracy": 0.5, "k": 10, "m": 4, "dim": 12},
        "setup": setup | {"subset": "fc", "generate": "bend", "views": "identity"},
        "table": table | numbers,
        "votes": votes,
        "diversity": dict.fromkeys((f.name for f in fields(Diversity)), 0.25),
        "novelty": novelty,
        "generators": {"gaussian": null, "noise": null},
        "cost": dict.fromkeys(("t_pre", "t_collect", "t_autoencoder", "t_diffusion", "t_sample", "break_even_m"), 2.0),
    }
    curve = {"m": [1, 5, 7], "sbend": [0.4, 0.5, 0.6], "mean": [0.5] * 3, "single": [0.45] * 3, "nll": [1.0] * 3}
    run = {key: row[key] for key in ("k", "m", "dim", "setup", "table", "votes", "diversity", "novelty", "cost")}
    run |= {"task": "", "config": "", "seed": 0, "test": {}, "temperatures": {}, "tuned": {}, "knobs": {}}
    run |= {"settings": {"data.name": "digits", "base.epochs": 4}, "generators": {}}
    run["curves"] = {"by_members": curve, "members": dict.fromkeys(("checkpoints", "bend"), EACH)}
    run["curves"] |= {"reliability": {}, "risk_coverage": {}}
    return row | {"runs": [run]}


EACH = {"accuracy": [0.5], "max_iou": [0.9]}  # of one member


def report_row(name: str, **numbers: float) -> Row:
    """A row as its document reads it."""
    return from_json(Row, row_json(name, **numbers))
