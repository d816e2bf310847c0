"""Write docs/settings.md: every flag and every setting, from the dataclasses, their checks and configs/default.py.

python tools/settings_reference.py
"""

import ast
import dataclasses
import inspect
import io
import re
import sys
import tokenize
import typing
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bend_jax import checks, collect, generate, models, training  # noqa: E402
from bend_jax.collect import trajectory  # noqa: E402
from bend_jax.collect.frozen_features import FineTuning  # noqa: E402
from bend_jax.data import sources  # noqa: E402
from bend_jax.run import config  # noqa: E402

TARGET = ROOT / "docs" / "settings.md"
NAMED = {  # what a setting names, where no check of a dataclass says it
    "data.name": f"{', '.join(sources.NAMES)}, npz:PATH",
    "backbone.name": ", ".join(models.NAMES),
    "collect.name": ", ".join(collect.COLLECTORS),
    "collect.subset": "patterns of names, with commas between",
    "generate.name": ", ".join(generate.GENERATORS),
    "generate.nulls": "names of generators, with commas between",
}
HEAD = """# Settings

Written by `python tools/settings_reference.py` from the dataclasses, their checks and `configs/default.py`: edit those.

Every setting is a flag: `--config.collect.k=20`; tuples as `--config.base.milestones="(20,30)"`. The default is that of
`configs/default.py`, ResNet-50 on CIFAR-10 as BEND trains it; the other files in `configs/` are short differences from
it, and `--print_config` shows what a command would use. [ours] marks what the published method does not have.

**Digest**: whether the stages that depend on a setting are computed anew where it changes. Those marked "no" change
speed, memory or what can be watched, never a number. Of `collect` and `generate`, a digest covers the settings of the
algorithms that are used.
"""


def text() -> str:
    """The whole page."""
    raw = ordered(run_path(str(ROOT / "configs" / "default.py"))["get_config"]().to_dict(), "")
    parts = [HEAD, "## Flags of launch.py\n", table(["flag", "default", "what it does"], flags())]
    parts += ["## The run\n", rows({name: value for name, value in raw.items() if not isinstance(value, dict)}, "")]
    parts += [part for name, group in raw.items() if isinstance(group, dict) for part in section(name, group, 2)]
    return "\n".join(parts)


def ordered(group: dict[str, Any], path: str) -> dict[str, Any]:
    """The settings in the order of configs/default.py; a ConfigDict sorts them."""
    order = list(default_comments())
    names = sorted(group, key=lambda name: order.index(path + name))
    return {x: ordered(group[x], f"{path}{x}.") if isinstance(group[x], dict) else group[x] for x in names}


def flags() -> list[list[str]]:
    """Name, default and help of what launch.define_flags defines."""
    launch = run_path(str(ROOT / "launch.py"))
    body = ast.parse(inspect.getsource(launch["define_flags"]))
    found = []
    for call in ast.walk(body):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and "DEFINE" in call.func.attr:
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            name, *default, told = [eval(compile(ast.Expression(x), "", "eval"), launch) for x in given]
            words = [",".join(x) if isinstance(x, list) else str(x) for x in default]
            found.append([f"`--{name}`", f"`{words[0]}`" if words and words[0] else "", told])
    return found


def section(path: str, group: dict[str, Any], level: int) -> list[str]:
    """A heading, what the group is, its settings, and the groups inside it."""
    own = {f"{path}.{name}": value for name, value in group.items() if not isinstance(value, dict)}
    kind = kind_of(path)
    parts = [f"{'#' * level} {path}\n", " ".join((inspect.getdoc(kind) or "").split()) + "\n"]
    parts += [rows(own, path)] if own else []
    inner = [(f"{path}.{name}", value) for name, value in group.items() if isinstance(value, dict)]
    return parts + [part for name, value in inner for part in section(name, value, level + 1)]


def rows(own: dict[str, Any], path: str) -> str:
    """The table of one group's settings."""
    lines = []
    for name, value in own.items():
        leaf = name.rsplit(".", 1)[-1]
        kind = kind_of(path)
        if path == "collect" and leaf in config.SHARED:
            kind = trajectory.Trajectory  # the collectors share these
        hint = type(value) if name in NAMED else typing.get_type_hints(kind)[leaf]
        (field,) = (f for f in dataclasses.fields(kind) if f.name == leaf)
        covered = field.metadata.get("digest", True) and path != "compute"
        what = comments(kind).get(leaf) or default_comments().get(name)
        if not what and issubclass(kind, FineTuning):
            what = comments(training.Base).get(leaf)  # the same SGD
        if not what:
            raise SystemExit(f"{name} has no comment, neither in {kind.__name__} nor in configs/default.py")
        allowed = NAMED.get(name) or "; ".join(limits(kind).get(leaf, []))
        allowed = re.sub(r"^at least 0; (?=in )", "", allowed)
        given = "" if value in ("", ()) else f"`{value}`"
        lines.append([f"`{name}`", type_name(hint), given, allowed, "yes" if covered else "no", what])
    return table(["setting", "type", "default", "allowed", "digest", "what it does"], lines)


