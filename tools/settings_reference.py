"""Write docs/settings.md: every flag and every setting, from the dataclasses that hold them.

python tools/settings_reference.py
"""

import inspect
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bend_jax import collect, generate, models  # noqa: E402
from bend_jax.data import sources  # noqa: E402
from bend_jax.run import config  # noqa: E402
from bend_jax.run.flags import define_flags, every_flag  # noqa: E402

TARGET = ROOT / "docs" / "settings.md"
NAMED = {  # what a setting names, which no range says
    "data.name": ", ".join((*sources.NAMES, *sources.FORMS)),
    "backbone.name": ", ".join(models.NAMES),
    "collect.name": ", ".join(collect.COLLECTORS),
    "collect.subset": "patterns of names, with commas between",
    "generate.name": ", ".join(generate.GENERATORS),
    "generate.nulls": "names of generators, with commas between",
}
HEAD = """# Settings

Written by `python tools/settings_reference.py` from the dataclasses that hold the settings: edit those.

Every setting is a flag: `--config.collect.k=20`; tuples as `--config.base.milestones="(20,30)"`. The default is that of
`configs/default.py`, ResNet-50 on CIFAR-10 as BEND trains it; the other files in `configs/` are short differences from
it, and `--print_config` shows what a command would use. [ours] marks what the published method does not have.

**Digest**: whether the stages that depend on a setting are computed anew where it changes. Those marked "no" change
speed, memory or what can be watched, never a number. Of `collect` and `generate`, a digest covers the settings of the
algorithms that are used.
"""


def text() -> str:
    """The whole page."""
    every, given = config.described(), config.defaults()
    own = {name: field for name, field in every.items() if not isinstance(field, tuple)}
    parts = [HEAD, "## Flags of launch.py\n", table(["flag", "default", "what it does"], flags())]
    parts += ["## The run\n", rows(own, given, "")]
    parts += [part for name in every if name not in own for part in section(name, every[name], given[name], 2)]
    return "\n".join(parts)


def flags() -> list[list[str]]:
    """Name, default and help of the flags that are no settings."""
    found = []
    for flag in every_flag(define_flags()):
        default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
        found.append([f"`--{flag.name}`", "" if default == "" else f"`{default}`", flag.help])
    return found


def section(path: str, group: tuple[Any, dict[str, Any]], given: dict[str, Any], level: int) -> list[str]:
    """A heading, what the group is, its settings, and the groups inside it."""
    kind, fields = group
    own = {name: field for name, field in fields.items() if not isinstance(field, tuple)}
    words = (inspect.getdoc(kind) or "").split("\n\nSettings:")[0]
    parts = [f"{'#' * level} {path}\n", " ".join(words.split()) + "\n"]
    parts += [rows(own, given, f"{path}.")] if own else []
    inner = [name for name in fields if name not in own]
    return parts + [part for x in inner for part in section(f"{path}.{x}", fields[x], given[x], level + 1)]


def rows(fields: dict[str, Any], given: dict[str, Any], prefix: str) -> str:
    """The table of one group's settings."""
    lines = []
    for name, field in fields.items():
        path, value = prefix + name, given[name]
        covered = field.metadata["digest"] and not path.startswith("compute.")
        allowed = NAMED.get(path) or field.metadata["range"].words()
        shown = "" if value in ("", ()) else f"`{value}`"
        what = field.metadata["what"]
        lines.append([f"`{path}`", type_name(value, field), shown, allowed, "yes" if covered else "no", what])
    return table(["setting", "type", "default", "allowed", "digest", "what it does"], lines)


def type_name(value: Any, field: Any) -> str:
    """As a person reads it; of names with commas between: str, as on the command line."""
    if isinstance(value, tuple):
        return f"tuple of {str(field.type).removeprefix('tuple[').split(',')[0]}"
    return type(value).__name__


def table(header: list[str], lines: list[list[str]]) -> str:
    """Markdown."""
    plain = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
    cells = [header, ["---"] * len(header), *plain]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    TARGET.write_text(text())
    print(f"wrote {TARGET.relative_to(ROOT)}")
