"""Copies are told from new members: Z_U and energy distances with known answers, and what a split holds out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import components, metrics, training
from bend_jax.evaluate import memorisation
from bend_jax.subset import Subset, add_noise

KEY = jax.random.key(0)


def test_energy_distance_of_known_sets() -> None:
    """Two points a distance of 5 apart: 2 * 5, as no row is held against itself; the same set: about 0."""
    a, b = np.zeros((4, 2)), np.tile([[3.0, 4.0]], (6, 1))
    assert metrics.energy_distance(a, b) == pytest.approx(10.0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    assert abs(metrics.energy_distance(x, y)) < 0.02
    assert metrics.energy_distance(x, y + 1) > 0.5
    with pytest.raises(ValueError, match="at least two rows"):
        metrics.energy_distance(x[:1], y)


def test_energy_distance_is_its_definition() -> None:
    """Against a literal loop over pairs of different rows."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    gap = np.linalg.norm
    between = np.mean([gap(x - y) for x in a for y in b])
    own_a, own_b = (np.mean([gap(x[i] - x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b))
    assert metrics.energy_distance(a, b) == pytest.approx(2 * between - own_a - own_b, rel=1e-9)


@pytest.mark.slow
def test_energy_test_has_its_level_and_its_coverage() -> None:
    """Of one distribution: p up to .1 in about a tenth of 300 trials, the mean distance about 0. Of two: p at its
    least, the mean distance the true one, which about 95% of 300 intervals hold."""
    rng = np.random.default_rng(2)
    same = [metrics.energy_test(rng.normal(size=(25, 3)), rng.normal(size=(15, 3)), 99, i) for i in range(300)]
    assert 0.05 < np.mean([found.p <= 0.1 for found in same]) < 0.16
    distances = np.array([found.distance for found in same])
    assert abs(distances.mean()) < 4 * distances.std() / np.sqrt(300)
    truth = metrics.energy_distance(rng.normal(size=(2000, 3)), rng.normal(size=(2000, 3)) + 0.8)
    apart = [metrics.energy_test(rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 0.8, 199, i) for i in range(300)]
    assert 0.9 < np.mean([found.low <= truth <= found.high for found in apart]) <= 0.98
    assert np.mean([found.p == 1 / 200 for found in apart]) > 0.9
    assert np.mean([found.distance for found in apart]) == pytest.approx(truth, rel=0.1)


def test_energy_difference_tells_the_nearer_set() -> None:
    """The same set twice: 0 with an interval around it; one of two clusters against both: beyond 0."""
    rng = np.random.default_rng(3)
    truth, near = (rng.normal(size=(60, 2)) + 4 * rng.integers(0, 2, (60, 1)) for _ in range(2))
    far = rng.normal(size=(60, 2)) + 2
    closer = metrics.energy_difference(near, far, truth)
    assert closer.mean == pytest.approx(metrics.energy_distance(near, truth) - metrics.energy_distance(far, truth))
    assert closer.low < closer.mean < closer.high < 0
    same = metrics.energy_difference(near, near, truth)
    assert same.mean == 0
    assert same.low < 0 < same.high


def sample(rng: np.random.Generator, n: int) -> Any:
    """Vectors of a source: three axes that vary much, and noise in all twelve."""
    return np.concatenate([3 * rng.normal(size=(n, 3)), np.zeros((n, 9))], axis=1) + 0.3 * rng.normal(size=(n, 12))


def test_copies_score_far_below_zero_and_strangers_above() -> None:
    """Exact copies, copies with a little noise, and the training set's averages are below -3; vectors far off are
    above 3."""
    rng = np.random.default_rng(4)
    training, unseen = sample(rng, 80), sample(rng, 20)
    copies = training[rng.integers(0, 80, 50)]

    def z(members: Any) -> float:
        found = metrics.data_copying(members, unseen, training)
        assert found is not None
        return found

    assert z(copies) < -6
    assert z(copies + 0.01 * rng.normal(size=copies.shape)) < -6
    assert z(np.stack([training[rng.permutation(80)[:16]].mean(axis=0) for _ in range(50)])) < -3
    assert abs(z(sample(rng, 50))) < 3
    assert z(sample(rng, 50) + 20) > 6


def test_new_members_of_the_same_source_score_a_standard_normal() -> None:
    """400 trials: mean 0, standard deviation 1, |z| above 1.96 in about a twentieth."""
    rng = np.random.default_rng(5)
    found = [metrics.data_copying(sample(rng, 30), sample(rng, 12), sample(rng, 40)) for _ in range(400)]
    z = np.array(found, float)
    assert abs(z.mean()) < 0.2
    assert 0.9 < z.std() < 1.1
    assert 0.02 < np.mean(np.abs(z) > 1.96) < 0.08


def test_data_copying_is_mann_whitneys_u_with_ties() -> None:
    """Against SciPy's U of the distances; swapping members and held-out vectors changes the sign alone."""
    from scipy.stats import mannwhitneyu

    training = np.array([[0.0], [10.0]])
    members, unseen = np.array([[0.0], [1.0], [1.0], [2.0], [11.0]]), np.array([[1.0], [3.0], [12.0], [14.0]])
    u = mannwhitneyu([0, 1, 1, 2, 1], [1, 3, 2, 4]).statistic
    own = metrics.data_copying(members, unseen, training)
    other = metrics.data_copying(unseen, members, training)
    assert own is not None
    assert other is not None
    n, ties = 9, (1, 4, 2, 1, 1)
    sd = np.sqrt(20 / 12 * (n + 1 - sum(t**3 - t for t in ties) / (n * (n - 1))))
    assert own == pytest.approx((u - 10) / sd)
    assert other == pytest.approx(-own)


def test_a_split_holds_out_different_checkpoints() -> None:
    """Every checkpoint is in one part; the same key gives the same split, another key another; few are not split."""
    vectors = np.arange(50.0)[:, None] * np.ones(3)
    found = memorisation.held_out(vectors, 0.2, KEY, lambda training: training + 100)
    assert found is not None
    assert (len(found.training), len(found.held_out)) == (40, 10)
    assert sorted([*found.training[:, 0], *found.held_out[:, 0]]) == list(range(50))
    np.testing.assert_array_equal(found.members, found.training + 100)
    again = memorisation.split(vectors, 0.2, KEY)
    other = memorisation.split(vectors, 0.2, jax.random.key(1))
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(again[1], found.held_out)
    assert not np.array_equal(other[1], found.held_out)
    assert memorisation.split(vectors[:19], 0.2, KEY) is None
    assert memorisation.split(vectors, 0.0, KEY) is None
    assert memorisation.held_out(vectors[:19], 0.2, KEY, lambda training: pytest.fail("no fit")) is None


GENERATORS = {  # what the row of each says: Z_U's range, whether the energy distance tells it from the checkpoints
    "copies": (lambda training, rng: training, (-99, -4), False),
    "the source": (lambda training, rng: sample(rng, 40), (-3, 3), False),
    "a constant": (lambda training, rng: np.tile(training.mean(axis=0), (40, 1)), (-99, 0), True),
    "far off": (lambda training, rng: sample(rng, 40) + 20, (4, 99), True),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_rows_of_known_generators(name: str) -> None:
    """Copies are told by Z_U alone, since they have the right distribution; a constant by the energy distance."""
    draw, (low, high), told = GENERATORS[name]
    rng = np.random.default_rng(6)
    found = memorisation.held_out(sample(rng, 100), 0.2, KEY, lambda training: draw(training, rng))
    assert found is not None
    row = memorisation.copying(found)
    assert row["z_u"] is not None
    assert row["energy_p"] is not None
    assert low < row["z_u"] < high
    assert (row["energy_p"] < 0.01) == told
    assert (row["nearest"] == 0) == (name == "copies")


def test_identical_checkpoints_have_no_score() -> None:
    """All distances are 0: nothing to rank, and one distribution."""
    found = memorisation.held_out(np.ones((30, 4)), 0.2, KEY, lambda training: training[:5])
    assert found is not None
    row = memorisation.copying(found)
    assert row["z_u"] is None
    assert [row[key] for key in ("energy", "energy_low", "energy_high", "energy_p")] == [0, 0, 0, 1]
    assert row["nearest"] == row["nearest_held_out"] == 0.0


TWO = Subset(("params.bn.scale", "batch_stats.bn.var"), ((200,), (100,)))


def test_noise_is_of_each_tensors_own_size() -> None:
    """sd times that of the tensor, for weights; no variance falls to 0; no noise changes nothing."""
    rng = np.random.default_rng(7)
    weights, variances = 5 + 3 * rng.normal(size=(8, 200)), np.exp(2 * rng.normal(size=(8, 100)) - 5)
    vectors = np.concatenate([weights, variances], axis=1).astype(np.float32)
    np.testing.assert_allclose(add_noise(TWO, jnp.asarray(vectors), 0.0, KEY), vectors, rtol=1e-6)
    noise = add_noise(TWO, jnp.asarray(vectors), 0.15, KEY) - vectors
    assert noise[:, :200].std() == pytest.approx(0.15 * 3, rel=0.1)
    assert add_noise(TWO, jnp.asarray(vectors), 1.5, KEY)[:, 200:].min() > 0
    sets = memorisation.noised_sets(TWO, vectors, KEY)
    gaps = [metrics.nearest(x, vectors)[0].mean() for x in sets.values()]
    assert gaps == sorted(gaps)
    assert list(sets)[:2] == ["noise 0.001", "noise 0.05"]
    assert {len(x) for x in sets.values()} == {memorisation.EACH}


def test_disagreement_with_the_nearest_by_hand() -> None:
    """Two members, two views side by side, three checkpoints: the second member differs from its own on 3 of 8."""
    checkpoints = np.zeros((6, 4), int)
    checkpoints[4:] = [[1, 1, 1, 1], [2, 2, 2, 2]]
    members = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 3], [2, 2, 0, 0]])
    apart = memorisation.from_nearest(members, checkpoints, np.array([0, 2]))
    np.testing.assert_allclose(apart, [0, 3 / 8])
    assert memorisation.mean_and_tenth(apart) == pytest.approx({"disagreement": 3 / 16, "disagreement_p10": 3 / 80})


