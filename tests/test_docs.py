"""What the documents tell a reader to type is what works."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from flax.traverse_util import flatten_dict

import bend_jax
from tests import launching
from tools import api_reference, settings_reference

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))]


def test_ci_runs_the_readmes_test_command() -> None:
    """The very line."""
    (line,) = re.findall(r"^\[ -d \.venv \].*pytest$", README, re.MULTILINE)
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
def test_every_launch_line_of_the_documents_is_understood(tmp_path: Path) -> None:
    """Flags, settings and configurations exist: each is asked to print its settings."""
    found = [re.findall(r"(?<=python )launch\.py [^`\n]*", (ROOT / document).read_text()) for document in DOCUMENTS]
    lines = {re.sub(r"\s+#.*", "", line) for own in found for line in own if "--compare" not in line}
    assert len(lines) > 4

    for line in lines:
        done = launching.launch(tmp_path, [*shlex.split(line)[1:], "--print_config"])
        assert done.code == 0, (line, done.err)
        assert "collect.k = " in done.out


def test_linked_files_exist() -> None:
    """No link of the documents leads nowhere, and docs/README.md leads to all of them."""
    for document in DOCUMENTS:
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (folder / target).exists(), (document, target)
    index = (ROOT / "docs" / "README.md").read_text()
    for document in DOCUMENTS[3:]:
        assert document == "docs/README.md" or f"]({Path(document).name})" in index


@pytest.mark.parametrize("tool", [settings_reference, api_reference], ids=lambda tool: tool.TARGET.name)
def test_references_are_what_their_tools_write(tool: Any) -> None:
    """Of the sources as they are now."""
    assert tool.TARGET.read_text() == tool.text(), f"run python {Path(tool.__file__).relative_to(ROOT)}"


def test_the_reference_of_settings_has_every_setting() -> None:
    """By the name of its flag."""
    raw = run_path(str(ROOT / "configs" / "default.py"))["get_config"]()
    assert set(flatten_dict(raw.to_dict(), sep=".")) == set(
        re.findall(r"^\| `([a-z]\S*)` \|", settings_reference.TARGET.read_text(), re.MULTILINE)
    )


def test_every_name_of_the_api_page_exists_and_every_public_one_is_there() -> None:
    """Where the page says it is."""
    page = api_reference.TARGET.read_text()
    names = set(re.findall(r"`(bend_jax(?:\.\w+)+)`", page))
    assert {f"bend_jax.{name}" for name in bend_jax.__all__} <= names
    assert len(names) > len(bend_jax.__all__) + 20
    for name in names:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
SCRIPT = (ROOT / "examples" / "tutorial.py").read_text()


def test_the_tutorials_blocks_are_its_script() -> None:
    """Title by title, all of it and in order."""
    parts = [part.split("\n", 1) for part in SCRIPT.split("# %% ")[1:]]
    sections = [part.split("\n", 1) for part in TUTORIAL.split("\n## ")[1:]]
    blocks = re.compile(r"```python\n(.*?)```", re.DOTALL)
    found = [(title, block) for title, body in sections for block in blocks.findall(body)]
    assert [title for title, _ in found] == [title for title, _ in parts]
    for (_, block), (title, code) in zip(found, parts, strict=True):
        assert block.strip() == code.strip(), title


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows() -> None:
    """But for numbers, which another machine may round otherwise."""
    words = [sys.executable, "examples/tutorial.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    shown = "".join(re.findall(r"```text\n(.*?)```", TUTORIAL, re.DOTALL))
    assert [re.sub(r"\d+", "0", x) for x in done.stdout.split()] == [re.sub(r"\d+", "0", x) for x in shown.split()]
