"""What a denoiser's training chooses, and what it says of it: candidates, folds, steps, the start."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.generate import bend, denoiser_training, diffusion, structure
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.generate.bend import Bend
from bend_jax.generate.denoiser_training import Evidence
from bend_jax.generate.diffusion import Diffusion
from bend_jax.generate.latents import decode, fit_latents
from bend_jax.training import SILENT, State

K = 120
RNG = np.random.default_rng(0)
SIGNS = np.sign(RNG.normal(size=K))
HIDDEN = jnp.asarray(np.stack([RNG.normal(size=K), SIGNS + 0.1 * RNG.normal(size=K)], axis=1), jnp.float32)
HIDDEN = (HIDDEN - HIDDEN.mean(0)[None]) / HIDDEN.std(0)[None]  # a Gaussian, and then two points


def loss(learnt: diffusion.Learnt, settings: Diffusion, x: jax.Array, draws: int = 200) -> float:
    """Of v, summed over the diffused latents: by hand, with noise of its own."""
    table, net = diffusion.tables(settings), diffusion.Denoiser(settings.width, settings.blocks)
    rng, many = np.random.default_rng(1), np.repeat(np.asarray(x), draws, axis=0)
    t = rng.integers(0, settings.timesteps, len(many))
    eps, bar = rng.normal(size=many.shape), np.asarray(table.alpha_bar)[t][:, None]
    noisy = np.sqrt(bar) * many + np.sqrt(1 - bar) * eps
    own = np.asarray(learnt.mask)
    found = np.asarray(net.apply(learnt.params, jnp.asarray(noisy * own, jnp.float32), jnp.asarray(t)))
    return float((own * (found - (np.sqrt(bar) * eps - np.sqrt(1 - bar) * many)) ** 2).sum(axis=1).mean())


def test_the_candidate_that_learns_is_chosen_and_its_losses_are_told() -> None:
    """The first latent is Gaussian, so that one alone learns nothing, and two learn the points of the second. A loss of
    v_hat = 0 is the number of latents; the loss of those that were seen is that of the denoiser that is returned."""
    settings = Diffusion(steps=400, segment=100, width=24, blocks=1, lr=1e-2, folds=3, batch=128)
    zeros: list[Any] = []
    callbacks = SILENT._replace(segment=lambda name, state, losses: zeros.append(state.best["evidence"].zero))
    learnt, evidence = denoiser_training.fit(HIDDEN, [1, 2], jax.random.key(0), settings, callbacks)
    np.testing.assert_allclose(zeros[-1], [1, 2], atol=0.1)
    assert float(evidence.latents) == 2
    np.testing.assert_array_equal(learnt.mask, [1, 1])
    assert float(evidence.held_out) < 1.9
    assert int(evidence.step) in (100, 200, 300, 400)
    assert loss(learnt, settings, HIDDEN) == pytest.approx(float(evidence.seen), abs=0.06)


def test_what_has_just_begun_is_told_of_the_average() -> None:
    """One step of a large rate: the average, which samples, has not gone all its way."""
    settings = Diffusion(steps=1, segment=1, width=24, blocks=1, lr=0.1, folds=3)
    states: list[Any] = []
    callbacks = SILENT._replace(segment=lambda name, state, losses: states.append(state))
    denoiser_training.fit(HIDDEN, [2], jax.random.key(0), settings, callbacks)
    seen = float(states[0].best["evidence"].seen[0])
    own, other = (
        loss(diffusion.Learnt(jax.tree.map(lambda x: x[-1], tree[0]), jnp.ones(2)), settings, HIDDEN)
        for tree in (states[0].ema, states[0].params)
    )
    assert seen == pytest.approx(own, rel=0.03)
    assert abs(other - own) > 0.1 * own


def test_a_look_is_at_each_fold_with_the_denoiser_that_has_not_seen_it() -> None:
    """Row by row, for denoisers that all differ and folds of 2 and 3 of 13 rows; the last denoiser looks at all."""
    settings, k = Diffusion(width=8, blocks=1, folds=5), 13
    masks = denoiser_training.masks_of([1, 2])
    params, data = denoiser_training._start(HIDDEN[:k], masks, jax.random.key(0), settings)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
    unknown, steps = jnp.full(2, jnp.inf), jnp.zeros(2, jnp.int32)
    best = {"params": (data["first"],) * 2, "evidence": Evidence(steps, masks.sum(axis=1), *[unknown] * 4)}
    state = State(jnp.int32(7), params, None, None, params, best, unknown, steps)
    found = denoiser_training._look(settings, k, state, data).best["evidence"]

    draws = denoiser_training.LOOK_DRAWS
    t = np.linspace(0, settings.timesteps - 1, draws).astype(np.int32)
    eps = jax.random.normal(data["look"], (k * draws, 2)).reshape(k, draws, 2)
    for c in range(2):
        unseen, seen = (
            [
                denoiser_training._errors(
                    settings,
                    jax.tree.map(lambda x, f=f: x[f], params[c]),
                    masks[c],
                    jnp.tile(HIDDEN[i][None], (draws, 1)),
                    jnp.asarray(t),
                    eps[i],
                ).sum()
                / draws
                for i, f in enumerate(own)
            ]
            for own in (np.asarray(data["parts"].fold[:k]), [5] * k)
        )
        assert float(found.held_out[c]) == pytest.approx(float(np.mean(unseen)), rel=1e-4)
        assert float(found.seen[c]) == pytest.approx(float(np.mean(seen)), rel=1e-4)
        assert np.ptp(unseen) > 1


@pytest.mark.parametrize(("seed", "gains"), [(0, False), (1, True)])
def test_the_start_is_left_for_more_than_a_standard_error_alone(seed: int, gains: bool) -> None:
    """After a few steps on Gaussian latents a gain is chance: it does not count, whether there is one or not."""
    latents = jax.random.normal(jax.random.key(10 + seed), (40, 2))
    best: list[Any] = []
    callbacks = SILENT._replace(segment=lambda name, state, losses: best.append(state.best))
    settings = Diffusion(steps=20, segment=20, width=8, blocks=1, folds=4)
    learnt, evidence = denoiser_training.fit(latents, [2], jax.random.key(seed), settings, callbacks)
    found: Evidence = jax.tree.map(lambda x: float(x[0]), best[-1]["evidence"])
    assert (found.held_out < found.zero) == gains
    assert found.held_out + found.held_out_se > found.zero
    assert int(evidence.step) == 0
    assert float(evidence.zero) == float(evidence.held_out) == float(evidence.seen) == pytest.approx(found.zero)
    assert float(jnp.abs(diffusion.Denoiser(8, 1).apply(learnt.params, latents, jnp.full(40, 500))).max()) == 0


def test_it_stops_after_so_many_looks_without_a_better_one() -> None:
    """A denoiser that does not move is as good at its first look as ever after."""
    looks: list[int] = []
    callbacks = SILENT._replace(segment=lambda name, state, losses: looks.append(int(state.step)))
    settings = Diffusion(steps=20, segment=2, width=8, blocks=1, lr=1e-30, patience=3)
    denoiser_training.fit(HIDDEN, [2], jax.random.key(0), settings, callbacks)
    assert looks == [2, 4, 6, 8]


def test_a_latent_outside_the_mask_is_neither_seen_nor_answered() -> None:
    """Whatever stands there."""
    net = diffusion.Denoiser(8, 1)
    x, t = jax.random.normal(jax.random.key(0), (5, 3)), jnp.arange(5)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, t)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    mask = jnp.array([1.0, 1.0, 0.0])
    found = np.asarray(diffusion.masked(net, params, mask, x, t))
    assert np.abs(found[:, :2]).min() > 0
    np.testing.assert_array_equal(found[:, 2], 0)
    np.testing.assert_allclose(diffusion.masked(net, params, mask, x.at[:, 2].set(9.0), t), found)


def test_evidence_as_plain_numbers() -> None:
    """Whole steps and latents; what is infinite, for want of folds, is None."""
    known = Evidence(jnp.int32(250), *(jnp.float32(x) for x in (3, 2.5, 0.25, 3.125, 2.0)))
    untrained = Bend(autoencoder=Autoencoder(kind="pca"), diffusion=Diffusion(steps=1, folds=0, width=8, blocks=1))
    fitted = bend.fit(HIDDEN, jax.random.key(0), untrained).replace(evidence=known)
    assert bend.learnt(fitted) == {
        "step": 250,
        "latents": 3,
        "held_out": 2.5,
        "held_out_se": 0.25,
        "zero": 3.125,
        "seen": 2.0,
    }
    told = bend.learnt(fitted.replace(evidence=known._replace(held_out=jnp.float32(jnp.inf))))
    assert told is not None
    assert (told["held_out"], told["zero"]) == (None, 3.125)
    assert bend.learnt(fitted.replace(evidence=None)) is None


PCA = Autoencoder(kind="pca")
UNTRAINED = Diffusion(timesteps=100, steps=1, lr=1e-30, width=8, blocks=1, axes=0)


def test_latents_are_turned_with_the_maps_to_and_fro() -> None:
    """Two points in a direction across six equally strong ones: the first latent has them, and vectors come back."""
    rng = np.random.default_rng(0)
    plain = np.concatenate([np.sign(rng.normal(size=(300, 1))), rng.normal(size=(300, 5))], axis=1)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    vectors = jnp.asarray(5 + plain @ turn, jnp.float32)
    settings = Autoencoder(kind="pca", standardise=False)
    codec, white = fit_latents(vectors, jax.random.key(0), settings, SILENT)
    turned, found, counts = bend.turned(codec, white, 16, vectors)
    assert counts[0] == 1
    assert np.abs(np.corrcoef(found[:, 0], plain[:, 0])[0, 1]) > 0.95
    assert np.abs(np.corrcoef(white[:, 0], plain[:, 0])[0, 1]) < 0.9
    np.testing.assert_allclose(decode(turned, found), vectors, atol=1e-3)
    same = bend.turned(codec, white, 0, vectors)
    assert same[0] is codec
    assert same[1] is white
    assert same[2] == [6]


@pytest.mark.parametrize(("k", "axes", "most"), [(45, 16, 4), (45, 2, 2), (9, 16, 1), (300, 16, 6)])
def test_structure_is_looked_for_in_a_tenth_of_the_checkpoints_number(
    k: int, axes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in no more latents than there are, or than the setting says; one at least."""
    seen: list[int] = []
    turns = structure.Structure(np.eye(6), [1], 0.0)
    monkeypatch.setattr(bend.structure, "find", lambda latents, most: seen.append(most) or turns)
    vectors = jax.random.normal(jax.random.key(0), (k, 6))
    codec, white = fit_latents(vectors, jax.random.key(0), PCA, SILENT)
    bend.turned(codec, white, axes, vectors)
    assert seen == [most]


