"""The settings of a run as frozen dataclasses, and the one door from an ml_collections ConfigDict to them."""

import dataclasses
import importlib
import math
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from bend_jax.checks import DTYPES, Settings, SettingsError, check_field, did_you_mean, names, setting
from bend_jax.collect import COLLECTORS, Collector
from bend_jax.data.sources import Data
from bend_jax.evaluation.scores import Evaluate
from bend_jax.generate import GENERATORS, Generator
from bend_jax.generate.bend import Bend
from bend_jax.models import PATCH
from bend_jax.recipe import Base
from bend_jax.subset import RANK

OF_RECORDS = ("settings", "algorithm", "algorithms")  # fields of Collect and Generate that are no settings
# settings that collectors have in common, which stand in the group collect itself
SHARED = tuple(
    dict.fromkeys(
        field.name
        for record in COLLECTORS.values()
        for field in dataclasses.fields(record.settings)
        if field.metadata["shared"] == "collect"
    )
)


class Backbone(Settings):
    """The network; empty widths and blocks mean the published ones."""

    name: str = setting("the network", default="resnet50")
    widths: tuple[int, ...] = setting("channels of each stage, at least 1; empty: the published ones", default=())
    blocks: tuple[int, ...] = setting("blocks of each stage, at least 1; empty: the published ones", default=())
    patch: int = setting("pixels a side of a vision transformer's patch", default=PATCH, least=1, added=True)
    init_head: str = setting(
        "the last layer of a network of --init: its own (empty), or zeros (new; Dosovitskiy et al. 2021), for other "
        "classes; the network is then trained on, from there, as the settings of base say",
        default="",
        choices=("", "new"),
        added=True,
    )
    dtype: str = setting("of the computation; parameters are float32 always", default="float32", choices=DTYPES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min((1, *self.widths, *self.blocks)) < 1:
            raise SettingsError(f"widths and blocks must be at least 1; got {self.widths}, {self.blocks}")


class Collect(Settings):
    """Which collector, of which subset of the parameters."""

    name: str = setting("the collector", default="trajectory")
    subset: tuple[str, ...] = setting(
        "the parameters, by the names of their layers", default=("layer4.2.bn2", "layer4.2.bn3")
    )
    rank: int = setting("of the adapters of lora: patterns in the subset", default=RANK, least=1, added=True)
    settings: Any = setting("of the collector", default=None)
    algorithm: Collector = setting("its record", default=None, digest=False)


class Generate(Settings):
    """The main generator first, then the nulls on the same checkpoints."""

    name: str = setting("the generator that the report is about", default="bend")
    nulls: tuple[str, ...] = setting(
        "generators on the same checkpoints, to compare it with", default=("gaussian", "low_rank_gaussian", "identity")
    )
    tune: tuple[float, ...] = setting(
        "values of each generator's knob of which the best on validation is taken; at least 0", default=()
    )
    statistics: int = setting(
        "training images for the BN statistics of members whose subset holds them", default=2048, least=1
    )
    settings: Any = setting("of each generator, by its name", default=None)
    algorithms: Any = setting("the record of each generator, by its name", default=None, digest=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.tune, default=0) < 0:
            raise SettingsError(f"tune must be numbers of at least 0; got {self.tune}")


class Compute(Settings):
    """What changes speed, memory and what can be watched; of a number the last bits at most, where memory_mb bounds
    something: a digest covers it there."""

    memory_mb: int = setting("of intermediates in one program, and of cached features, in MiB", default=16384, least=1)
    save_seconds: float = setting("a running stage saves its state this far apart at least", default=30.0, least=0)
    tensorboard: bool = setting("event files of all trainings under <workdir>/tensorboard", default=False)


class Config(Settings):
    """One run."""

    task: str = setting("the name in the report", default="res50_cifar10")
    members: int = setting("m, the generated base classifiers", default=100, least=1)
    data: Data = setting("", default=Data)
    backbone: Backbone = setting("", default=Backbone)
    base: Base = setting("", default=Base)
    collect: Collect = setting("", default=Collect)
    generate: Generate = setting("", default=Generate)
    evaluate: Evaluate = setting("", default=Evaluate)
    compute: Compute = setting("", default=Compute)

    def __post_init__(self) -> None:
        super().__post_init__()
        k = self.collect.settings.k
        for algorithm in self.generate.algorithms.values():
            algorithm.needs(algorithm.settings, k)
        main = self.generate.algorithms[self.generate.name]
        if self.collect.algorithm.has_weights and main.is_all_checkpoints and self.members < k:
            raise SettingsError(
                f"members={self.members} do not match {self.collect.name}'s {k} weights: at least as many are needed"
            )


def described() -> dict[str, Any]:
    """Every setting by its name: its dataclass field, or for a group of settings (its class, the same for what is in
    it). The order is the one in which settings are shown."""
    hints, result = typing.get_type_hints(Config), {}
    for f in dataclasses.fields(Config):
        is_plain = not dataclasses.is_dataclass(hints[f.name])
        result[f.name] = f if is_plain else None if f.name in ("collect", "generate") else _described(hints[f.name])
    for group, kind, table in (("collect", Collect, COLLECTORS), ("generate", Generate, GENERATORS)):
        fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in OF_RECORDS}
        every = [f for record in table.values() for f in dataclasses.fields(record.settings)]
        fields |= {name: next(f for f in every if f.name == name) for name in (SHARED if group == "collect" else ())}
        presets = {name: getattr(record, "presets", {}) for name, record in table.items()}
        fields |= {name: _described(type(record.settings), presets[name]) for name, record in table.items()}
        result[group] = (kind, fields)
    return result


