"""One vote over several networks, whatever their architectures."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bend_jax import conformal, ensemble, labelled, metrics, modules, saved, storage
from bend_jax.batching import rows
from bend_jax.checks import SettingsError, expanded
from bend_jax.ensemble import VOTES, Ensemble, check_votes, choose_vote
from bend_jax.example import Example, as_arrays
from bend_jax.subset import Subset
from bend_jax.training import Model

FOLDS = 5  # of the validation images, for the choice of vote and weights


class Combination(flax.struct.PyTreeNode, eq=False):
    """Several networks or ensembles of them that vote together. A pytree, as `Ensemble` is.

    - networks: an Ensemble each; a network alone is one of a single member in which nothing differs.
    - weights: of the networks in the vote, [networks], at least 0, with sum 1.
    - temperature: of the vote.
    - vote: "mean" of the networks' probabilities or "pool", the logarithmic opinion pool of them.
    - calibration: what conformal sets of this vote are calibrated with, as of an `Ensemble`; None without validation.
    """

    networks: tuple[Ensemble, ...]
    weights: Float[Array | np.ndarray, " networks"]
    temperature: Any = 1.0
    vote: str = flax.struct.field(pytree_node=False, default="mean")
    calibration: Any = None

    def member_logits(self, images: Any) -> Any:
        """[m, n, classes]: logits of all members of all networks, one network after the other."""
        whole = jnp.concatenate([network.member_logits(images) for network in self.networks])
        return ensemble.joined([whole], axis=0)

    def opinions(self, images: Any) -> Float[Array, "networks n classes"]:
        """The logarithm of each network's own probabilities, which an Ensemble scales with its own temperature.

        Raises SettingsError where the networks do not tell the same number of classes apart.
        """
        found = [jnp.asarray(network.predict_proba(images)) for network in self.networks]
        _check_classes([p.shape[1] for p in found])
        return _logarithms(found)

    def predict_proba(self, images: Any) -> Any:
        """[n, classes]: the networks' weighted vote after temperature scaling."""
        check_votes((self.vote,))
        vote = VOTES[self.vote](self.opinions(images), jnp.asarray(self.weights, jnp.float32))
        return ensemble.joined([metrics.scale_temperature(vote, self.temperature)], axis=0)

    def predict(self, images: Any) -> Any:
        """[n]: the most probable label of `predict_proba`."""
        return self.predict_proba(images).argmax(axis=1)

    def predict_set(self, images: Any, coverage: float = 0.9, method: str = "lac") -> Bool[np.ndarray, "n classes"]:
        """[n, classes]: which labels are in the conformal set of each image, as `Ensemble.predict_set` gives them, with
        the same methods. Weights, vote and temperatures are chosen on the same validation images, so that the promise
        holds the less exactly, the fewer these are. Raises SettingsError for a combination without validation images
        and for too few of them."""
        conformal.check_calibration(self.calibration, coverage)
        return conformal.sets(self.calibration, conformal.scores(self.predict_proba(images)), method, coverage)

    def save(self, directory: str | Path) -> None:
        """Write a new folder, whole or not at all: combination.json, calibration/ where it is known, and each network
        as `Ensemble.save` does under network_0, network_1 and so on. Raises FileExistsError where the folder is there
        already."""
        path = expanded(directory).absolute()
        if path.exists():
            raise FileExistsError(f"{path} is there already: nothing was written; choose another folder")
        content = {
            "networks": len(self.networks),
            "weights": [float(w) for w in self.weights],
            "temperature": float(self.temperature),
            "vote": self.vote,
        }
        with storage.publishing(path, {"stage": "combination"}) as partial:
            for i, network in enumerate(self.networks):
                network.save(partial.output / f"network_{i}")
            if self.calibration is not None:
                storage.save_tree(partial.output / "calibration", self.calibration._asdict())
            storage.write_json(partial.output / "combination.json", content)


def load_combination(
    directory: str | Path, applies: Sequence[Callable[..., Any]], variables: Sequence[Any] = ()
) -> Combination:
    """What `Combination.save` wrote, for the same `apply` functions in the same order.

    variables: of each network, needed where one's are no nested dicts, as in `load`. Raises what `load` raises, and
    SettingsError where there is not one apply for each network.
    """
    path = expanded(directory).absolute()
    if not (path / "combination.json").exists():
        raise FileNotFoundError(f"{path} holds no saved combination (no combination.json)")
    storage.verify(path, "restore this folder from a copy, or save the combination again")
    with saved.reading(path):
        content = storage.read_json(path / "combination.json")
        count, vote, weights = content["networks"], content["vote"], np.asarray(content["weights"], np.float64)
        check_votes((vote,))
        saved.check_vote(str(path), content["temperature"], weights, count)
    if len(applies) != count or len(variables) not in (0, count):
        raise SettingsError(
            f"the combination in {path} has {count} networks: give one apply for each, and variables for all of them "
            f"or for none; {len(applies)} and {len(variables)} came"
        )
    trees = variables or [None] * count
    networks = [ensemble.load(path / f"network_{i}", applies[i], trees[i]) for i in range(count)]
    kept = path / "calibration"  # not of one without validation images, or of an earlier version
    calibration = conformal.Calibration(**storage.load_tree(kept)) if kept.exists() else None
    return Combination(tuple(networks), weights, content["temperature"], vote, calibration)


