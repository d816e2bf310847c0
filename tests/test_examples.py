"""Examples do what they say, each in an interpreter of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTED_ELSEWHERE = {"combine.py", "jitter.py", "load_members.py", "probe.py", "tutorial.py"}
EXAMPLES: dict[str, tuple[list[str], str]] = {  # what they are called with, {folder} being a new one, and what they say
    "evaluate_logits.py": (["{folder}"], "lac: sets of"),
}


def test_every_example_is_run_by_a_test() -> None:
    """Here, or in a test of what it shows."""
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == TESTED_ELSEWHERE | set(EXAMPLES)
    text = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py") if path.name != Path(__file__).name)
    assert all(name in text or f"examples.{name.removesuffix('.py')}" in text for name in TESTED_ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    """To its end."""
    given, said = EXAMPLES[name]
    words = [word.format(folder=tmp_path / "new") for word in given]
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, said in done.stdout) == (0, True), done.stderr
    assert not given or (tmp_path / "new").is_dir()
