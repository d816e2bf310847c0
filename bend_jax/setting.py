"""What every stage of a run shares, checked before the first one starts."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bend_jax import convert, data, models, shift, sources, subset, training
from bend_jax.checks import SettingsError
from bend_jax.collect.features import demand
from bend_jax.config import Config
from bend_jax.settings import count_members


class Setting(NamedTuple):
    """What every stage of one run shares."""

    config: Config
    config_name: str
    seed: int
    workdir: Path
    dataset: data.Dataset
    examples: training.Examples  # the training split, on the device
    model: training.Model
    chosen: subset.Subset
    ood: dict[str, sources.Images]  # other data sets by name, like the test images
    initial: Any = None  # variables of a trained model (--init): the run starts at collect


def network(config: Config, num_classes: int, image_shape: tuple[int, ...]) -> training.Model:
    """The configured backbone as a Model. Raises SettingsError for a name or shape that cannot be built."""
    b = config.backbone
    try:
        module = models.build(b.name, num_classes, widths=b.widths, blocks=b.blocks, dtype=b.dtype)
    except ValueError as error:
        raise SettingsError(f"backbone: {error}") from None

    def train_apply(variables: Any, images: Any, key: Any) -> tuple[Any, Any]:
        logits, updates = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, {**variables, **updates}

    init = jax.jit(lambda key: module.init(key, jnp.zeros((1, *image_shape))))
    return training.Model(module.apply, train_apply, init)


def prepare(
    config: Config, config_name: str, seed: int, workdir: Path, dataset: data.Dataset, init: str = ""
) -> Setting:
    """Everything that a run needs before its first stage. Raises SettingsError; writes nothing.

    init: a trained model's file, "" for none.
    """
    n = len(dataset.train.labels)
    batches = {"base.batch": config.base.batch, "collect.batch": getattr(config.collect.settings, "batch", 1)}
    for name, batch in batches.items():
        if batch > n:
            raise SettingsError(f"{name}={batch} is more than the {n} training images")
    view, plain = data.transforms(config.data)
    examples = training.Examples(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels), view, plain)
    model = network(config, dataset.num_classes, dataset.train.images.shape[1:])
    assert model.init is not None
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    try:
        chosen = subset.select(shapes, config.collect.subset)
    except ValueError as error:
        raise SettingsError(f"collect.subset: {error}") from None
    demand(model, shapes, chosen, config.collect.settings, config.compute.memory_mb * 2**20, _vectors(config))
    ood = shift.load_others(config.data, config.evaluate.ood, dataset.test.images)
    initial = convert.load_init(Path(init), shapes) if init else None
    return Setting(config, config_name, seed, workdir, dataset, examples, model, chosen, ood, initial)


def _vectors(config: Config) -> int:
    """How many vectors of members a run holds at once: all generators' while they are evaluated, or those of all values
    of a knob while one is tuned; each twice, as they are put side by side."""
    k = config.collect.settings.k
    each = [count_members(name, config.members, k) for name in config.generate.settings]
    return 2 * max(sum(each), len(config.generate.tune) * max(each))
