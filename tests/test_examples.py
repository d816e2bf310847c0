"""Each file of examples/ runs as it is, and prints what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(name: str, *words: str) -> str:
    """What an example prints, in an interpreter of its own."""
    quick = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": quick}
    command = [sys.executable, f"examples/{name}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_folder_of_images(tmp_path: Path) -> None:
    """Of three types and many sizes; the votes are better than chance."""
    out = run("image_folder.py", str(tmp_path))
    (line,) = [line for line in out.splitlines() if line.startswith("evaluate: ")]
    assert "on 80 test images" in line
    assert float(line.split("sBEND ")[1].split("%")[0]) > 75
