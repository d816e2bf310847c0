"""The segmented trainer: the same numbers as a plain loop, the same bits after a resume, and it stops at a NaN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bend_jax.minibatches import batch_of, shuffled
from bend_jax.recipe import Base, schedule, sgd
from bend_jax.training import (
    SILENT,
    NonFiniteError,
    State,
    make_step,
    start,
    start_with_ema,
    train,
)

OPTIMIZER = optax.adam(0.1)


def loss(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
    """A noisy quadratic; `bad` makes it NaN from that step on."""
    noise = jax.random.normal(key, params.shape)
    value = jnp.sum((params - data["target"] + 0.1 * noise) ** 2)
    return jnp.where(step >= data["bad"], jnp.nan, value), extra


def convolution(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
    """The same behind a convolution, which runs in a Python loop on CPU."""
    kernel = params.reshape(2, 2, 1, 1)
    y = jax.lax.conv_general_dilated(data["image"], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.mean((y - 1.0) ** 2), extra


DATA = {
    "target": jnp.arange(4.0),
    "bad": jnp.int32(10**6),
    "key": jax.random.key(0),
    "image": jax.random.normal(jax.random.key(1), (1, 5, 5, 1)),
}


def plain_loop(step: Any, state: State, steps: int) -> State:
    """A jitted step called in a row."""
    jitted = jax.jit(step)
    for _ in range(steps):
        state, _ = jitted(state, DATA)
    return state


@pytest.mark.parametrize("objective", [loss, convolution], ids=["scan", "loop"])
def test_segments_give_what_a_plain_loop_gives(objective: Any) -> None:
    """For a number of steps that segments do not divide, with an average of the parameters."""
    step = make_step(objective, OPTIMIZER, ema=0.9)
    begin = start_with_ema(jnp.zeros(4), OPTIMIZER)
    found = train("test", step, begin, DATA, steps=11, segment=4)
    expected = plain_loop(step, begin, 11)
    assert int(found.step) == 11
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-5)
    np.testing.assert_allclose(found.ema, expected.ema, rtol=1e-5)


@pytest.mark.parametrize("objective", [loss, convolution], ids=["scan", "loop"])
def test_a_resumed_training_gives_the_same_bits(objective: Any) -> None:
    """From any state that was saved at a segment's end."""
    step = make_step(objective, OPTIMIZER, ema=0.9)
    saved: list[State] = []

    def keep(name: str, state: State, losses: Any) -> None:
        saved.append(jax.tree.map(np.asarray, state))

    begin = start_with_ema(jnp.zeros(4), OPTIMIZER)
    whole = train("test", step, begin, DATA, steps=11, segment=4, callbacks=SILENT._replace(segment=keep))
    assert [int(s.step) for s in saved] == [4, 8, 11]
    for state in saved:
        callbacks = SILENT._replace(resume=lambda name, given, steps, state=state: state)
        again = train("test", step, begin, DATA, steps=11, segment=4, callbacks=callbacks)
        jax.tree.map(np.testing.assert_array_equal, whole, again)


@pytest.mark.parametrize("bad", [0, 5, 8])
def test_nan_stops_at_the_step_that_made_it(bad: int) -> None:
    """With the training's name, what was not finite, and the step (counted from 1)."""
    step = make_step(loss, OPTIMIZER)
    with pytest.raises(NonFiniteError, match=rf"^test: NaN or Inf in the loss at step {bad + 1}$"):
        train("test", step, start(jnp.zeros(4), OPTIMIZER), {**DATA, "bad": jnp.int32(bad)}, steps=11, segment=4)


def test_nan_in_a_gradient_alone_stops_too() -> None:
    """sqrt at 0 has a finite value and an infinite slope."""

    def root(params: Any, extra: Any, data: Any, key: Any, step: Any) -> tuple[Any, Any]:
        return jnp.sum(jnp.sqrt(params)), extra

    with pytest.raises(NonFiniteError, match="in the gradients at step 1"):
        train("test", make_step(root, OPTIMIZER), start(jnp.zeros(2), OPTIMIZER), DATA, steps=2, segment=2)


