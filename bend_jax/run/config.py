"""The settings of a run as frozen dataclasses, and the one door from an ml_collections ConfigDict to them."""

import dataclasses
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bend_jax.checks import DTYPES, SettingsError, at_least, did_you_mean, names, one_of
from bend_jax.collect import COLLECTORS, Collector
from bend_jax.data.sources import Data
from bend_jax.evaluate.scores import Evaluate
from bend_jax.generate import GENERATORS, Generator, check_checkpoints
from bend_jax.training import Base

SHARED = ("k", "views", "batch", "cache_dtype")  # settings that collectors have in common


@dataclass(frozen=True)
class Backbone:
    """The network; empty widths and blocks mean the published ones."""

    name: str = "resnet50"  # the network
    widths: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        one_of(self, "dtype", DTYPES)
        if min((1, *self.widths, *self.blocks)) < 1:
            raise SettingsError(f"widths and blocks must be at least 1; got {self.widths}, {self.blocks}")


@dataclass(frozen=True)
class Collect:
    """Which collector, of which subset of the parameters."""

    name: str  # the collector
    subset: tuple[str, ...]  # the parameters, by the names of their layers
    settings: Collector


@dataclass(frozen=True)
class Generate:
    """The main generator first, then the nulls on the same checkpoints."""

    name: str  # the generator that the report is about
    nulls: tuple[str, ...]  # generators on the same checkpoints, to compare it with
    settings: dict[str, Generator]
    tune: tuple[float, ...]  # values of each generator's knob of which the best on validation is taken
    statistics: int  # training images for the BN statistics of members whose subset holds them

    def __post_init__(self) -> None:
        at_least(self, 1, "statistics")
        if min(self.tune, default=0) < 0:
            raise SettingsError(f"tune must be numbers of at least 0; got {self.tune}")


@dataclass(frozen=True)
class Compute:
    """What changes speed, memory and what can be watched, never a number."""

    memory_mb: int = 16384  # of intermediates in one program, and of cached features
    save_seconds: float = 30.0  # a running stage saves its state at segment ends, this far apart at least
    tensorboard: bool = False  # event files of all trainings under <workdir>/tensorboard; --tensorboard sets it

    def __post_init__(self) -> None:
        at_least(self, 1, "memory_mb")
        at_least(self, 0, "save_seconds")


@dataclass(frozen=True)
class Config:
    """One run."""

    task: str
    data: Data
    backbone: Backbone
    base: Base
    collect: Collect
    generate: Generate
    members: int
    evaluate: Evaluate
    compute: Compute

    def __post_init__(self) -> None:
        at_least(self, 1, "members")
        k = self.collect.settings.k
        check_checkpoints(self.collect.name, self.generate.name, self.members, k)
        for name in self.generate.nulls:
            check_checkpoints("", name, self.members, k)  # a null votes without a collector's weights


def parse(raw: Any) -> Config:
    """A ConfigDict (or nested dict) as a Config. Raises SettingsError for a key that is not a setting, one that is
    missing, a value of the wrong type or out of range."""
    raw = raw.to_dict() if hasattr(raw, "to_dict") else dict(raw)
    _check_keys("", raw, [f.name for f in dataclasses.fields(Config)])
    values = {
        name: _build(name, kind, raw[name])
        for name, kind in typing.get_type_hints(Config).items()
        if name not in ("collect", "generate")
    }
    values["collect"] = _collect(raw["collect"], values["base"])
    return _guard("", Config, dict(values, generate=_generate(raw["generate"])))


def _collect(raw: dict[str, Any], base: Base) -> Collect:
    _check_keys("collect.", raw, ["name", "subset", *SHARED, *COLLECTORS])
    name = _choice("collect.name", raw["name"], COLLECTORS)
    algorithms = {}
    for other, kind in COLLECTORS.items():  # the one that was named is used; of all, their own settings are checked
        given = {s: raw[s] for s in SHARED}
        try:
            algorithms[other] = _algorithm(f"collect.{other}", kind, raw[other], given, base)
        except SettingsError as error:
            text = str(error)
            for word in SHARED:
                text = text.replace(f"collect.{other}.{word}", f"collect.{word}")
            if other == name or "k=" not in text:  # a number of checkpoints that another collector cannot have
                raise SettingsError(text) from None
    return Collect(name, names(_cast("collect.subset", str, raw["subset"])), algorithms[name])


