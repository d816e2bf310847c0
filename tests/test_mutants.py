"""The tool that plants faults: what it changes and leaves alone, and that its list belongs to this source."""

import json
from pathlib import Path

import pytest

from tools import mutants

SOURCE = '''"""One."""

import jax


def f(x: int, key: jax.Array, on: bool = True) -> int:
    """Adds 1."""
    if on and x < 0:
        raise ValueError(f"{x + 2} is below 0")
    a, b = jax.random.split(key)
    return max(x + 1, g(x, key, scale=x, precision=3)) if on else -x
'''


def test_what_is_changed_and_what_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expressions are, one at a time; documentation, annotations, messages and the precision of products are not."""
    (tmp_path / "bend_jax").mkdir()
    (tmp_path / "bend_jax" / "one.py").write_text(SOURCE)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    found = mutants.mutants_of("one")
    planted = {SOURCE[: m.begin] + m.text + SOURCE[m.end :] for m in found}
    assert len(planted) == len(found)
    for text in planted:
        compile(text, "one.py", "exec")
    assert [m.change for m in found] == [
        "True  ->  (False)",
        "on and x < 0  ->  not (on and x < 0)",
        "on and x < 0  ->  (on or x < 0)",
        "x < 0  ->  (x <= 0)",
        "0  ->  (1)",
        "jax.random.split(key)  ->  (jax.numpy.stack([key] * 2))",
        "max(x + 1, g(x, key, scale=x, precision=3)) if on else -x"
        "  ->  (-x if on else max(x + 1, g(x, key, scale=x, precision=3)))",
        "x + 1  ->  (x - 1)",
        "1  ->  (2)",
        "g(x, key, scale=x, precision=3)  ->  (g(x, key, precision=3))",
        "g(x, key, scale=x, precision=3)  ->  (g(key, key, scale=x, precision=3))",
        "-x  ->  (x)",
    ]
    assert {m.line for m in found} == {6, 8, 10, 11}


def test_faults_by_hand_are_of_this_source_and_their_tests_exist() -> None:
    """Each text stands in its module once; every module has tests."""
    root = Path(mutants.__file__).parents[1]
    for module in mutants.modules():
        assert all(fault.text not in ("", fault.change) for fault in mutants.by_hand(module))
        for test in mutants.tests_of(module):
            if not test.startswith("-"):
                path, *names = test.partition("[")[0].split("::")
                assert all(f"def {name}(" in (root / path).read_text() for name in names), test
    assert set(mutants.PLANTED) <= set(mutants.modules())


def test_the_kept_list_has_at_least_95_percent_noticed() -> None:
    """Its counts are those of its rows; what computes the same says why; a denoiser that never learns is noticed."""
    kept = json.loads(mutants.RESULTS.read_text())
    rows = {row["id"]: row for row in kept["mutants"]}
    assert len(rows) == len(kept["mutants"])
    assert kept["counts"] == mutants.counts(kept["mutants"])
    assert kept["counts"]["share_killed"] >= 0.95
    assert all(row["why"] for row in rows.values() if row["result"] == "equivalent")
    for module in ("autoencoder", "denoiser_training", "published"):
        assert rows[f"generate/{module}: adamw(0.0)"]["result"] == "killed"
