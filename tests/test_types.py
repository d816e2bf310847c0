"""The type checker, beside the other tests: it keeps one core for most of a minute."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_file_passes_the_type_checker() -> None:
    """As the settings in pyproject.toml have it, without a warning."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
