"""Modules import from rows above them only, and the package pulls in nothing heavy before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bend_jax"
# each row may import from the rows above it
ROWS = [
    {"checks", "drawing", "page", "published"},
    {"settings", "rng", "devices"},
    {"config"},
    {"sources"},
    {"storage", "data", "metrics", "ranking", "subset", "split"},
    {"models", "training", "convert", "shift"},
    {"statistics"},
    {"collect", "generate", "ensemble"},
    {"predict"},
    {"curves"},
    {"scoring", "document", "artefact"},
    {"report", "figures", "maps"},
    {"sections"},
    {"setting", "watching"},
    {"stages"},
    {"budget"},
    {"pipeline", "estimate", "api"},
    {"compare", "beside"},
    {"sweep"},
    {"papers"},
]


def imported(path: Path) -> set[str]:
    """The package's modules (first component) that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bend_jax":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("bend_jax.")}
    return found


def test_data_flows_one_way() -> None:
    """Every module stands in a row, and imports from the rows above (a package's files from their own package too)."""
    row_of = {name: i for i, row in enumerate(ROWS) for name in row}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imported(path) - {own}:
            assert row_of[other] < row_of[own], f"{path.name} imports {other}, which is not in a row above {own}"


def test_importing_the_package_is_light() -> None:
    """No plotting, data or table library comes in with it."""
    code = "import sys, bend_jax; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    loaded = {name.split(".")[0] for name in out.split()}
    assert not loaded & {"matplotlib", "sklearn", "tensorflow", "tensorflow_datasets", "pandas", "PIL", "torch"}
