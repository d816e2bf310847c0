"""All members in one program are the members one by one, and the votes are those of the paper."""

import itertools
import math
from collections import Counter
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax import ensemble, metrics, models
from bend_jax.split import cut
from bend_jax.subset import Subset, flatten, insert, select

CLASSES, MEMBERS = 3, 5
SMALL = models.build("resnet18", CLASSES, widths=(4, 8), blocks=(1, 1))


@cache
def small() -> tuple[Any, jax.Array]:
    """Variables of the small net, and four images."""
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    return jax.jit(SMALL.init)(jax.random.key(1), images), images


def members_of(patterns: list[str]) -> tuple[Subset, jax.Array]:
    """A subset and five vectors about the net's own."""
    variables, _ = small()
    subset = select(variables, patterns)
    noise = jax.random.normal(jax.random.key(2), (MEMBERS, subset.dim))
    return subset, flatten(subset, variables)[None] + 0.3 * noise


def programs_kept() -> int:
    """How many programs `member_logits` has compiled so far."""
    jitted: Any = ensemble.member_logits
    return jitted._cache_size()


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("patterns", [["layer2.0.bn2", "fc"], ["layer2.0.conv2.weight"], ["*"]])
def test_member_logits_are_those_of_a_loop_of_whole_passes(patterns: list[str], chunk: int | None) -> None:
    """For chunks that divide m, do not, hold one member or more than there are; kernels among the subset too."""
    variables, images = small()
    subset, vectors = members_of(patterns)
    whole = jax.jit(lambda v: SMALL.apply(insert(subset, variables, v), images))
    logits = ensemble.member_logits(SMALL.apply, variables, subset, vectors, images, chunk=chunk)
    assert logits.shape == (MEMBERS, len(images), CLASSES)
    np.testing.assert_allclose(logits, jnp.stack([whole(v) for v in vectors]), rtol=1e-4, atol=1e-5)


def test_one_member_and_its_own_vector_are_the_base() -> None:
    """m = 1 is allowed."""
    variables, images = small()
    subset, _ = members_of(["fc"])
    own = flatten(subset, variables)[None]
    logits = ensemble.member_logits(SMALL.apply, variables, subset, own, images)
    np.testing.assert_allclose(logits[0], jax.jit(SMALL.apply)(variables, images), rtol=1e-4, atol=1e-5)


def test_a_second_call_with_the_same_shapes_does_not_retrace() -> None:
    """Other values of variables, vectors and images run the same program; an equal subset is the same subset."""
    traces: list[int] = []

    def apply(variables: Any, images: jax.Array) -> jax.Array:
        traces.append(1)
        return images @ variables["params"]["w"]

    variables = {"params": {"w": jnp.ones((3, 2))}}
    subset = select(variables, ["w"])
    for i in range(3):
        moved = jax.tree.map(lambda w, i=i: w + i, variables)
        vectors = jnp.arange(12.0).reshape(2, 6) + i
        images = jnp.ones((4, 3)) * (i + 1)
        logits = ensemble.member_logits(apply, moved, select(moved, ["w"]), vectors, images, chunk=2)
        expected = jnp.stack([images @ v.reshape(3, 2) for v in vectors])
        np.testing.assert_allclose(logits, expected, rtol=1e-6)
        assert len(traces) == 1
    programs = programs_kept()
    ensemble.member_logits(apply, variables, subset, jnp.ones((2, 6)), jnp.ones((4, 3)), chunk=2)
    assert programs_kept() == programs


