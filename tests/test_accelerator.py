"""benchmarks.accelerator at its smallest size: what it computes, what it refuses, what it decides."""

import json

import numpy as np
import pytest

from benchmarks import accelerator


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The arrays of a tiny check on this CPU."""
    path = tmp_path_factory.mktemp("check") / "cpu.npz"
    accelerator.main(["check", str(path), "--tiny"])
    return dict(np.load(path))


@pytest.fixture
def compared(tmp_path, checked):
    """compare() of the CPU's arrays and an accelerator's, equal but for `changes` -> (exit code, what it wrote)."""

    def run(platforms=("cpu", "gpu"), **changes):
        files = [tmp_path / "cpu.npz", tmp_path / "gpu.npz"]
        np.savez(files[0], **{**checked, "platform": np.array(platforms[0])})
        np.savez(files[1], **{**checked, "platform": np.array(platforms[1]), **changes})
        try:
            accelerator.main(["compare", *map(str, files), "--out", str(tmp_path / "check.json")])
            code = 0
        except SystemExit as stop:
            code = stop.code
        out = tmp_path / "check.json"
        return code, json.loads(out.read_text()) if out.exists() else {}

    return run


@pytest.mark.slow
def test_check_writes_every_array_and_its_platform(checked) -> None:
    """One array for each limit, and something moved: zeros would pass a comparison of relative errors."""
    assert str(checked["platform"]) == "cpu"
    assert set(checked) == {*accelerator.LIMITS, "exact order", "platform"}
    assert all(np.abs(values).max() > 0 for name, values in checked.items() if name != "platform")
    assert np.abs(checked["members"] - checked["logits"]).max() > 1e-3  # members differ from their base


@pytest.mark.slow
def test_compare_passes_equal_arrays(compared) -> None:
    """No distance, nothing bad."""
    code, content = compared()
    assert code == 0
    assert content["bad"] == []
    assert content["platforms"] == {"cpu": "cpu", "gpu": "gpu"}


@pytest.mark.parametrize("name", ["logits", "trajectory", "exact order"])
@pytest.mark.slow
def test_compare_finds_a_fault(compared, checked, name) -> None:
    """One number that is off by a tenth of the array's norm, a NaN alike."""
    wrong = checked[name].copy()
    wrong.flat[0] += 0.1 * np.linalg.norm(wrong)
    assert (lambda found: (found[0], found[1]["bad"]))(compared(**{name: wrong})) == (1, [name])
    wrong.flat[0] = np.nan
    assert compared(**{name: wrong})[1]["bad"] == [name]


@pytest.mark.parametrize("platforms", [("gpu", "gpu"), ("cpu", "cpu"), ("gpu", "cpu")])
@pytest.mark.slow
def test_compare_refuses_files_of_one_platform(compared, platforms, capsys) -> None:
    """CUDA against CUDA shows nothing."""
    assert compared(platforms)[0] == 2
    assert "the CPU's file, then those of an accelerator" in capsys.readouterr().err


@pytest.mark.slow
def test_steps_times_every_program(tmp_path) -> None:
    """Four rows, each with a positive time, written as JSON."""
    out = tmp_path / "steps.json"
    accelerator.main(["steps", "--out", str(out), "--tiny"])
    rows = json.loads(out.read_text())["rows"]
    assert [row["what"].split()[0] for row in rows] == ["base", "collect", "base", "base"]
    assert all(row["ms_a_step"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("ms", "flags"),
    [
        ((3.5, 2.0, 9.0), ""),  # 246 s
        ((5.0, 3.0, 9.0), "--config.backbone.dtype=bfloat16"),  # 352 s, 211 s
        ((9.0, 6.0, 9.0), "--config.base.batch=512"),
        ((), ""),
    ],
)
def test_decide_changes_as_little_as_possible(tmp_path, capsys, ms, flags) -> None:
    """703 steps an epoch at batch 64, 100 epochs, within 290 s."""
    names = ("base 64 float32", "base 64 bfloat16", "base 512 bfloat16")
    rows = [{"what": name, "ms_a_step": value} for name, value in zip(names, ms, strict=False)]
    (tmp_path / "steps.json").write_text(json.dumps({"rows": rows}))
    accelerator.main(["decide", str(tmp_path / "steps.json")])
    out = capsys.readouterr().out
    assert flags in out
    assert bool(out.strip()) == bool(flags)
