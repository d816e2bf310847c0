"""Write docs/api.md: signatures and docstrings of what is public, read from the sources.

python tools/api_reference.py
"""

import ast
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import bend_jax

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "api.md"


class Section(NamedTuple):
    """Public names of one module under one heading; no names: every function and class of the module."""

    title: str
    words: str
    module: str
    names: tuple[str, ...] = ()


HEAD = """# API

Written by `python tools/api_reference.py` from the docstrings: edit those. Shapes stand in brackets: n
images, m members, k checkpoints, dim numbers in a vector. An annotation like `Float[Array, "m n classes"]` is a
shape too (jaxtyping).
[tutorial.md](tutorial.md) shows them at work, [settings.md](settings.md) has every field of the settings.
"""
SECTIONS = (
    Section(
        "A network of your own",
        "`import bend_jax`. `fit` is the three verbs in one.",
        "bend_jax.api",
        ("fit", "collect_checkpoints", "generate_members", "reestimator"),
    ),
    Section(
        "What a network is, and who watches",
        "`fit` makes these of its arguments; collectors and generators get them.",
        "bend_jax.training",
        ("Model", "Examples", "Callbacks", "NonFiniteError"),
    ),
    Section(
        "A mistake in settings or input", "A ValueError that says what to do.", "bend_jax.checks", ("SettingsError",)
    ),
    Section("A collector of your own", "", "bend_jax.collect.collector"),
    Section("A generator of your own", "", "bend_jax.generate.generator"),
    Section("Backbones", "Flax modules with the CIFAR stem.", "bend_jax.models", ("build",)),
    Section("Which parameters", "", "bend_jax.subset"),
    Section("Which computation: once an image, once a member", "", "bend_jax.split", ("split", "cut", "Cut", "unread")),
    Section("A batch and one example of it", "", "bend_jax.batching"),
    Section("Members and votes", "", "bend_jax.ensemble"),
    Section("Measures", "", "bend_jax.metrics"),
)


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for i, section in enumerate(SECTIONS):
        parts += [exported()] if i == 1 else []
        tree = parsed(section.module)
        public = {x.name: x for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef) and x.name[0] != "_"}
        parts += [f"## {section.title}\n", plain(section.words or ast.get_docstring(tree) or "") + "\n"]
        place = section.module.removesuffix(".api")  # the package has those of api.py
        parts += [described(f"{place}.{name}", public[name]) for name in section.names or public]
    parts.append("How to add one: [CONTRIBUTING.md](../CONTRIBUTING.md).\n")
    return "\n".join(parts)


def exported() -> str:
    """bend_jax.__all__, each name with the first paragraph of its docstring."""
    lines = [
        "## What `bend_jax` exports\n",
        "`collect=` takes settings of a collector, `generate=` settings of a generator.",
    ]
    lines += ["| name | what it is |", "| --- | --- |"]
    for name in bend_jax.__all__:
        words = " ".join((inspect.getdoc(getattr(bend_jax, name)) or "").split("\n\n")[0].split())
        lines.append(f"| `bend_jax.{name}` | {plain(words)} |")
    return "\n".join(lines) + "\n"


def parsed(module: str) -> ast.Module:
    """The source of a module of the package."""
    path = ROOT.joinpath(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def described(name: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """Heading, signature or fields, docstring, and the methods of a class."""
    parts = [f"### `{name}`\n"]
    inside = node.body if isinstance(node, ast.ClassDef) else []
    fields = [ast.unparse(x) for x in inside if isinstance(x, ast.AnnAssign)]
    if isinstance(node, ast.FunctionDef):
        parts.append(code(signature(node)))
    elif fields:
        parts.append(code("\n".join(fields)))
    parts.append(plain(ast.get_docstring(node) or "") + "\n")
    for method in inside:
        if isinstance(method, ast.FunctionDef) and method.name[0] != "_":
            kind = "property " if method.decorator_list else ""
            words = plain(" ".join((ast.get_docstring(method) or "").split()))
            parts.append(f"- {kind}`{signature(method, line=1000)}`: {words}")
    return "\n".join(parts) + ("\n" if inside and parts[-1].startswith("- ") else "")


def signature(node: ast.FunctionDef, line: int = 100) -> str:
    """The call, in one line where it fits."""
    given = [x for x in node.args.args if x.arg != "self"]
    none = [None] * (len(given) - len(node.args.defaults))
    words = [argument(a, d) for a, d in zip(given, [*none, *node.args.defaults], strict=True)]
    rest = node.args.vararg
    words += [f"*{ast.unparse(rest)}"] if rest else ["*"] if node.args.kwonlyargs else []
    words += [argument(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    one = f"{node.name}({', '.join(words)}){back}"
    if len(one) <= line:
        return one
    return f"{node.name}(\n" + "".join(f"    {word},\n" for word in words) + f"){back}"


def argument(name: ast.arg, default: ast.expr | None) -> str:
    """As it stands in a signature."""
    return ast.unparse(name) + (f" = {ast.unparse(default)}" if default is not None else "")


def code(words: str) -> str:
    """A block of Python; quotes as the sources have them."""
    return f"```python\n{words.replace(chr(39), chr(34))}\n```\n"


def plain(words: str) -> str:
    """A docstring as Markdown text: what is not in backticks means nothing but itself."""
    parts = re.split(r"(`[^`]*`)", inspect.cleandoc(words))
    return "".join(x if x.startswith("`") else re.sub(r"([*<])", r"\\\1", x) for x in parts)


if __name__ == "__main__":
    TARGET.write_text(text())
    print(f"wrote {TARGET.relative_to(ROOT)}")
