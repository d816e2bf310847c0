"""What the documents tell a reader to type is what works."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import bend_jax
from tests import launching
from tools import notebook, settings_reference

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))]
API = sorted((ROOT / "docs" / "api").glob("*.md"))
LINKED = [*DOCUMENTS, "SECURITY.md", "benchmarks/README.md", *(str(path.relative_to(ROOT)) for path in API)]


def test_ci_runs_the_readmes_test_command() -> None:
    """The very line."""
    (line,) = re.findall(r"^\[ -d \.venv \].*pytest$", README, re.MULTILINE)
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.slow
def test_every_launch_line_of_the_documents_is_understood(tmp_path: Path) -> None:
    """Flags, settings and configurations exist: each is asked to print its settings."""
    found = [re.findall(r"(?<=python )launch\.py [^`\n]*", (ROOT / document).read_text()) for document in DOCUMENTS]
    lines = {
        re.sub(r"\s+#.*", "", line)
        for own in found
        for line in own
        if not re.search("--(compare|evaluate|verify)", line)
    }
    assert len(lines) > 4

    for line in lines:
        done = launching.launch(tmp_path, [*shlex.split(line)[1:], "--print_config"])
        assert done.code == 0, (line, done.err)
        assert "collect.k = " in done.out


def test_linked_files_exist() -> None:
    """No link of the documents leads nowhere, and docs/README.md leads to all of them."""
    for document in LINKED:
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (folder / target).exists(), (document, target)
    index = (ROOT / "docs" / "README.md").read_text()
    for document in DOCUMENTS[3:]:
        assert document == "docs/README.md" or f"]({Path(document).name})" in index


@pytest.mark.parametrize("tool", [settings_reference, notebook], ids=lambda tool: tool.TARGET.name)
def test_generated_documents_are_what_their_tools_write(tool: Any) -> None:
    """Of the sources as they are now."""
    assert tool.TARGET.read_text() == tool.text(), f"run python {Path(tool.__file__).relative_to(ROOT)}"


def test_the_reference_of_settings_has_every_setting() -> None:
    """By the name of its flag."""
    raw = run_path(str(ROOT / "configs" / "default.py"))["get_config"]()
    assert set(flatten_dict(raw.to_dict(), sep=".")) == set(
        re.findall(r"^\| `([a-z]\S*)` \|", settings_reference.TARGET.read_text(), re.MULTILINE)
    )


def test_every_public_name_is_on_a_page_of_the_api_and_every_name_there_exists() -> None:
    """Where the page says it is."""
    directive = re.compile(r"^\.\. auto(?:function|class|exception|data):: (\S+)$", re.MULTILINE)
    names = [name for path in API for name in directive.findall(path.read_text())]
    assert {f"bend_jax.{name}" for name in bend_jax.__all__} <= set(names)
    assert len(names) == len(set(names))
    for name in names:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("furo") is None, reason="needs pip install -e '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """By the command that CONTRIBUTING names; no page of it loads anything from elsewhere."""
    (command,) = re.findall(r"^python (-m sphinx .*) build/site$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    words = [sys.executable, *command.split(), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "README.html", "docs/tutorial.html", "docs/api/fit.html"} <= set(pages)
    assert 'id="bend_jax.fit"' in pages["docs/api/fit.html"]
    for name, page in pages.items():
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=.https?:", page), name


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
    environment = launching.of_long_work()
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    shown = "".join(re.findall(r"```text\n(.*?)```", TUTORIAL, re.DOTALL))
    assert [re.sub(r"\d+", "0", x) for x in done.stdout.split()] == [re.sub(r"\d+", "0", x) for x in shown.split()]


def test_the_notebook_runs_the_script() -> None:
    """Its cells of code are the script's blocks, in order."""
    cells = json.loads(notebook.TARGET.read_text())["cells"]
    found = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert found == [part.split("\n", 1)[1].strip() for part in SCRIPT.split("# %% ")[1:]]


def blocks(document: str) -> list[str]:
    """The Python blocks of a document."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def user_names() -> dict[str, Any]:
    """What the documents call a user's own network and images: a scale and a linear layer."""
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(80, 4)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    labels = (images @ kernel + rng.normal(size=(80, 3))).argmax(axis=1)
    params = {"norm1": {"scale": jnp.ones(4)}, "head": {"kernel": jnp.asarray(kernel)}}

    def apply(variables: Any, x: Any) -> Any:
        return (x * variables["params"]["norm1"]["scale"][None]) @ variables["params"]["head"]["kernel"]

    given = {"apply": apply, "variables": {"params": params}, "images": images, "labels": labels}
    return given | {"held_out_images": images[::-1], "held_out_labels": labels[::-1], "new_images": images[:5]}


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks one after the other."""
    monkeypatch.chdir(tmp_path)
    names = user_names()
    exec("\n".join(blocks("README.md")), names)
    assert (tmp_path / "ensemble" / "ensemble.json").exists()
    assert len(names["null"].vectors) == 100
    np.testing.assert_array_equal(names["null"].checkpoints.vectors, names["ensemble"].checkpoints.vectors)


def test_the_page_about_extending_shows_a_generator_and_a_collector_that_work(tmp_path: Path) -> None:
    """The generator is all of examples/jitter.py; the collector is the page's own; fit takes both."""
    shown, in_fit, collector = blocks("docs/extending.md")
    assert shown == (ROOT / "examples" / "jitter.py").read_text()
    (tmp_path / "cloud.py").write_text(collector)
    record = run_path(str(tmp_path / "cloud.py"))["COLLECTOR"]
    names = user_names()
    names["bend_jax"] = SimpleNamespace(
        fit=partial(bend_jax.fit, collect=record, validation=(names["images"][::-1], names["labels"][::-1]), members=7)
    )
    exec(in_fit, names)
    assert len(names["ensemble"].vectors) == 7
    assert np.shape(names["ensemble"].checkpoints.vectors) == (20, 16)
