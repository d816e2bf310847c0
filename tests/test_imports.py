"""The walls of the house: which part imports which, and that the package pulls in nothing heavy before it is used."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bend_jax"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
EXPERIMENT = {"ml_collections", "absl", "tqdm"}  # what only a run from the command line needs
SHOWN = {"display": {"tqdm"}}  # and where else one of them is imported, once something is shown
WALLS = {  # parts of the package, and what nothing in them imports
    "report": {"run", "collect", "generate", "evaluation"},
    "collect": {"run", "report", "evaluation", "generate"},
    "generate": {"run", "report", "evaluation", "collect"},
    "evaluation": {"run", "report", "collect", "generate"},
    "data": {"run", "report", "evaluation", "collect", "generate"},
    "models": {"run", "report", "evaluation", "collect", "generate", "data"},
}
REPORTING = "given_logits"  # the one module of the library whose function gives a report


def imported(path: Path) -> set[str]:
    """Every module that a file imports, of this package without its name in front; function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix("bend_jax.") in FILES else node.module for name in inside}
    return {name.removeprefix("bend_jax.") for name in found}


@cache
def imports() -> dict[str, set[str]]:
    """Of every module."""
    return {name: imported(path) for name, path in FILES.items()}


def part(name: str) -> str:
    """The first component: a folder, or a module of the library."""
    return name.split(".")[0]


@pytest.mark.parametrize("own", [*WALLS, "the library"])
def test_no_part_reaches_through_a_wall(own: str) -> None:
    """The modules at the top level, which users import, know nothing of runs and reports."""
    for name, others in imports().items():
        if own == part(name) or (own == "the library" and "." not in name and part(name) not in (*WALLS, "run")):
            banned = WALLS.get(own, {"run", "report"} - ({"report"} if name == REPORTING else set()))
            assert not {other for other in others if other in FILES and part(other) in banned}, name


def test_only_a_run_knows_the_command_line() -> None:
    """Whoever imports the library gets none of these."""
    for name, others in imports().items():
        banned = EXPERIMENT - SHOWN.get(name, set())
        assert part(name) == "run" or not {part(other) for other in others} & banned, name


def test_no_two_modules_import_each_other() -> None:
    """Taking away again and again the modules that import none of those left leaves nothing."""
    left = {name: {o for o in others if o in FILES and o != name} for name, others in imports().items()}
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert not left


def loaded(code: str) -> set[str]:
    """The libraries that are there after this code has run in a new interpreter."""
    words = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules, file=sys.stderr)"]
    err = subprocess.run(words, cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=120).stderr
    return {name.split(".")[0] for name in err.split()}


def test_importing_the_package_is_light() -> None:
    """No plotting, data or table library comes in with it, no library of networks but Flax, and no bars; jax comes with
    the first name that is used."""
    assert not loaded("import bend_jax") & {"jax", "numpy"}
    heavy = {"matplotlib", "sklearn", "tensorflow", "tensorflow_datasets", "pandas", "PIL", "torch", "ml_collections"}
    heavy |= {"equinox", "haiku", "grain", "tqdm"}
    given = "bend_jax.modules.read_network(lambda v, x: x, ({}, 0, 0))"
    assert not loaded(f"import bend_jax; bend_jax.fit, bend_jax.metrics, bend_jax.training.Model; {given}") & heavy


def test_help_imports_no_jax() -> None:
    """It is there at once."""
    assert not loaded("from bend_jax.run.command_line import main; main(['launch.py', '--help'])") & {"jax", "numpy"}
