"""Each file in examples/ runs, and prints what it says."""

import re
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest

from tests import launching

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PRINTED = {  # what a file prints, with every number as 0
    "nnx_module": (
        "0 members that differ in params.head.bias, params.head.kernel, params.norm.bias, params.norm.scale\n"
        "accuracy on new images: 0\n"
    ),
    "equinox_module": (
        "0 members that differ in params.layers.0.weight, params.layers.0.bias\naccuracy on new images: 0\n"
    ),
    "text_with_mask": (
        "0 members that differ in params.dense, params.head\n"
        "accuracy on new sentences: 0\nand over two views of each: 0\n"
    ),
}
NEEDED = {"equinox_module": "equinox"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_and_its_ensemble_is_better_than_chance(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process; each accuracy that it prints is above 60%, with 3 or 10 classes."""
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.sub(r"\d+(\.\d+)?", "0", out) == PRINTED[name]
    assert all(float(share) > 0.6 for share in re.findall(r": (0\.\d+)$", out, re.MULTILINE))


def run(name: str, *words: str) -> str:
    """What an example prints, in an interpreter of its own."""
    environment = launching.of_long_work()
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


@pytest.mark.slow
def test_adapters_of_a_vision_transformer(tmp_path: Path) -> None:
    """Without a file of weights."""
    assert "members disagree on" in run("vit_lora.py")


@pytest.mark.slow
def test_logits_of_any_networks(tmp_path: Path) -> None:
    """A report in a new folder, and conformal sets."""
    assert "lac: sets of" in run("evaluate_logits.py", str(tmp_path / "new"))
    assert (tmp_path / "new").is_dir()


def test_every_example_is_run_by_a_test() -> None:
    """Here, or in a test of what it shows."""
    text = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    missing = [p.name for p in EXAMPLES.glob("*.py") if not re.search(rf"\b{p.stem}\b", text)]
    assert missing == []
