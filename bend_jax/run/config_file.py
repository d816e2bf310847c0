"""A configuration file: executed once, at one of its scales, and then changed by the flags of settings."""

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

from absl import flags
from flax.traverse_util import empty_node, flatten_dict
from ml_collections import ConfigDict, config_flags

import bend_jax
from bend_jax.checks import SettingsError, did_you_mean, expanded
from bend_jax.run.flags import name_types

SETTING = re.compile(r"--?(?:no)?config\.([^=]*)")
FLAG = re.compile(r"--?(?!(?:no)?config\.)([A-Za-z][\w.]*)(=.*)?")
PACKAGE = Path(bend_jax.__file__).parent
# inside the package where it is installed, beside it in its repository
CONFIGS = next((path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir()), PACKAGE)


class ConfigFile(NamedTuple):
    """What a configuration file gives."""

    name: str  # without the scale: configs/digits.py for ours, as it was typed for others
    scale: str  # of a paper's configuration; "" for one without scales
    settings: Any  # a ConfigDict
    defined: dict[str, Any]  # everything in the file: get_rows of a comparison, PAPER of a paper's table


def read(text: str) -> ConfigFile:
    """Execute FILE or FILE:SCALE, ml_collections' way to pass a word to get_config.

    FILE: a path, or the name of one of ours, from any folder: digits, paper/table3, configs/digits.py. Raises
    SettingsError.
    """
    typed, _, scale = text.partition(":")
    path = find(typed)
    if path is None:
        every = available()
        short = [Path(name).stem for name in every]
        near = did_you_mean(typed, every) or did_you_mean(Path(typed).stem, short)
        raise SettingsError(f"--config: there is no file {typed}{near}; there are {', '.join(every)}")
    inside = path.resolve().is_relative_to(CONFIGS.resolve())
    name = f"configs/{path.resolve().relative_to(CONFIGS.resolve())}" if inside else str(path)
    with executing(name):
        defined = run_path(str(path))
    if "get_config" not in defined:
        raise SettingsError(f"--config: {name} has no function get_config()")
    scale = choose_scale(name, scale, defined)
    with executing(name):
        settings = defined["get_config"](*([scale] if scale else []))
    if not isinstance(settings, ConfigDict):
        raise SettingsError(f"--config: get_config() of {name} must return a ConfigDict; got {settings!r}")
    return ConfigFile(name, scale, settings, defined)


@contextmanager
def executing(name: str) -> Iterator[None]:
    """Turn whatever the user's file raises into a SettingsError."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  a configuration is code, which may raise anything
        raise SettingsError(f"--config: {name} cannot be loaded: {type(error).__name__}: {error}") from None


def choose_scale(name: str, scale: str, defined: dict[str, Any]) -> str:
    """The scale, by default the first of the file's SCALES; any word where get_config takes one and SCALES is not
    there; "" for a configuration without scales. Raises SettingsError."""
    scales = defined.get("SCALES", ())
    if scale and not signature(defined["get_config"]).parameters:
        raise SettingsError(f"--config: {name} has no scales, and got :{scale}; those of configs/paper have some")
    if scale and scales and scale not in scales:
        hint = did_you_mean(scale, scales)
        raise SettingsError(f"--config: {name} has no scale {scale!r}{hint}; there are {', '.join(scales)}")
    return scale or next(iter(scales), "")


def find(typed: str) -> Path | None:
    """The file that is meant: what was typed as a path, else one of ours by its path or its name, with or without .py;
    None where there is none."""
    own = typed.removeprefix("configs/")
    found = [expanded(typed), CONFIGS / own, CONFIGS / "paper" / own]
    every = [path.with_name(path.name + end) for path in found for end in ("", ".py") if path.name]
    return next((path for path in every if path.is_file()), None)


def available() -> list[str]:
    """Our configurations, those of the papers last."""
    found = [*sorted(CONFIGS.glob("[!_]*.py")), *sorted(CONFIGS.glob("paper/[!_]*.py"))]
    return [f"configs/{path.relative_to(CONFIGS)}" for path in found]


def rows(file: ConfigFile) -> list[dict[str, Any]]:
    """The rows of a comparison or of a paper's table; none for the configuration of a run."""
    if "get_rows" not in file.defined:
        return []
    with executing(file.name):
        return file.defined["get_rows"](file.settings, *([file.scale] if file.scale else []))


def override(settings: ConfigDict, words: list[str], own: list[str]) -> None:
    """Change settings by flags, --config.name=value. Raises SettingsError for anything else among the words.

    own: the names of the other flags, to offer where one is misspelt.
    """
    check_flags(flatten_dict(settings.to_dict(), sep="."), words, own)
    check_names(settings, words)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", settings, flag_values=values, sys_argv=words)
        name_types(values)
        for name in values:
            if isinstance(values[name], flags.MultiFlag):  # of a tuple
                _last_wins(values[name])
        rest = values(["launch.py", *words])[1:]
    except (flags.Error, ValueError) as error:
        raise SettingsError(str(error)) from None
    if rest:
        raise SettingsError(f"unexpected argument {rest[0]!r}: every setting is a flag, --config.name=value")


def _last_wins(flag: Any) -> None:
    """Make a flag of a tuple that is given twice take the last one, as all others do, instead of both in a row."""
    parse = flag.parse

    def anew(arguments: Any) -> None:
        flag.present = 0
        parse(arguments)

    flag.parse = anew


def check_flags(known: Collection[str], words: list[str], own: list[str]) -> None:
    """Raise SettingsError for a flag that is neither one of the settings nor one of our own, with the one that may be
    meant: --config.collect.k=10 for --k=10, --config=digits for --confg=digits.

    known: all settings by dotted names; own: the names of the other flags.
    """
    for word in words:
        match = FLAG.fullmatch(word)
        if match is None or match[1] in own:
            continue
        name, value = match[1], match[2] or ""
        settings = meant(name, known)
        near = [f"--config.{other}{value}" for other in settings[:3]] or [
            f"--{other}{value}" for other in difflib.get_close_matches(name, own, n=1)
        ]
        near = near or [f"--config.{other}{value}" for other in difflib.get_close_matches(name, known, n=1)]
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise SettingsError(f"unknown flag --{name}{hint}; --help lists them all")


def meant(name: str, known: Collection[str]) -> list[str]:
    """The setting of this name, else those whose names end in it: k is collect.k, diffusion.steps one of bend's."""
    return [name] if name in known else [other for other in known if other.endswith(f".{name}")]


def given_names(words: list[str]) -> set[str]:
    """The settings that flags among the words give, by dotted names."""
    return {match[1] for match in map(SETTING.match, words) if match}


def check_names(settings: ConfigDict, words: list[str]) -> None:
    """Every --config.name must be a setting of the file."""
    every = flatten_dict(settings.to_dict(), keep_empty_nodes=True, sep=".")
    known = [name for name, value in every.items() if value is not empty_node]
    for name in given_names(words):
        inside = [other for other in known if other.startswith(f"{name}.")]
        if inside or (name in every and name not in known):
            raise SettingsError(f"{name} is a group of settings: {', '.join(inside) or 'none'}")
        if name not in known:
            same_leaf = [other for other in known if other.split(".")[-1] == name.split(".")[-1]]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or same_leaf[:1]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SettingsError(f"unknown setting {name}{hint}; --print_config lists them all")
