"""What training and inference cost, by operations: in epochs of the base's training (on all training images, those
that it has not seen too), in forward passes of the base."""

import math

import jax

from bend_jax.batch_norm import holds_statistics, mixes_statistics
from bend_jax.checks import names
from bend_jax.collect.collector import Cost, Work
from bend_jax.data.images import is_blank
from bend_jax.ensemble import chunk_size
from bend_jax.evaluation import memorisation
from bend_jax.files import free_memory
from bend_jax.generate.generator import Size
from bend_jax.operations import Operations, count, in_bytes, parts_of
from bend_jax.run.config import Compute
from bend_jax.run.context import RunContext, vectors_at_once


def operations(s: RunContext) -> Operations:
    """Counted by XLA from the programs' shapes; nothing is compiled."""
    images = s.examples.images
    return count(s.model, s.examples.plain, s.chosen, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype))


def memory_setting(s: RunContext) -> tuple[dict[str, int], dict[str, int]]:
    """What the digests of collect, and of the stages that run members, cover of compute.memory_mb: programs of more or
    fewer members, and features that are cached or streamed, may differ in their last bits. Nothing where neither it nor
    its default bounds anything, and nothing for the default, which no digest has covered from the first."""
    c, default = s.config, Compute().memory_mb
    if c.compute.memory_mb == default:
        return {}, {}
    images = s.examples.images
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    parts = parts_of(s.model, s.examples.plain, s.chosen, one)
    training = collect_cost(s, Operations(1.0, 1.0, 1.0, 1.0, parts))
    vectors = 2 + c.collect.settings.k + vectors_at_once(c) + memorisation.GRID**2
    running = 0 if parts.has_vector_kernel else vectors * c.evaluate.batch * parts.suffix_bytes
    least, covered = min(c.compute.memory_mb, default) * 2**20, {"memory_mb": c.compute.memory_mb}
    needed = (training.cached_bytes + training.trained_bytes, running)
    of_training, of_members = (covered if size > least else {} for size in needed)
    return of_training, of_members


def collect_cost(s: RunContext, ops: Operations) -> Cost:
    """Floating-point operations of the collector's trainings, and bytes of cached features."""
    images, memory = len(s.dataset.collected.labels), s.config.compute.memory_mb * 2**20
    algorithm = s.config.collect.algorithm
    return algorithm.cost(algorithm.settings, Work(ops, images, memory, holds_statistics(s.chosen)))


def base_epochs(s: RunContext) -> float:
    """What the base's training costs."""
    return s.config.base.epochs * len(s.dataset.train.labels) / s.dataset.training_images


def collect_epochs(s: RunContext, ops: Operations) -> float:
    """What the collector's training costs, in epochs of the base's training."""
    return collect_cost(s, ops).operations / (s.dataset.training_images * ops.step)


def generate_epochs(s: RunContext, name: str, m: int, ops: Operations) -> float:
    """What a generator costs, in epochs of the base's training: its nets, their samples, BN statistics, tuning."""
    c, generator = s.config, s.config.generate.algorithms[name]
    tried = len(c.generate.tune) if generator.knob else 0
    total = generator.cost(generator.settings, Size(c.collect.settings.k, s.chosen.dim, m, 1 + tried))
    if mixes_statistics(s.chosen) and not generator.draws_checkpoints:
        count = min(c.generate.statistics, len(s.dataset.train.labels))
        total += (tried + 1) * m * 2 * count * ops.forward
    total += tried * len(s.dataset.validation.labels) * (ops.forward + (m - 1) * ops.suffix)
    return total / (s.dataset.training_images * ops.step)


def forwards(ops: Operations, members: int, views: int) -> float:
    """What one image costs at inference, in forward passes of the base: the prefix once a view, the suffix once a
    member and view."""
    return views * (ops.forward + (members - 1) * ops.suffix) / ops.forward


def voters(s: RunContext) -> int:
    """Vectors that are evaluated: base, average, checkpoints, members of every generator that are not these."""
    k, generators = s.config.collect.settings.k, s.config.generate.algorithms.values()
    return 2 + k + sum(g.members(s.config.members, k) for g in generators if not g.is_all_checkpoints)


def counted(s: RunContext, ops: Operations) -> dict[str, float]:
    """Floating-point operations of each stage's networks, whatever the machine."""
    c, images = s.config, len(s.dataset.validation.labels) + len(s.dataset.test.labels)
    epoch = s.dataset.training_images * ops.step
    made = sum(
        generate_epochs(s, name, g.members(c.members, c.collect.settings.k), ops)
        for name, g in c.generate.algorithms.items()
    )
    return {
        "base": 0.0 if s.initial is not None and not c.backbone.init_head else base_epochs(s) * epoch,
        "collect": collect_cost(s, ops).operations,
        "generate": made * epoch,
        "evaluate": images * forwards(ops, voters(s), len(names(c.evaluate.views))) * ops.forward,
    }


def vector_bytes(s: RunContext) -> int:
    """Of checkpoints and of all vectors that are evaluated, each twice."""
    return 8 * s.chosen.dim * (s.config.collect.settings.k + voters(s))


def unmeasured(s: RunContext) -> str:
    """Why a dry run times nothing: this machine has no room for the images and vectors of the run. "" where it has."""
    splits = (s.dataset.train, s.dataset.unseen, s.dataset.validation, s.dataset.test)
    images = sum(split.images.nbytes for split in splits if split is not None and is_blank(split.images))
    vectors, free = vector_bytes(s), free_memory()
    if free is None or images + vectors <= free:
        return ""
    needed = (
        f"images take {in_bytes(images)} and vectors {in_bytes(vectors)}"
        if images
        else f"vectors take {in_bytes(vectors)}"
    )
    return f"time      not measured: {needed}, and {in_bytes(free)} are free on this machine"


def describe(s: RunContext) -> str:
    """Lines of dimensions, and of the split point, of one run; nothing is compiled."""
    assert s.model.init is not None
    c, seen, n = s.config, len(s.dataset.train.labels), s.dataset.training_images
    variables = jax.eval_shape(s.model.init, jax.random.key(0))
    image = s.dataset.train.images.shape[1:]
    ops = operations(s)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    cache, memory = collect_cost(s, ops).cached_bytes, c.compute.memory_mb * 2**20
    how = "cached" if cache <= memory else f"streamed (compute.memory_mb={c.compute.memory_mb})"
    features = f"features of all views: {in_bytes(cache)}, {how}" if cache else "no features are cached"
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
        f"split     features of one image: {shapes} ({in_bytes(ops.parts.feature_bytes)}); "
        f"{in_bytes(ops.parts.suffix_bytes)} of intermediates for each member and image",
        f"collect   {c.collect.settings.k} checkpoints by {c.collect.name}; {features}",
        f"members   {c.members}; {min(fitting, c.members)} at once on {batch} images within {c.compute.memory_mb} MiB",
        f"counted   {', '.join(f'{name} {x:.2g}' for name, x in counted(s, ops).items())} floating-point operations",
    ]
    return "\n".join(lines)
