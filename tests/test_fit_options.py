"""What `fit` and an ensemble take beside a network: trees of inputs, augmentation, views, a loss, what is shown."""

import inspect
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bend_jax
from bend_jax import inputs, metrics
from bend_jax.checks import SettingsError
from bend_jax.display import is_wanted
from bend_jax.ensemble import VOTES
from bend_jax.example import Example
from tests.problems import blobs, blobs_apply

# ---- inputs that are not one array

N = 48


def apply(variables: Any, inputs: Any) -> Any:
    """Logits from the words that the mask leaves in, and from a picture."""
    p = variables["params"]
    words = p["words"][inputs["tokens"]] * inputs["mask"][..., None]
    return jnp.tanh(words.sum(axis=1) + inputs["picture"].astype(jnp.float32)) @ p["head"]


@cache
def sentences() -> tuple[Any, Any, np.ndarray]:
    """Variables; whole numbers, booleans and bfloat16; labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    inputs = {
        "tokens": rng.integers(0, 9, (N, 7)) // 3 * 3 + labels[:, None],
        "mask": rng.random((N, 7)) < 0.7,
        "picture": jnp.asarray(rng.normal(size=(N, 6)), jnp.bfloat16),
    }
    words, head = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((9, 6), (6, 3)))
    return {"params": {"words": words, "head": head}}, inputs, labels


def fit(inputs: Any, labels: Any, **changes: Any) -> bend_jax.Ensemble:
    """Of the head."""
    given = {"subset": "head", "collect": bend_jax.Trajectory(k=2, batch=16, lr=0.1), "generate": bend_jax.Identity()}
    return bend_jax.fit(apply, sentences()[0], inputs, labels, **given | {"members": 2, "unseen": True} | changes)


def test_inputs_are_any_tree_with_one_leading_axis(tmp_path: Any) -> None:
    """Tokens, a mask and a picture go through training, the hold-out, the vote and the files."""
    variables, inputs, labels = sentences()
    ensemble = fit(inputs, labels)
    moved = {"params": {**variables["params"], "head": jnp.asarray(ensemble.vectors[1]).reshape(6, 3)}}
    np.testing.assert_allclose(ensemble.member_logits(inputs)[1], apply(moved, inputs), atol=1e-4)
    assert np.abs(ensemble.vectors[1] - variables["params"]["head"].ravel()).max() > 1e-3
    ensemble.save(tmp_path / "saved")
    again = bend_jax.load(tmp_path / "saved", apply)
    assert again.image == ensemble.image
    np.testing.assert_array_equal(again.predict_proba(inputs), ensemble.predict_proba(inputs))
    traced = jax.jit(lambda ensemble, x: ensemble.predict_proba(x))(ensemble, inputs)
    np.testing.assert_allclose(traced, ensemble.predict_proba(inputs), atol=1e-5)
    with pytest.raises(SettingsError, match=r"images\['mask'\] must be \[n, 7\]; they are \[48, 6\]"):
        again.predict(inputs | {"mask": inputs["mask"][:, :6]})
    with pytest.raises(SettingsError, match=r"images must be arrays .*'tokens': .n, 7.* they are a tree"):
        again.predict(inputs["tokens"])


def test_a_network_is_traced_with_arrays_of_32_bits_where_jax_has_no_more() -> None:
    """NumPy's whole numbers have 64; jax 0.11 warns where it is asked for these."""
    tokens = Example.of({"tokens": np.zeros((2, 7), np.int64)})
    assert tokens.batch(3)["tokens"].dtype == jnp.int32
    assert tokens.leaves[0].dtype == np.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.ones((N - 1, 7), bool)}, r"as many rows as there are images.*\['mask'\] \[47, 7\], .*\[48, 6\]"),
        ({"picture": np.full((N, 6), np.inf, jnp.bfloat16)}, r"the images\['picture'\] hold NaN or Inf"),
        ({"tokens": np.full((N, 7), "word")}, r"the images\['tokens'\] must be numbers; they are <U4"),
        ({"picture": np.zeros((N, 5), np.float32)}, r"does not take images of shape .*'picture': \[n, 5\]"),
    ],
)
def test_a_tree_that_does_not_fit_is_told(changes: Any, message: str) -> None:
    """By the name of the array."""
    _, inputs, labels = sentences()
    with pytest.raises(SettingsError, match=message) as error:
        fit(inputs | changes, labels)
    assert "\n" not in str(error.value)