def test_a_reference_row_by_hand() -> None:
    """A copy makes its checkpoint's errors; the checkpoints themselves are held against each other."""
    labels = np.zeros(4, np.int32)
    theirs = np.array([[0, 0, 1, 1], [1, 0, 1, 0]], np.int32)
    vectors = np.array([[0.0, 0.0], [3.0, 4.0]])
    row = memorisation.reference(vectors[:1], theirs[:1].copy(), vectors, theirs, labels)
    zeros = {"nearest": 0, "disagreement": 0, "disagreement_p10": 0}
    assert row == pytest.approx({"accuracy": 0.5, "max_iou": 1, **zeros})
    own = memorisation.reference(vectors, theirs, vectors, theirs, labels)
    assert own["nearest"] == pytest.approx(5)
    assert own["max_iou"] == pytest.approx(1 / 3)
    assert own["disagreement"] == pytest.approx(0.5)


def test_the_plane_holds_the_checkpoints_that_span_it() -> None:
    """Points on the grid have the coordinates that they say, and what is off the plane is projected; less than a plane
    is none."""
    rng = np.random.default_rng(8)
    checkpoints = rng.normal(size=(9, 2)) @ rng.normal(size=(2, 6)) + 3
    off = np.linalg.svd(checkpoints - checkpoints.mean(axis=0))[2][5]
    found = memorisation.landscape({"checkpoints": checkpoints, "members": checkpoints[:4] + 7 * off})
    assert found is not None
    np.testing.assert_allclose(found.places["members"], found.places["checkpoints"][:4], atol=1e-6)
    plane = components.plane(checkpoints)
    first, second = components.onto(plane, found.vectors).reshape(memorisation.GRID, memorisation.GRID, 2).T
    np.testing.assert_allclose(first, np.tile(found.along[0][:, None], memorisation.GRID), atol=1e-5)
    np.testing.assert_allclose(second.T, np.tile(found.along[1][:, None], memorisation.GRID), atol=1e-5)
    assert (found.along[:, 0] < found.places["checkpoints"].min(axis=0)).all()
    assert (found.along[:, -1] > found.places["checkpoints"].max(axis=0)).all()
    assert memorisation.landscape({"checkpoints": checkpoints[:2]}) is None
    assert memorisation.landscape({"checkpoints": np.ones((5, 3))}) is None
    line = memorisation.landscape({"checkpoints": np.outer(np.arange(5.0), np.ones(4))})
    assert line is not None
    assert (np.diff(line.along) > 0).all()


