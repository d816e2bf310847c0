"""A report of made-up outputs, and what holds for every report.json and every page."""

import functools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.ensemble import pool_vote
from bend_jax.evaluation import scores
from bend_jax.evaluation.predict import Outputs
from bend_jax.report.content import Report
from bend_jax.report.records import from_json, to_json
from bend_jax.run import summary
from bend_jax.run.config import Config, parse

ROOT = Path(__file__).parent.parent
N, VALIDATION, CLASSES, K, M, DIM = 37, 23, 4, 5, 3, 6


TOP = {
    "task",
    "config",
    "seed",
    "k",
    "m",
    "dim",
    "table",
    "votes",
    "diversity",
    "novelty",
    "generators",
    "cost",
    "test",
}


TABLE = {
    *("sbend", "abend", "abend_std", "max", "mean", "median"),
    *("orig_max", "orig_mean", "orig_median", "potential"),
}


VOTE = {"accuracy", "nll", "nll_ts", "brier", "brier_ts", "ece", "ece_ts", "aurc", "sets"}


DIVERSITY = {
    *("members", "checkpoints", "cross", "eq14_members", "eq14_checkpoints", "eq15"),
    *("iou_members", "iou_checkpoints", "iou_cross"),
}


NOVELTY = {
    *("nearest", "leave_one_out", "copy_share", "max_iou", "spread"),
    *("effective_rank_members", "effective_rank_checkpoints", "disagreement", "disagreement_p10"),
}


COST = {
    *("t_pre", "t_collect", "t_autoencoder", "t_diffusion", "t_sample", "t_evaluate", "t_epoch"),
    *("break_even_m", "compile"),
}


def check_schema(content: dict[str, Any], nulls: set[str]) -> None:
    """Every key that is promised, and numbers or null under them."""
    assert set(content) >= TOP
    assert set(content["table"]) == TABLE
    assert set(content["votes"]) >= {"sbend", "abend", "mean", "best", "base", "swa", "checkpoints_best"}
    assert set(content["diversity"]) == DIVERSITY
    assert set(content["novelty"]) == NOVELTY
    assert set(content["cost"]) == COST
    assert set(content["generators"]) == nulls
    assert set(content["test"]) == {f"sbend_vs_{name}_mcnemar_p" for name in {"base", *nulls}}
    for part in [content, *content["generators"].values()]:
        assert set(part["table"]) == TABLE
        assert {"sbend", "abend", "mean"} <= set(part["votes"])
        assert all(set(vote) == VOTE for vote in part["votes"].values())
    for name in ("table", "votes", "diversity", "novelty", "generators", "cost", "test"):
        for value in jax.tree.leaves(content[name], is_leaf=lambda x: x is None):
            assert value is None or (type(value) in (int, float) and math.isfinite(value))
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def check_shares(content: dict[str, Any], n: int, m: int) -> None:
    """Accuracies are shares of the n test images, votes over m members."""
    for part in [content, *content["generators"].values()]:
        for value in part["table"].values():
            assert 0 <= value <= 1
        whole = [part["table"][key] for key in ("sbend", "max", "orig_max", "potential")]
        whole += [vote["accuracy"] for name, vote in part["votes"].items() if name != "abend"]
        assert all(value == round(value * n) / n for value in whole)
        assert part["table"]["mean"] * m * n == pytest.approx(round(part["table"]["mean"] * m * n), abs=1e-6)
        assert part["votes"]["sbend"]["accuracy"] == part["table"]["sbend"]
        assert part["votes"]["abend"]["accuracy"] == part["table"]["abend"]
        assert part["table"]["mean"] <= part["table"]["max"] <= part["table"]["potential"]
    assert all(0 <= p <= 1 for p in content["test"].values())


def settings(**changes: Any) -> Config:
    """The digits' settings with another k and m."""
    raw = run_path(str(ROOT / "configs" / "digits.py"))["get_config"]()
    raw.collect.k, raw.members = K, M
    raw.update(changes)
    return parse(raw)