def test_an_input_that_is_missing_is_told() -> None:
    """A key that the network asks for; and a list of images is a tree of inputs."""
    _, inputs, labels = sentences()
    with pytest.raises(SettingsError, match=r"does not take images of shape .*mask"):
        fit({name: x for name, x in inputs.items() if name != "mask"}, labels)
    with pytest.raises(SettingsError, match=r"7 images and 48 labels.*np\.stack makes one array"):
        fit(list(inputs["tokens"]), labels)


@pytest.mark.parametrize("tree", [0, {"a": 0, "b": [0, (0, 0)]}, [0], (0, {"c": 0})])
def test_an_example_comes_back_from_json(tree: Any) -> None:
    """For trees of dicts, lists and tuples; others are not kept."""
    shapes = jax.tree.map(lambda _: jax.ShapeDtypeStruct((5, 2, 3), jnp.bfloat16), tree)
    example = Example.of(shapes)
    assert Example.from_json(example.to_json()) == example
    assert hash(example) == hash(Example.of(shapes))
    assert example.misfit(shapes) is None
    assert Example.of(bend_jax.Checkpoints(shapes)).to_json() is None


# ---- augmentation, views, a loss


def small(**changes: Any) -> bend_jax.Ensemble:
    """Blobs, two epochs of the head."""
    variables, images, labels = blobs(48)
    given: dict[str, Any] = {"subset": "head", "generate": bend_jax.Identity(), "members": 2}
    given |= {
        "collect": bend_jax.Trajectory(k=2, batch=16, lr=0.1, views=2),
        "validation": (images[::-1], labels[::-1]),
    }
    return bend_jax.fit(blobs_apply, variables, images, labels, **given | changes)


@cache
def plain() -> bend_jax.Ensemble:
    """Without any of it."""
    return small()


def test_augment_changes_what_is_trained_on_and_nothing_else() -> None:
    """A constant factor is a training on images with that factor; the vote sees images as they are."""
    variables, images, labels = blobs(48)
    augmented = small(augment=lambda keys, x: 2 * x)
    scaled = bend_jax.fit(
        blobs_apply,
        variables,
        2 * images,
        labels,
        subset="head",
        generate=bend_jax.Identity(),
        members=2,
        collect=bend_jax.Trajectory(k=2, batch=16, lr=0.1),
        validation=(images[::-1], labels[::-1]),
    )
    np.testing.assert_allclose(augmented.vectors, scaled.vectors, atol=1e-5)
    assert np.abs(augmented.vectors - plain().vectors).max() > 1e-3
    np.testing.assert_allclose(augmented.predict_proba(images), scaled.predict_proba(images), atol=1e-3)


def test_an_augmentation_may_be_told_which_view_it_gives() -> None:
    """There are two, 0 and 1: what is done to others changes nothing, what is done to one of them does."""
    same = small(augment=lambda keys, x: x).vectors
    others = small(augment=lambda keys, x, index: jnp.where(index < 2, x, 100 * x)).vectors
    second = small(augment=lambda keys, x, index: jnp.where(index == 1, 2 * x, x)).vectors
    np.testing.assert_array_equal(others, same)
    assert np.abs(second - same).max() > 1e-3
    np.testing.assert_array_equal(small(augment=lambda keys, x, factor=1: factor * x).vectors, same)  # its own default


def test_views_count_where_images_are_augmented() -> None:
    """The collector goes through as many as its settings say; of images as they are there is one."""
    found: list[int] = []

    def collect(
        model: Any, variables: Any, subset: Any, examples: Any, key: Any, settings: Any, *, callbacks: Any
    ) -> Any:
        found.append(settings.views)
        return plain().checkpoints

    own = replace(inputs.find_collector(bend_jax.Trajectory(k=2, batch=16, views=2)), collect=collect)
    small(collect=own)
    small(collect=own, augment=lambda keys, x: x)
    assert found == [1, 2]