def test_the_temperature_is_that_of_the_rest_too() -> None:
    """One latent of three: members at 0 are the mean, at 1/2 half as far from it."""
    vectors = jax.random.normal(jax.random.key(0), (30, 3)) * jnp.array([3.0, 2.0, 1.0])[None] + 4
    settings = Bend(autoencoder=Autoencoder(kind="pca", latent=1), diffusion=UNTRAINED, temperature=0.5)
    fitted = bend.fit(vectors, jax.random.key(0), settings)
    half, whole, none = (
        np.asarray(bend.sample(fitted.replace(temperature=jnp.float32(t)), jax.random.key(1), 50))
        for t in (0.5, 1.0, 0.0)
    )
    mean = np.asarray(vectors.mean(0))[None]
    np.testing.assert_array_equal(bend.sample(fitted, jax.random.key(1), 50), half)
    np.testing.assert_allclose(half - mean, (whole - mean) / 2, atol=1e-3)
    np.testing.assert_allclose(none, np.broadcast_to(mean, (50, 3)), atol=1e-3)
    assert np.linalg.matrix_rank(whole - mean, tol=0.1) == 3


def test_samples_are_the_nets_where_it_answers() -> None:
    """One step of DDIM from x_T: sqrt(abar) x_T - sqrt(1 - abar) v_hat(x_T, T), and v_hat = 0 beside the mask."""
    settings = Diffusion(timesteps=100, sampler="ddim", ddim_steps=1, width=8, blocks=1)
    net, n, key = diffusion.Denoiser(8, 1), 2, jax.random.key(3)
    shapes = jax.eval_shape(net.init, key, jnp.zeros((1, n)), jnp.zeros(1, jnp.int32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    learnt = diffusion.Learnt(params, jnp.array([1.0, 0.0]))
    found = diffusion.sample(learnt, key, 7, 4, settings, jnp.float32(1))
    start, bar = jax.random.normal(key, (7, 4)), float(diffusion.tables(settings).alpha_bar[-1])
    v = np.zeros((7, 4))
    v[:, 0] = np.asarray(net.apply(params, start[:, :n] * learnt.mask[None], jnp.full(7, 99)))[:, 0]
    assert np.abs(v[:, 0]).min() > 0.01
    np.testing.assert_allclose(found, np.sqrt(bar) * np.asarray(start) - np.sqrt(1 - bar) * v, atol=5e-3)