def kind_of(path: str) -> Any:
    """The dataclass of a group of settings, by its dotted path."""
    first, *rest = path.split(".") if path else [""]
    kind = typing.get_type_hints(config.Config)[first] if first else config.Config
    for i, part in enumerate(rest):
        tables = {"collect": collect.COLLECTORS, "generate": generate.GENERATORS}
        kind = tables[first][part] if i == 0 and first in tables else typing.get_type_hints(kind)[part]
    return kind


def type_name(hint: Any) -> str:
    """As a person reads it."""
    return f"tuple of {typing.get_args(hint)[0].__name__}" if typing.get_origin(hint) is tuple else hint.__name__


def table(header: list[str], lines: list[list[str]]) -> str:
    """Markdown."""
    plain = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
    cells = [header, ["---"] * len(header), *plain]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def trailing(source: str) -> dict[int, str]:
    """The comment of each line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def comments(kind: Any) -> dict[str, str]:
    """What stands beside each field of a dataclass."""
    if len(bases := [c for c in kind.__mro__ if dataclasses.is_dataclass(c)]) > 1:
        return {**comments(bases[1]), **comments_of(kind)}
    return comments_of(kind)


def comments_of(kind: Any) -> dict[str, str]:
    """The same of a class without its bases."""
    source = inspect.getsource(kind)
    beside = trailing(source)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    fields = [x for x in node.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)]
    lines = {x.target.id: range(x.lineno, (x.end_lineno or x.lineno) + 1) for x in fields}  # pyright: ignore
    return {name: " ".join(beside[i] for i in own if i in beside) for name, own in lines.items()}


def default_comments() -> dict[str, str]:
    """What stands beside each setting of configs/default.py, by its dotted name."""
    source = (ROOT / "configs" / "default.py").read_text()
    beside, found = trailing(source), {}

    def walk(call: ast.Call, path: str) -> None:
        for word in call.keywords:
            name = f"{path}.{word.arg}"
            found[name] = ""
            if isinstance(word.value, ast.Call):
                walk(word.value, name)
            elif word.value.lineno != call.lineno:  # else the comment is the group's
                found[name] = beside.get(word.value.end_lineno or 0, "").removeprefix("... ").removesuffix(" ...")

    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = ""
        for inner in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
            if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Call):
                walk(inner.value, node.name)  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(inner, ast.Assign) and isinstance(inner.targets[0], ast.Attribute):
                found[inner.targets[0].attr] = beside.get(inner.lineno, "")
    return found


def limits(kind: Any) -> dict[str, list[str]]:
    """What the checks of a dataclass, and the functions that it checks itself with, demand of each field."""
    found: dict[str, list[str]] = {}
    classes: list[Any] = [c for c in kind.__mro__ if dataclasses.is_dataclass(c)]
    for own in reversed(classes):
        for node in ast.walk(ast.parse(inspect.getsource(own))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for name, words in demanded(node, sys.modules[own.__module__]):
                    found.setdefault(name, []).append(words)
    names = {f.name for f in dataclasses.fields(kind)}
    return {name: list(dict.fromkeys(words)) for name, words in found.items() if name in names}


def demanded(call: ast.Call, module: ModuleType) -> list[tuple[str, str]]:
    """(field, what it has to be) of one call of bend_jax.checks, or of the text of a SettingsError."""
    name = typing.cast(ast.Name, call.func).id
    words = [x.value for x in call.args if isinstance(x, ast.Constant) and isinstance(x.value, str)]
    if name == checks.at_least.__name__:
        return [(word, f"at least {typing.cast(ast.Constant, call.args[1]).value}") for word in words]
    if name == checks.positive.__name__:
        return [(word, "above 0") for word in words]
    if name == checks.share.__name__:
        return [(word, "in [0, 1)") for word in words]
    if name == checks.one_of.__name__:
        return [(words[0], ", ".join(f"`{x}`" for x in getattr(module, ast.unparse(call.args[2]))))]
    if name != "SettingsError" or not isinstance(call.args[0], ast.JoinedStr):
        return []
    told = "".join(piece(part, module) for part in call.args[0].values)
    match = re.fullmatch(r"(\w+)(?: and (\w+))? (?:must be |takes |need )(.*?)(?:; got.*)?", told)
    return [(word, match[3]) for word in match.groups()[:2] if word] if match and "\0" not in match[3] else []


def piece(part: Any, module: ModuleType) -> str:
    """A part of an f-string; what depends on the settings themselves as a mark."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    try:
        return str(eval(compile(ast.Expression(part.value), "", "eval"), vars(module)))
    except NameError:
        return "\0"


if __name__ == "__main__":
    TARGET.write_text(text())
    print(f"wrote {TARGET.relative_to(ROOT)}")