def test_a_loss_of_ones_own_takes_the_place_of_cross_entropy() -> None:
    """Twice the cross-entropy at half the rate is the same training, weight decay apart; a loss that is constant in the
    head moves nothing."""
    settings = {"k": 2, "batch": 16, "weight_decay": 0.0}

    def twice(logits: Any, labels: Any) -> Any:
        assert (logits.shape, labels.shape) in [((16, 3), (16,)), ((2, 3), (2,))]
        return -2 * jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]

    one = small(collect=bend_jax.Trajectory(lr=0.1, **settings))
    other = small(collect=bend_jax.Trajectory(lr=0.05, **settings), loss=twice)
    np.testing.assert_allclose(other.vectors, one.vectors, atol=1e-5)
    with pytest.warns(UserWarning, match="all 2 checkpoints are the same"):
        still = small(collect=bend_jax.Bootstrap(epochs=1, **settings), loss=lambda logits, labels: 0 * logits[:, 0])
    base = np.concatenate([np.ravel(x) for x in jax.tree.leaves(blobs(48)[0]["params"]["head"])])
    np.testing.assert_array_equal(still.vectors, [base, base])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda logits, labels: logits.mean()},
            r"one number an image, \[n\], with no mean over images; .* gives \[\]",
        ),
        ({"loss": lambda logits, labels: 2 * logits}, r"one number an image, .* gives \[2, 3\]"),
        ({"loss": lambda logits: logits}, "loss.logits, labels. does not take logits"),
        (
            {"loss": lambda logits, y: logits[:, 0], "collect": bend_jax.Trajectory(k=2, label_smoothing=0.1)},
            "label_smoothing=0.1 is of the cross-entropy",
        ),
        ({"augment": lambda keys, x: x[:, :2]}, r"augment.*must give images as it gets them.*\(2, 5\).*\(2, 2\)"),
        ({"augment": lambda x: x}, r"augment\(keys \[n\], images \[n, ...\]\) does not take the images"),
    ],
)
def test_a_loss_or_augmentation_that_does_not_fit_is_told(changes: Any, message: str) -> None:
    """Before any training."""
    with pytest.raises(SettingsError, match=message) as error:
        small(**changes)
    assert "\n" not in str(error.value)


def test_a_vote_over_views_is_one_over_all_members_and_views() -> None:
    """By hand, for both votes and with weights; one view that changes nothing is no views; it is calibrated apart."""
    ensemble = plain().replace(weights=np.arange(1.0, 3.0))
    _, images, labels = blobs(48)
    views = (lambda x: x, lambda x: 3 * x, lambda x: -x)
    logits = jnp.concatenate([jnp.asarray(ensemble.member_logits(view(images))) for view in views])
    for name, vote in VOTES.items():
        expected = vote(logits, jnp.tile(jnp.arange(1.0, 3.0), 3))
        own = ensemble.replace(vote=name)
        scaled = metrics.scale_temperature(expected, own.temperature)
        np.testing.assert_allclose(own.predict_proba(images, views), scaled, atol=1e-5)
    np.testing.assert_array_equal(ensemble.predict(images, views), ensemble.predict_proba(images, views).argmax(1))
    np.testing.assert_array_equal(ensemble.predict_proba(images, views[:1]), ensemble.predict_proba(images))
    assert ensemble.predict_proba(images[:0], views).shape == (0, 3)
    fitted = ensemble.calibrated((images, labels), ("mean",), views)
    p = jnp.asarray(ensemble.votes(images, ("mean",), views)["mean"])
    assert fitted.temperature == pytest.approx(metrics.fit_temperature(p, jnp.asarray(labels)))
    assert fitted.temperature != pytest.approx(ensemble.calibrated((images, labels), ("mean",)).temperature)