def combine(
    networks: Any, *, validation: tuple[Any, Any] | None = None, votes: Sequence[str] = tuple(VOTES)
) -> Combination:
    """One vote over several trained networks, with weights and a temperature from validation images.

    - networks: a list of pairs (apply, variables) and modules as `fit` takes them, and of Ensembles; all for the same
      images and classes. What one network does to the images first, such as its normalisation, belongs into its apply.
    - validation: (images, labels) that no network was trained on. First each network alone gets the temperature of
      least NLL, then the vote gets its weights and its temperature.
    - votes: the votes that validation chooses from: the mean of probabilities and the logarithmic opinion pool.

    The choice is by NLL in five-fold cross-validation on these images. Weights are fitted (`fit_weights`) only where
    that makes the NLL lower by more than its standard error, and else equal: on a few hundred images fitted weights of
    networks that are about as good lose more than they gain.

    Without validation all weights are equal, the vote is the first one and the temperature 1, and a warning says so.
    Raises ValueError (SettingsError) for input that does not fit, before any network runs on all images.
    """
    check_votes(votes)
    members = _networks(networks)
    equal = Combination(members, np.full(len(members), 1 / len(members)), vote=votes[0])
    if validation is None:
        warnings.warn(
            "no validation images that the networks have not seen: all weights are equal, the vote is "
            f"{votes[0]!r} and the temperature 1; give validation=(images, labels)",
            stacklevel=2,
        )
        return equal
    images, labels = _check_validation(members, validation)
    return _fitted(equal, images, labels, votes)


def _fitted(equal: Combination, images: Any, labels: np.ndarray, votes: Sequence[str]) -> Combination:
    """The combination with the temperatures, the vote and the weights of least NLL."""
    y, scaled, networks = jnp.asarray(labels), [], []
    for i, network in enumerate(equal.networks):
        own = jnp.asarray(network.replace(temperature=1.0).predict_proba(images))
        if not jnp.isfinite(own).all():
            raise SettingsError(f"network {i} gives NaN on the validation images: look at its variables and its images")
        networks.append(network.replace(temperature=metrics.fit_temperature(own, y)))
        scaled.append(metrics.scale_temperature(own, networks[i].temperature))
    opinions = _logarithms(scaled)
    vote, weights = _choose(votes, opinions, labels)
    found = _vote(vote, opinions, weights)
    _, temperature = choose_vote({vote: found}, labels)
    calibration = conformal.calibrate(metrics.scale_temperature(found, temperature), labels)
    return Combination(tuple(networks), weights, temperature, vote, calibration)


def _choose(
    votes: Sequence[str], opinions: Float[Array, "networks n classes"], labels: Int[np.ndarray, " n"]
) -> tuple[str, Float[np.ndarray, " networks"]]:
    """(vote, weights): the vote of least held-out NLL with equal weights, or, where its NLL is lower by more than the
    standard error of the difference, that with fitted ones."""
    n, equal = len(labels), np.full(len(opinions), 1 / len(opinions))
    fold = np.random.default_rng(0).permutation(n) % FOLDS
    losses = {(vote, kind): np.zeros(n) for kind in ("equal", "fitted") for vote in votes}
    for held in (fold == f for f in range(FOLDS)):
        rest = opinions[:, ~held]
        for (vote, kind), loss in losses.items():
            weights = equal if kind == "equal" else fit_weights(vote, rest, labels[~held])
            temperature = metrics.fit_temperature(_vote(vote, rest, weights), jnp.asarray(labels[~held]))
            p = np.asarray(metrics.scale_temperature(_vote(vote, opinions[:, held], weights), temperature))
            loss[held] = -np.log(np.maximum(p[np.arange(held.sum()), labels[held]], metrics.TINY))
    plain, fitted = (min(votes, key=lambda v, k=kind: losses[v, k].mean()) for kind in ("equal", "fitted"))
    gain = losses[plain, "equal"] - losses[fitted, "fitted"]
    if gain.mean() > gain.std() / math.sqrt(n):
        return fitted, fit_weights(fitted, opinions, labels)
    return plain, equal


