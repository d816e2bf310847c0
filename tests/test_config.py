"""Every setting is checked, named in its error, read by something, and the same in configs/ and in the dataclasses."""

import ast
import copy
import dataclasses
import re
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from bend_jax import checks
from bend_jax.checks import SettingsError, settings_json
from bend_jax.collect import COLLECTORS
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.frozen_features import FineTuning
from bend_jax.collect.trajectory import Trajectory
from bend_jax.data.sources import Data
from bend_jax.evaluation.scores import Evaluate
from bend_jax.generate import GENERATORS
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.diffusion import OF_CONV, Diffusion, alpha_bar
from bend_jax.recipe import Base
from bend_jax.run.config import Backbone, Collect, Compute, Config, Generate, parse

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.py"))
CLASSES: list[Any] = [Config, Data, Backbone, Base, Collect, Generate, Evaluate, Compute, Autoencoder, Diffusion]
ALGORITHMS = [type(record.settings) for record in (*COLLECTORS.values(), *GENERATORS.values())]
CLASSES += ALGORITHMS


def load(name: str) -> ConfigDict:
    """A configuration as its file gives it."""
    return run_path(str(ROOT / "configs" / name))["get_config"]()


def changed(changes: dict[str, Any], name: str = "default.py") -> dict[str, Any]:
    """A configuration as nested dicts, with other values at dotted names."""
    raw = copy.deepcopy(load(name).to_dict())
    for path, value in changes.items():
        node = raw
        *groups, last = path.split(".")
        for group in groups:
            node = node[group]
        node[last] = value
    return raw


# configs/


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_configuration_parses(path: Path) -> None:
    """And has exactly the settings of default.py."""
    raw = load(path.name)
    assert isinstance(parse(raw), Config)
    assert names(raw) == names(load("default.py"))


def names(config: ConfigDict) -> set[str]:
    """Of every setting and of every empty group."""
    return set(flatten_dict(config.to_dict(), keep_empty_nodes=True, sep="."))


# no knob that nothing reads


class Source(NamedTuple):
    """A file of the package: the words that name a group of settings in it, and the attributes that it reads."""

    words: set[str]
    read: set[str]


def source(tree: ast.AST) -> Source:
    """What a piece of code names and reads."""
    nodes = list(ast.walk(tree))
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    names = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.name for n in nodes if isinstance(n, ast.alias)}
    return Source({n for n in names if n[:1].isupper()} | {f".{name}" for name in read}, read)


def sources() -> list[Source]:
    """Every file, but for the classes of the settings themselves: what checks a setting does not use it."""
    own = {kind.__name__ for kind in (*CLASSES, FineTuning)}
    found = []
    for path in [ROOT / "launch.py", *sorted((ROOT / "bend_jax").rglob("*.py"))]:
        tree = ast.parse(path.read_text())
        tree.body = [n for n in tree.body if not (isinstance(n, ast.ClassDef) and n.name in own)]
        found.append(source(tree))
    return found


def words_of(kind: Any) -> set[str]:
    """How code gets at a dataclass of settings: by its name or its base's, by a union with it, or as an attribute of
    another one."""
    unions = {name for name in ("Collector", "Generator") if kind in ALGORITHMS}
    attributes = {f".{name}" for c in CLASSES for name, hint in get_type_hints(c).items() if hint is kind}
    return {k.__name__ for k in kind.__mro__[:-1]} | unions | attributes


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.__name__)
def test_every_setting_is_read(kind: Any) -> None:
    """Somewhere where its group is at hand."""
    files = [s for s in sources() if s.words & words_of(kind)]
    unread = [f.name for f in dataclasses.fields(kind) if not any(f.name in s.read for s in files)]
    assert unread == []


def test_the_walk_finds_what_is_read() -> None:
    """And misses an attribute that nothing reads."""
    found = source(ast.parse("def f(settings: Base):\n    settings.lr = settings.momentum + config.base.epochs"))
    assert found.read == {"momentum", "epochs", "base"}
    assert found.words == {"Base", ".momentum", ".epochs", ".base"}


# what a digest covers