def test_a_bound_method_of_the_same_module_does_not_retrace() -> None:
    """`module.apply` is a new object at each look; it is one program all the same."""
    net = nn.Dense(2)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.ones((4, 3)))
    subset = select(variables, ["bias"])
    ensemble.member_logits(net.apply, variables, subset, jnp.ones((2, 2)), jnp.ones((4, 3)))
    programs = programs_kept()
    ensemble.member_logits(net.apply, variables, subset, jnp.zeros((2, 2)), jnp.zeros((4, 3)))
    assert programs_kept() == programs


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all members run at once")
@pytest.mark.parametrize("chunk", [None, 1, MEMBERS])
def test_members_stay_in_a_loop_on_a_cpu(chunk: int | None) -> None:
    """Of two rounds at least, beside which XLA leaves the prefix as it is: its convolutions are in no fusion with the
    suffix's mean."""
    variables, images = small()
    subset, vectors = members_of(["layer2.0.bn2"])
    lowered = ensemble.member_logits.lower(SMALL.apply, variables, subset, vectors, images, chunk=chunk)
    assert " while(" in str(lowered.compile().as_text())


def test_chunks_fit_the_memory_and_kernels_run_one_by_one() -> None:
    """As many members as the bytes hold, at least one; one where vmap would make grouped convolutions."""
    variables, images = small()
    subset, vectors = members_of(["layer2.0.bn2"])
    parts = cut(lambda v, x: SMALL.apply(insert(subset, variables, v), x), vectors[0], images)
    assert ensemble.chunk_size(parts, 7 * parts.suffix_bytes + 1) == 7
    assert ensemble.chunk_size(parts, 1) == 1
    subset, vectors = members_of(["layer2.0.conv1.weight"])
    parts = cut(lambda v, x: SMALL.apply(insert(subset, variables, v), x), vectors[0], images)
    assert ensemble.chunk_size(parts) == 1


def test_the_most_frequent_label_wins_and_ties_go_to_the_lowest_class() -> None:
    """Algorithm 1: whatever the order of the members."""
    columns = {
        (2, 2, 1, 0): 2,
        (1, 1, 0, 0): 0,
        (0, 1, 1, 0): 0,
        (2, 1, 2, 1): 1,
        (3, 2, 1, 0): 0,
        (3, 3, 1, 1): 1,
        (3, 3, 3, 3): 3,
    }
    predictions = jnp.array(list(columns)).T
    for order in itertools.permutations(range(4)):
        np.testing.assert_array_equal(ensemble.majority_vote(predictions[np.array(order)], 4), list(columns.values()))
    assert ensemble.majority_vote(predictions, 4).dtype == jnp.int32


def test_majority_vote_is_algorithm_1() -> None:
    """np.unique's sorted values and the first argmax of their counts, on random labels."""
    predictions = np.random.default_rng(0).integers(0, 5, (6, 200))
    expected = []
    for column in predictions.T:
        values, counts = np.unique(column, return_counts=True)
        expected.append(values[np.argmax(counts)])
    np.testing.assert_array_equal(ensemble.majority_vote(jnp.asarray(predictions), 5), expected)


# Fig. 3: which of three images (truth 0) each of three classifiers labels wrongly (1), and Table 1's probabilities
# that aBEND is right on 3, 2, 1, 0 of them, in 27ths.
FIG3 = {
    "a": ([[0, 0, 1], [1, 0, 0], [0, 1, 0]], 3, {3: 8, 2: 12, 1: 6, 0: 1}),
    "b": ([[0, 0, 1], [0, 0, 1], [0, 1, 0]], 2, {3: 6, 2: 15, 1: 6}),
    "c": ([[0, 0, 1], [0, 0, 1], [0, 0, 1]], 2, {2: 27}),
}


