"""What is promised about versions: one source of the lower bounds, one test command, and types that are installed."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py gives to setuptools."""
    seen: dict[str, Any] = {}
    stand_in = SimpleNamespace(setup=lambda **words: seen.update(words), find_packages=lambda **_: [])
    monkeypatch.setitem(sys.modules, "setuptools", stand_in)
    monkeypatch.setitem(sys.modules, "setuptools.command", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "setuptools.command.build_py", SimpleNamespace(build_py=object))
    runpy.run_path(str(ROOT / "setup.py"))
    return seen


def test_the_lowest_set_is_the_lower_bounds_of_all_requirements(given: dict[str, Any]) -> None:
    """Each requirement has exactly one, the same wherever it is named, and `tools/lowest.py` reads each of them."""
    asked = [*given["install_requires"], *(text for extra in given["extras_require"].values() for text in extra)]
    bounds: dict[str, set[str]] = {}
    for requirement in map(Requirement, asked):
        low = {bound.version for bound in requirement.specifier if bound.operator == ">="}
        bounds[requirement.name] = bounds.get(requirement.name, set()) | (low or {"none"})
    lowest = runpy.run_path(str(ROOT / "tools" / "lowest.py"))["lowest"]()
    assert bounds == {name: {version} for name, version in lowest.items()}


def test_the_types_are_installed(given: dict[str, Any]) -> None:
    """A checker reads the annotations of an installed package only where it has this file."""
    assert given["package_data"] == {"bend_jax": ["py.typed"]}
    assert (ROOT / "bend_jax" / "py.typed").exists()


def test_readme_and_both_machines_run_the_same_line() -> None:
    """Byte for byte."""
    line = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert ".venv/bin/pytest" in line
    for name in ("README.md", ".github/workflows/ci.yml"):
        assert line in [own.strip() for own in (ROOT / name).read_text().splitlines()], name