def test_the_plane_of_images_holds_images() -> None:
    """Of 8 bits and the images' shape; images that vary along two directions are reproduced by the nearest of them."""
    rng = np.random.default_rng(9)
    a, b = rng.integers(0, 40, (2, 1, 5, 5, 1))
    images = (100 + rng.integers(-1, 2, (60, 1, 1, 1)) * a + rng.integers(-1, 2, (60, 1, 1, 1)) * b).astype(np.uint8)
    made = memorisation.image_plane(images)
    assert made.shape == (memorisation.PIXELS**2, 5, 5, 1)
    assert made.dtype == np.uint8
    assert np.abs(made.astype(int)[None] - images.astype(int)[:, None]).max(axis=(2, 3, 4)).min(axis=1).max() <= 4


def test_a_heat_map_shows_copies_and_collapse() -> None:
    """Copies look as their nearest checkpoints do, a constant at the mean is pale; what does not vary is 0."""
    rng = np.random.default_rng(10)
    checkpoints = 5 + rng.normal(size=(60, 100))
    checkpoints[:, 0] = 1
    found = memorisation.heat(checkpoints, checkpoints[[9, 3, 30]])
    np.testing.assert_array_equal(found["members"], found["nearest"])
    assert found["members"].shape == (memorisation.SHOWN, 3)
    assert found["checkpoints"].shape == (memorisation.SHOWN, memorisation.COLUMNS)
    assert found["checkpoints"][1:].std() == pytest.approx(1, abs=0.1)
    assert not found["checkpoints"][0].any()
    assert not memorisation.heat(checkpoints, np.tile(checkpoints.mean(axis=0), (4, 1)))["members"].round(5).any()


def test_distances_leave_each_checkpoint_itself_out() -> None:
    """And name no set that is no generator's."""
    vectors = np.array([[0.0], [1.0], [5.0]])
    found = memorisation.distances(
        {"base": vectors[:1], "swa": vectors[:1], "checkpoints": vectors, "identity": vectors}
    )
    np.testing.assert_allclose(found["checkpoints"], [1, 1, 4])
    np.testing.assert_allclose(found["identity"], 0)
    assert set(found) == {"checkpoints", "identity"}
    assert set(memorisation.distances({"checkpoints": vectors[:1], "bend": vectors})) == {"bend"}


def test_a_renamed_training_is_told_of_by_both_words() -> None:
    """In each of the callbacks, and what they return comes back."""
    told = []
    own = training.Callbacks(
        resume=lambda name, state, steps: told.append(name) or state + steps,
        segment=lambda name, state, losses: told.append(name),
        compiled=lambda name, seconds: told.append(name),
        memory=7,
    )
    found = training.renamed(own, "held-out bend")
    assert found.resume("diffusion", 1, 2) == 3
    found.segment("diffusion", None, np.zeros(1))
    found.compiled("diffusion", 0.1)
    assert told == ["held-out bend diffusion"] * 3
    assert found.memory == 7
