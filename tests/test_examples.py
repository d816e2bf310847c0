"""Each file in examples/ runs, and prints what it says."""

import re
from pathlib import Path
from runpy import run_path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
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
