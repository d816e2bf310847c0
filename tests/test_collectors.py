"""Boosting, cyclical and independent: known answers of their maths, plain loops, and resuming."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax.api import collect_checkpoints
from bend_jax.checks import SettingsError
from bend_jax.collect import boosting, cyclical, independent
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.independent import Independent
from bend_jax.recipe import Base
from bend_jax.subset import flatten, insert
from bend_jax.training import SILENT, State, make_step, start, train, train_base
from tests.problems import BATCH, STEPS, N, Problem, dense, fine_tune, momentum_sgd, plain

# ---- boosting


def agreement(wrong: Any, classes: int) -> np.ndarray:
    """<Y, G> from the codes themselves: 1 for the label, -1/(K - 1) for every other class."""
    codes = np.full((classes, classes), -1 / (classes - 1)) + np.eye(classes) * (1 + 1 / (classes - 1))
    return np.where(wrong, codes[0] @ codes[1], codes[0] @ codes[0])


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_normaliser_of_the_weights_has_its_closed_form(classes: int, eta: float) -> None:
    """Z = sum w exp(-(beta/K) <Y, G>) = (1 - e) exp(-beta/(K - 1)) + e exp(beta/(K - 1)^2), and w' = w exp(...) / Z."""
    generator = np.random.default_rng(classes)
    weights = generator.dirichlet(np.ones(40))
    wrong = generator.random(40) < 0.3
    error, k = weights[wrong].sum(), classes
    new, lam = boosting.reweigh(jnp.asarray(weights, jnp.float32), jnp.asarray(wrong), classes, eta)
    assert float(lam) == pytest.approx(math.log((1 - error) / error) + math.log(k - 1), rel=1e-4)
    beta = eta * (k - 1) ** 2 / k * float(lam)
    z = (1 - error) * math.exp(-beta / (k - 1)) + error * math.exp(beta / (k - 1) ** 2)
    raised = weights * np.exp(-beta / k * agreement(wrong, k))
    assert raised.sum() == pytest.approx(z, rel=1e-5)
    np.testing.assert_allclose(np.asarray(new) * z, raised, rtol=1e-4)


@pytest.mark.parametrize(("classes", "eta"), [(2, 1.0), (3, 1.0), (5, 0.4)])
def test_the_normalisers_multiply_to_the_exponential_loss(classes: int, eta: float) -> None:
    """prod Z_m = mean_i exp(-<Y_i, F_i> / K) with F = sum beta_m G_m, from uniform weights (the bound of AdaBoost)."""
    generator = np.random.default_rng(0)
    n, k = 60, classes
    weights, margins, product = np.full(n, 1 / n), np.zeros(n), 1.0
    for _ in range(5):
        wrong = generator.random(n) < generator.uniform(0.1, 0.6)
        new, lam = boosting.reweigh(jnp.asarray(weights, jnp.float32), jnp.asarray(wrong), k, eta)
        beta = eta * (k - 1) ** 2 / k * float(lam)
        margins += beta * agreement(wrong, k)
        product *= float((weights * np.exp(-beta / k * agreement(wrong, k))).sum())
        weights = np.asarray(new, np.float64)
    exponential = np.exp(-margins / k)
    assert product == pytest.approx(exponential.mean(), rel=1e-4)
    np.testing.assert_allclose(weights, exponential / exponential.sum(), rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_normaliser_is_below_one_for_all_that_beats_guessing(classes: int) -> None:
    """Z < 1 iff e < 1 - 1/K, for every damping; e from 1/97 to 96/97."""
    n, k = 97, classes
    weights = jnp.full(n, 1 / n)
    for eta in (0.05, 0.5, 1.0):
        for count in range(1, n, 5):
            error = count / n
            wrong = np.arange(n) < count
            new, lam = boosting.reweigh(weights, jnp.asarray(wrong), k, eta)
            beta = eta * (k - 1) ** 2 / k * float(lam)
            z = float(np.mean(np.exp(-beta / k * agreement(wrong, k))))
            assert float(lam) > 0
            assert (z < 1) == (error < 1 - 1 / k), (eta, error)
            if error < 1 - 1 / k:
                assert float(new[0]) > 1 / n > float(new[-1])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_without_damping_a_classifier_has_the_error_of_guessing_afterwards(classes: int) -> None:
    """SAMME: e' = 1 - 1/K; for K = 2 it is AdaBoost, whose weights move by exp(-+lambda/2)."""
    generator = np.random.default_rng(1)
    weights = jnp.asarray(generator.dirichlet(np.ones(50)), jnp.float32)
    wrong = jnp.asarray(generator.random(50) < 0.3)
    new, lam = boosting.reweigh(weights, wrong, classes, 1.0)
    assert float(jnp.sum(new * wrong)) == pytest.approx(1 - 1 / classes, rel=1e-5)
    if classes == 2:
        plain_boost = np.asarray(weights * jnp.exp(jnp.where(wrong, 0.5, -0.5) * lam), np.float64)
        np.testing.assert_allclose(new, plain_boost / plain_boost.sum(), rtol=1e-5)
    half, half_lam = boosting.reweigh(weights, wrong, classes, 0.5)
    assert float(half_lam) == float(lam)  # eta damps the weights' update alone
    moved = jnp.log(new / weights), jnp.log(half / weights)
    spans = [float(m[jnp.argmax(wrong)] - m[jnp.argmin(wrong)]) for m in moved]
    assert spans == pytest.approx([float(lam), float(lam) / 2], rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 100])
