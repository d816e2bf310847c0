"""Your own model: an ensemble out of a trained network, whatever library its parameters come from."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bend_jax import batch_norm, ensemble, metrics, storage, subset
from bend_jax.checks import SettingsError
from bend_jax.collect import COLLECT, COLLECTORS, Collector, demand
from bend_jax.collect.independent import Independent
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.data import splits
from bend_jax.generate import GENERATE, GENERATORS, Generator, check_checkpoints, count_members
from bend_jax.generate.bend import Bend
from bend_jax.generate.identity import Identity
from bend_jax.rng import stream
from bend_jax.training import SILENT, Examples, Model, NonFiniteError, Watch

BATCH = 500  # images a program
STATISTICS = 2048  # images that members' BN statistics are measured on


@dataclass(frozen=True)
class Ensemble:
    """m members of one network that differ in a subset of its parameters.

    weights: of the members in the vote, all 1 but for boosting's own checkpoints; temperature: of the vote, fitted on
    validation images.
    """

    apply: Callable[..., Any]
    variables: Any
    chosen: subset.Subset
    vectors: Float[Array | np.ndarray, "m dim"]
    weights: Float[np.ndarray, " m"]
    temperature: float

    def member_logits(self, images: Any) -> Float[np.ndarray, "m n classes"]:
        """Logits of every member, the frozen part of the network once an image."""
        return np.concatenate([np.asarray(logits) for logits in _batches(self, images)], axis=1)

    def predict_proba(self, images: Any) -> Float[np.ndarray, "n classes"]:
        """The members' weighted vote after temperature scaling."""
        weights = jnp.asarray(self.weights, jnp.float32)
        votes = [ensemble.weighted_vote(logits, weights) for logits in _batches(self, images)]
        return np.concatenate([np.asarray(metrics.scale_temperature(vote, self.temperature)) for vote in votes])

    def predict(self, images: Any) -> Int[np.ndarray, " n"]:
        """The most probable label of `predict_proba`."""
        return self.predict_proba(images).argmax(axis=1)

    def save(self, directory: str | Path) -> None:
        """Write variables/, members/, subset.json and ensemble.json: whole or not at all.

        Raises FileExistsError where the folder is there already, ValueError for variables that are no nested dicts.
        """
        path = Path(directory).absolute()
        leaves = jax.tree.leaves(self.variables, is_leaf=lambda x: not isinstance(x, dict))
        if not all(hasattr(leaf, "shape") for leaf in leaves):
            raise ValueError("variables are saved as nested dicts of arrays; this tree has other containers in it")
        if path.exists():
            raise FileExistsError(f"{path} is there already: nothing was written; choose another folder")
        with storage.publishing(path, {"stage": "ensemble"}) as partial:
            storage.save_tree(partial.output / "variables", self.variables)
            storage.save_tree(partial.output / "members", {"vectors": self.vectors})
            storage.write_json(partial.output / "subset.json", subset.to_json(self.chosen))
            content = {"temperature": self.temperature, "weights": [float(w) for w in self.weights]}
            storage.write_json(partial.output / "ensemble.json", content)


def _batches(members: Ensemble, images: Any) -> Iterator[Float[Array, "m n classes"]]:
    """The members' logits on one batch of images after the other."""
    size, n = min(BATCH, len(images)), len(images)
    for begin in range(0, n, size):
        first = min(begin, n - size)  # the last batch is filled up with images that were seen before
        batch, vectors = jnp.asarray(images[first : first + size]), jnp.asarray(members.vectors)
        logits = ensemble.member_logits(members.apply, members.variables, members.chosen, vectors, batch)
        yield logits[:, begin - first :]


def load(directory: str | Path, apply: Callable[..., Any]) -> Ensemble:
    """The ensemble that `Ensemble.save` wrote, for the same pure `apply(variables, images) -> logits`.

    Raises FileNotFoundError where there is none, DamagedError where a file is not what was written.
    """
    path = Path(directory).absolute()
    if not storage.is_complete(path):
        raise FileNotFoundError(f"{path} holds no saved ensemble (no manifest.json)")
    storage.verify(path)
    content = storage.read_json(path / "ensemble.json")
    return Ensemble(
        apply,
        storage.load_tree(path / "variables"),
        subset.from_json(storage.read_json(path / "subset.json")),
        storage.load_tree(path / "members")["vectors"],
        np.asarray(content["weights"]),
        content["temperature"],
    )