RUN_ONLY = {"Data.dir"}  # none of these changes a number
OF_CODER = ("schedule", "standardise", "instance_norm", "clamp_latents", "scale_latents", "whiten")
# at their defaults they are in no digest, so that older stores are reused
ADDED = {"Data.init_unseen", "Data.resize", "Data.test", *(f"Autoencoder.{name}" for name in OF_CODER)}
ADDED |= {"Backbone.patch", "Backbone.init_head", "Collect.rank"}
ADDED |= {f"Diffusion.{name}" for name in ("denoiser", *OF_CONV)}
ADDED |= {"Trajectory.mixup", *(f"{kind}.label_smoothing" for kind in ("Trajectory", "Bootstrap"))}
ADDED |= {f"Data.{name}" for name in ("crop_padding", "flip_alternates", "trivial_augment", "erasing", "cutout")}
ADDED |= {f"Base.{name}" for name in ("lr_factors", "label_smoothing", "mixup", "cutmix", "ema")}
RECORDS = {"Collect.algorithm", "Generate.algorithms"}  # the functions that belong to a name and its settings


def test_nothing_else_is_left_out_of_digests() -> None:
    """Whoever marks one more field adds it here, with a test that no number depends on it."""
    fields = [(kind, f) for kind in CLASSES for f in dataclasses.fields(kind)]
    assert {
        f"{kind.__name__}.{f.name}" for kind, f in fields if not f.metadata.get("digest", True)
    } == RUN_ONLY | RECORDS


def test_a_digest_covers_everything_but_what_is_marked() -> None:
    """Also in nested settings, as JSON."""
    c = parse(load("default.py"))
    assert settings_json(c.evaluate) == {
        **{"draws": 10, "bins": 15, "views": "identity", "greedy": 0},
        **{"ood": "", "corruptions": ""},
    }
    assert settings_json(Evaluate(batch=7)) == {**settings_json(Evaluate()), "batch": 7}
    bend = settings_json(c.generate.settings["bend"])
    assert set(bend) == {"autoencoder", "diffusion", "rest", "temperature"}
    for kind in (Data, Backbone, Base, Trajectory, Bootstrap, Autoencoder, Diffusion):
        fields = [f.name for f in dataclasses.fields(kind) if f"{kind.__name__}.{f.name}" not in RUN_ONLY | ADDED]
        assert settings_json(kind()) == {name: getattr(kind(), name) for name in fields}
    assert bend["diffusion"] == settings_json(Diffusion())


# mistakes


def refused(raw: Any) -> str:
    """The one line of the error."""
    with pytest.raises(SettingsError) as error:
        parse(raw)
    assert "\n" not in str(error.value)
    return str(error.value)


UNKNOWN = {
    "task_name": "task",
    "data.nam": "name",
    "base.learning_rate": "",
    "base.batches": "batch",
    "collect.trajectory.momentun": "momentum",
    "collect.boostrap": "bootstrap",
    "generate.bend.difusion": "diffusion",
    "generate.gaussian.scael": "scale",
    "generate.identity.scale": "",
    "collect.independent.epochs": "",
}


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_setting_is_named_with_the_nearest(path: str) -> None:
    """Where there is a near one."""
    text = refused(changed({path: 1}))
    group, _, last = path.rpartition(".")
    assert path in text or (group.split(".")[-1] in text and last in text)
    near = UNKNOWN[path]
    assert ("did you mean" in text) == bool(near)
    assert f"{near!r}" in text or not near


@pytest.mark.parametrize("path", ["members", "data", "base.lr", "collect.k", "collect.bootstrap.lr", "generate.bend"])
def test_a_missing_setting_is_named(path: str) -> None:
    """Nothing is filled in."""
    raw = changed({})
    node = raw
    *groups, last = path.split(".")
    for group in groups:
        node = node[group]
    del node[last]
    text = refused(raw)
    assert "lacks" in text
    assert path in text


