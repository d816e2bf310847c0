"""A generator's record in use: its keys, its knob, new statistics, and what is refused."""

from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bend_jax.checks import SettingsError
from bend_jax.generate import GENERATORS
from bend_jax.generate.generator import Generator, check_finite, fit_generator
from bend_jax.training import NonFiniteError

VECTORS = jax.random.normal(jax.random.key(0), (5, 3))
GAUSSIAN = GENERATORS["gaussian"]


class Keys(flax.struct.PyTreeNode):
    """The number that the fit drew."""

    drawn: jax.Array


def fit(vectors: Any, key: Any, settings: Any, *, callbacks: Any) -> Keys:
    """With its key."""
    return Keys(jax.random.normal(key))


def sample(fitted: Keys, key: Any, m: int) -> jax.Array:
    """Rows of what the fit drew beside what this draws."""
    return jnp.stack([fitted.drawn, jax.random.normal(key)])[None].repeat(m, axis=0)


def test_fit_and_sample_have_keys_of_their_own_by_seed_and_name() -> None:
    """The same ones every time."""
    own = Generator("own", None, fit, sample)
    first, again, seed, name = (
        np.asarray(fit_generator(g, VECTORS, seed=s).draw(2)[0])
        for g, s in ((own, 0), (own, 0), (own, 1), (replace(own, name="other"), 0))
    )
    np.testing.assert_array_equal(first, again)
    assert len({float(x) for x in (*first, *seed, *name)}) == 6


def test_new_members_get_statistics_and_checkpoints_keep_theirs() -> None:
    """Where there is something that gives them."""
    plain = fit_generator(GAUSSIAN, VECTORS)
    np.testing.assert_array_equal(plain.draw(4), plain.draw(4))
    moved = fit_generator(GAUSSIAN, VECTORS, reestimate=lambda members: members + 1)
    np.testing.assert_allclose(moved.draw(4), plain.draw(4) + 1)
    same = fit_generator(GENERATORS["identity"], VECTORS, reestimate=lambda members: members + 1)
    np.testing.assert_array_equal(same.draw(5), VECTORS)


def test_a_knob_is_turned_without_a_fit() -> None:
    """Of the same draws; the first stays as it was."""
    fitted = fit_generator(GAUSSIAN, VECTORS)
    mean = VECTORS.mean(0)[None]
    np.testing.assert_allclose(fitted.with_knob(3.0).draw(6) - mean, 3 * (fitted.draw(6) - mean), rtol=1e-4, atol=1e-5)


def test_too_few_checkpoints_and_members_that_are_not_finite_are_refused() -> None:
    """By the generator's name."""

    def needs(settings: Any, k: int) -> None:
        raise SettingsError(f"own: {settings}, {k}")

    with pytest.raises(SettingsError, match="own: given, 5"):
        fit_generator(Generator("own", "given", fit, sample, needs=needs), VECTORS)
    check_finite("gaussian", np.zeros((2, 3)))
    with pytest.raises(NonFiniteError, match="gaussian"):
        check_finite("gaussian", np.array([[0.0, np.inf]]))


def test_what_a_record_says_where_nothing_is_given() -> None:
    """As many members as asked for, free of charge, from any number of checkpoints."""
    plain = Generator("own", None, fit, sample)
    assert plain.members(7, 3) == 7
    assert plain.learnt(None) is None
    assert plain.needs(None, 1) is None
    flags = {name: (g.draws_checkpoints, g.is_all_checkpoints, g.members(7, 3)) for name, g in GENERATORS.items()}
    assert {name for name, own in flags.items() if own[0]} == {"identity", "resample"}
    assert {name for name, own in flags.items() if own[1]} == {"identity"}
    assert {name: own[2] for name, own in flags.items() if own[2] != 7} == {
        "identity": 3,
        "autoencoder": 3,
        "average": 1,
    }