def _generate(raw: dict[str, Any]) -> Generate:
    own = [f.name for f in dataclasses.fields(Generate) if f.name != "settings"]
    _check_keys("generate.", raw, [*own, *GENERATORS])
    name = _choice("generate.name", raw["name"], GENERATORS)
    nulls = names(_cast("generate.nulls", str, raw["nulls"]))
    for null in nulls:
        _choice("generate.nulls", null, GENERATORS)
    bend = _build("generate.bend", GENERATORS["bend"], raw["bend"])
    settings = {
        other: _algorithm(f"generate.{other}", kind, raw[other], {}, bend.autoencoder)
        for other, kind in GENERATORS.items()
        if other != "bend"
    }
    settings["bend"] = bend
    wanted = tuple(dict.fromkeys((name, *nulls)))
    hints = typing.get_type_hints(Generate)
    numbers = {word: _cast(f"generate.{word}", hints[word], raw[word]) for word in ("tune", "statistics")}
    return _guard(
        "generate", Generate, dict(name=name, nulls=wanted[1:], settings={n: settings[n] for n in wanted}, **numbers)
    )


def _algorithm(path: str, kind: Any, raw: Any, shared: dict[str, Any], other: Any) -> Any:
    """The settings of one algorithm: its own group's, those that it shares with its family, and those of `other` (the
    base's recipe, the main generator's autoencoder) where it has a field of that type."""
    fields = typing.get_type_hints(kind)
    borrowed = {name: other for name, hint in fields.items() if hint is type(other)}
    own = {name: hint for name, hint in fields.items() if name not in borrowed and name not in shared}
    _check_keys(f"{path}.", raw, own)
    values = {name: _cast(f"{path}.{name}", fields[name], value) for name, value in shared.items() if name in fields}
    values |= {name: _build(f"{path}.{name}", hint, raw[name]) for name, hint in own.items()}
    return _guard(path, kind, {**values, **borrowed})


def _choice(path: str, value: Any, choices: Iterable[str]) -> str:
    if value not in choices:
        raise SettingsError(
            f"{path}: unknown {value!r}{did_you_mean(str(value), choices)}; there are {', '.join(choices)}"
        )
    return value


def _build(path: str, kind: Any, raw: Any) -> Any:
    if not dataclasses.is_dataclass(kind):
        return _cast(path, kind, raw)
    fields = typing.get_type_hints(kind)
    _check_keys(f"{path}.", raw, fields)
    return _guard(path, kind, {name: _build(f"{path}.{name}", hint, raw[name]) for name, hint in fields.items()})


def _guard(path: str, kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}.{error}" if path else str(error)) from None


def _check_keys(prefix: str, raw: Any, expected: Iterable[str]) -> None:
    expected = list(expected)
    if not isinstance(raw, dict):
        raise SettingsError(f"{prefix.rstrip('.')} must be a group of settings; got {raw!r}")
    for key in raw:
        if key not in expected:
            raise SettingsError(f"unknown setting {prefix}{key}{did_you_mean(key, expected)}")
    missing = [prefix + key for key in expected if key not in raw]
    if missing:
        raise SettingsError(f"settings that the configuration lacks: {', '.join(missing)}")


def _cast(path: str, kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise SettingsError(f"{path} must be several values with commas between, in brackets; got {value!r}")
        return tuple(_cast(f"{path}[{i}]", typing.get_args(kind)[0], item) for i, item in enumerate(value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        if not math.isfinite(value):
            raise SettingsError(f"{path} must be a finite number; got {value}")
        return float(value)
    if (kind is int and isinstance(value, bool)) or not isinstance(value, kind):
        raise SettingsError(f"{path} must be of type {kind.__name__}; got {value!r}")
    return value


def settings_json(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON for a digest: without the fields that are marked RUN_ONLY."""
    result = {}
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if f.metadata.get("digest", True):
            result[f.name] = settings_json(value) if dataclasses.is_dataclass(value) else value
    return result
