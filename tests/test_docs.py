"""What the documents tell a reader to type is what works."""

import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_readmes_test_command() -> None:
    """The very line."""
    (line,) = re.findall(r"^\[ -d \.venv \].*pytest$", README, re.MULTILINE)
    assert line in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_launch_line_of_the_readme_is_understood() -> None:
    """Flags, settings and configurations exist: each is asked to print its settings."""
    lines = {re.sub(r"\s+#.*", "", found) for found in re.findall(r"(?<=python )launch\.py [^`\n]*", README)}
    assert len(lines) > 4

    def ask(line: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *shlex.split(line), "--print_config"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    with ThreadPoolExecutor(2) as pool:
        for line, done in zip(lines, pool.map(ask, lines), strict=True):
            assert done.returncode == 0, (line, done.stderr)
            assert "collect.k = " in done.stdout


def test_linked_files_exist() -> None:
    """No link of the documents leads nowhere."""
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), (document, target)
