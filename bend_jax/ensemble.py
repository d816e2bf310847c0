"""An ensemble: all m members at once, the votes over them, and what `fit` returns."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from bend_jax import conformal, devices, metrics, modules, saved
from bend_jax.batching import batch_size, rows
from bend_jax.checks import SettingsError, expanded
from bend_jax.example import Example, as_arrays
from bend_jax.split import Cut, cut
from bend_jax.subset import Subset, insert
from bend_jax.training import MEMORY

BATCH = 500  # images a program
View = Callable[[Any], Any]  # images -> images
FEW = 5  # validation images for one number
LEAST = -1e30  # the least log-probability in a pool: a weight of 0 times the -inf of a masked class is no number


def chunk_size(parts: Cut, memory: int = MEMORY) -> int:
    """How many members fit into `memory` bytes at once; one where a convolution's kernel depends on the vector
    (vmap would make grouped convolutions of them, which are slow on every device)."""
    if parts.has_vector_kernel:
        return 1
    return max(1, memory // max(parts.suffix_bytes, 1))


@partial(jax.jit, static_argnames=("apply", "subset", "chunk", "mesh"))
def member_logits(
    apply: Callable[..., Any],
    variables: Any,
    subset: Subset,
    vectors: Float[Array, "m dim"],
    images: Any,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "m n classes"]:
    """Logits of every member: `apply(insert(subset, variables, vector), images)` for each vector.

    What does not depend on the vector runs once; the rest is vmapped over at most `chunk` members at a time (None: as
    many as fit 1 GiB of intermediates; on a CPU half of them at most). On a mesh (see `devices`) the first is split by
    images, the rest by members, `chunk` of them at a time on each device; what comes and what is returned is whole on
    every device. Calls with the same apply, subset and shapes do not retrace. Raises ValueError for a chunk below 1,
    and for vectors that do not fit the subset.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None for what fits; got {chunk}")
    parts = cut(lambda vector, x: apply(insert(subset, variables, vector), x), vectors[0], images)
    m, shares = vectors.shape[0], devices.count(mesh)
    features = devices.gather(parts.prefix(devices.shard_rows(images, mesh)), mesh)
    own = -(-m // shares)  # of one device
    size = min(chunk_size(parts) if chunk is None else chunk, own)
    if jax.default_backend() == "cpu":  # XLA opens a loop of one round, and then fuses the prefix's convolutions into
        size = min(size, max(own // 2, 1))  # the suffix's mean: 2.7 times slower for 4 images of a ResNet-18

    def run(vectors: Array, suffix: Any, features: Any) -> Array:
        return jax.lax.map(lambda vector: suffix(vector, features), vectors, batch_size=size if size > 1 else None)

    padded = jnp.pad(vectors, ((0, -m % shares), (0, 0)), mode="edge")  # the last member again, for idle devices
    logits = devices.over_members(run, mesh, 1)(padded, parts.suffix, features)
    return devices.gather(logits[:m], mesh)


@partial(jax.jit, static_argnames="num_classes")
def majority_vote(predictions: Int[Array, "m n"], num_classes: int) -> Int[Array, " n"]:
    """sBEND (BEND, Algorithm 1): the most frequent label; ties go to the lowest class."""
    return jnp.argmax(metrics.counts(predictions, num_classes), axis=1).astype(jnp.int32)


@jax.jit
def sampled_vote(key: Key[Array, ""], predictions: Int[Array, "m n"]) -> Int[Array, " n"]:
    """aBEND (BEND, Algorithm 2): a label drawn with its share of the votes, independently for each image.

    That is the label of a member drawn uniformly for each image.
    """
    m, n = predictions.shape
    chosen = jax.random.randint(key, (n,), 0, m)
    return predictions[chosen, jnp.arange(n)]


@jax.jit
def mean_vote(logits: Float[Array, "m n classes"]) -> Float[Array, "n classes"]:
    """The average of the members' probabilities."""
    return jnp.mean(jax.nn.softmax(logits, axis=-1), axis=0)


@jax.jit
def weighted_vote(logits: Float[Array, "m n classes"], weights: Float[Array, " w"]) -> Float[Array, "n classes"]:
    """Probabilities averaged with these weights: sum_m w_m p_m / sum_m w_m.

    Raises ValueError where there is not one weight for each member.
    """
    return _averaged(jax.nn.softmax(logits, axis=-1), weights)


@jax.jit
def pool_vote(logits: Float[Array, "m n classes"], weights: Float[Array, " w"]) -> Float[Array, "n classes"]:
    """The logarithmic opinion pool (Genest & Zidek 1986): probabilities in proportion to prod_m p_m^(w_m / sum w).

    Of all distributions q it has the least sum_m w_m KL(q || p_m) (Heskes 1998). With equal weights it is the softmax
    of the members' mean logits. Raises ValueError where there is not one weight for each member.
    """
    return jax.nn.softmax(_averaged(jnp.maximum(jax.nn.log_softmax(logits, axis=-1), LEAST), weights), axis=-1)


def _averaged(values: Float[Array, "m n classes"], weights: Float[Array, " w"]) -> Float[Array, "n classes"]:
    """The weighted mean over members."""
    if weights.shape != values.shape[:1]:
        raise ValueError(f"weights of shape {list(weights.shape)} came for {values.shape[0]} members: one for each")
    return jnp.tensordot(weights / jnp.sum(weights), values, axes=1, precision="highest")


# of an `Ensemble`: (logits, weights) -> probabilities
VOTES: dict[str, Callable[..., Array]] = {"mean": weighted_vote, "pool": pool_vote}


def choose_vote(
    candidates: Mapping[str, Float[Array | np.ndarray, "n classes"]], labels: Int[Array | np.ndarray, " n"]
) -> tuple[str, float]:
    """(name, temperature) of the vote of least NLL on these validation images, each after its own temperature scaling;
    ties: the first one.

    Every vote has one fitted number, so that none fits the images better by its freedom. A warning tells of a
    temperature at the end of its range.
    """
    y, best = jnp.asarray(labels), ("", 1.0, math.inf)
    for name, p in candidates.items():
        temperature = metrics.fit_temperature(jnp.asarray(p), y)
        loss = float(metrics.nll(metrics.scale_temperature(jnp.asarray(p), temperature), y))
        best = min(best, (name, temperature, loss), key=lambda found: found[2])
    name, temperature, _ = best
    if len(y) < FEW:
        warnings.warn(
            f"a temperature fitted on {len(y)} validation images is little more than a guess: give more of them",
            stacklevel=4,
        )
    low, high = metrics.TEMPERATURES
    if not low * 1.01 < temperature < high / 1.01:
        warnings.warn(
            f"the temperature {temperature:.3g} is at the end of its range, {low:g} to {high:g}: on the validation "
            "images the votes have little to do with the labels, or are always right; look at both",
            stacklevel=4,
        )
    return name, temperature


@partial(jax.jit, static_argnames="size")
def greedy_weights(likelihoods: Float[Array, "m n"], size: int) -> Float[Array, " m"]:
    """How often each member is chosen into the greedy vote (Caruana et al. 2004), as shares that sum to 1.

    likelihoods: each member's probability of the true label of n validation images. Members are added one at a time,
    with replacement, each the one that lowers the NLL of the mean most (ties: the first), until there are `size`; of
    the ensembles on the way the one of least NLL is returned, so that it has at most `size` members.
    """
    m, n = likelihoods.shape

    def add(state: tuple[Array, Array], count: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        total, chosen = state
        losses = -jnp.mean(jnp.log(jnp.maximum((total[None] + likelihoods) / count, metrics.TINY)), axis=1)
        best = jnp.argmin(losses)
        chosen = chosen.at[best].add(1.0)
        return (total + likelihoods[best], chosen), (losses[best], chosen)

    _, (losses, path) = jax.lax.scan(add, (jnp.zeros(n), jnp.zeros(m)), jnp.arange(1.0, size + 1))
    kept = jnp.argmin(losses)
    return path[kept] / (kept + 1.0)


@partial(jax.jit, static_argnames="num_classes")
def vote_probabilities(predictions: Int[Array, "m n"], num_classes: int) -> Float[Array, "n classes"]:
    """sBEND and aBEND as probabilities: (votes + 1/classes) / (m + 1), so that the NLL is finite."""
    return (metrics.counts(predictions, num_classes) + 1.0 / num_classes) / (predictions.shape[0] + 1.0)


def as_they_are(images: Any) -> Any:
    """The view that changes nothing."""
    return images


def check_votes(names: Sequence[str]) -> None:
    """Raise SettingsError for votes that an ensemble does not have, and for none."""
    if isinstance(names, str) or not names or not set(names) <= set(VOTES):
        raise SettingsError(f"votes are some of {', '.join(VOTES)}, in a tuple or list; got {names!r}")


class Ensemble(flax.struct.PyTreeNode, eq=False):
    """m members of one network that differ in a subset of its parameters. A pytree: `jax.jit`, `jax.vmap`, `jax.grad`
    and `jax.device_put` take it.

    - apply(variables, images) -> logits [n, classes]: pure, in inference mode.
    - variables: the base's.
    - subset: the leaves in which members differ.
    - vectors: the members, [m, dim].
    - weights: of the members in the vote, all 1 but for boosting's own checkpoints.
    - temperature: of the vote.
    - vote: "mean" of probabilities (`weighted_vote`) or "pool", the logarithmic opinion pool (`pool_vote`).
    - checkpoints: the vectors [k, dim] that the members were made from, and their weights.
    - image: shapes and dtypes of one image (`Example`); None where they are not known.
    - calibration: what conformal sets of this vote are calibrated with (`conformal.Calibration`); None without
      validation images. It is of these vectors, weights, vote and temperature: whoever replaces one replaces it too.
    """

    apply: Callable[..., Any] = flax.struct.field(pytree_node=False)
    variables: Any
    subset: Subset = flax.struct.field(pytree_node=False)
    vectors: Float[Array | np.ndarray, "m dim"]
    weights: Float[Array | np.ndarray, " m"]
    temperature: Any = 1.0
    checkpoints: Any = None
    image: Any = flax.struct.field(pytree_node=False, default=None)
    vote: str = flax.struct.field(pytree_node=False, default="mean")
    calibration: Any = None

    def __repr__(self) -> str:
        m, dim = self.vectors.shape[-2:]
        first = "".join(f": {path} ..." for path in self.subset.paths[:1])
        return f"Ensemble({m} members of {dim} numbers in {len(self.subset.paths)} leaves{first})"

    def __eq__(self, other: object) -> bool:
        """Whether everything is the same: the function, the subset, and the bits of every array."""
        if not isinstance(other, Ensemble):
            return NotImplemented
        mine, other_leaves = jax.tree.leaves(self), jax.tree.leaves(other)
        same = jax.tree.structure(self) == jax.tree.structure(other)
        return same and all(np.array_equal(x, y) for x, y in zip(mine, other_leaves, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def member_logits(self, images: Any) -> Any:
        """[m, n, classes]: logits of every member, the frozen part of the network once an image. images: [n, ...], also
        with n = 0, or a tree of such arrays, as those that the ensemble was made with.

        Raises ValueError (SettingsError) for images of another shape than those that the ensemble was made with.
        """
        return joined(list(self._batches(images)), axis=1)

    def predict_proba(self, images: Any, views: Sequence[View] = (as_they_are,)) -> Any:
        """[n, classes]: the members' weighted vote, `vote`, after temperature scaling.

        views: functions images -> images, such as `lambda images: images[:, :, ::-1]`; then all members vote on all
        views. The temperature is the ensemble's; `calibrated` fits one for views.
        """
        vote = jnp.asarray(self.votes(images, (self.vote,), views)[self.vote])
        found = joined([metrics.scale_temperature(vote, self.temperature)], axis=0)
        wrong = 0 if isinstance(found, Tracer) else int(np.isnan(found).any(axis=1).sum())
        if wrong:
            warnings.warn(
                f"the network gives NaN on {wrong} of {len(found)} images: their labels mean nothing", stacklevel=2
            )
        return found

    def votes(
        self, images: Any, names: Sequence[str] = tuple(VOTES), views: Sequence[View] = (as_they_are,)
    ) -> dict[str, Any]:
        """By name, [n, classes]: these weighted votes over members and views before temperature scaling. The members
        run once for all."""
        check_votes(names)
        if not isinstance(views, tuple | list) or not views or not all(callable(view) for view in views):
            raise SettingsError(f"views are functions images -> images in a tuple or list, at least one; got {views!r}")
        weights = jnp.tile(jnp.asarray(self.weights, jnp.float32), len(views))
        batches = [[VOTES[name](logits, weights) for name in names] for logits in self._batches(images, views)]
        return {name: joined(list(own), axis=0) for name, own in zip(names, zip(*batches, strict=True), strict=True)}

    def predict(self, images: Any, views: Sequence[View] = (as_they_are,)) -> Any:
        """[n]: the most probable label of `predict_proba`."""
        return self.predict_proba(images, views).argmax(axis=1)

    def predict_set(
        self, images: Any, coverage: float = 0.9, method: str = "lac", views: Sequence[View] = (as_they_are,)
    ) -> Bool[np.ndarray, "n classes"]:
        """[n, classes]: which labels are in the conformal set of each image, so that a new image's set holds its label
        with a probability of at least `coverage`, over draws of the validation images too (module `conformal`).

        method: "lac" (the smallest sets, which may be empty), "aps" or "raps" (which hold the label of `predict`), or
        "class_conditional" (the same probability within each class); views: those that `calibrated` was given. The
        promise is exact for a vote and a temperature that were fixed beforehand; `fit` chooses these two on the same
        validation images (docs/evaluate.md says what that costs). Raises SettingsError for an ensemble without
        validation images and for too few of them.
        """
        conformal.check_calibration(self.calibration, coverage)
        return conformal.sets(self.calibration, conformal.scores(self.predict_proba(images, views)), method, coverage)

    def calibrated(
        self, validation: tuple[Any, Any], votes: Sequence[str] = tuple(VOTES), views: Sequence[View] = (as_they_are,)
    ) -> "Ensemble":
        """The ensemble with the vote and the temperature of least NLL (`choose_vote`) over these views of (images,
        labels) that the network was not trained on, and with what conformal sets of that vote need."""
        found = self.votes(validation[0], votes, views)
        vote, temperature = choose_vote(found, validation[1])
        scaled = metrics.scale_temperature(jnp.asarray(found[vote]), temperature)
        calibration = conformal.calibrate(scaled, np.asarray(validation[1]))
        return self.replace(vote=vote, temperature=temperature, calibration=calibration)

    def _batches(self, images: Any, views: Sequence[View] = (as_they_are,)) -> Iterator[Float[Array, "m n classes"]]:
        """The members' logits on one batch of images after the other, those of one view after those of the other;
        inside a traced program on all images at once."""
        images = as_arrays(images)
        self._check(images)
        n, vectors = batch_size(images), jnp.asarray(self.vectors)
        traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((self, images)))
        size = n if traced else min(BATCH, n)
        if n == 0:
            classes = jax.eval_shape(self.apply, self.variables, Example.of(images).batch(1)).shape[1]
            yield jnp.zeros((vectors.shape[0] * len(views), 0, classes))
            return
        for begin in range(0, n, size):
            first = min(begin, n - size)  # the last batch is filled up with images that were seen before
            batch = jax.tree.map(jnp.asarray, rows(images, slice(first, first + size)))
            seen = [view(batch) for view in views]
            for own in seen:
                self._check(own)
                if batch_size(own) != size:
                    raise SettingsError(
                        f"a view must give as many images as it gets; of {size} it gave {batch_size(own)}"
                    )
            logits = [member_logits(self.apply, self.variables, self.subset, vectors, own) for own in seen]
            yield jnp.concatenate(logits).astype(jnp.float32)[:, begin - first :]

    def _check(self, images: Any) -> None:
        """Raise SettingsError for images that are not like those of the training."""
        reason = None if self.image is None else self.image.misfit(images)
        if reason:
            raise SettingsError(reason)

    def save(self, directory: str | Path) -> None:
        """Write the ensemble into a new folder, whole or not at all: variables/, members/, subset.json, ensemble.json,
        and checkpoints/ and calibration/ where they are known.

        Variables that are nested dicts of arrays, as those of an NNX module, are saved as they are, other trees as a
        list of their leaves, which `load` puts back into the tree that it is given. Raises FileExistsError where the
        folder is there already.
        """
        content = {
            "temperature": float(self.temperature),
            "vote": self.vote,
            "weights": [float(w) for w in self.weights],
            "classes": self.classes,
            "image": None if self.image is None else self.image.to_json(),
        }
        saved.write(expanded(directory).absolute(), content, self)

    @property
    def classes(self) -> int | None:
        """How many classes the network tells apart; None where the image is not known."""
        if self.image is None:
            return None
        return jax.eval_shape(self.apply, self.variables, self.image.batch(1)).shape[1]


def joined(parts: list[Array], axis: int) -> Any:
    """The parts as one NumPy array; inside a traced program there is one part, which stays as it is."""
    if isinstance(parts[0], Tracer):
        return parts[0]
    return np.concatenate([np.asarray(part) for part in parts], axis=axis)


def load(directory: str | Path, network: Any, variables: Any = None) -> Ensemble:
    """The ensemble that `Ensemble.save` wrote, for the same network: a pure `apply(variables, images) -> logits`, or a
    Flax NNX or Equinox module of the same structure, whose values are not used.

    variables: a tree of the same structure, needed where the saved ones were no nested dicts (a tuple, a FrozenDict,
    the state of an NNX module); its values are not used. Raises FileNotFoundError where there is no ensemble,
    DamagedError where a file is not what was written, SettingsError for an apply or a tree that does not fit.
    """
    found = modules.adapt(network)
    apply, variables = (network, variables) if found is None else (found[0].apply, found[1])
    path = expanded(directory).absolute()
    content, tree, subset, vectors, *known = saved.read(path, variables)
    if found is not None:
        saved.check_same(str(path), tree, variables)
    with saved.reading(path):
        m, _ = saved.shape_of(f"{path}: vectors", vectors, 2)
        saved.check_vote(str(path), content["temperature"], content["weights"], m)
        weights, image = np.asarray(content["weights"], np.float64), Example.from_json(content.get("image"))
        vote = content.get("vote", "mean")  # of an earlier version: always the mean
        check_votes((vote,))
        parts = (weights, content["temperature"], known[0], image, vote, known[1])
        result = Ensemble(apply, tree, subset, vectors, *parts)
    try:
        _ = result.classes
    except Exception as error:  # noqa: BLE001  of a network that was made for other variables
        found = f"{type(error).__name__}: {str(error).split(chr(10))[0]}"
        raise SettingsError(f"this network does not take the variables and images of {path}: {found}") from None
    saved.check(str(path), result, content.get("classes"))
    return result