WRONG_TYPE = {
    "task": 3,
    "members": 10.0,
    "data.name": None,
    "data.flip": 1,
    "data.noise": "0.3",
    "data.mean": 0.5,
    "base.epochs": True,
    "base.lr": False,
    "base.schedule": 1,
    "base.milestones": "30,60",
    "collect.k": "200",
    "collect.subset": ["layer4"],
    "collect.bootstrap.reinitialise": "yes",
    "generate.nulls": ("gaussian",),
    "generate.bend.diffusion.timesteps": 1000.0,
    "generate.bend.autoencoder.hidden": None,
    "compute.memory_mb": 1024.5,
    "base": 3,
    "generate.gaussian": "none",
}


@pytest.mark.parametrize("path", WRONG_TYPE)
def test_a_wrong_type_is_named(path: str) -> None:
    """With the value that came."""
    text = refused(changed({path: WRONG_TYPE[path]}))
    assert path.split(".")[-1] in text
    assert repr(WRONG_TYPE[path]) in text


def test_an_integer_is_taken_where_a_float_is_asked() -> None:
    """And is a float from there on, so that 1 and 1.0 give one digest."""
    base = parse(changed({"base.lr": 1})).base
    assert type(base.lr) is float
    assert settings_json(base) == settings_json(parse(changed({"base.lr": 1.0})).base)


NAN, INF = float("nan"), float("inf")
OUT_OF_RANGE = [
    ("members", 0),
    ("data.noise", -0.1),
    ("data.crop", -1),
    ("data.validation", 0.0),
    ("data.validation", 1.0),
    ("data.validation", NAN),
    ("data.validation_most", 0),
    ("data.mean", (0.5,)),
    ("data.std", (0.2, 0.0, 0.2)),
    ("backbone.widths", (16, 0)),
    ("backbone.blocks", (-1,)),
    ("backbone.dtype", "float16"),
    ("base.epochs", 0),
    ("base.batch", 0),
    ("base.lr", 0.0),
    ("base.lr", NAN),
    ("base.momentum", 1.0),
    ("base.momentum", -0.1),
    ("base.weight_decay", -1e-4),
    ("base.schedule", "steps"),
    ("base.decay", 0.0),
    ("base.warmup", -1),
    ("collect.name", "trajektory"),
    ("collect.k", 0),
    ("collect.views", 0),
    ("collect.batch", 0),
    ("collect.cache_dtype", "int8"),
    ("collect.trajectory.lr", -1.0),
    ("collect.bootstrap.lr", 0.0),  # of the collector that is not in use
    ("collect.bootstrap.epochs", 0),
    ("generate.name", "ddpm"),
    ("generate.nulls", "gaussian,idendity"),
    ("generate.bend.preset", "publishd"),
    ("generate.bend.autoencoder.kind", "cnn"),
    ("generate.bend.autoencoder.schedule", "flat"),
    ("generate.bend.diffusion.denoiser", "unet"),
    ("generate.bend.diffusion.select", "best"),
    ("generate.noised.scale", -1.0),
    ("generate.bend.autoencoder.latent", 0),
    ("generate.bend.autoencoder.input_noise", 1.0),
    ("generate.bend.autoencoder.segment", 0),
    ("generate.bend.diffusion.variance", "learned"),
    ("generate.bend.diffusion.timesteps", 0),
    ("generate.bend.diffusion.timesteps", 10**9),
    ("generate.bend.diffusion.beta_start", 0.0),
    ("generate.bend.diffusion.patience", 0),
    ("generate.bend.diffusion.folds", -1),
    ("generate.bend.diffusion.ema", 1.0),
    ("generate.bend.diffusion.lr", 0.0),
    ("collect.trajectory.statistics", "moving"),
    ("collect.bootstrap.perturb", 1.5),
    ("collect.cyclical.per_cycle", 5),  # of four epochs
    ("collect.cyclical.noise", "white"),
    ("collect.cyclical.temperature", -1.0),
    ("collect.boosting.eta", 0.0),
    ("collect.boosting.eta", 1.1),
    ("data.imbalance", 0.5),
    ("data.unseen", 1.0),
    ("generate.tune", (1.0, -1.0)),
    ("generate.statistics", 0),
    ("generate.bend.temperature", -1.0),
    ("generate.bend.autoencoder.fold", 1),
    ("generate.bend.diffusion.prediction", "x0"),
    ("generate.bend.diffusion.sampler", "euler"),
    ("generate.bend.diffusion.ddim_steps", 0),
    ("generate.gaussian.scale", -1.0),
    ("generate.low_rank_gaussian.diagonal", 1.5),
    ("evaluate.views", "flip,mirror"),
    ("evaluate.views", ""),
    ("evaluate.greedy", -1),
    ("evaluate.draws", 0),
    ("evaluate.bins", 0),
    ("evaluate.batch", 0),
    ("compute.memory_mb", 0),
    ("compute.save_seconds", -1.0),
    ("data.noise", NAN),
    ("data.split_seed", -1),
    ("base.lr", INF),
    ("base.weight_decay", NAN),
    ("compute.save_seconds", NAN),
]


