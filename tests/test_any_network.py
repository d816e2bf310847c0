"""Networks of every library in fit, and what is refused before any training because its ensemble would be wrong."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import bend_jax
from bend_jax.checks import SettingsError

N, FEATURES, CLASSES = 60, 5, 3


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images [60, 5] and labels of three blobs, some of them wrong."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    images = rng.normal(size=(N, FEATURES)).astype(np.float32) + 2 * np.eye(FEATURES, dtype=np.float32)[labels]
    labels[::7] = (labels[::7] + 1) % CLASSES
    return images, labels


def kernel() -> jax.Array:
    """Of one dense layer."""
    return 0.5 * jax.random.normal(jax.random.key(0), (FEATURES, CLASSES))


def fit(apply: Callable[..., Any], variables: Any, **changes: Any) -> bend_jax.Ensemble:
    """A small ensemble; its bootstraps move the subset."""
    settings: dict[str, Any] = {
        "subset": "*",
        "collect": bend_jax.Bootstrap(k=4, batch=16, lr=0.1),
        "generate": bend_jax.Identity(),
        "members": 4,
        "unseen": True,
    }
    return bend_jax.fit(apply, variables, *data(), **(settings | changes))


def of_dict() -> tuple[Any, Any]:
    """A plain dict of layers, as Haiku's parameters are."""
    return lambda v, x: x @ v["linear"]["w"] + v["linear"]["b"][None], {"linear": {"w": kernel(), "b": jnp.zeros(3)}}


def of_list() -> tuple[Any, Any]:
    """A list of arrays."""
    return lambda v, x: x @ v[0] + v[1][None], [kernel(), jnp.zeros(3)]


def of_frozen_dict() -> tuple[Any, Any]:
    """Linen's variables of old."""
    variables = flax.core.freeze({"params": {"kernel": kernel()}})
    return lambda v, x: x @ v["params"]["kernel"], variables


def of_nnx() -> tuple[Any, Any]:
    """The state of a Flax NNX module."""
    graph, state = nnx.split(nnx.Linear(FEATURES, CLASSES, rngs=nnx.Rngs(0)))
    return lambda v, x: nnx.merge(graph, v)(x), state


def of_equinox() -> tuple[Any, Any]:
    """The arrays of an Equinox module."""
    eqx = pytest.importorskip("equinox", reason="Equinox is no dependency")
    arrays, static = eqx.partition(eqx.nn.Linear(FEATURES, CLASSES, key=jax.random.key(0)), eqx.is_array)
    return lambda v, x: jax.vmap(eqx.combine(v, static))(x), arrays


def of_haiku() -> tuple[Any, Any]:
    """A transformed function of Haiku."""
    haiku = pytest.importorskip("haiku", reason="Haiku is no dependency")
    net = haiku.without_apply_rng(haiku.transform(lambda x: haiku.Linear(CLASSES)(x)))
    return net.apply, net.init(jax.random.key(0), jnp.zeros((1, FEATURES)))


@pytest.mark.parametrize("make", [of_dict, of_list, of_frozen_dict, of_nnx, of_equinox, of_haiku])
@pytest.mark.parametrize("trains", [False, True], ids=["", "with train_apply"])
def test_any_tree_of_parameters(make: Callable[[], tuple[Any, Any]], trains: bool, tmp_path: Any) -> None:
    """The whole tree is the parameters: members differ from the base and from each other, a train_apply changes
    nothing of that, and the ensemble comes back from disk."""
    apply, variables = make()
    train_apply = (lambda v, x, key: (apply(v, x), v)) if trains else None
    ensemble = fit(apply, variables, train_apply=train_apply)
    images, labels = data()
    base = np.asarray(apply(variables, images))
    members = ensemble.member_logits(images)
    assert all(np.abs(own - base).max() > 0.01 for own in members)
    assert np.abs(members[0] - members[1]).max() > 0.01
    assert (ensemble.predict(images) == labels).mean() > 0.6
    ensemble.save(tmp_path / "saved")
    again = bend_jax.load(tmp_path / "saved", apply, variables)
    np.testing.assert_array_equal(again.predict_proba(images), ensemble.predict_proba(images))
    assert jax.tree.structure(again.variables) == jax.tree.structure(variables)
    assert again.checkpoints is not None
    np.testing.assert_array_equal(again.checkpoints.vectors, ensemble.checkpoints.vectors)


