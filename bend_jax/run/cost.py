"""What training and inference cost, by operations: in epochs of the base's training (on all training images, those
that it has not seen too), in forward passes of the base."""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bend_jax.batch_norm import holds_statistics, must_measure
from bend_jax.checks import names
from bend_jax.collect.boosting import Boosting
from bend_jax.collect.bootstrap import Bootstrap
from bend_jax.collect.cyclical import Cyclical
from bend_jax.collect.independent import Independent
from bend_jax.collect.mc_bn import McBn
from bend_jax.collect.trajectory import Trajectory
from bend_jax.data import corruptions
from bend_jax.ensemble import chunk_size
from bend_jax.generate import KNOBS, autoencoder
from bend_jax.generate.autoencoder import Autoencoder
from bend_jax.run.context import Setting
from bend_jax.split import Cut, cut
from bend_jax.subset import Subset, insert
from bend_jax.training import Model, cross_entropy

UPDATE = 6  # operations a parameter and example of a training step of dense layers


class Operations(NamedTuple):
    """Floating-point operations for one image, and the cut at the vector that they belong to."""

    forward: float  # the base
    step: float  # a training step of the base
    suffix: float  # of a member, once the features are there
    suffix_step: float  # a training step of the subset on features
    parts: Cut


def operations(s: Setting) -> Operations:
    """Counted by XLA from the programs' shapes; nothing is compiled."""
    images = s.examples.images
    return _count(s.model, s.examples.plain, s.chosen, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))


@lru_cache
def _count(model: Model, plain: Callable[..., Any], chosen: Subset, raw: jax.ShapeDtypeStruct) -> Operations:
    assert model.init is not None
    variables = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.eval_shape(plain, raw)
    vector = jax.ShapeDtypeStruct((chosen.dim,), jnp.float32)

    def loss(variables: Any, x: Any) -> Any:
        return jnp.sum(cross_entropy(model.apply(variables, x), jnp.zeros(1, jnp.int32)))

    def parts(variables: Any) -> Cut:
        return cut(lambda v, x: model.apply(insert(chosen, variables, v), x), vector, image)

    def prefix(variables: Any, x: Any) -> Any:
        return parts(variables).prefix(x)

    def tail(v: Any, variables: Any, x: Any) -> Any:
        own = parts(variables)
        features = own.prefix(x)
        return jax.grad(lambda v: jnp.sum(cross_entropy(own.suffix(v, features), jnp.zeros(1, jnp.int32))))(v)

    found: list[Cut] = []
    jax.eval_shape(
        lambda variables: found.append(parts(variables)) or 0, variables
    )  # shapes alone: tracers stay inside
    forward, first = flops(model.apply, variables, image), flops(prefix, variables, image)
    return Operations(
        forward,
        step=flops(jax.grad(loss), variables, image),
        suffix=max(forward - first, 0.0),
        suffix_step=max(flops(tail, vector, variables, image) - first, 0.0),
        parts=found[0],
    )