def test_early_stop_is_part_of_the_state() -> None:
    """A training that stopped and is resumed from its last state does not go on."""
    step = make_step(loss, OPTIMIZER, ema=0.9)

    def after(state: State, data: Any) -> State:
        return state._replace(since=state.since + 1)

    def stopped(state: State) -> bool:
        return int(state.since) >= 2

    begin = start_with_ema(jnp.zeros(4), OPTIMIZER)
    first = train("test", step, begin, DATA, steps=40, segment=4, after=after, stopped=stopped)
    assert int(first.step) == 8
    kept = jax.tree.map(np.asarray, first)
    callbacks = SILENT._replace(resume=lambda name, state, steps: kept)
    again = train("test", step, begin, DATA, steps=40, segment=4, after=after, stopped=stopped, callbacks=callbacks)
    assert int(again.step) == 8


def test_the_arrays_that_a_caller_passes_in_survive() -> None:
    """Buffers are donated from segment to segment, the caller's own are not."""
    params = jnp.zeros(4)
    train("test", make_step(loss, OPTIMIZER), start(params, OPTIMIZER), DATA, steps=3, segment=3)
    assert params.tolist() == [0.0] * 4


def test_an_epoch_shows_every_image_once_in_a_new_order() -> None:
    """10 images in batches of 3: nine of them, without repetition, epoch by epoch."""
    state, orders = start(jnp.zeros(2), OPTIMIZER, {"order": jnp.zeros(10, jnp.int32)}), []
    for epoch in range(3):
        state = shuffled(state, {"order": jax.random.key(0)}, epoch)
        seen: list[int] = []
        for position in range(3):
            seen += batch_of(jnp.int32(3 * epoch + position), state.extra["order"], 3).tolist()
        assert len(set(seen)) == 9
        orders.append(tuple(seen))
    assert len(set(orders)) == 3


def test_sgd_is_pytorchs() -> None:
    """By hand: the decay joins the gradient, then v <- momentum v + g, then p <- p - lr v."""
    tx = sgd(0.1, 0.9, 0.01)
    p, v = 2.0, 0.0
    params, state = jnp.array([p]), tx.init(jnp.array([p]))
    for g in (1.0, -0.5, 0.25):
        updates, state = tx.update(jnp.array([g]), state, params)
        params = optax.apply_updates(params, updates)
        v = 0.9 * v + g + 0.01 * p
        p -= 0.1 * v
        assert float(params[0]) == pytest.approx(p, rel=1e-6)


def test_the_published_schedule() -> None:
    """0.1, times 0.2 after epochs 30, 60 and 90: 8e-4 at the end, from which fine-tuning's 1.6e-4 is one more step."""
    rate = schedule(Base(), steps_per_epoch=10)
    assert [round(float(rate(epoch * 10)), 7) for epoch in (0, 29, 31, 61, 91)] == [0.1, 0.1, 0.02, 0.004, 0.0008]


def test_warmup_and_cosine() -> None:
    """From 0 up to lr over the warm-up, then half a cosine down to 0."""
    rate = schedule(Base(schedule="cosine", warmup=2, epochs=10), steps_per_epoch=5)
    assert [float(rate(s)) for s in (0, 5, 10)] == pytest.approx([0.0, 0.05, 0.1])
    assert float(rate(30)) == pytest.approx(0.05)
    assert float(rate(50)) == pytest.approx(0.0, abs=1e-9)


def test_step_schedule_after_a_warmup_keeps_its_milestones() -> None:
    """Milestones count from the start of training."""
    rate = schedule(Base(warmup=2, milestones=(4,), epochs=6), steps_per_epoch=5)
    assert float(rate(19)) == pytest.approx(0.1)
    assert float(rate(21)) == pytest.approx(0.02)
