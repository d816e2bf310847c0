"""What training and inference cost, by operations: in epochs of the base's training (on all training images, those
that it has not seen too), in forward passes of the base."""

import math
import time

import jax
import jax.numpy as jnp

from bend_jax.batch_norm import holds_statistics, mixes_statistics
from bend_jax.checks import names
from bend_jax.collect.collector import Cost, Work
from bend_jax.data import corruptions
from bend_jax.ensemble import chunk_size, member_logits
from bend_jax.evaluation import memorisation
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


EFFICIENCY = 0.2  # of a matrix product's rate that convolutional training was seen to reach (2 CPU cores)


def describe(s: RunContext) -> str:
    """Lines of dimensions, split point, memory and time of one run; compiles a matrix product, trains nothing."""
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
    ]
    return "\n".join([*lines, _memory(s, ops), _seconds(s, ops)])


RUNTIME = 512 * 2**20  # of a process with Python, JAX and some compiled programs


def evaluate_bytes(s: RunContext, ops: Operations) -> tuple[int, int]:
    """(all, of it in the program of the members): what the stage evaluate takes at its most, on the device and in the
    host together. The program is compiled for its shapes; nothing runs."""
    assert s.model.init is not None
    c, images, classes = s.config, s.dataset.train.images, s.dataset.num_classes
    validation, test = len(s.dataset.validation.labels), len(s.dataset.test.labels)
    k, views, batch = c.collect.settings.k, len(names(c.evaluate.views)), min(c.evaluate.batch, validation, test)
    sets = [1, 1, k, *(g.members(c.members, k) for g in c.generate.algorithms.values())]
    voters, largest = sum(sets) * views, max(sets) * views
    program = _program_bytes(s, ops, sum(sets), batch)
    vectors, logits = 8 * sum(sets) * s.chosen.dim, 4 * voters * batch * classes
    votes = 3 * 4 * largest * batch * classes  # probabilities of one set on a batch, beside them
    kept = 4 * voters * classes * validation  # all probabilities on validation images
    labels = 4 * voters * (validation + test)
    stored = images.nbytes + s.dataset.validation.images.nbytes + s.dataset.test.images.nbytes
    own = stored + images.nbytes + vectors + max(program + views * logits + votes + kept, 2 * kept) + labels
    return RUNTIME + own, program


def _program_bytes(s: RunContext, ops: Operations, vectors: int, batch: int) -> int:
    """Of the program that runs so many vectors on a batch, beside its arguments and its result."""
    c, raw = s.config, s.dataset.test.images
    assert s.model.init is not None
    parts = ops.parts._replace(suffix_bytes=batch * ops.parts.suffix_bytes)
    chunk = min(chunk_size(parts, c.compute.memory_mb * 2**20), vectors)
    shapes = (
        jax.eval_shape(s.model.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((vectors, s.chosen.dim), jnp.float32),
        jax.eval_shape(s.examples.plain, jax.ShapeDtypeStruct((batch, *raw.shape[1:]), raw.dtype)),
    )
    variables, members, images = shapes
    run = member_logits.lower(s.model.apply, variables, s.chosen, members, images, chunk=chunk).compile()
    found = run.memory_analysis()
    return 0 if found is None else int(found.temp_size_in_bytes)


def _memory(s: RunContext, ops: Operations) -> str:
    """How much of it members take while they are evaluated."""
    total, program = evaluate_bytes(s, ops)
    return f"memory    {in_bytes(total)} while all members are evaluated, {in_bytes(program)} of it in one program"


def _seconds(s: RunContext, ops: Operations) -> str:
    """Time by operations of the base's training, the collector's and the members."""
    c, n = s.config, s.dataset.training_images
    many = len(s.dataset.test.labels) + len(s.dataset.validation.labels)
    voters = c.collect.settings.k + c.members * (1 + len(c.generate.nulls))
    shifted = len(names(c.evaluate.corruptions)) * len(corruptions.SEVERITIES) * len(s.dataset.test.labels)
    shifted += sum(len(images) for images in s.ood.values())
    rate = EFFICIENCY * _matrix_rate()
    parts_of = {
        **({} if s.initial is not None and not c.backbone.init_head else {"base": base_epochs(s) * n * ops.step}),
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


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