def flops(fn: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of a program, counted by XLA before it optimises; a loop's body counts once. Lowered
    for the CPU: of other backends XLA counts nothing before compilation."""
    shapes = jax.eval_shape(lambda *values: values, *arguments)
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names other platforms alone
        cost = jax.jit(fn).lower(*shapes).compile().cost_analysis()
    else:
        with jax.default_device(cpu):
            cost = jax.jit(fn).lower(*shapes).cost_analysis()
    return float((cost or {}).get("flops", 0.0))


def cache_bytes(s: Setting, ops: Operations) -> int:
    """Of the features of all views of the training images; 0 for a collector that trains on none."""
    settings = s.config.collect.settings
    if isinstance(settings, Independent | McBn) or _trains_whole(s):
        return 0
    numbers = sum(math.prod(shape) for shape in ops.parts.feature_shapes)
    return settings.views * len(s.dataset.collected.labels) * numbers * jnp.dtype(settings.cache_dtype).itemsize


def _trains_whole(s: Setting) -> bool:
    settings = s.config.collect.settings
    drifts = isinstance(settings, Trajectory) and settings.statistics == "drift"
    return drifts or holds_statistics(s.chosen)


def base_epochs(s: Setting) -> float:
    """What the base's training costs."""
    return s.config.base.epochs * len(s.dataset.train.labels) / s.dataset.training_images


def collect_epochs(s: Setting, ops: Operations) -> float:
    """What the collector's training costs, in epochs of the base's training."""
    settings = s.config.collect.settings
    if isinstance(settings, Independent):
        return float((settings.k - 1) * settings.base.epochs)
    if isinstance(settings, McBn):
        return settings.k * 2 * settings.batch * ops.forward / (s.dataset.training_images * ops.step)
    return _fine_tuning_epochs(s, settings, ops) * len(s.dataset.collected.labels) / s.dataset.training_images


def _fine_tuning_epochs(s: Setting, settings: Trajectory | Bootstrap | Cyclical | Boosting, ops: Operations) -> float:
    """In epochs of the base's training on the images that the collector is fitted on."""
    epochs, shared = _epochs(settings, ops.parts.has_vector_kernel)
    labelled = settings.k * ops.forward / ops.step if isinstance(settings, Boosting) else 0.0
    if _trains_whole(s):
        return epochs + labelled
    is_cached = cache_bytes(s, ops) <= s.config.compute.memory_mb * 2**20
    passes = settings.views if is_cached else shared
    return labelled + (passes * (ops.forward - ops.suffix) + epochs * ops.suffix_step) / ops.step


def _epochs(settings: Trajectory | Bootstrap | Cyclical | Boosting, is_kernel: bool) -> tuple[int, int]:
    """(epochs of training, epochs in which features are read) of a fine-tuning collector; bootstraps read them once for
    all, but where a convolution's kernel depends on the vector they are trained one after the other."""
    if isinstance(settings, Trajectory):
        return settings.k, settings.k
    if isinstance(settings, Bootstrap):
        return settings.k * settings.epochs, settings.epochs * (settings.k if is_kernel else 1)
    if isinstance(settings, Cyclical):
        epochs = (settings.k - 1) // settings.per_cycle * settings.epochs
        return epochs, epochs
    return (settings.k - 1) * settings.epochs, (settings.k - 1) * settings.epochs


def generate_epochs(s: Setting, name: str, m: int, ops: Operations) -> float:
    """What a generator costs, in epochs of the base's training: its nets, their samples, and BN statistics."""
    total, dim, k = 0.0, s.chosen.dim, s.config.collect.settings.k
    settings = s.config.generate.settings[name]
    coder = getattr(settings, "autoencoder", None)
    if coder is not None and coder.kind != "pca":
        total += coder.steps * _coder_step(coder, k, dim)
    if name == "bend":
        d = settings.diffusion  # pyright: ignore[reportAttributeAccessIssue]
        latent = min(coder.latent if coder else dim, k - 1)
        weights = d.width * (2 * latent + d.width * (1 + 2 * d.blocks))
        draws = d.timesteps if d.sampler == "ddpm" else d.ddim_steps
        total += weights * (UPDATE * d.steps * d.batch + 2 * draws * m * (1 + len(s.config.generate.tune)))
    tried = len(s.config.generate.tune) if name in KNOBS else 0
    if must_measure(s.chosen, name):
        count = min(s.config.generate.statistics, len(s.dataset.train.labels))
        total += (tried + 1) * m * 2 * count * ops.forward
    total += tried * len(s.dataset.validation.labels) * (ops.forward + (m - 1) * ops.suffix)
    return total / (s.dataset.training_images * ops.step)


def _coder_step(settings: Autoencoder, k: int, dim: int) -> float:
    """Operations of a training step of an autoencoder on k vectors: three times those of a pass."""

    def both(params: Any, vectors: Any) -> Any:
        return autoencoder.decode(params, autoencoder.encode(params, vectors, settings), dim, settings)

    vectors = jax.ShapeDtypeStruct((k, dim), jnp.float32)
    params = jax.eval_shape(lambda x: autoencoder.initial(x, jax.random.key(0), settings), vectors)
    return 3 * flops(both, params, vectors)


def forwards(ops: Operations, members: int, views: int) -> float:
    """What one image costs at inference, in forward passes of the base: the prefix once a view, the suffix once a
    member and view."""
    return views * (ops.forward + (members - 1) * ops.suffix) / ops.forward


EFFICIENCY = 0.2  # of a matrix product's rate that convolutional training was seen to reach (2 CPU cores)


def describe(s: Setting) -> str:
    """Lines of dimensions, split point, memory and time of one run; compiles a matrix product, trains nothing."""
    assert s.model.init is not None
    c, seen, n = s.config, len(s.dataset.train.labels), s.dataset.training_images
    variables = jax.eval_shape(s.model.init, jax.random.key(0))
    image = s.dataset.train.images.shape[1:]
    ops = operations(s)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    cache, memory = cache_bytes(s, ops), c.compute.memory_mb * 2**20
    how = "cached" if cache <= memory else f"streamed (compute.memory_mb={c.compute.memory_mb})"
    features = f"features of all views: {_size(cache)}, {how}" if cache else "no features are cached"
    batch = min(c.evaluate.batch, len(s.dataset.validation.labels), len(s.dataset.test.labels))
    fitting = chunk_size(ops.parts._replace(suffix_bytes=batch * ops.parts.suffix_bytes), memory)
    shapes = ", ".join("x".join(map(str, shape)) for shape in ops.parts.feature_shapes)
    unseen = f" ({n - seen} for the collector alone)" if n > seen else ""
    counts = (
        f"{n} training{unseen}, {len(s.dataset.validation.labels)} validation, {len(s.dataset.test.labels)} test images"
    )
    lines = [
        f"data      {c.data.name}: {counts} of {'x'.join(map(str, image))}, {s.dataset.num_classes} classes",
        f"backbone  {c.backbone.name}: {parameters:,} parameters ({parameters * 4 / 2**20:.1f} MiB)",
        f"subset    {','.join(c.collect.subset)}: {s.chosen.dim} numbers in {len(s.chosen.paths)} leaves "
        f"({', '.join(s.chosen.paths[:4])}{', ...' if len(s.chosen.paths) > 4 else ''})",
        f"split     features of one image: {shapes} ({_size(ops.parts.feature_bytes)}); "
        f"{_size(ops.parts.suffix_bytes)} of intermediates for each member and image",
        f"collect   {c.collect.settings.k} checkpoints by {c.collect.name}; {features}",
        f"members   {c.members}; {min(fitting, c.members)} at once on {batch} images within {c.compute.memory_mb} MiB",
    ]
    return "\n".join([*lines, _seconds(s, ops)])


def _seconds(s: Setting, ops: Operations) -> str:
    """Time by operations of the base's training, the collector's and the members."""
    c, n = s.config, s.dataset.training_images
    many = len(s.dataset.test.labels) + len(s.dataset.validation.labels)
    voters = c.collect.settings.k + c.members * (1 + len(c.generate.nulls))
    shifted = len(names(c.evaluate.corruptions)) * len(corruptions.SEVERITIES) * len(s.dataset.test.labels)
    shifted += sum(len(images) for images in s.ood.values())
    rate = EFFICIENCY * _matrix_rate()
    parts_of = {
        "base": base_epochs(s) * n * ops.step,
        "collect": collect_epochs(s, ops) * n * ops.step,
        "evaluate": many * (ops.forward + voters * ops.suffix) + shifted * (ops.forward + c.members * ops.suffix),
    }
    texts = [f"{name} {_duration(flops / rate)}" for name, flops in parts_of.items()]
    basis = f"by operations, at {rate / 1e9:.0f} GFLOP/s: {EFFICIENCY:.0%} of a matrix product here"
    return f"time      in its order of magnitude {', '.join(texts)}; and compilation ({basis})"


def _matrix_rate() -> float:
    """Floating-point operations a second of a matrix product on this device, the best of five."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((size, size))
    product = jax.jit(jnp.dot)
    product(x, x).block_until_ready()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