@pytest.mark.parametrize("views", [(), "flip", (3,), lambda x: x])
def test_views_are_functions(views: Any) -> None:
    """At least one, in a tuple or list; a view of another shape is told as other images are."""
    images = blobs()[1]
    with pytest.raises(SettingsError, match="views are functions images -> images in a tuple or list, at least one"):
        inspect.unwrap(bend_jax.Ensemble.votes)(plain(), images, ("mean",), views)  # without its types
    with pytest.raises(SettingsError, match=r"images must be \[n, 5\]; they are \[80, 4\]"):
        plain().predict(images, (lambda x: x[:, :4],))


# ---- what is shown


def test_a_bar_and_the_line_at_the_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Base, vote and best null with their measures on validation; silent where no person looks, and where told so."""
    plain()
    assert capsys.readouterr() == ("", "")
    shown = small(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "trajectory:" in err
    assert "/6 [" in err
    (line,) = [line for line in err.splitlines() if "validation images:" in line]
    variables, images, labels = blobs(48)
    base = metrics.accuracy(jnp.argmax(blobs_apply(variables, jnp.asarray(images)), axis=1), jnp.asarray(labels))
    assert f"on 48 validation images: base {base:.2%}" in line
    p = jnp.asarray(shown.predict_proba(images))
    loss = metrics.nll(p, jnp.asarray(labels))
    assert f"vote of 2 {(p.argmax(1) == labels).mean():.2%} (NLL {loss:.4f}), best null (" in line
    np.testing.assert_array_equal(shown.vectors, plain().vectors)
    assert shown.temperature == plain().temperature
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert [is_wanted(x) for x in (None, True, False)] == [True, True, False]
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    assert [is_wanted(x) for x in (None, True, False)] == [False, True, False]


def test_the_best_null_is_not_the_generator_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """A Gaussian is held against the average of the checkpoints, whose figures it names."""
    ensemble = small(collect=plain().checkpoints, generate=bend_jax.Gaussian(), progress=True)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    _, images, labels = blobs(48)
    average = ensemble.replace(vectors=plain().checkpoints.vectors.mean(0)[None], weights=np.ones(1))
    p = jnp.asarray(average.calibrated((images, labels)).predict_proba(images))
    loss = metrics.nll(p, jnp.asarray(labels))
    assert line.endswith(f"best null (Average) {(p.argmax(1) == labels).mean():.2%} (NLL {loss:.4f})")


# ---- mistakes that would pass in silence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 3}, "rank=3 is of adapters, and the subset has none"),
        ({"augment": lambda keys, x: x[:2]}, "augment.*must give images as it gets them"),
        ({"validation": blobs(48)[1:]}, "the validation images are the training images"),
    ],
)
def test_what_would_mean_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    """Before any training."""
    with pytest.raises(SettingsError, match=message):
        small(**changes)


def test_a_view_gives_as_many_images_as_it_gets_and_nan_is_told() -> None:
    """Half the images would be labelled by others; NaN has no label."""
    images = blobs(48)[1]
    with pytest.raises(SettingsError, match="a view must give as many images as it gets; of 48 it gave 5"):
        small().predict(images, views=[lambda x: x[:5]])
    images = images.copy()
    images[3] = np.nan
    with pytest.warns(UserWarning, match="NaN on 1 of 48 images"):
        small().predict(images)


def test_what_does_not_fit_the_device_is_said_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """In a log too; not where it was told to be silent."""
    variables, images, labels = blobs(48)
    given: dict[str, Any] = {"subset": "head", "generate": bend_jax.Identity(), "members": 2}
    given |= {"collect": bend_jax.Trajectory(k=2, batch=16, lr=0.1), "validation": (images[::-1], labels[::-1])}
    for progress, said in ((None, True), (False, False)):
        loader = iter([(images[:24], labels[:24]), (images[24:], labels[24:])])
        bend_jax.fit(blobs_apply, variables, loader, progress=progress, **given)
        assert ("frozen features: " in capsys.readouterr().err) is said
