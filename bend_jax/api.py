"""Three verbs for a network of your own, whatever library its parameters come from: collect, generate, vote."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from bend_jax import batch_norm, batches, compilation, conformal, devices, inputs, modules
from bend_jax.against import closing_line, judge
from bend_jax.collect.collector import Checkpoints, Problem, check_requirements, sameness
from bend_jax.collect.trajectory import Trajectory
from bend_jax.display import Display
from bend_jax.ensemble import VOTES, Ensemble, check_votes
from bend_jax.generate.bend import Bend
from bend_jax.generate.generator import Reestimate, check_finite, fit_generator, mixed_adapters
from bend_jax.inputs import Inputs
from bend_jax.rng import stream
from bend_jax.subset import RANK, Subset
from bend_jax.training import SILENT, Callbacks, Examples, Model

STATISTICS = 2048  # images that members' BN statistics are re-estimated on


def collect_checkpoints(
    model: Model,
    variables: Any,
    examples: Examples,
    *,
    subset: Subset,
    collect: Any = Trajectory(),  # noqa: B008
    seed: int = 0,
    callbacks: Callbacks = SILENT,
) -> Checkpoints:
    """k checkpoints of a subset of a trained network's parameters: vectors [k, dim], weights [k] or None.

    collect: settings of a collector, or a Collector of your own. Raises SettingsError for what the collector cannot
    do, NonFiniteError where training meets a NaN or Inf.
    """
    collector = inputs.find_collector(collect)
    images = examples.labels.shape[0]
    problem = Problem(model, variables, subset, images, devices.count(callbacks.mesh))
    check_requirements(collector, problem, callbacks.memory)
    key = stream(seed, "collect", collector.name)
    return collector.collect(model, variables, subset, examples, key, collector.settings, callbacks=callbacks)


def generate_members(
    checkpoints: Checkpoints,
    *,
    generate: Any = Bend(),  # noqa: B008
    members: int = 100,
    seed: int = 0,
    reestimate: Reestimate | None = None,
    callbacks: Callbacks = SILENT,
) -> Float[Array, "m dim"]:
    """New vectors [m, dim] out of checkpoints; a generator may give fewer than `members`.

    generate: settings of a generator, or a Generator of your own; reestimate: vectors -> vectors with BN statistics of
    their own, for a subset that holds weights and statistics (`reestimator`); callbacks: also `score` (`scorer`), for a
    generator that chooses by validation images, and the `subset`, for one that looks at tensors. Raises
    SettingsError for checkpoints that the generator cannot do with, NonFiniteError where its training or its members
    hold a NaN or Inf.
    """
    generator = inputs.find_generator(generate)
    fitted = fit_generator(generator, checkpoints.vectors, seed=seed, reestimate=reestimate, callbacks=callbacks)
    warning = sameness(checkpoints.vectors)
    if warning:
        warnings.warn(warning, stacklevel=2)
    found = fitted.draw(members)
    check_finite(generator.name, np.asarray(found))
    return found


def reestimator(
    model: Model, variables: Any, subset: Subset, examples: Examples, *, seed: int = 0, images: int = STATISTICS
) -> Reestimate | None:
    """The function that estimates the BN statistics of given members on about `images` training images.

    None where the subset does not hold both weights and statistics: all members then keep the base's statistics.
    """
    if not batch_norm.mixes_statistics(subset):
        return None
    key = stream(seed, "statistics")
    return lambda vectors: batch_norm.recompute(model, variables, subset, vectors, examples, key, images)


def scorer(
    model: Model,
    variables: Any,
    subset: Subset,
    validation: tuple[Any, Any],
    *,
    plain: Callable[..., Any] = lambda images: images,
    reestimate: Reestimate | None = None,
) -> Callable[[Any], np.ndarray]:
    """score(vectors [n, dim]) -> [n]: the accuracy of each on (images, labels) that the network was not trained on.

    For `Callbacks(score=...)`, which a generator that chooses by validation images looks at. plain: images as they are
    stored -> as apply takes them; reestimate: as in `generate_members`.
    """
    images, labels = validation

    def apply(variables: Any, images: Any) -> Any:
        return model.apply(variables, plain(images))

    def score(vectors: Any) -> np.ndarray:
        vectors = vectors if reestimate is None else reestimate(vectors)
        members = Ensemble(apply, variables, subset, vectors, np.ones(len(vectors)))
        return np.mean(np.argmax(members.member_logits(images), axis=2) == np.asarray(labels)[None], axis=1)

    return score


def fit(
    network: Any,
    *data: Any,
    subset: str | Sequence[str],
    rank: int = RANK,
    collect: Any = Trajectory(),  # noqa: B008
    generate: Any = Bend(),  # noqa: B008
    members: int = 100,
    validation: tuple[Any, Any] | None = None,
    unseen: bool = False,
    votes: Sequence[str] = tuple(VOTES),
    augment: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    seed: int = 0,
    train_apply: Callable[..., Any] | None = None,
    init: Callable[..., Any] | None = None,
    callbacks: Callbacks = SILENT,
    progress: bool | None = None,
) -> Ensemble:
    """Collect checkpoints of a trained network's subset, generate members from them, and return their ensemble.

    `fit(module, images, labels, ...)` takes a Flax NNX or Equinox module, `fit(apply, variables, images, labels, ...)`
    any other network. One iterable of batches may stand in the place of images and labels.

    - module: run in inference mode, by its own call (`modules.adapt`). An Equinox module with state is (module, state).
    - apply(variables, images) -> logits [n, classes]: a pure function, in inference mode.
    - variables: any tree of arrays. Where it has no "params", all of it is parameters.
    - images [n, ...]: exactly as the network takes them, an array or a tree of arrays with n rows each, of real or
      whole numbers. A tuple is the arguments of a module's call; apply gets any tree as it is.
    - labels [n]: whole numbers from 0; or, with validation images of their own or none, probabilities [n, classes] such
      as other networks' vote (distillation, Hinton et al. 2015).
    - batches: of (images, labels), such as a loader of grain; read once, for the features of the frozen part. These are
      kept on the device where they fit callbacks.memory, else in the host's memory.
    - subset: the leaves in which members differ; patterns with commas between or in a list, such as "layer4.1.bn2".
      With "lora:" in front of a pattern ("lora:blocks.*.attn.qkv"), adapters of these linear layers instead (see
      `select`); rank: of the adapters.
    - collect: settings of a collector, a `Collector` of your own, or checkpoints (`ensemble.checkpoints`).
    - generate: settings of a generator, or a `Generator` of your own.
    - members: m, how many members to generate.
    - validation: (images, labels) that the network was not trained on, for the choice of the vote and its temperature,
      and for a generator that chooses by them.
    - unseen: True where the network was trained on none of `images`: a stratified tenth of them then is the validation.
    - votes: the votes that the validation chooses from, by NLL after temperature scaling: the mean of probabilities and
      the logarithmic opinion pool. Without validation the first one is taken.
    - augment(keys [n], images) -> images: of the training images, one random key each; the collector's `views` says how
      many augmented views of each are seen in turn. With a third argument that has no default it is told which view it
      gives, counted from 0. None: the images as they are.
    - loss(logits [n, classes], labels) -> [n]: what the collector minimises the mean of; None: cross-entropy.
    - seed: of all randomness.
    - train_apply, init: as in `Model`, for collectors that train BN or start anew. An NNX module has its train_apply;
      init of a module gives a module.
    - callbacks: of the trainings.
    - progress: whether to show bars and, at the end, a line with base, vote and best null on validation (`against`),
      for which m more members run on the validation images. None: on a terminal and in a notebook. What the memory
      holds, and what does not fit, is a line on stderr wherever fit runs; False: nothing is said.

    Without validation images the vote is the first of `votes` and the temperature 1, and a warning says so. Compiled
    programs are kept on disk (`compilation`). Raises
    ValueError (SettingsError) for input that does not fit, before any training; NonFiniteError for a NaN or Inf.
    """
    check_votes(votes)
    model, variables, data = modules.read_network(network, data, train_apply, init)
    given = inputs.check(
        model._replace(loss=loss),
        variables,
        data,
        subset=subset,
        rank=rank,
        collect=collect,
        generate=generate,
        members=members,
        validation=validation,
        held_out_seed=seed if unseen else None,
        augment=augment,
        callbacks=callbacks,
    )
    with compilation.kept(), Display(progress) as display:
        return _fit(given, members, votes, seed, display.watching(callbacks), display)


def _fit(
    given: Inputs, members: int, votes: Sequence[str], seed: int, callbacks: Callbacks, display: Display
) -> Ensemble:
    """The three verbs on what was checked."""
    checkpoints = given.checkpoints or _collect(given, seed, callbacks, display)
    reestimate, score = None, callbacks.score
    if given.examples is not None:
        reestimate = reestimator(given.model, given.variables, given.subset, given.examples, seed=seed)
    if score is None and given.validation is not None:
        score = scorer(given.model, given.variables, given.subset, given.validation, reestimate=reestimate)
    how: Any = {"members": members, "seed": seed, "reestimate": reestimate}
    how["callbacks"] = callbacks._replace(score=score, subset=given.subset)
    warning = mixed_adapters(given.generator, checkpoints.vectors, given.subset)
    if warning:
        warnings.warn(warning, stacklevel=3)
    vectors = generate_members(checkpoints, generate=given.generator, **how)
    weights = checkpoints.weights if given.generator.is_all_checkpoints else None
    weights = np.ones(len(vectors)) if weights is None else np.asarray(weights, np.float64)
    made = Ensemble(
        given.model.apply,
        given.variables,
        given.subset,
        np.asarray(vectors),
        weights,
        checkpoints=checkpoints,
        image=given.image,
        vote=votes[0],
    )
    if given.validation is None:
        warnings.warn(
            "no validation images that the network has not seen: the temperature stays 1, since on images that it was "
            "trained on every vote looks surer than it may be; give validation=(images, labels), or unseen=True where "
            "the network was trained on none of the images",
            stacklevel=3,
        )
        return made
    own = judge(made, given.validation, votes)
    if display.is_shown:
        how["callbacks"] = SILENT._replace(memory=callbacks.memory, subset=given.subset)
        kind = given.generator.settings
        draw = partial(generate_members, checkpoints, **how | {"members": len(vectors)})
        line = closing_line(made, own, given.validation, votes, kind, lambda null: draw(generate=null))
        display.say(line)
    calibration = conformal.calibrate(own.probabilities, np.asarray(given.validation[1]))
    return made.replace(vote=own.vote, temperature=own.temperature, calibration=calibration)


def _collect(given: Inputs, seed: int, callbacks: Callbacks, display: Display) -> Checkpoints:
    """The checkpoints of the collector, on the images or on the features of batches that are read now."""
    assert given.collector is not None
    model, examples = given.model, given.examples
    if examples is None:
        assert given.batches is not None
        how = (given.view, given.collector.settings, stream(seed, "features"), callbacks, display.each)
        model, examples = batches.read(given.model, given.variables, given.subset, given.batches, *how)
    return collect_checkpoints(
        model,
        given.variables,
        examples,
        subset=given.subset,
        collect=given.collector,
        seed=seed,
        callbacks=callbacks,
    )
