"""Training of the denoiser (BEND eq. 9): on which latents, for how many steps, and what it learnt, by
cross-validation."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from bend_jax.generate.diffusion import (
    Denoiser,
    Diffusion,
    Learnt,
    eps_from_v,
    masked,
    q_sample,
    tables,
    v_from_eps,
)
from bend_jax.recipe import PROGRAMS
from bend_jax.training import Callbacks, State, Step, make_step, once, start_with_ema, train

LOOK_ROWS, LOOK_DRAWS = 6400, 64  # (checkpoint, timestep, noise) triples of a look at the loss; at most for each one


class Evidence(NamedTuple):
    """What the denoiser learnt beyond the Gaussian that it starts from. Losses are of v, summed over the diffused
    latents, a mean over checkpoints; infinite where there are no folds. While it is trained, one number a candidate.

    step: 0 where it kept its Gaussian start; latents: how many are diffused; held_out: loss on checkpoints that a
    denoiser was not trained on; held_out_se: the standard error of held_out - zero; zero: the loss of v_hat = 0, which
    is the Gaussian's; seen: the loss on checkpoints that it was trained on.
    """

    step: Int[Array, "..."]
    latents: Float[Array, "..."]
    held_out: Float[Array, "..."]
    held_out_se: Float[Array, "..."]
    zero: Float[Array, "..."]
    seen: Float[Array, "..."]


class Parts(NamedTuple):
    """Who trains on what: denoiser f < folds on all checkpoints that are not in fold f, the last one on all.

    rows: indices of the k checkpoints, each denoiser's own first; own: how many those are; fold: of a checkpoint.
    """

    rows: Int[Array, "denoisers k"]
    own: Int[Array, " denoisers"]
    fold: Int[Array, " k"]


def split_folds(key: Key[Array, ""], k: int, folds: int) -> Parts:
    """Folds whose sizes differ by one at most, at random."""
    parts = min(folds, k) if k > 2 else 0
    place = jax.random.permutation(key, k)
    fold = place % max(parts, 1)
    held = jnp.arange(parts)[:, None] == fold[None] if parts else jnp.zeros((0, k), bool)
    held = jnp.concatenate([held, jnp.zeros((1, k), bool)])
    return Parts(jnp.argsort(held, axis=1, stable=True), jnp.sum(~held, axis=1), fold)


def masks_of(counts: list[int]) -> Float[Array, "candidates n"]:
    """1 for each of the first `count` of n latents, else 0; n is the largest count."""
    return jnp.asarray(np.arange(max(counts))[None] < np.array(counts)[:, None], jnp.float32)


def _errors(settings: Diffusion, params: Any, mask: Any, x: Any, t: Any, eps: Any) -> Float[Array, "rows n"]:
    """Squared errors of v or eps at each row's own timestep (the published code used the first row's for all)."""
    table = tables(settings)
    noisy, bar = q_sample(table, x, t, eps), table.alpha_bar[t]
    v = masked(Denoiser(settings.width, settings.blocks), params, mask, noisy, t)
    if settings.prediction == "v":
        return mask[None] * (v - v_from_eps(x, eps, bar)) ** 2
    return mask[None] * (eps_from_v(noisy, v, bar) - eps) ** 2


def _loss(settings: Diffusion, params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Array, Any]:
    """The mean over all denoisers, on the same timesteps and noise; each draws among its own checkpoints."""
    batch, masks, (key_x, key_t, key_eps) = settings.batch, data["masks"], jax.random.split(key, 3)
    t = jax.random.randint(key_t, (batch,), 0, settings.timesteps)
    eps = jax.random.normal(key_eps, (batch, masks.shape[1]))
    place = jax.random.uniform(key_x, (batch,))

    def one(params: Any, mask: Any, rows: Any, own: Any) -> Float[Array, ""]:
        x = data["latents"][rows[(place * own).astype(jnp.int32)]]
        return jnp.sum(_errors(settings, params, mask, x, t, eps)) / (batch * jnp.sum(mask))

    each = jax.vmap(one, (0, None, 0, 0))
    parts = data["parts"].rows, data["parts"].own
    found = [each(denoisers, mask, *parts) for denoisers, mask in zip(params, masks, strict=True)]
    return jnp.mean(jnp.stack(found)), extra


def _look(settings: Diffusion, k: int, state: State, data: Any) -> State:
    """Losses of each of the k checkpoints at evenly spaced timesteps: of the denoiser that has not seen it, of a zero
    one, and of the one that has seen all."""
    draws, n = int(np.clip(LOOK_ROWS // k, 1, LOOK_DRAWS)), data["masks"].shape[1]
    times = jnp.linspace(0, settings.timesteps - 1, draws).astype(jnp.int32)
    eps = jax.random.normal(data["look"], (k * draws, n)).reshape(k, draws, n)

    def of_vectors(params: Any, mask: Any, rows: Any) -> Float[Array, " rows"]:
        x, t = jnp.repeat(data["latents"][rows], draws, axis=0), jnp.tile(times, len(rows))
        errors = _errors(settings, params, mask, x, t, eps[rows].reshape(-1, n))
        return jnp.sum(errors.reshape(len(rows), -1), axis=1) / draws

    every, fold, folds = jnp.arange(k), data["parts"].fold, len(data["parts"].own) - 1
    held = data["parts"].rows[:-1, k - -(-k // folds) : k]  # the last ones of each; of a smaller fold one too many
    place = jnp.where(fold[held] == jnp.arange(folds)[:, None], held, k)  # k: outside, so that it is dropped

    def of_candidate(params: Any, mask: Any) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, " k"]]:
        unseen = jax.vmap(of_vectors, (0, None, 0))(_at(params, slice(-1)), mask, held)
        held_out = jnp.zeros(k, unseen.dtype).at[place].set(unseen, mode="drop")
        return held_out, of_vectors(data["first"], mask, every), of_vectors(_at(params, -1), mask, every)

    found = [of_candidate(*one) for one in zip(state.ema, data["masks"], strict=True)]
    return _keep_best(state, *(jnp.stack(losses) for losses in zip(*found, strict=True)))


@lru_cache(maxsize=PROGRAMS)
def _training(settings: Diffusion) -> tuple[Step, optax.GradientTransformation]:
    """The step and its optimiser: the same ones for the same settings, so that `train` compiles them once."""
    optimizer = optax.adamw(settings.lr, weight_decay=settings.weight_decay)
    return make_step(partial(_loss, settings), optimizer, settings.ema), optimizer


@lru_cache(maxsize=PROGRAMS)
def _look_of(settings: Diffusion, k: int) -> Callable[[State, Any], State]:
    return partial(_look, settings, k)


def fit(
    latents: Float[Array, "k latent"],
    counts: list[int],
    key: Key[Array, ""],
    settings: Diffusion,
    callbacks: Callbacks,
) -> tuple[Learnt, Evidence]:
    """Train a denoiser for each number of leading latents; returns the one of least held-out loss, at its step of least
    held-out loss, trained on all checkpoints, and what it learnt.

    A denoiser for each fold is trained beside it, without that fold; the held-out loss is the mean over all k. Step 0,
    the Gaussian, counts as well: it is left only where the held-out loss is below its own by more than a standard
    error. The error is that of v, or of eps; as eps_hat - eps = sqrt(abar_t) (v_hat - v), v gives noisy timesteps more
    weight.
    """
    masks = masks_of(counts)
    params, data = _start(latents, masks, key, settings)
    step, optimizer = _training(settings)
    has_folds = data["parts"].own.shape[0] > 1
    unknown = jnp.full(len(masks), jnp.inf)
    evidence = Evidence(jnp.zeros(len(masks), jnp.int32), masks.sum(axis=1), *[unknown] * 4)
    state = start_with_ema(params, optimizer)._replace(
        best={"params": (data["first"],) * len(masks), "evidence": evidence},
        best_loss=unknown,
        since=jnp.zeros(len(masks), jnp.int32),
    )
    state = train(
        "diffusion",
        step,
        state,
        data,
        steps=settings.steps,
        segment=settings.segment,
        callbacks=callbacks,
        after=_look_of(settings, len(latents)) if has_folds else None,
        stopped=lambda state: has_folds and int(np.min(state.since)) >= settings.patience,
    )
    if not has_folds:
        only = evidence._replace(step=evidence.step + state.step)
        return Learnt(_at(state.ema[0], -1), masks[0]), _at(only, 0)
    return _chosen(state, data["first"], masks)


def _chosen(state: State, first: Any, masks: Float[Array, "candidates n"]) -> tuple[Learnt, Evidence]:
    """The best denoiser; its start, where that is not better by more than a standard error."""
    chosen = int(np.argmin(state.best_loss))
    found, mask = _at(state.best["evidence"], chosen), masks[chosen]
    if float(found.held_out + found.held_out_se) < float(found.zero):
        return Learnt(state.best["params"][chosen], mask), found
    same = {"step": jnp.zeros_like(found.step), "held_out": found.zero, "seen": found.zero}
    return Learnt(first, mask), found._replace(**same)


def _at(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _keep_best(
    state: State,
    held_out: Float[Array, "candidates k"],
    zero: Float[Array, "candidates k"],
    seen: Float[Array, "candidates k"],
) -> State:
    """Each candidate's denoiser of least held-out loss so far, less the Gaussian's."""
    gain = jnp.mean(held_out - zero, axis=1)
    error = jnp.std(held_out - zero, axis=1) / jnp.sqrt(zero.shape[1])
    is_better = gain < state.best_loss
    held_out, zero, seen = (jnp.mean(x, axis=1) for x in (held_out, zero, seen))
    old = state.best["evidence"]
    now = Evidence(jnp.full_like(old.step, state.step), old.latents, held_out, error, zero, seen)

    def better(is_so: Array, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(is_so, x, y), new, old)

    each = zip(is_better, state.ema, state.best["params"], strict=True)
    params = tuple(better(is_so, _at(new, -1), best) for is_so, new, best in each)
    return state._replace(
        best={"params": params, "evidence": better(is_better, now, old)},
        best_loss=jnp.where(is_better, gain, state.best_loss),
        since=jnp.where(is_better, 0, state.since + 1),
        held_loss=jnp.min(held_out / zero),
    )


def _start(
    latents: Float[Array, "k latent"], masks: Float[Array, "candidates n"], key: Key[Array, ""], settings: Diffusion
) -> tuple[Any, Any]:
    """A tuple of parameters, those of a candidate's denoisers, which all start alike, and the training's data.

    Candidates are no axis of one array: on a CPU twice as many small products in one call take more than twice as long.
    """
    key_init, key_steps, key_fold, key_look = jax.random.split(key, 4)
    first = once(_initial, static=(1, 2))(key_init, masks.shape[1], settings)
    arranged = once(_arranged, static=(3, 4))
    params, own = arranged(latents[:, : masks.shape[1]], first, key_fold, settings.folds, len(masks))
    return params, {**own, "masks": masks, "first": first, "key": key_steps, "look": key_look}


def _initial(key: Key[Array, ""], n: int, settings: Diffusion) -> Any:
    """The first parameters of a denoiser of n latents."""
    return Denoiser(settings.width, settings.blocks).init(key, jnp.zeros((1, n)), jnp.zeros(1, jnp.int32))


def _arranged(
    latents: Float[Array, "k n"], first: Any, key: Key[Array, ""], folds: int, candidates: int
) -> tuple[Any, dict[str, Any]]:
    """First parameters for every denoiser of every candidate, latents and folds. These are filled up to a power of two
    with what is never drawn: trainings on nearly as many checkpoints then share a program."""
    parts = split_folds(key, len(latents), folds)
    more = (0, (1 << (len(latents) - 1).bit_length()) - len(latents))
    filled = parts._replace(rows=jnp.pad(parts.rows, ((0, 0), more)), fold=jnp.pad(parts.fold, more))
    denoisers = jax.tree.map(lambda x: jnp.repeat(x[None], len(parts.own), axis=0), first)
    return (denoisers,) * candidates, {"latents": jnp.pad(latents, (more, (0, 0))), "parts": filled}