@pytest.mark.parametrize("train", [bend_jax.Trajectory(k=3, batch=16, statistics="drift"), bend_jax.Independent(k=2)])
def test_what_trains_statistics_needs_them_apart_from_the_parameters(train: Any) -> None:
    """In a tree without that level every leaf would count as a statistic, and all members would equal the base."""
    apply, variables = of_dict()
    given = {"train_apply": lambda v, x, key: (apply(v, x), v), "init": lambda key: variables}
    with pytest.raises(SettingsError, match="these have no 'params', so that all of them are parameters"):
        fit(apply, variables, collect=train, **given)


def test_fewer_members_than_weights_are_told_for_ready_made_checkpoints_too() -> None:
    """Boosting's checkpoints, collected before."""
    first = fit(*of_dict(), collect=bend_jax.Boosting(k=4, batch=16))
    with pytest.raises(SettingsError, match="members=3 do not match the 4 weights"):
        fit(*of_dict(), collect=first.checkpoints, members=3)


def test_statistics_without_parameters_are_told() -> None:
    """A top level with batch_stats and no params is a mistake in the nesting: its keys are named."""
    variables = {"dense": {"kernel": kernel()}, "batch_stats": {"mean": jnp.zeros(3)}}
    with pytest.raises(SettingsError, match=r"batch_stats and no params .*dense, batch_stats.* under the key params"):
        fit(lambda v, x: x @ v["dense"]["kernel"], variables)


# ---- what would go wrong without a sign of it


def test_a_subset_that_is_never_read_is_refused() -> None:
    """apply ignores its argument: every member would equal the base."""
    fixed = kernel()
    with pytest.raises(SettingsError, match=r"never reads the subset \(params\.w\), so that every member would equal"):
        fit(lambda v, x: x @ fixed, {"w": kernel()})


def test_a_leaf_that_is_never_read_is_told() -> None:
    """The others make an ensemble."""
    with pytest.warns(UserWarning, match="never reads these leaves of the subset: params.idle"):
        ensemble = fit(lambda v, x: x @ v["w"], {"w": kernel(), "idle": jnp.zeros(2)})
    assert ensemble.vectors.shape == (4, 17)


def test_an_apply_that_looks_at_the_whole_batch_is_refused() -> None:
    """BatchNorm in training mode, by its formula."""

    def apply(v: Any, x: Any) -> Any:
        return (x - x.mean(axis=0, keepdims=True)) / x.std(axis=0, keepdims=True) @ v["w"]

    with pytest.raises(SettingsError, match=r"each image by itself: .*depends on the rest of its batch"):
        fit(apply, {"w": kernel()})


def test_probabilities_for_logits_are_refused() -> None:
    """A softmax at the end; log-probabilities are logits."""
    with pytest.raises(SettingsError, match="apply returns probabilities"):
        fit(lambda v, x: jax.nn.softmax(x @ v["w"]), {"w": kernel()})
    fit(lambda v, x: jax.nn.log_softmax(x @ v["w"]), {"w": kernel()})


