"""What every stage of a run shares, checked before the first one starts."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bend_jax import devices, models, recipe, subset, training
from bend_jax.checks import SettingsError
from bend_jax.collect.collector import Problem, check_requirements
from bend_jax.data import augment, out_of_distribution, sources, splits
from bend_jax.data.images import is_blank
from bend_jax.files import free_memory
from bend_jax.models import airbench, pytorch
from bend_jax.run.config import Backbone, Config

WHITENED = 5000  # training images, at most, whose patches the first layer of an airbench network whitens


class RunContext(NamedTuple):
    """What every stage of one run shares."""

    config: Config
    config_name: str
    seed: int
    workdir: Path
    dataset: splits.Dataset
    examples: training.Examples  # the training split, on the device
    collected: training.Examples  # what the collector is fitted on: the same, or images that the base has not seen
    model: training.Model
    chosen: subset.Subset
    ood: dict[str, sources.Images]  # other data sets by name, like the test images
    initial: Any = None  # variables of a trained model (--init): the run starts at collect
    mesh: Mesh | None = None  # the devices that share the work; None: one


@lru_cache
def network(b: Backbone, num_classes: int, image_shape: tuple[int, ...]) -> training.Model:
    """The configured backbone as a Model: one and the same for the same arguments, so that what is traced and compiled
    for one run of a comparison serves the others. Raises SettingsError for a name or shape that cannot be built."""
    try:
        module = models.build(b.name, num_classes, widths=b.widths, blocks=b.blocks, patch=b.patch, dtype=b.dtype)
        one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        jax.eval_shape(module.init, jax.random.key(0), one)  # is the image large enough?
    except ValueError as error:
        raise SettingsError(f"backbone: {error}") from None

    def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
        logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, {**variables, **updates}

    init = jax.jit(lambda key: module.init(key, jnp.zeros((1, *image_shape))))
    return training.Model(module.apply, train_apply, init)


def prepare(
    config: Config,
    config_name: str,
    seed: int,
    workdir: Path,
    dataset: splits.Dataset,
    init: str = "",
    *,
    dry: bool = False,
) -> RunContext:
    """Everything that a run needs before its first stage. Raises SettingsError; writes nothing.

    init: a trained model's file, "" for none; dry: as `sources.read` takes it.
    """
    mesh = devices.all_devices()
    devices_count = devices.count(mesh)
    if config.base.batch > len(dataset.train.labels):
        raise SettingsError(
            f"base.batch={config.base.batch} is more than the {len(dataset.train.labels)} training images"
        )
    if config.base.batch % devices_count:
        raise SettingsError(
            f"base.batch={config.base.batch} is split over {devices_count} devices: give a multiple of their number, "
            "or use fewer of them (CUDA_VISIBLE_DEVICES)"
        )
    view, plain = augment.transforms(config.data)
    examples = training.Examples(*_placed(dataset.train, mesh), view, plain)
    unseen = dataset.unseen
    collected = examples if unseen is None else training.Examples(*_placed(unseen, mesh), view, plain)
    model, draw = _network(config, dataset, plain, drawn=not init)
    shapes = jax.eval_shape(draw, jax.random.key(0))
    recipe.factors(config.base, shapes)  # are their names the network's?
    try:
        chosen = subset.select(shapes, config.collect.subset, config.collect.rank)
    except ValueError as error:
        raise SettingsError(f"collect.subset: {error}") from None
    problem = Problem(model, shapes, chosen, len(dataset.collected.labels), devices_count, unseen is not None)
    memory = config.compute.memory_mb * 2**20
    try:
        check_requirements(config.collect.algorithm, problem, memory, vectors_at_once(config))
    except SettingsError as error:
        raise SettingsError(f"collect: {error}") from None
    ood = out_of_distribution.load_others(config.data, config.evaluate.ood, dataset.test.images, dry=dry)
    initial = _initial(config, init, shapes)
    return RunContext(
        config, config_name, seed, workdir, dataset, examples, collected, model, chosen, ood, initial, mesh
    )


def _initial(config: Config, init: str, shapes: Any) -> Any:
    """The variables of the trained model in the file `init`; None for "". Raises SettingsError."""
    if not init:
        if config.data.init_unseen:
            raise SettingsError(
                f"data.init_unseen={config.data.init_unseen} says what a trained network has not seen, and none was "
                "given: add --init=FILE; to train one instead, --config.data.init_unseen="
            )
        if config.backbone.init_head:
            raise SettingsError(
                "backbone.init_head=new keeps a trained network but for its last layer, and none was given: "
                "add --init=FILE"
            )
        return None
    initial = pytorch.load_init(Path(init), shapes, new_head=bool(config.backbone.init_head))
    if not config.data.init_unseen:
        raise SettingsError(
            "--init: temperatures, tuning and choices are made on validation images, which must not be among those "
            "that the network was trained on: say which it has not seen, --config.data.init_unseen=validation (it left "
            "out the same images) or =test (it has seen every training image; a part of the test images validates)"
        )
    return initial


def _network(config: Config, dataset: splits.Dataset, plain: Any, *, drawn: bool) -> tuple[training.Model, Any]:
    """The model and its initialisation, which looks at training images where the first layer is to whiten them."""
    model = network(config.backbone, dataset.num_classes, dataset.train.images.shape[1:])
    assert model.init is not None
    if not drawn or models.BACKBONES[config.backbone.name].net is not airbench.Airbench:
        return model, model.init
    draw = airbench.whitened(model.init, np.asarray(plain(jnp.asarray(dataset.train.images[:WHITENED]))))
    return model._replace(init=draw), draw


def _placed(split: sources.Split, mesh: Mesh | None) -> tuple[Any, Any]:
    """Images and labels on the devices; of a stand-in that does not fit (`cost.unmeasured`), one."""
    if is_blank(split.images) and split.images.nbytes > (free_memory() or math.inf):
        split = sources.Split(split.images[:1], split.labels[:1])
    return devices.replicate((jnp.asarray(split.images), jnp.asarray(split.labels)), mesh)


def vectors_at_once(config: Config) -> int:
    """How many vectors of members a run holds at once: all generators' while they are evaluated, or those of all values
    of a knob while one is tuned; each twice, as they are put side by side."""
    k = config.collect.settings.k
    each = [generator.members(config.members, k) for generator in config.generate.algorithms.values()]
    return 2 * max(sum(each), len(config.generate.tune) * max(each))