def test_errors_at_the_ends_stay_finite(classes: int) -> None:
    """All right, all wrong, and the same image wrong for 100 rounds."""
    weights = jnp.full(30, 1 / 30)
    for wrong in (jnp.zeros(30, bool), jnp.ones(30, bool)):
        new, lam = boosting.reweigh(weights, wrong, classes, 1.0)
        np.testing.assert_allclose(new, weights, rtol=1e-5)
        assert float(lam) == pytest.approx(math.log(1e6) + math.log(classes - 1) if not wrong[0] else 0.0, abs=1e-3)
        assert float(lam) > 0
    for eta in (0.01, 1.0):
        moved = weights
        for _ in range(100):
            moved, lam = boosting.reweigh(moved, jnp.arange(30) == 3, classes, eta)
            assert np.isfinite(float(lam))
            assert np.isfinite(np.asarray(moved)).all()
            assert float(moved.sum()) == pytest.approx(1, rel=1e-5)


def adaboost(problem: Problem, key: Any, settings: Boosting) -> tuple[list[Any], list[float]]:
    """Vectors and lambdas of a plain loop; the weights of wrong images grow by exp(eta lambda) against right ones."""
    model, variables, subset, examples = problem
    labels, weights = np.asarray(examples.labels), np.full(N, 1 / N)
    lambdas: list[float] = []

    def judge(vector: Any) -> None:
        logits = model.apply(insert(subset, variables, jnp.asarray(vector)), plain(examples.images))
        wrong = np.asarray(logits).argmax(axis=1) != labels
        error = weights[wrong].sum()
        assert 0.02 < error < 0.64, "not clipped: the tests above are of the ends"
        lambdas.append(math.log((1 - error) / error) + math.log(2))
        weights[wrong] *= math.exp(settings.eta * lambdas[-1])
        weights[:] /= weights.sum()

    vectors = [np.asarray(flatten(subset, variables))]
    judge(vectors[0])
    whole = any(not path.startswith("params.") for path in subset.paths)
    update, epochs = momentum_sgd(settings), (settings.k - 1) * settings.epochs
    keys = jax.random.split(key, 3)
    loop = fine_tune(problem, keys, settings, update, epochs, weigh=lambda i: np.float32(N * weights[i]), whole=whole)
    for epoch, vector in enumerate(loop, 1):
        if epoch % settings.epochs == 0:
            judge(vector)
            vectors.append(vector)
    return vectors, lambdas


@pytest.mark.parametrize("chunk", [250, 10])
@pytest.mark.parametrize("patterns", [("bn", "last"), ("*",)], ids=["frozen", "everything"])
def test_boosting_is_a_plain_loop(patterns: tuple[str, ...], chunk: int, monkeypatch: Any) -> None:
    """Weights times loss, errors on plain images in inference mode, the lambda of each; the base comes first."""
    monkeypatch.setattr(boosting, "CHUNK", chunk)
    settings = Boosting(k=4, views=2, batch=BATCH, epochs=2, lr=0.1, eta=0.7)
    key, net = jax.random.key(7), dense(*patterns)
    found = boosting.collect(*net, key, settings)
    vectors, lambdas = adaboost(net, key, settings)
    assert found.weights is not None
    np.testing.assert_array_equal(found.vectors[0], vectors[0])
    np.testing.assert_allclose(found.vectors, vectors, atol=1e-4)
    np.testing.assert_allclose(found.weights, lambdas, atol=1e-4)
    assert np.ptp(lambdas) > 0.1