def _described(kind: Any, presets: Iterable[str] = ()) -> tuple[Any, dict[str, Any]]:
    hints = typing.get_type_hints(kind)
    own = [f for f in dataclasses.fields(kind) if not f.metadata["shared"]]
    fields = {f.name: _described(hints[f.name]) if dataclasses.is_dataclass(hints[f.name]) else f for f in own}
    return kind, {"preset": _preset(presets), **fields} if presets else fields


def _preset(presets: Iterable[str]) -> Any:
    """The field of a group's preset. A digest covers what it fills in, not its name."""
    what = "values for all settings of the group that are left at their defaults; what a flag or a row gives stays"
    return setting(what, default="", choices=("", *presets), digest=False)


def defaults() -> dict[str, Any]:
    """Every setting with its default value, as nested groups: what configs/default.py gives."""

    def values(group: dict[str, Any]) -> dict[str, Any]:
        return {name: values(f[1]) if isinstance(f, tuple) else f.default for name, f in group.items()}

    result = values(described())
    result["collect"]["subset"] = ",".join(result["collect"]["subset"])
    result["generate"]["nulls"] = ",".join(result["generate"]["nulls"])
    return result


def parse(raw: Any, given: Collection[str] = ()) -> Config:
    """A ConfigDict (or nested dict) as a Config, with presets filled in (`with_presets`). Raises SettingsError for a
    key that is not a setting, one that is missing, a value of the wrong type or out of range."""
    raw = raw.to_dict() if hasattr(raw, "to_dict") else dict(raw)
    _check_keys("", raw, [f.name for f in dataclasses.fields(Config)])
    values = {
        name: _build(name, kind, raw[name])
        for name, kind in typing.get_type_hints(Config).items()
        if name not in ("collect", "generate")
    }
    values["collect"] = _collect(_group("collect", raw["collect"]), values["base"])
    return _guard("", Config, dict(values, generate=_generate(_group("generate", raw["generate"]), given)))


def with_presets(raw: dict[str, Any], table: Mapping[str, Generator], given: Collection[str]) -> dict[str, Any]:
    """The group `generate` with the values of every preset that is named in it.

    A preset's value goes where the setting stands at its default. given: dotted names of settings that the user gave by
    flags or in a row, such as generate.bend.autoencoder.fold: they stay, at their default too. Raises SettingsError.
    """
    flat: dict[Any, Any] = flatten_dict(raw, keep_empty_nodes=True)
    for name, record in table.items():
        word = flat.get((name, "preset"), "")
        if word and word not in record.presets:
            there = f"there are {', '.join(record.presets) or 'none'}"
            raise SettingsError(
                f"generate.{name}.preset: unknown {word!r}{did_you_mean(str(word), record.presets)}; {there}"
            )
        defaults: dict[Any, Any] = flatten_dict(dataclasses.asdict(record.settings))
        values: dict[Any, Any] = flatten_dict(dataclasses.asdict(record.presets[word])) if word else {}
        for path, value in values.items():
            is_given = ".".join(("generate", name, *path)) in given
            if not is_given and flat.get((name, *path)) == defaults[path]:
                flat[name, *path] = value
    return unflatten_dict(flat)


def _collect(raw: dict[str, Any], base: Base) -> Collect:
    """The collector that is named. The groups of the others are checked too, so that a mistake in them is no surprise
    later."""
    algorithm = _find("collect.name", raw.get("name"), COLLECTORS, "COLLECTOR")
    table = {**COLLECTORS, algorithm.name: algorithm}
    _check_keys("collect.", raw, ["name", "subset", "rank", *SHARED, *COLLECTORS], [algorithm.name])
    borrowed = {"collect": raw, "base": base}
    for name, other in table.items():
        if other is not algorithm:
            own = type(other.settings)()
            _algorithm(f"collect.{name}", own, raw[name], {"collect": dataclasses.asdict(own), "base": base})
    settings = _algorithm(f"collect.{algorithm.name}", algorithm.settings, raw.get(algorithm.name), borrowed)
    values = {
        "subset": names(_cast("collect.subset", str, raw["subset"])),
        "rank": _cast("collect.rank", int, raw["rank"]),
    }
    values |= {"name": algorithm.name, "settings": settings, "algorithm": replace(algorithm, settings=settings)}
    return _guard("collect", Collect, values)


