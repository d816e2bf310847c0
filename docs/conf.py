"""The documents as a site: python -m sphinx -W -q -c docs . build/site

The source folder is the repository's root, so that a link works in the site as it does in the repository.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "bend_jax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**", "benchmarks/README.md"]
include_patterns += ["benchmarks/results/*/report.md"]
exclude_patterns = [".*", "build", "runs", "bend_jax", "configs", "tests", "tools", "examples", "*.egg-info"]

html_theme = "furo"
html_title = "bend_jax"
html_copy_source = html_show_sourcelink = html_show_copyright = False

myst_heading_anchors = 3
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autosummary_generate = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

PAGES = {
    "First": ("docs/tutorial", "docs/results", "docs/findings", "docs/peers", "docs/systems"),
    "Your own": ("docs/networks", "docs/evaluate", "docs/extending", "docs/split", "docs/api/index"),
    "Runs": (
        *("docs/runs", "docs/settings", "docs/backbones", "docs/recipes", "docs/data", "docs/devices", "docs/watching"),
        "docs/reliability",
    ),
    "Comparisons": ("docs/comparison_digits", "docs/comparison_cifar10"),
    "The project": ("docs/README", "benchmarks/README", "CONTRIBUTING", "SECURITY", "CHANGELOG"),
}
REPORTS = ("/docs/examples/*/report", "/docs/examples/paper/*/report", "/benchmarks/results/*/report")
CONTENTS = {root_doc: PAGES, "docs/results": {"Reports": REPORTS}}


def add_contents(app: Any, name: str, source: list[str]) -> None:
    """The side bar, which the README does not show in the repository; no links to what is not there."""
    source[0] = re.sub(
        r"\[([^\]]*)\]\(\.\./store/[^)]*\)", r"\1", source[0]
    )  # a report's stages are not in the repository
    for caption, pages in CONTENTS.get(name, {}).items():
        lines = [f":caption: {caption}", ":hidden:", ":glob:", "", *pages]
        source[0] += "\n\n```{toctree}\n" + "\n".join(lines) + "\n```\n"


def as_restructured_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: nothing else in them is markup."""
    parts = re.split(r"(`[^`]*`)", "\n".join(lines))
    plain = [f"`{x}`" if x.startswith("`") else re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", x) for x in parts]
    lines[:] = re.sub(r"``(?=\w)(?<=\w``)", r"``\\ ", "".join(plain)).split("\n")


def with_short_names(app: Any, what: str, name: str, obj: Any, options: Any, given: str, result: str) -> Any:
    """The signature with the names that a user imports."""
    return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in (given, result))


def skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a NamedTuple stand in its signature."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field") else None


def write_index(app: Any, error: Exception | None) -> None:
    """index.html leads to the README."""
    (Path(app.outdir) / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n')


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", with_short_names)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("build-finished", write_index)