def seconds(t_sample: float, t_pre: float = 2800.0, members: int = 100) -> dict[str, dict[str, Any]]:
    """BEND's Table 4, ResNet-50 on CIFAR-10, as the stages' results."""
    bend = {"t_autoencoder": 931.39, "t_diffusion": 857.14, "t_sample": t_sample, "knob": None}
    bend["compile"] = {"autoencoder": 1.5}
    null = {"t_autoencoder": None, "t_diffusion": None, "t_sample": 0.5, "compile": {"sample": 0.25}, "knob": 1.5}
    return {
        "base": {"t_pre": t_pre, "t_epoch": t_pre / 100, "compile": {"base": 8.0}},
        "collect": {"t_collect": 5600.0, "compile": {"trajectory": 2.0}},
        "generate bend": bend,
        "generate gaussian": null,
        "generate identity": {**null, "knob": None},
        "evaluate": {"m": members, "t_evaluate": 7.0, "compile": {}},
    }


@functools.cache
def measured() -> dict[str, dict[str, Any]]:
    """What the stages leave behind, of a net that is right two times in three and vectors at random."""
    rng = np.random.default_rng(0)
    sizes = {"base": 1, "swa": 1, "checkpoints": K, "bend": M, "gaussian": M, "identity": M}
    truth = {"validation": rng.integers(0, CLASSES, VALIDATION), "test": rng.integers(0, CLASSES, N)}
    labels = scores.Labels(*(truth[name].astype(np.int32) for name in ("validation", "test")))

    def outputs(true: np.ndarray) -> dict[str, Outputs]:
        result = {}
        for name, m in sizes.items():
            guess = rng.integers(0, CLASSES, (m, len(true)))
            predictions = np.where(rng.random((m, len(true))) < 0.6, true, guess).astype(np.int32)
            p = rng.dirichlet(np.ones(CLASSES), (m, len(true))) + 2 * np.eye(CLASSES)[predictions]
            p = (p / 3).astype(np.float32)
            pool = pool_vote(jnp.log(p), jnp.ones(m))
            result[name] = Outputs(predictions, p.mean(axis=0), {}, p, pools={"pool": np.asarray(pool)})
        return result

    validation, test = outputs(labels.validation), outputs(labels.test)
    weights = scores.choose_weights(validation, labels.validation, sizes, {}, greedy=2)
    weighted = {
        name: {v: np.tensordot(w, test[name].probabilities, 1) for v, w in weights.get(name, {}).items()}
        for name in test
    }
    test = {
        name: own._replace(weighted={v: p.astype(np.float32) for v, p in weighted[name].items()})
        for name, own in test.items()
    }
    votes = scores.all_votes(validation, test, weights, CLASSES)
    vectors = {name: rng.normal(size=(m, DIM)).astype(np.float32) for name, m in sizes.items()}
    scale = scores.temperatures(votes, labels)
    key, evaluate = jax.random.key(0), settings().evaluate
    evaluated = scores.Evaluated("bend", labels.test, CLASSES, vectors, test, votes, scale, labels.validation)
    found = scores.scores(evaluated, evaluate, key)
    times = seconds(100.0 * M)
    return {**times, "evaluate": {**times["evaluate"], **found, "images": N, "temperatures": scale}}


def report_of(content: dict[str, Any]) -> Report:
    """Of its report.json."""
    return from_json(Report, content)


def combined(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """report.json over several seeds."""
    return to_json(summary.combine([report_of(content) for content in contents]))


VOID = {"meta", "br", "img", "link", "wbr"}


class Page(HTMLParser):
    """Of a file: what is open, every tag with its attributes, and the text by the tag that it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opened."""
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Empty."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """What was opened last is closed first."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Words."""
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data)


def check_page(text: str) -> Page:
    """Balanced, with a title, a language and a viewport; no script, no URL but links into the work directory."""
    found = Page(text)
    names = [tag for tag, _ in found.tags]
    assert text.startswith("<!DOCTYPE html>")
    assert found.tags[0] == ("html", {"lang": "en"})
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.tags
    assert names.count("title") == names.count("h1") == 1
    assert "prefers-color-scheme: dark" in text
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    assert not re.search(r"https?://|@import|src=|\son\w+=|url\((?!#)", text)
    links = [attributes.get("href") or "" for tag, attributes in found.tags if tag == "a"]
    assert all(link.startswith((".", "#")) for link in links)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(ids)
    assert all("aria-label" in attributes for tag, attributes in found.tags if tag == "svg")
    return found