def test_without_unseen_images_there_is_no_temperature() -> None:
    """It stays 1 and a warning says why; images that the network has not seen, of the caller's word, set it."""
    apply, variables = of_dict()
    with pytest.warns(UserWarning, match="no validation images that the network has not seen: the temperature stays 1"):
        plain = fit(apply, variables, unseen=False)
    assert plain.temperature == 1.0
    assert fit(apply, variables).temperature != 1.0
    validated = fit(apply, variables, unseen=False, validation=tuple(x[::-1] for x in data()))
    assert validated.temperature != 1.0


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "one image": ({"images": data()[0][0], "labels": np.array([1])}, "5 images and 1 labels.*images.None."),
    "no images": ({"images": np.zeros((0, 5), np.float32), "labels": np.zeros(0, int)}, "images: there are none"),
    "no validation images": (
        {"validation": (np.zeros((0, 5), np.float32), np.zeros(0, int))},
        "validation images: there are none",
    ),
    "a part of a member": ({"members": 2.5}, "members must be a whole number of at least 1; got 2.5"),
    "labels of words": ({"labels": np.array(["a"] * N)}, "labels must be a row of whole numbers"),
    "validation of one array": ({"validation": np.zeros((3, 5))}, r"given as \(images, labels\); got ndarray"),
    "another width": ({"images": np.zeros((N, 4), np.float32)}, r"does not take images of shape \[n, 4\]"),
    "a large batch": ({"collect": bend_jax.Bootstrap(k=4, batch=99)}, "batch=99 is more than the 54 training images"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_one_line_of_its_own(name: str) -> None:
    """Before any training; each says what came and what to do."""
    changes, message = dict(MISTAKES[name][0]), MISTAKES[name][1]
    images, labels = changes.pop("images", data()[0]), changes.pop("labels", data()[1])
    settings: dict[str, Any] = {"subset": "*", "collect": bend_jax.Bootstrap(k=4, batch=16), "unseen": True}
    apply, variables = of_dict()
    with pytest.raises(SettingsError, match=message) as error:
        inspect.unwrap(bend_jax.fit)(apply, variables, images, labels, **(settings | changes))  # without its types
    assert "\n" not in str(error.value)


# ---- the ensemble as a pytree


@pytest.fixture(scope="module")
def ensemble() -> bend_jax.Ensemble:
    """Of a plain dict."""
    return fit(*of_dict())


def test_jit_vmap_and_grad_go_through_an_ensemble(ensemble: bend_jax.Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an argument of a traced function, over batches of images, and with respect to images and vectors."""
    # jax 0.8 and 0.9.0 put constants of a type of its own into the tree, neither Array nor ndarray
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    images = jnp.asarray(data()[0])
    expected = ensemble.predict_proba(images)
    traced = jax.jit(lambda ensemble, x: ensemble.predict_proba(x))(ensemble, images)
    np.testing.assert_allclose(traced, expected, atol=1e-6)
    batches = jax.vmap(ensemble.predict_proba)(images.reshape(6, 10, FEATURES))
    np.testing.assert_allclose(batches.reshape(N, CLASSES), expected, atol=1e-6)

    def loss(ensemble: bend_jax.Ensemble, x: Any) -> Any:
        return ensemble.predict_proba(x)[:, 0].sum()

    by_image = jax.grad(loss, argnums=1)(ensemble, images[:1])
    step = 1e-2 * by_image / jnp.linalg.norm(by_image)
    rise = (loss(ensemble, images[:1] + step) - loss(ensemble, images[:1] - step)) / 2
    np.testing.assert_allclose(rise, 1e-2 * jnp.linalg.norm(by_image), rtol=0.05)
    assert float(jnp.abs(jax.grad(loss, allow_int=True)(ensemble, images).vectors).max()) > 0


def test_an_ensemble_is_a_tree_of_arrays(ensemble: bend_jax.Ensemble) -> None:
    """device_put, ==, and a repr of one line."""
    there = jax.device_put(ensemble, jax.devices()[0])
    assert there == ensemble
    assert isinstance(there.vectors, jax.Array)
    assert ensemble.replace(temperature=2.0) != ensemble
    assert ensemble.replace(vectors=ensemble.vectors + 1) != ensemble
    assert ensemble != 3
    assert repr(ensemble) == "Ensemble(4 members of 18 numbers in 2 leaves: params.linear.b ...)"


def test_no_images_give_no_rows(ensemble: bend_jax.Ensemble) -> None:
    """Shapes of an empty batch; one image without its batch axis is told."""
    none = np.zeros((0, FEATURES), np.float32)
    assert ensemble.predict_proba(none).shape == (0, CLASSES)
    assert ensemble.member_logits(none).shape == (4, 0, CLASSES)
    assert ensemble.predict(none).shape == (0,)
    with pytest.raises(SettingsError, match=r"images must be \[n, 5\]; they are \[5\]; one image needs a batch axis"):
        ensemble.predict(data()[0][0])


def test_a_saved_ensemble_refuses_another_network(ensemble: bend_jax.Ensemble, tmp_path: Any) -> None:
    """One of another number of classes; and damage is told without the advice to delete the only copy."""
    ensemble.save(tmp_path / "saved")
    with pytest.raises(SettingsError, match="tells 3 classes apart; this network gives 2"):
        bend_jax.load(tmp_path / "saved", lambda v, x: (x @ v["linear"]["w"])[:, :2])
    (tmp_path / "saved" / "subset.json").write_text("{}")
    with pytest.raises(bend_jax.DamagedError, match="restore this folder from a copy") as error:
        bend_jax.load(tmp_path / "saved", of_dict()[0])
    assert "delete" not in str(error.value)


def test_no_warning_without_a_reason() -> None:
    """The ordinary case is silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(*of_dict())