# ---- cyclical


def walk(tx: optax.GradientTransformation, gradient: Callable[[Any], Any], params: Any, steps: int) -> Any:
    """(params, state) after so many updates."""

    def one(_: Any, carry: Any) -> Any:
        params, state = carry
        updates, state = tx.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(lambda carry: jax.lax.fori_loop(0, steps, one, carry))((params, tx.init(params)))


def falling(step: Any) -> Any:
    """A rate that changes from step to step."""
    return 0.1 / (1.0 + step)


def test_without_noise_the_sampler_is_sgd_with_the_rate_inside_the_buffer() -> None:
    """By hand: v <- a v - lr (g + decay w), w <- w + v."""
    settings = Cyclical(momentum=0.8, weight_decay=0.05, noise="none", temperature=3.0)
    tx = cyclical.sampler(settings, falling, lambda step: step >= 0, 10, jax.random.key(0))
    params, _ = walk(tx, lambda w: 3.0 * w - 1.0, jnp.array([2.0, -1.0]), 6)
    w, v = np.array([2.0, -1.0]), np.zeros(2)
    for step in range(6):
        v = 0.8 * v - 0.1 / (1 + step) * (3 * w - 1 + 0.05 * w)
        w = w + v
    np.testing.assert_allclose(params, w, rtol=1e-5)


@pytest.mark.parametrize("noise", ["langevin", "momentum"])
def test_the_noise_waits_until_it_is_due_and_never_repeats(noise: str) -> None:
    """Before step 4 the trajectory is that without noise; after it, every step's draw is a new one."""
    settings = Cyclical(momentum=0.8, weight_decay=0.0, noise=noise)
    tx = cyclical.sampler(settings, lambda step: jnp.float32(0.1), lambda step: step >= 4, 10, jax.random.key(0))
    a, v = 0.0 if noise == "langevin" else 0.8, np.zeros(2000)
    w: Any = jnp.ones(2000)
    state, draws = tx.init(w), []
    for _ in range(8):
        updates, state = tx.update(0.5 * w, state, w)
        draws.append(np.asarray(updates) - (a * v - 0.1 * 0.5 * np.asarray(w)))
        v, w = np.asarray(updates), w + updates
    assert np.abs(draws[:4]).max() < 1e-6
    sd = math.sqrt(2 * (1 - a) * 0.1 / 10)
    for draw in draws[4:]:
        assert abs(draw.var() / sd**2 - 1) / math.sqrt(2 / 2000) < 4
    assert np.abs(np.corrcoef(draws[4:]) - np.eye(4)).max() * math.sqrt(2000) < 4


def stationary(a: float, slope: float, heat: float) -> np.ndarray:
    """The covariance of (v, w) under v' = a v - slope w + eps, w' = w + v' with var(eps) = heat: S = A S A' + Q."""
    step = np.array([[a, -slope], [a, 1 - slope]])
    return np.linalg.solve(np.eye(4) - np.kron(step, step), np.full(4, heat)).reshape(2, 2)


@pytest.mark.parametrize(("noise", "a"), [("langevin", 0.0), ("momentum", 0.9)])
def test_the_noise_has_its_stationary_variance_on_a_quadratic(noise: str, a: float) -> None:
    """z < 4 on 20,000 coordinates; as the rate goes to 0 that variance is T / (n h), the posterior's."""
    count, n, temperature, lr, curvature, decay = 20_000, 50, 0.7, 0.1, 2.0, 0.5
    settings = Cyclical(momentum=0.9, weight_decay=decay, noise=noise, temperature=temperature)
    tx = cyclical.sampler(settings, lambda step: jnp.float32(lr), lambda step: step >= 0, n, jax.random.key(3))
    params, state = walk(tx, lambda w: curvature * w, jnp.zeros(count), 400)
    slope = lr * (curvature + decay)
    expected = stationary(a, slope, 2 * (1 - a) * lr * temperature / n)
    if noise == "langevin":
        assert expected[1, 1] == pytest.approx(2 * lr * temperature / n / (1 - (1 - slope) ** 2))
    posterior = temperature / (n * (curvature + decay))
    small = 1e-4
    limit = stationary(a, small * (curvature + decay), 2 * (1 - a) * small * temperature / n)[1, 1]
    assert limit == pytest.approx(posterior, rel=0.01)
    found = np.cov(np.stack([state.velocity, params]).astype(np.float64), bias=True)
    for i, j in ((0, 0), (1, 1), (0, 1)):
        spread = math.sqrt((expected[i, i] * expected[j, j] + expected[i, j] ** 2) / count)
        assert abs(found[i, j] - expected[i, j]) / spread < 4, (i, j)
    assert abs(params.mean()) / math.sqrt(expected[1, 1] / count) < 4