def _vote(vote: str, opinions: Float[Array, "networks n classes"], weights: Any) -> Float[Array, "n classes"]:
    return VOTES[vote](opinions, jnp.asarray(weights, jnp.float32))


def _logarithms(probabilities: list[Array]) -> Float[Array, "networks n classes"]:
    return jnp.log(jnp.maximum(jnp.stack(probabilities), metrics.TINY))


def fit_weights(
    vote: str, opinions: Float[Array, "networks n classes"], labels: Int[Array | np.ndarray, " n"]
) -> Float[np.ndarray, " networks"]:
    """Weights of a vote over networks, at least 0 and with sum 1, of least NLL on n validation images (stacking:
    Wolpert 1992, Breiman 1996; of a pool: Heskes 1998).

    opinions: the networks' log-probabilities. Both problems are convex in a >= 0, and the weights are a / sum(a). The
    mean's: -mean log(sum_i a_i p_i(label)) + sum(a), whose minimum has sum(a) = 1. The pool's: the NLL of
    softmax(sum_i a_i log p_i), where 1 / sum(a) is the temperature, so that weights and temperature are fitted as one.
    """
    from scipy.optimize import minimize

    count, y = len(opinions), jnp.asarray(labels)

    def loss(a: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _loss(jnp.asarray(a, jnp.float32), opinions, y, vote)
        return float(value), np.asarray(slope, np.float64)

    start, bounds = np.full(count, 1 / count), [(0.0, None)] * count
    a = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    return a / a.sum() if a.sum() > 0 else start


@partial(jax.jit, static_argnames="vote")
@jax.value_and_grad
def _loss(
    a: Float[Array, " networks"], opinions: Float[Array, "networks n classes"], labels: Int[Array, " n"], vote: str
) -> Float[Array, ""]:
    """What `fit_weights` minimises."""
    if vote == "mean":
        p = jnp.exp(jnp.take_along_axis(opinions, labels[None, :, None], axis=2)[:, :, 0])
        return jnp.sum(a) - jnp.mean(jnp.log(jnp.maximum(a @ p, metrics.TINY)))
    log_p = jax.nn.log_softmax(jnp.tensordot(a, opinions, axes=1, precision="highest"), axis=1)
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def _networks(given: Any) -> tuple[Ensemble, ...]:
    """Every network as an Ensemble. Raises SettingsError."""
    if isinstance(given, Ensemble) or not isinstance(given, Sequence) or not given:
        came = "an empty one" if isinstance(given, Sequence) and not given else type(given).__name__
        raise SettingsError(f"networks is a list of (apply, variables), modules or Ensembles, at least one; got {came}")
    return tuple(_network(i, own) for i, own in enumerate(given))


def _network(i: int, given: Any) -> Ensemble:
    if isinstance(given, Ensemble):
        return given
    found = modules.adapt(given)
    if found is not None:
        given = found[0].apply, found[1]
    if not isinstance(given, tuple | list) or len(given) != 2 or not callable(given[0]):
        raise SettingsError(f"network {i} must be (apply, variables), a module or an Ensemble; got {_kind(given)}")
    apply, variables = given
    return Ensemble(apply, variables, Subset((), ()), np.zeros((1, 0), np.float32), np.ones(1))


def _kind(given: Any) -> str:
    """What came, without its arrays."""
    inner = f" of {', '.join(type(x).__name__ for x in given)}" if isinstance(given, tuple | list) else ""
    return type(given).__name__ + inner


def _check_validation(members: tuple[Ensemble, ...], validation: Any) -> tuple[Any, np.ndarray]:
    """(images, labels) as arrays that every network takes. Raises SettingsError, naming the network."""
    for i, own in enumerate(members):
        model = Model(own.apply)
        try:
            images, _ = labelled.check_images(model, own.variables, validation, "validation images")
            labelled.check_outputs(model, own.variables, rows(images, slice(labelled.TRIED)))
        except SettingsError as error:
            raise SettingsError(f"network {i}: {error}") from None
    images, labels = as_arrays(validation[0]), np.asarray(validation[1])
    one = Example.of(images).batch(1)
    _check_classes([jax.eval_shape(own.apply, own.variables, one).shape[1] for own in members])
    if labels.min() == labels.max():
        raise SettingsError(
            f"all validation labels are {labels[0]}: weights and a temperature need images of at least two classes"
        )
    return images, labels


def _check_classes(counts: Sequence[int]) -> None:
    """Raise SettingsError where networks tell different numbers of classes apart."""
    if len(set(counts)) > 1:
        own = ", ".join(f"network {i}: {count}" for i, count in enumerate(counts))
        raise SettingsError(f"the networks must tell the same classes apart; they give different numbers ({own})")
