"""What a run will need, before it is run: dimensions, memory, and a rough time."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bend_jax.ensemble import chunk_size
from bend_jax.settings import Bootstrap
from bend_jax.split import Cut, cut
from bend_jax.stages import Setting
from bend_jax.subset import insert
from bend_jax.training import cross_entropy

EFFICIENCY = 0.2  # of a matrix product's rate that convolutional training was seen to reach (2 CPU cores)


def describe(s: Setting) -> str:
    """Lines of dimensions, split point, memory and time of one run; compiles a matrix product, trains nothing."""
    assert s.model.init is not None
    c, n = s.config, len(s.dataset.train.labels)
    variables = jax.eval_shape(s.model.init, jax.random.key(0))
    image = jax.eval_shape(s.examples.plain, s.examples.images[:1])
    vector = jax.ShapeDtypeStruct((s.chosen.dim,), jnp.float32)
    parts = _cut(s, variables, vector, image)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    settings = c.collect.settings
    cache = (
        settings.views * n * sum(math.prod(x) for x in parts.feature_shapes) * jnp.dtype(settings.cache_dtype).itemsize
    )
    memory = c.compute.memory_mb * 2**20
    batch = min(c.evaluate.batch, len(s.dataset.validation.labels), len(s.dataset.test.labels))
    fitting = chunk_size(parts._replace(suffix_bytes=batch * parts.suffix_bytes), memory)
    shapes = ", ".join("x".join(map(str, shape)) for shape in parts.feature_shapes)
    counts = f"{n} training, {len(s.dataset.validation.labels)} validation, {len(s.dataset.test.labels)} test images"
    lines = [
        f"data      {c.data.name}: {counts} of {'x'.join(map(str, image.shape[1:]))}, {s.dataset.num_classes} classes",
        f"backbone  {c.backbone.name}: {parameters:,} parameters ({parameters * 4 / 2**20:.1f} MiB)",
        f"subset    {','.join(c.collect.subset)}: {s.chosen.dim} numbers in {len(s.chosen.paths)} leaves "
        f"({', '.join(s.chosen.paths[:4])}{', ...' if len(s.chosen.paths) > 4 else ''})",
        f"split     features of one image: {shapes} ({_size(parts.feature_bytes)}); "
        f"{_size(parts.suffix_bytes)} of intermediates for each member and image",
        f"collect   {settings.k} checkpoints by {c.collect.name}; features of {settings.views} views: {_size(cache)}, "
        + ("cached" if cache <= memory else f"streamed (compute.memory_mb={c.compute.memory_mb})"),
        f"members   {c.members}; {min(fitting, c.members)} at once on {batch} images within {c.compute.memory_mb} MiB",
    ]
    return "\n".join([*lines, _seconds(s, variables, vector, image, parts)])


def _cut(s: Setting, variables: Any, vector: Any, image: Any) -> Cut:
    """The split of one image, from shapes alone (closed-over variables must be arrays, so they are traced too)."""
    found: list[Cut] = []

    def trace(variables: Any) -> int:
        found.append(cut(lambda v, x: s.model.apply(insert(s.chosen, variables, v), x), vector, image))
        return 0

    jax.eval_shape(trace, variables)
    return found[0]


def _seconds(s: Setting, variables: Any, vector: Any, image: Any, parts: Cut) -> str:
    """Time by operations: training and forward passes of the base, and the suffix of the collector and the members."""
    c, n = s.config, len(s.dataset.train.labels)
    settings = c.collect.settings
    many = len(s.dataset.test.labels) + len(s.dataset.validation.labels)

    def loss(variables: Any, x: Any) -> Any:
        return jnp.sum(cross_entropy(s.model.apply(variables, x), jnp.zeros(1, jnp.int32)))

    def suffix_loss(v: Any, variables: Any, x: Any) -> Any:
        return loss(insert(s.chosen, variables, v), x)

    forward = _flops(s.model.apply, variables, image)
    step = _flops(jax.grad(loss), variables, image)
    whole = _flops(jax.grad(suffix_loss), vector, variables, image)
    suffix = max(whole - forward, 0.0) * 1.5  # a forward and a backward pass of the suffix; the prefix ran in forward
    epochs = settings.epochs * settings.k if isinstance(settings, Bootstrap) else settings.k
    rate = EFFICIENCY * _matrix_rate()
    parts_of = {
        "base": c.base.epochs * n * step,
        "collect": settings.views * n * forward + epochs * n * suffix,
        "evaluate": many * (forward + (settings.k + c.members * (1 + len(c.generate.nulls))) * suffix / 3),
    }
    texts = [f"{name} {_duration(flops / rate)}" for name, flops in parts_of.items()]
    basis = f"by operations, at {rate / 1e9:.0f} GFLOP/s: {EFFICIENCY:.0%} of a matrix product here"
    return f"time      in its order of magnitude {', '.join(texts)}; and compilation ({basis})"


def _flops(fn: Callable[..., Any], *arguments: Any) -> float:
    cost = jax.jit(fn).lower(*arguments).cost_analysis()
    return float((cost or {}).get("flops", 0.0))


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