def _generate(raw: dict[str, Any], given: Collection[str]) -> Generate:
    main = _find("generate.name", raw.get("name"), GENERATORS, "GENERATOR")
    nulls = names(_cast("generate.nulls", str, raw.get("nulls")))
    wanted = {a.name: a for a in (main, *(_find("generate.nulls", null, GENERATORS, "GENERATOR") for null in nulls))}
    own = [f.name for f in dataclasses.fields(Generate) if f.name not in OF_RECORDS]
    _check_keys("generate.", raw, [*own, *GENERATORS], list(wanted))
    table = {**GENERATORS, **wanted}
    raw = with_presets(raw, table, given)
    for name in table:
        if isinstance(raw.get(name), dict):
            raw[name].pop("preset", None)
    borrowed = {"generate.bend.autoencoder": _build("generate.bend", Bend, raw["bend"]).autoencoder}
    settings = {
        name: _algorithm(f"generate.{name}", algorithm.settings, raw.get(name), borrowed)
        for name, algorithm in table.items()
    }
    hints = typing.get_type_hints(Generate)
    numbers = {word: _cast(f"generate.{word}", hints[word], raw[word]) for word in ("tune", "statistics")}
    configured = {name: replace(algorithm, settings=settings[name]) for name, algorithm in wanted.items()}
    values = dict(name=main.name, nulls=tuple(wanted)[1:], algorithms=configured, **numbers)
    return _guard("generate", Generate, {**values, "settings": {name: settings[name] for name in wanted}})


def add_groups(settings: Any, words: list[str]) -> None:
    """Give a user's own algorithms, named in a configuration or by a flag among the words, a group of settings with
    their defaults, so that --config.generate.jitter.scale=2 is a flag. settings: a ConfigDict, changed in place.

    Raises SettingsError for a name that is no algorithm.
    """
    for path, table, attribute in (
        ("collect.name", COLLECTORS, "COLLECTOR"),
        ("generate.name", GENERATORS, "GENERATOR"),
        ("generate.nulls", GENERATORS, "GENERATOR"),
    ):
        group, _, key = path.partition(".")
        flag = f"--config.{path}="
        given = [settings[group][key], *(word.removeprefix(flag) for word in words if word.startswith(flag))]
        for name in names(str(given[-1])):
            record = _find(path, name, table, attribute)
            if record.name not in settings[group]:
                own = {f.name: f.default for f in dataclasses.fields(record.settings) if not f.metadata["shared"]}
                own = {"preset": "", **own} if getattr(record, "presets", {}) else own
                with settings.unlocked():
                    settings[group][record.name] = own


def _find(path: str, name: Any, table: dict[str, Any], attribute: str) -> Any:
    """The record of an algorithm: ours by its name, a user's by the path of its module (my_project.jitter), whose
    attribute COLLECTOR or GENERATOR it is."""
    if name in table:
        return table[name]
    found = None
    try:
        if isinstance(name, str) and name.replace(".", "").isidentifier():
            found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # a module that the named one imports is missing
            raise SettingsError(f"{path}: {name} cannot be imported: {error}") from None
    kinds = {"COLLECTOR": Collector, "GENERATOR": Generator}
    if found is None:
        there = f"there are {', '.join(table)}, or name a module of your own that has a {attribute}"
        raise SettingsError(f"{path}: unknown {name!r}{did_you_mean(str(name), table)}; {there}")
    record: Any = getattr(found, attribute, None)
    if not isinstance(record, kinds[attribute]) or record.name in table:
        raise SettingsError(
            f"{path}: the module {name} needs a {attribute} = {kinds[attribute].__name__}(...) with a name of its own; "
            f"it has {record!r}"
        )
    return record


def _algorithm(path: str, defaults: Any, raw: Any, borrowed: dict[str, Any]) -> Any:
    """The settings of one algorithm: its own group's (None: their defaults), and those that it shares with other
    groups. borrowed: by the name of a group, its raw values, or the settings that a field is."""
    kind, values = type(defaults), {}
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    own = [f.name for f in fields if not f.metadata["shared"]]
    raw = {name: getattr(defaults, name) for name in own} if raw is None else raw
    _check_keys(f"{path}.", raw, own)
    for field in fields:
        group = field.metadata["shared"]
        if not group:
            values[field.name] = _build(f"{path}.{field.name}", hints[field.name], raw[field.name])
        elif isinstance(borrowed[group], dict):
            values[field.name] = _cast(f"{group}.{field.name}", hints[field.name], borrowed[group][field.name])
            check_field(field, values[field.name], f"{group}.{field.name}")
        else:
            values[field.name] = borrowed[group]
    return _guard(path, kind, values)


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


def _group(path: str, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must be a group of settings; got {raw!r}")
    return raw


def _check_keys(prefix: str, raw: Any, expected: Iterable[str], optional: Iterable[str] = ()) -> None:
    expected = list(expected)
    for key in _group(prefix.rstrip("."), raw):
        if key not in (*expected, *optional):
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