def fit(
    apply: Callable[..., Any],
    variables: Any,
    images: Any,
    labels: Any,
    *,
    subset: str | list[str] | tuple[str, ...],
    collect: Collector = Trajectory(),  # noqa: B008
    generate: Generator = Bend(),  # noqa: B008
    members: int = 100,
    validation: tuple[Any, Any] | None = None,
    seed: int = 0,
    train_apply: Callable[..., Any] | None = None,
    init: Callable[..., Any] | None = None,
    watch: Watch = SILENT,
) -> Ensemble:
    """Collect checkpoints of a trained network's subset, generate members from them, and return their ensemble.

    apply(variables, images) -> logits [n, classes]: pure, in inference mode; images [n, ...]: exactly as apply takes
    them, no augmentation; labels [n]: whole numbers from 0; subset: comma-separated or listed patterns, e.g.
    "layer4.1.bn2"; validation: (images, labels) for temperature scaling, None for a stratified tenth of the images;
    train_apply, init: as in `Model`, for collectors that train BN or start anew.

    Raises ValueError (SettingsError) for input that does not fit, before any training; NonFiniteError for a NaN.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    chosen = _choose(variables, subset)
    _check(apply, variables, images, labels)
    if validation is None:
        held = splits.held_out(np.random.default_rng(seed), labels, max(1, round(len(labels) / 10)))
        (images, labels), validation = (images[~held], labels[~held]), (images[held], labels[held])
    else:
        _check(apply, variables, np.asarray(validation[0]), np.asarray(validation[1]))
    collector, generator = _name(collect, COLLECTORS), _name(generate, GENERATORS)
    batch = collect.base.batch if isinstance(collect, Independent) else collect.batch
    if members < 1 or batch > len(labels):
        raise SettingsError(f"members={members} must be at least 1, and batch={batch} at most {len(labels)} images")
    if not isinstance(collect, Independent | McBn):
        collect = dataclasses.replace(collect, views=1)  # images are not augmented: one view is all there is
    examples = Examples(jnp.asarray(images), jnp.asarray(labels, jnp.int32), lambda keys, x: x, lambda x: x)
    model = Model(apply, train_apply, init)
    check_checkpoints(collector, generator, members, collect.k)
    demand(model, variables, chosen, collect, watch.memory, count_members(generator, members, collect.k))
    key = stream(seed, "collect", collector)
    found = COLLECT[collector](model, variables, chosen, examples, key, collect, watch=watch)
    keys = jax.random.split(stream(seed, "generate", generator))
    fitted = GENERATE[generator].fit(found.vectors, keys[0], generate, watch=watch)
    drawn = GENERATE[generator].sample(fitted, keys[1], members)
    if batch_norm.must_measure(chosen, generator):
        key = stream(seed, "statistics")
        drawn = batch_norm.recompute(model, variables, chosen, drawn, examples, key, STATISTICS)
    vectors = np.asarray(drawn)
    if not np.isfinite(vectors).all():
        raise NonFiniteError(generator, "members")
    own = found.weights if isinstance(generate, Identity) else None
    weights = np.ones(len(vectors)) if own is None else np.asarray(own, np.float64)
    result = Ensemble(apply, variables, chosen, vectors, weights, 1.0)
    probabilities = jnp.asarray(result.predict_proba(validation[0]))
    temperature = metrics.fit_temperature(probabilities, jnp.asarray(validation[1], jnp.int32))
    return dataclasses.replace(result, temperature=float(temperature))


def _choose(variables: Any, patterns: str | list[str] | tuple[str, ...]) -> subset.Subset:
    words = [w.strip() for w in patterns.split(",")] if isinstance(patterns, str) else list(patterns)
    try:
        return subset.select(variables, words)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _check(apply: Callable[..., Any], variables: Any, images: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim != 1 or len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise SettingsError(
            f"labels must be whole numbers, one for each of the {len(images)} images; "
            f"{labels.dtype}{list(labels.shape)} came"
        )
    if np.issubdtype(images.dtype, np.floating) and not np.isfinite(images).all():
        raise SettingsError("the images hold NaN or Inf")
    logits = jax.eval_shape(apply, variables, jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype))
    if getattr(logits, "ndim", 0) != 2 or logits.shape[0] != 2:
        raise SettingsError(f"apply(variables, images) must give logits [n, classes]; for n = 2 it gives {logits}")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise SettingsError(f"labels go from {labels.min()} to {labels.max()}; apply gives {logits.shape[1]} classes")


def _name(settings: Any, table: dict[str, type]) -> str:
    for name, kind in table.items():
        if isinstance(settings, kind):
            return name
    kinds = ", ".join(kind.__name__ for kind in table.values())
    raise SettingsError(f"settings of one of {kinds} are expected; got {settings!r}")