@pytest.mark.parametrize("case", FIG3)
def test_figure_3_and_table_1(case: str) -> None:
    """sBEND's accuracy exactly; aBEND's distribution: the 27 outcomes counted, and 20,000 votes within z < 4."""
    wrong, majority, ways = FIG3[case]
    predictions = jnp.array(wrong)
    assert int(jnp.sum(ensemble.majority_vote(predictions, 2) == 0)) == majority
    outcomes = Counter(
        sum(wrong[member][image] == 0 for image, member in enumerate(picks))
        for picks in itertools.product(range(3), repeat=3)
    )
    assert outcomes == ways
    draws = 20_000
    keys = jax.random.split(jax.random.key(3), draws)
    votes = jax.jit(jax.vmap(lambda key: ensemble.sampled_vote(key, predictions)))(keys)
    right = Counter(np.sum(np.asarray(votes) == 0, axis=1).tolist())
    for k in range(4):
        p = ways.get(k, 0) / 27
        assert abs(right[k] - draws * p) <= 4 * math.sqrt(draws * p * (1 - p))


def test_images_are_drawn_independently_and_members_uniformly() -> None:
    """Each of the 27 ways to pick a member for each of three images comes once in 27, within z < 4."""
    predictions = jnp.broadcast_to(jnp.arange(3)[:, None], (3, 3))
    draws = 27_000
    keys = jax.random.split(jax.random.key(4), draws)
    votes = np.asarray(jax.jit(jax.vmap(lambda key: ensemble.sampled_vote(key, predictions)))(keys))
    seen = np.bincount(votes @ np.array([9, 3, 1]), minlength=27)
    assert seen.shape == (27,)
    np.testing.assert_array_less(abs(seen - draws / 27), 4 * math.sqrt(draws / 27 * (26 / 27)))


def test_abend_is_as_accurate_as_its_mean_member_with_the_known_spread() -> None:
    """E[accuracy] = mean member accuracy; sd = sqrt(sum p_i (1 - p_i)) / n, p_i the share right on image i."""
    m, n, draws = 7, 150, 4000
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, n)
    right = rng.random((m, n)) < rng.random(n)[None]
    predictions = np.where(right, labels[None], (labels[None] + rng.integers(1, 4, (m, n))) % 4)
    share = (predictions == labels[None]).mean(axis=0)
    sd = math.sqrt(np.sum(share * (1 - share))) / n
    keys = jax.random.split(jax.random.key(6), draws)
    votes = jax.jit(jax.vmap(lambda key: ensemble.sampled_vote(key, jnp.asarray(predictions))))(keys)
    accuracies = (np.asarray(votes) == labels[None]).mean(axis=1)
    member_mean = (predictions == labels[None]).mean(axis=1).mean()
    assert share.mean() == pytest.approx(member_mean, abs=1e-12)
    assert abs(accuracies.mean() - member_mean) < 4 * sd / math.sqrt(draws)
    assert abs(accuracies.std() - sd) < 4 * sd / math.sqrt(2 * draws)


def test_a_sampled_label_is_one_that_some_member_gave() -> None:
    """And the same key gives the same labels, another key others."""
    predictions = jax.random.randint(jax.random.key(7), (5, 300), 0, 10)
    votes = ensemble.sampled_vote(jax.random.key(8), predictions)
    assert bool(jnp.all(jnp.any(predictions == votes[None], axis=0)))
    np.testing.assert_array_equal(votes, ensemble.sampled_vote(jax.random.key(8), predictions))
    assert not np.array_equal(votes, ensemble.sampled_vote(jax.random.key(9), predictions))


@cache
def some_logits() -> jax.Array:
    """Of four members, six images and three classes."""
    return 2 * jax.random.normal(jax.random.key(10), (4, 6, 3))


