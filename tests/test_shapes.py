"""benchmarks.shapes: the truth passes its own measures, and a Gaussian in its place does not."""

import numpy as np
import pytest

from benchmarks import shapes


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_fresh_truth_passes_and_a_gaussian_fails(name: str) -> None:
    """Draws of the same distribution are at distance 0, not in the gap and no copies. A Gaussian of the truth's moments
    fills the gap and is far away, but where the truth is Gaussian; vectors that are copies are told."""
    found = shapes.problem(name, 3, 0, fresh=600)
    again = shapes.problem(name, 3, 1, fresh=600)
    own = shapes.measure(again.truth @ found.axes, found)
    rng = np.random.default_rng(2)
    covariance = np.cov(found.truth.T)
    other = shapes.measure(rng.multivariate_normal(found.truth.mean(0), covariance, 600) @ found.axes, found)
    assert own["energy"] is not None
    assert other["energy"] is not None
    assert abs(own["energy"]) < 0.02
    assert own["copies"] == 0
    assert own["spread"] == pytest.approx(1, abs=0.15)
    if found.shape.is_gap is not None:
        assert own["gap"] is not None
        assert other["gap"] is not None
        assert own["gap"] < 0.01
        assert other["gap"] > 0.1
        assert other["energy"] > max(0.005, 3 * abs(own["energy"]))
    assert shapes.measure(found.vectors[:50], found)["copies"] == 1