@pytest.mark.parametrize(("path", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(path: str, value: Any) -> None:
    """Group and setting."""
    text = refused(changed({path: value}))
    group, _, name = path.rpartition(".")
    assert name in text
    assert group.split(".")[-1] in text


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_settings_cannot_be_changed_afterwards(kind: Any) -> None:
    """They are frozen, so that a digest stays true."""
    assert kind.__dataclass_params__.frozen


def test_several_names_in_one_setting() -> None:
    """With or without spaces; doubles and the main generator itself are dropped from the nulls."""
    assert checks.names(" a, b,,c ,") == ("a", "b", "c")
    generate = parse(changed({"generate.nulls": "identity, bend,identity"})).generate
    assert generate.nulls == ("identity",)
    assert list(generate.settings) == ["bend", "identity"]
    assert parse(changed({"generate.nulls": ""})).generate.nulls == ()


# the schedule


def test_alpha_bar_of_the_published_schedule() -> None:
    """T = 1000, beta 1e-4 to 0.02: 4.0358e-5 at the end (Ho et al. 2020)."""
    bar = alpha_bar(Diffusion())
    assert bar.shape == (1000,)
    assert bar.dtype == np.float64
    assert bar[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert bar[0] == pytest.approx(1 - 1e-4, rel=1e-12)
    assert bar[1] == pytest.approx((1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999), rel=1e-12)
    assert (np.diff(bar) < 0).all()


@pytest.mark.parametrize("timesteps", [100, 250, 500, 2000])
def test_betas_scale_with_the_number_of_steps(timesteps: int) -> None:
    """beta_t is 1000 / T times the published one: the total noise stays near the published one."""
    bar = alpha_bar(Diffusion(timesteps=timesteps))
    scale = 1000 / timesteps
    assert bar[0] == pytest.approx(1 - 1e-4 * scale, rel=1e-12)
    assert bar[-1] / bar[-2] == pytest.approx(1 - 0.02 * scale, rel=1e-9)
    assert np.log(bar[-1]) == pytest.approx(np.log(4.0358e-5), rel=0.15)


def test_a_schedule_that_leaves_the_data_visible_is_refused() -> None:
    """alpha_bar[T] above 1e-3; just below it is taken."""
    with pytest.raises(
        SettingsError, match=re.escape("beta_end leaves alpha_bar[T] = ") + r".* at most 1e-3: raise it"
    ):
        Diffusion(beta_end=0.01)
    assert 5e-4 < alpha_bar(Diffusion(beta_end=0.0139))[-1] <= 1e-3
    with pytest.raises(SettingsError, match="alpha_bar"):
        Diffusion(beta_end=0.0136)


def test_betas_of_one_or_more_are_refused() -> None:
    """T = 20 scales 0.02 to exactly 1; T = 21 is below it."""
    with pytest.raises(SettingsError, match="timesteps=20 gives beta_t up to 1, must be below 1"):
        Diffusion(timesteps=20)
    assert 0 < alpha_bar(Diffusion(timesteps=21))[-1] < 1e-3
    assert "generate.bend.diffusion" in refused(changed({"generate.bend.diffusion.timesteps": 10}))
