"""The page about split shows examples/probe.py as it is, and what it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "split.md").read_text()
SCRIPT = (ROOT / "examples" / "probe.py").read_text()


def test_the_page_holds_the_script() -> None:
    """All of it, in at most 50 lines."""
    assert f"```python\n{SCRIPT}```" in PAGE
    assert len(SCRIPT.splitlines()) <= 50


def test_a_probe_on_features_equals_one_on_full_passes_and_needs_fewer_operations() -> None:
    """The script runs, its claims hold, and the page shows its lines; numbers may differ in rounding."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "examples/probe.py"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert re.sub(r"[\d.,]+", "0", done.stdout) == re.sub(r"[\d.,]+", "0", shown)
    assert "agree to 1e-3: True" in done.stdout
    full, _, features = re.findall(r"\d[\d,]*", done.stdout.splitlines()[0])
    assert int(full.replace(",", "")) > 20 * int(features.replace(",", ""))