def cycles(problem: Problem, key: Any, settings: Cyclical) -> list[np.ndarray]:
    """The base and the vectors of a plain loop at the ends of the last per_cycle epochs of each cycle."""
    _, variables, subset, _ = problem
    key_chain, key_noise = jax.random.split(key)
    length = settings.epochs * STEPS
    a = 0.0 if settings.noise == "langevin" else settings.momentum
    rate = [settings.lr * math.cos(math.pi / 2 * (s % length) / length) ** 2 for s in range(100)]
    assert rate[0] == rate[length] == settings.lr
    velocity = [np.zeros(subset.dim, np.float32)]

    def update(step: int, gradient: Any, vector: Any) -> Any:
        velocity[0] = a * velocity[0] - rate[step] * (gradient + settings.weight_decay * vector)
        is_saved = (step % length) // STEPS >= settings.epochs - settings.per_cycle
        if settings.noise != "none" and is_saved:
            eps = jax.random.normal(jax.random.fold_in(key_noise, step), (subset.dim,))
            velocity[0] += math.sqrt(2 * (1 - a) * rate[step] * settings.temperature / N) * np.asarray(eps)
        return velocity[0]

    whole = any(not path.startswith("params.") for path in subset.paths)
    epochs = (settings.k - 1) // settings.per_cycle * settings.epochs
    vectors = list(fine_tune(problem, jax.random.split(key_chain, 3), settings, update, epochs, whole=whole))
    last = range(settings.epochs - settings.per_cycle, settings.epochs)
    return [np.asarray(flatten(subset, variables))] + [v for e, v in enumerate(vectors) if e % settings.epochs in last]


@pytest.mark.parametrize(
    ("patterns", "settings"),
    [
        (("bn", "last"), Cyclical(k=3, views=2, batch=BATCH, epochs=3, lr=0.2)),
        (("bn", "last"), Cyclical(k=5, views=2, batch=BATCH, epochs=3, per_cycle=2, noise="momentum", temperature=0.2)),
        (("*",), Cyclical(k=4, batch=BATCH, epochs=1, noise="langevin", temperature=0.5)),
        (("*",), Cyclical(k=3, batch=BATCH, epochs=2, per_cycle=2, noise="momentum")),
    ],
    ids=["snapshots", "cSGHMC", "cSGLD of everything", "cSGHMC of everything"],
)
def test_cycles_are_a_plain_loop(patterns: tuple[str, ...], settings: Cyclical) -> None:
    """The base to the bit, then the ends of the right epochs, the rate starting anew in each cycle."""
    key, net = jax.random.key(8), dense(*patterns)
    found = cyclical.collect(*net, key, settings)
    expected = cycles(net, key, settings)
    assert found.weights is None
    assert len(found.vectors) == len(expected) == settings.k
    np.testing.assert_array_equal(found.vectors[0], expected[0])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-4)
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 1e-2


# ---- independent


def test_independent_trainings_are_the_base_and_others_by_its_recipe() -> None:
    """Number i is `train_base` with i folded into the key, and tells its name."""
    settings = Independent(k=3, base=Base(epochs=2, batch=BATCH, lr=0.05, milestones=(1,)))
    model, variables, subset, examples = dense("*")
    key, names = jax.random.key(9), list[str]()
    callbacks = SILENT._replace(segment=lambda name, state, losses: names.append(name))
    found = independent.collect(model, variables, subset, examples, key, settings, callbacks=callbacks).vectors
    np.testing.assert_array_equal(found[0], flatten(subset, variables))
    for i in (1, 2):
        trained = train_base(model, examples, jax.random.fold_in(key, i), settings.base)
        np.testing.assert_array_equal(found[i], flatten(subset, trained))
    assert float(jnp.abs(found[1] - found[2]).max()) > 0.1
    assert names == ["independent 1 of 2"] * 2 + ["independent 2 of 2"] * 2