def test_the_mean_vote_is_the_mean_of_probabilities_not_of_logits() -> None:
    """By hand: members sure of opposite labels, one more so, give a half each."""
    sure = jnp.array([[[100.0, 0.0]], [[0.0, 200.0]]])
    np.testing.assert_allclose(ensemble.mean_vote(sure), [[0.5, 0.5]])
    logits = some_logits()
    p = np.exp(np.asarray(logits, np.float64))
    expected = (p / p.sum(axis=2, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(ensemble.mean_vote(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(ensemble.mean_vote(logits), axis=1), jnp.ones(6), rtol=1e-6)


def test_equal_weights_are_the_mean_and_one_weight_alone_is_that_member() -> None:
    """Whatever the weights' sum."""
    logits = some_logits()
    for scale in (0.25, 1.0, 40.0):
        equal = ensemble.weighted_vote(logits, jnp.full(4, scale))
        np.testing.assert_allclose(equal, ensemble.mean_vote(logits), rtol=1e-5)
        alone = ensemble.weighted_vote(logits, scale * jnp.eye(4)[2])
        np.testing.assert_allclose(alone, jax.nn.softmax(logits[2], axis=-1), rtol=1e-5)
    mixed = ensemble.weighted_vote(logits[:2], jnp.array([3.0, 1.0]))
    p = jax.nn.softmax(logits, axis=-1)
    np.testing.assert_allclose(mixed, 0.75 * p[0] + 0.25 * p[1], rtol=1e-5)


def test_vote_probabilities_are_smoothed_counts() -> None:
    """(count + 1/K) / (m + 1): by hand, positive, summing to one, the winner's the largest."""
    predictions = jnp.array([[0, 2], [0, 2], [1, 2]])
    p = ensemble.vote_probabilities(predictions, 4)
    np.testing.assert_allclose(p, np.array([[2.25, 1.25, 0.25, 0.25], [0.25, 0.25, 3.25, 0.25]]) / 4, rtol=1e-6)
    many = jax.random.randint(jax.random.key(11), (9, 50), 0, 4)
    p = ensemble.vote_probabilities(many, 4)
    np.testing.assert_allclose(jnp.sum(p, axis=1), jnp.ones(50), rtol=1e-6)
    np.testing.assert_array_equal(jnp.argmax(p, axis=1), ensemble.majority_vote(many, 4))


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_below_one_is_refused(chunk: int) -> None:
    """Not taken for None."""
    tree = {"params": {"w": jnp.zeros(2)}}
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        ensemble.member_logits(
            lambda v, x: x * v["params"]["w"][None],
            tree,
            select(tree, ["w"]),
            jnp.zeros((3, 2)),
            jnp.ones((4, 2)),
            chunk=chunk,
        )


# the logarithmic opinion pool


def random_logits(m: int, n: int = 7, classes: int = 4) -> jax.Array:
    """Of m members that are far apart."""
    return 3 * jax.random.normal(jax.random.key(5), (m, n, classes))


def test_the_pool_of_two_members_by_hand() -> None:
    """(.8, .2) and (.4, .6): sqrt(.32) to sqrt(.12), and with weights 3 and 1 the roots of .8^3 .4 and .2^3 .6."""
    logits = jnp.log(jnp.array([[[0.8, 0.2]], [[0.4, 0.6]]])) + 5.0  # a shift of a member's logits changes nothing
    even = math.sqrt(0.32) / (math.sqrt(0.32) + math.sqrt(0.12))
    np.testing.assert_allclose(ensemble.pool_vote(logits, jnp.ones(2)), [[even, 1 - even]], rtol=1e-5)
    a, b = (0.8**3 * 0.4) ** 0.25, (0.2**3 * 0.6) ** 0.25
    np.testing.assert_allclose(
        ensemble.pool_vote(logits, jnp.array([6.0, 2.0])), [[a / (a + b), b / (a + b)]], rtol=1e-5
    )


def test_the_pool_is_the_softmax_of_the_mean_logits() -> None:
    """Whatever each member's logits are shifted by; members that are all alike are one of them."""
    logits = random_logits(3)
    shifted = logits + jnp.arange(21.0).reshape(3, 7, 1)
    expected = jax.nn.softmax(logits.mean(axis=0))
    np.testing.assert_allclose(ensemble.pool_vote(shifted, jnp.ones(3)), expected, atol=1e-5)
    alike = jnp.stack([logits[0]] * 5)
    np.testing.assert_allclose(ensemble.pool_vote(alike, jnp.arange(1.0, 6)), jax.nn.softmax(logits[0]), atol=1e-6)


def test_the_pool_has_the_least_mean_divergence_to_the_members() -> None:
    """sum_m w_m KL(q || p_m) is larger for every other q that is tried, the mean of probabilities among them; and at
    the pool it is -log of the sum of the geometric means (Heskes 1998)."""
    logits, w = random_logits(3, n=1), jnp.array([0.5, 0.3, 0.2])
    log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)[:, 0]

    def divergence(q: Any) -> float:
        q = np.asarray(q, np.float64).reshape(-1)
        return float(sum(wi * np.sum(q * (np.log(q) - p)) for wi, p in zip(w.tolist(), log_p, strict=True)))

    least = divergence(ensemble.pool_vote(logits, w))
    normaliser = np.exp(np.tensordot(np.asarray(w, np.float64), log_p, 1)).sum()
    assert least == pytest.approx(-math.log(normaliser), abs=1e-5)
    assert divergence(ensemble.weighted_vote(logits, w)) > least + 1e-3
    rng = np.random.default_rng(0)
    own = np.asarray(ensemble.pool_vote(logits, w), np.float64).reshape(-1)
    for _ in range(50):
        other = own * np.exp(0.1 * rng.normal(size=4))
        assert divergence(other / other.sum()) > least


def test_a_masked_class_stays_out_of_the_pool() -> None:
    """A logit of -inf gives probability 0 in the pool and NaN nowhere, a weight of 0 that it has none."""
    logits = random_logits(2).at[0, :, 1].set(-jnp.inf)
    assert (ensemble.pool_vote(logits, jnp.ones(2))[:, 1] == 0).all()
    found = ensemble.pool_vote(logits, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(found, jax.nn.softmax(logits[1]), atol=1e-6)


def test_one_temperature_of_all_members_is_that_of_the_pool() -> None:
    """pool(z / T) = pool(z) scaled with T: there is nothing to gain from scaling members first."""
    logits, w = random_logits(3), jnp.array([1.0, 2.0, 0.5])
    after = metrics.scale_temperature(ensemble.pool_vote(logits, w), 2.5)
    np.testing.assert_allclose(ensemble.pool_vote(logits / 2.5, w), after, atol=1e-6)


@pytest.mark.parametrize("vote", [ensemble.weighted_vote, ensemble.pool_vote])
def test_one_weight_for_each_member_is_needed(vote: Any) -> None:
    """Fewer are refused."""
    with pytest.raises(ValueError, match=r"weights of shape \[2\] came for 3 members"):
        vote(random_logits(3), jnp.ones(2))


def planted(n: int = 4000) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two members' logits, and labels drawn from their pool at temperature 4."""
    logits = 6 * jax.random.normal(jax.random.key(0), (2, n, 5))
    labels = jax.random.categorical(jax.random.key(1), logits.mean(axis=0) / 4)
    return logits, ensemble.pool_vote(logits, jnp.ones(2)), labels


def test_the_choice_finds_a_planted_vote_and_its_temperature() -> None:
    """Labels come from the pool at T = 4: it has more NLL than the mean at T = 1, and less at a temperature of 4; in
    labels that come from the mean of probabilities the mean has less, at 1."""
    logits, pool, labels = planted()
    mean = ensemble.mean_vote(logits)
    assert metrics.nll(pool, labels) > metrics.nll(mean, labels) + 0.1
    vote, temperature = ensemble.choose_vote({"mean": mean, "pool": pool}, labels)
    assert (vote, temperature) == ("pool", pytest.approx(4, rel=0.1))
    labels = jax.random.categorical(jax.random.key(2), jnp.log(mean))
    assert ensemble.choose_vote({"pool": pool, "mean": mean}, labels) == ("mean", pytest.approx(1, rel=0.1))
    assert ensemble.choose_vote({"a": mean, "b": mean}, labels)[0] == "a"
