"""Flax NNX and Equinox modules in fit: their own call in inference mode, their own names, and back from disk."""

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bend_jax
from bend_jax import modules
from bend_jax.checks import SettingsError
from bend_jax.subset import insert, select
from tests.problems import blobs

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


class Net(nnx.Module):
    """A list of layers, BatchNorm, Dropout and a head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)])
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array, shift: jax.Array | float = 0.0) -> jax.Array:
        """Logits [n, 3]."""
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.head(self.drop(self.norm(x + shift)))


@cache
def net() -> Net:
    """With statistics that are not those of a fresh module; in training mode, as `fit` may get it."""
    made = Net(nnx.Rngs(0))
    made.norm.mean[...] = jnp.linspace(-0.5, 0.5, 8)
    made.norm.var[...] = jnp.linspace(0.5, 2.0, 8)
    return made


def fit(network: Any, *data: Any, **changes: Any) -> bend_jax.Ensemble:
    """From checkpoints that are there, so that nothing is trained."""
    with pytest.warns(UserWarning, match="the temperature stays 1"):
        return bend_jax.fit(network, *data, members=4, generate=bend_jax.Identity(), **changes)


def around(network: Any, *patterns: str) -> bend_jax.Checkpoints:
    """Four random vectors of a subset."""
    found = modules.adapt(network)
    assert found is not None
    subset = select(found[1], patterns)
    return bend_jax.Checkpoints(0.3 * jax.random.normal(jax.random.key(1), (4, subset.dim)))


def test_an_nnx_module_gives_its_own_call_and_its_own_names(tmp_path: Any) -> None:
    """In inference mode, unchanged itself; each member is the module with a vector in it; a fresh module loads it."""
    _, images, labels = blobs()
    names = ("head", "layers.-1", "norm")
    ensemble = fit(net(), images, labels, subset=",".join(names), collect=around(net(), *names))
    assert set(ensemble.subset.paths) == {
        *(f"params.{layer}.{leaf}" for layer in ("head", "layers.1") for leaf in ("bias", "kernel")),
        "params.norm.bias",
        "params.norm.scale",
    }
    assert not net().norm.use_running_average
    by_hand = nnx.clone(net())
    by_hand.eval()
    member = insert(ensemble.subset, ensemble.variables, jnp.asarray(ensemble.vectors[2]))["params"]
    parts = {by_hand.head: member["head"], by_hand.norm: member["norm"], by_hand.layers[1]: member["layers"]["1"]}
    for module, values in parts.items():
        for leaf, value in values.items():
            getattr(module, leaf)[...] = value
    np.testing.assert_allclose(ensemble.member_logits(X)[2], by_hand(jnp.asarray(X)), atol=1e-5)
    ensemble.save(tmp_path / "saved")
    again = bend_jax.load(tmp_path / "saved", Net(nnx.Rngs(7)))
    np.testing.assert_array_equal(again.predict_proba(images), ensemble.predict_proba(images))


def test_an_nnx_module_trains_its_statistics_and_drops_out_by_the_key() -> None:
    """As the module itself in training mode: half of the old statistics and half of the batch's; variables keep their
    tree, and the same key gives the same."""
    model, variables = modules.adapt(net()) or pytest.fail("not found")
    assert model.train_apply is not None
    x = jnp.asarray(X)
    first, moved = model.train_apply(variables, x, jax.random.key(0))
    assert jax.tree.structure(moved) == jax.tree.structure(variables)
    hidden = x
    for layer in net().layers:
        hidden = jnp.tanh(layer(hidden))
    old = variables["batch_stats"]["norm"]
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["mean"], (old["mean"] + hidden.mean(0)) / 2, atol=1e-6)
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["var"], (old["var"] + hidden.var(0)) / 2, atol=1e-6)
    again, _ = model.train_apply(variables, x, jax.random.key(0))
    other, _ = model.train_apply(variables, x, jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    np.testing.assert_array_equal(model.apply(variables, x), model.apply(variables, x))


def test_init_of_a_module_gives_a_module() -> None:
    """Its variables; anything else is told."""
    model, variables, _ = modules.read_network(net(), (), init=lambda key: Net(nnx.Rngs(key)))
    assert model.init is not None
    fresh = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, variables)
    model, _, _ = modules.read_network(net(), (), init=lambda key: {"params": {}})
    assert model.init is not None
    with pytest.raises(SettingsError, match="init\\(key\\) of a module gives a module; got dict"):
        model.init(jax.random.key(0))


def test_an_equinox_module_takes_batches_and_keeps_its_names(tmp_path: Any) -> None:
    """It is called for one example; a tuple of inputs is the arguments of its call; numbers that are no parameters
    stay; a module of other values loads it."""
    eqx = pytest.importorskip("equinox", reason="Equinox is no dependency")

    class Two(eqx.Module):
        """Two inputs, a table of whole numbers, dropout with a key."""

        layers: list[Any]
        drop: Any
        order: jax.Array

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key)
            self.layers = [eqx.nn.Linear(5, 8, key=keys[0]), eqx.nn.Linear(8, 3, key=keys[1])]
            self.drop, self.order = eqx.nn.Dropout(0.5), jnp.array([2, 0, 1])

        def __call__(self, x: jax.Array, shift: jax.Array, key: Any) -> jax.Array:
            """Logits [3] of one example."""
            hidden = self.drop(jnp.tanh(self.layers[0](x)), key=key)
            return self.layers[1](hidden + shift)[self.order]

    made = Two(jax.random.key(0))
    _, images, labels = blobs()
    shift = np.linspace(-1, 1, len(images)).astype(np.float32)
    ensemble = fit(made, (images, shift), labels, subset="layers.1", collect=around(made, "layers.1"))
    assert ensemble.subset.paths == ("params.layers.1.weight", "params.layers.1.bias")
    vector = jnp.asarray(ensemble.vectors[1])
    hidden = jnp.tanh(jax.vmap(made.layers[0])(X)) + shift[:6, None]
    expected = (hidden @ vector[:24].reshape(3, 8).T + vector[None, 24:])[:, [2, 0, 1]]
    np.testing.assert_allclose(ensemble.member_logits((X, shift[:6]))[1], expected, atol=1e-5)
    ensemble.save(tmp_path / "saved")
    again = bend_jax.load(tmp_path / "saved", Two(jax.random.key(5)))
    np.testing.assert_array_equal(again.member_logits((X, shift[:6])), ensemble.member_logits((X, shift[:6])))
    with pytest.raises(SettingsError, match=r"images must be arrays \(\[n, 5\], \[n\]\)"):
        again.predict(X)


def test_an_equinox_module_with_state_is_a_pair() -> None:
    """BatchNorm by its running statistics; the state is no part of what members differ in."""
    eqx = pytest.importorskip("equinox", reason="Equinox is no dependency")

    class Normed(eqx.Module):
        """BatchNorm and a head."""

        norm: Any
        head: Any

        def __init__(self, key: Any) -> None:
            self.norm, self.head = eqx.nn.BatchNorm(5, "batch", mode="batch"), eqx.nn.Linear(5, 3, key=key)

        def __call__(self, x: jax.Array, state: Any) -> Any:
            """(logits [3], state)."""
            x, state = self.norm(x, state)
            return self.head(x), state

    made, state = eqx.nn.make_with_state(Normed)(jax.random.key(0))
    batched = jax.vmap(made, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = batched(2 * jnp.asarray(X) + 1, state)
    model, variables = modules.adapt((made, state)) or pytest.fail("not found")
    expected, _ = jax.vmap(eqx.nn.inference_mode(made), in_axes=(0, None), out_axes=(0, None))(jnp.asarray(X), state)
    np.testing.assert_allclose(model.apply(variables, jnp.asarray(X)), expected, atol=1e-6)
    training, _ = batched(jnp.asarray(X), state)
    assert np.abs(training - expected).max() > 0.1
    paths = select(variables, ["*"]).paths
    assert {path.split(".")[0] for path in paths} == {"params"}
    assert len(paths) == 4


@pytest.mark.parametrize(
    ("network", "data", "changes", "message"),
    [
        (nn.Dense(3), (X, np.zeros(6, int)), {}, "got Dense and 2 more .of Flax linen and Haiku give module.apply"),
        ("net", (), {}, "got str and 0 more"),
        (net(), (X, np.zeros(6, int)), {"train_apply": lambda v, x, key: x}, "train_apply comes with the module"),
        (net(), (X,), {}, "one ndarray came: are the labels missing"),
        (net(), (X, X, X), {}, "images and labels, or one iterable of batches of both; 3 came"),
    ],
)
def test_what_is_no_network_or_no_data_is_told(network: Any, data: Any, changes: Any, message: str) -> None:
    """In one line."""
    with pytest.raises(SettingsError, match=message) as error:
        bend_jax.fit(network, *data, subset="head", **changes)
    assert "\n" not in str(error.value)


def test_modules_vote_together_with_functions() -> None:
    """`combine` takes what `fit` takes."""
    pair = (lambda v, x: x @ v["w"], {"w": jnp.eye(5, 3)})
    with pytest.warns(UserWarning, match="all weights are equal"):
        both = bend_jax.combine([net(), pair])
    assert [sorted(network.variables) for network in both.networks] == [["batch_stats", "params"], ["w"]]


class Smaller(nnx.Module):
    """As Net without its norm, and narrower: it reads none of what is missing."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits [n, 3]."""
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.head(x)


def test_a_module_of_another_structure_does_not_load(tmp_path: Any) -> None:
    """Its call would run on variables that it was not made for, or leave some out; the class is no module at all."""
    _, images, labels = blobs()
    fit(net(), images, labels, subset="head", collect=around(net(), "head")).save(tmp_path / "saved")
    with pytest.raises(SettingsError, match=r"saved for another module: .* of its variables are not those of this one"):
        bend_jax.load(tmp_path / "saved", Smaller(nnx.Rngs(0)))
    with pytest.raises(SettingsError, match=r"Net is a class: give an instance"):
        bend_jax.fit(Net, images, labels, subset="head")


def test_an_apply_in_training_mode_is_told() -> None:
    """Flax has an error of its own for it."""

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = True) -> Any:
            return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))

    _, images, labels = blobs()
    variables = Norm().init(jax.random.key(0), images)
    with pytest.raises(SettingsError, match=r"in inference mode, such as partial\(net.apply, train=False\)"):
        bend_jax.fit(Norm().apply, variables, images, labels, subset="*")