def test_independent_refuses_what_it_cannot_train() -> None:
    """A subset that leaves something out, and a model without init or train_apply, in one line each."""
    model, variables, subset, examples = dense("*")
    cases = [
        (model, dense("first", "bn", "last")[2], r"subset '\*'"),
        (model._replace(init=None), subset, r"init\(key\)"),
        (model._replace(train_apply=None), subset, r"train_apply\("),
    ]
    for given, chosen, message in cases:
        own = Independent(k=2, base=Base(batch=BATCH))
        with pytest.raises(SettingsError, match=message) as error:
            collect_checkpoints(given, variables, examples, subset=chosen, collect=own)
        assert "\n" not in str(error.value)


# ---- segments and resuming


@pytest.mark.parametrize(
    ("collect", "settings", "patterns"),
    [
        (cyclical.collect, Cyclical(k=3, batch=BATCH, epochs=2, noise="momentum"), ("bn",)),
        (cyclical.collect, Cyclical(k=3, batch=BATCH, epochs=1, noise="langevin"), ("*",)),
        (boosting.collect, Boosting(k=3, batch=BATCH, epochs=2, lr=0.1), ("bn", "last")),
    ],
    ids=["cSGHMC", "cSGLD of everything", "boosting"],
)
def test_a_resumed_collector_gives_the_same_bits(collect: Any, settings: Any, patterns: Any, monkeypatch: Any) -> None:
    """From states in the middle of an epoch and at its end, as they come back from a disk."""
    monkeypatch.setattr(importlib.import_module("bend_jax.collect.fine_tuning"), "SEGMENT", 2)
    net, key, saved = dense(*patterns), jax.random.key(4), list[Any]()

    def keep(name: str, state: Any, losses: Any) -> None:
        saved.append(jax.tree.map(np.array, state))

    whole = collect(*net, key, settings, callbacks=SILENT._replace(segment=keep))
    steps = [int(state.step) for state in saved]
    assert steps[:4] == [2, 3, 5, 6]
    for state in (saved[0], saved[3], saved[-2]):
        callbacks = SILENT._replace(resume=lambda name, given, steps, state=state: state)
        again = collect(*net, key, settings, callbacks=callbacks)
        jax.tree.map(np.testing.assert_array_equal, whole, again)


def run_quadratic(longest: int | None, begin: State | None = None) -> tuple[State, list[State]]:
    """11 steps in segments of 4 with a note at each segment's end; (last state, the states that were saved)."""
    tx, saved = optax.adam(0.1), list[State]()

    def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
        return jnp.sum((params - data["target"] + 0.1 * jax.random.normal(key, params.shape)) ** 2), extra

    def after(state: State, data: Any) -> State:
        return state._replace(extra=state.extra.at[state.step].add(1), params=state.params * 0.9)

    state = begin or start(jnp.zeros(4), tx, jnp.zeros(12, jnp.int32))
    callbacks = SILENT._replace(segment=lambda name, state, losses: saved.append(jax.tree.map(np.array, state)))
    data = {"target": jnp.arange(4.0), "key": jax.random.key(0)}
    step = make_step(loss, tx)
    state = train("test", step, state, data, steps=11, segment=4, longest=longest, callbacks=callbacks, after=after)
    return state, saved


@pytest.mark.parametrize(
    ("longest", "saves"),
    [(1, list(range(1, 12))), (2, [2, 4, 6, 8, 10, 11]), (3, [3, 4, 7, 8, 11]), (4, [4, 8, 11]), (9, [4, 8, 11])],
)
def test_long_segments_are_run_in_parts(longest: int, saves: list[int]) -> None:
    """The same bits, with a save after each part, and `after` at the segments' ends alone."""
    whole, _ = run_quadratic(None)
    parts, saved = run_quadratic(longest)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert [int(state.step) for state in saved] == saves
    assert np.flatnonzero(parts.extra).tolist() == [4, 8, 11]
    assert int(parts.extra.max()) == 1
    again, later = run_quadratic(longest, saved[1])
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert [int(state.step) for state in later] == saves[2:]
