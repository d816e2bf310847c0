"""What is promised about versions: one source of the lower bounds, one test command, and types that are installed."""

import os
import runpy
import subprocess
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


def test_the_configurations_are_installed(given: dict[str, Any]) -> None:
    """Every folder of them is a package, which lies in configs/ here and in bend_jax/configs there."""
    assert given["package_dir"] == {"bend_jax.configs": "configs"}
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    assert {f"bend_jax.{'.'.join(folder.parts)}" for folder in folders} <= set(given["packages"])


@pytest.mark.slow
def test_what_is_installed_finds_them_from_any_folder(tmp_path: Path) -> None:
    """By the command bend-jax, whose function starts in an interpreter that sees the built package alone."""
    pytest.importorskip("setuptools")
    build = [sys.executable, "setup.py", "-q", "build_py", f"--build-lib={tmp_path / 'lib'}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (tmp_path / "elsewhere").mkdir()
    code = "import sys; from bend_jax.run.command_line import console; sys.argv[0] = 'bend-jax'; sys.exit(console())"

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *words]
        own = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
        where = tmp_path / "elsewhere"
        return subprocess.run(command, cwd=where, env=own, capture_output=True, text=True, check=False, timeout=120)

    done = start("--config=paper/table3:full", "--print_config")
    assert "task = 'table3_full'" in done.stdout, done.stderr
    done = start("--config=digit")
    assert done.stderr.startswith("bend-jax: --config: there is no file digit (did you mean 'digits'?)")
    assert "  bend-jax --config=configs/digits.py " in start("--help").stdout


def test_readme_and_both_machines_run_the_same_line() -> None:
    """Byte for byte."""
    line = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert ".venv/bin/pytest" in line
    for name in ("README.md", ".github/workflows/ci.yml"):
        assert line in [own.strip() for own in (ROOT / name).read_text().splitlines()], name
