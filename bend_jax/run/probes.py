"""Seconds of the parts of a run on this machine: the first steps of its own trainings and its first batches, thrown
away afterwards. `forecast` makes a whole run of them."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bend_jax import devices, subset, training
from bend_jax.batch_norm import holds_statistics
from bend_jax.checks import names
from bend_jax.collect.collector import Work
from bend_jax.data import augment
from bend_jax.evaluation import predict
from bend_jax.generate.generator import Size
from bend_jax.operations import Operations
from bend_jax.rng import stream
from bend_jax.run import cost
from bend_jax.run.context import RunContext
from bend_jax.split import cut

Clock = Callable[[], float]
BUDGET = {"cpu": 5e9, "gpu": 2e13}  # floating-point operations of a probe, at most: some tenths of a second
STEPS = 30  # of a collector's probe between two checkpoints
STRUCTURES = 1.6  # what two candidates of a denoiser take in the place of one: Gaussian vectors have one or two


class _EnoughError(Exception):
    """Raised by a callback once a training has been timed."""


class Watch:
    """Callbacks that run a training for its first segments, and time the last of these.

    only: of several trainings in a row, the one that is timed; the others are skipped. "": the first; None: none.
    """

    def __init__(self, clock: Clock, only: str | None = "", segments: int = 2) -> None:
        self.clock, self.only, self.most = clock, only, segments
        self.steps: dict[str, int] = {}
        self.ends: list[float] = []
        self.lengths: list[int] = []

    def resume(self, name: str, state: Any, steps: int) -> Any:
        self.steps[name] = steps
        self.ends, self.lengths = [self.clock()], []
        is_timed = self.only == name or (self.only == "" and len(self.steps) == 1)
        return state if is_timed else state._replace(step=jnp.int32(steps))

    def compiled(self, name: str, seconds: float) -> None:
        if not self.lengths:
            self.ends = [self.clock()]

    def segment(self, name: str, state: Any, losses: Any) -> None:
        self.ends.append(self.clock())
        self.lengths.append(len(losses))
        if len(self.lengths) == self.most:
            raise _EnoughError

    def callbacks(self, **more: Any) -> training.Callbacks:
        return training.Callbacks(self.resume, self.segment, self.compiled, **more)

    def run(self, work: Callable[[], Any]) -> Any:
        """work(), as far as the timed training; None where it was cut short."""
        try:
            return work()
        except _EnoughError:
            return None

    @property
    def seconds(self) -> float:
        """Of a step of the last segment."""
        return (self.ends[-1] - self.ends[-2]) / self.lengths[-1] if self.lengths else 0.0


class Meter:
    """A clock that stands still while JAX traces, lowers and compiles. Of CPU seconds these cannot be told apart: there
    the clock goes on, and a second forecast in the same process, which compiles little, is the better one."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.spans = clock, list[tuple[float, float]]()

    def __enter__(self) -> "Meter":
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, duration_secs: float, **details: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            now = time.perf_counter()
            self.spans.append((now - duration_secs, now))

    def __call__(self) -> float:
        return self.clock() - (self.compiling if self.clock is time.perf_counter else 0.0)

    @property
    def compiling(self) -> float:
        """Seconds of the spans' union: tracing one function nests in tracing another."""
        total, reached = 0.0, 0.0
        for begin, end in sorted(self.spans):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total


def _budget() -> float:
    return BUDGET.get(jax.default_backend(), BUDGET["gpu"])


def _fitting(flops: float, most: int) -> int:
    """How many of something of so many operations each fit a probe: at least one, at most `most`."""
    return int(np.clip(_budget() / max(flops, 1.0), 1, most))


def _batch(s: RunContext, flops: float, batch: int) -> int:
    """Images of a minibatch of a probe; the devices share them."""
    shares = devices.count(s.mesh)
    return max(_fitting(flops, batch) // shares, 1) * shares


def _some(examples: training.Examples, count: int) -> training.Examples:
    """The first images, over and over where there are not so many."""
    index = jnp.arange(count) % len(examples.labels)
    return examples._replace(images=examples.images[index], labels=examples.labels[index])


def operations(s: RunContext, ops: Operations, variables: Any, clock: Clock) -> Operations:
    """What `Operations` counts, in seconds on this machine."""
    apply = jax.jit(lambda variables, images: s.model.apply(variables, s.examples.plain(images)))
    size = _fitting(ops.forward, s.config.evaluate.batch)
    images = _some(s.examples, size).images
    jax.block_until_ready(apply(variables, images))
    forward = _took(lambda: apply(variables, images), clock)[1] / size
    whole = s.initial is None or s.config.backbone.init_head or holds_statistics(s.chosen)
    step = _base_step(s, ops, variables, clock) if whole else 0.0
    return ops._replace(forward=forward, step=step, suffix=0.0, suffix_step=0.0)


def _took(work: Callable[[], Any], clock: Clock) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    started = clock()
    found = jax.block_until_ready(work())
    return found, clock() - started


def _base_step(s: RunContext, ops: Operations, variables: Any, clock: Clock) -> float:
    """Seconds of a step of the base, for an image."""
    batch = _batch(s, ops.step, s.config.base.batch)
    steps = _fitting(batch * ops.step, training.SEGMENT)
    n = len(s.dataset.train.labels)
    examples = s.examples if steps * batch > n and batch == s.config.base.batch else _some(s.examples, steps * batch)
    settings = replace(s.config.base, batch=batch, epochs=max(2, s.config.base.epochs))
    watch, key = Watch(clock), stream(s.seed, "base")
    how: Any = {"initial": variables, "callbacks": watch.callbacks(mesh=s.mesh)}
    watch.run(lambda: training.train_base(s.model, examples, key, settings, **how))
    return watch.seconds / batch


def collect(s: RunContext, ops: Operations, timed: Operations, variables: Any, clock: Clock) -> float:
    """The collector's own cost with seconds in the place of operations; of a step on features it is told by its first
    steps on few images."""
    algorithm, moves = s.config.collect.algorithm, holds_statistics(s.chosen)
    n, memory = len(s.dataset.collected.labels), s.config.compute.memory_mb * 2**20
    one = ops._replace(forward=0.0, step=0.0, suffix=0.0, suffix_step=1.0)

    def image_steps(settings: Any, images: int) -> float:
        return algorithm.cost(settings, Work(one, images, memory, moves)).operations

    if image_steps(algorithm.settings, n):
        own = {field.name for field in fields(algorithm.settings)}
        batch = getattr(algorithm.settings, "batch", 1)
        settings = replace(algorithm.settings, **dict.fromkeys({"views"} & own, 1))
        count = batch * _fitting(batch * ops.suffix_step, STEPS)
        model, examples = _on_features(s, ops, variables, count)
        watch, key = Watch(clock), stream(s.seed, "collect")
        how: Any = {"callbacks": watch.callbacks(mesh=s.mesh, memory=memory)}
        watch.run(lambda: algorithm.collect(model, variables, s.chosen, examples, key, settings, **how))
        total = watch.seconds * sum(watch.steps.values())
        timed = timed._replace(suffix_step=total / image_steps(settings, count))
    return algorithm.cost(algorithm.settings, Work(timed, n, memory, moves)).operations


def _on_features(s: RunContext, ops: Operations, variables: Any, count: int) -> tuple[training.Model, Any]:
    """The network from the frozen part's features on, and so many examples for it: features of few images, again and
    again."""
    images = _some(s.examples, min(count, _fitting(ops.forward, count))).images
    seen = jax.jit(s.examples.plain)(images)
    vector = jax.ShapeDtypeStruct((s.chosen.dim,), jnp.float32)
    apply = lambda v, x: s.model.apply(subset.insert(s.chosen, variables, v), x)  # noqa: E731
    parts = cut(apply, vector, jax.tree.map(lambda x: x[:1], seen), any_batch=True)
    features = jax.jit(parts.prefix)(seen)
    index = jnp.arange(count) % len(images)
    features = devices.replicate(jax.tree.map(lambda x: x[index], features), s.mesh)
    model = s.model._replace(apply=lambda variables, x: parts.suffix(subset.flatten(s.chosen, variables), x))
    labels = _some(s.examples, count).labels
    return model, training.Examples(features, labels, lambda keys, x, view=0: x, lambda x: x)


class Generated(NamedTuple):
    """Seconds of a generator's fit without its trainings, of these, and of drawing m members."""

    fixed: float
    trained: float
    drawn: float


def generate(s: RunContext, name: str, k: int, clock: Clock) -> Generated:
    """From its own fit to Gaussian vectors: all trainings skipped, then each for one segment."""
    generator, m = s.config.generate.algorithms[name], s.config.members
    total = generator.cost(generator.settings, Size(k, s.chosen.dim, m))
    alone = generator.cost(generator.settings, Size(k, s.chosen.dim, 0))
    dim = _fitting(k * 1e4, s.chosen.dim)  # what is done to each number; wide vectors are cut
    scale, key = s.chosen.dim / dim, jax.random.key(0)
    vectors = 1 + 0.01 * jax.random.normal(key, (k, dim))

    def fit(watch: Watch) -> Any:
        callbacks = watch.callbacks(score=lambda v: np.zeros(len(v)))
        return watch.run(lambda: generator.fit(vectors, key, generator.settings, callbacks=callbacks))

    first = Watch(clock, only=None)
    fitted, fixed = _took(lambda: fit(first), clock)
    trained = 0.0
    for training_name, steps in first.steps.items():
        watch = Watch(clock, only=training_name, segments=1)
        fit(watch)
        trained += watch.seconds * steps * (STRUCTURES if training_name == "diffusion" else 1.0)
    if total - alone < _budget():
        drawn = _took(lambda: generator.sample(fitted, key, m), clock)[1]
    else:
        drawn = trained * (total - alone) / alone
    return Generated(fixed * scale, trained * scale, drawn * scale)


class Evaluating(NamedTuple):
    """Seconds of all voters on one image; of how many images it was told, and by how many bytes the process grew."""

    seconds: float
    size: int
    grown: int


def evaluate(s: RunContext, ops: Operations, variables: Any, clock: Clock) -> Evaluating:
    """All voters on one image at all views, their votes included: of a second batch, which compiles nothing."""
    count, views = cost.voters(s), names(s.config.evaluate.views)
    size = _batch(s, len(views) * (ops.forward + (count - 1) * ops.suffix), s.config.evaluate.batch)
    vectors = np.tile(np.asarray(subset.flatten(s.chosen, variables))[None], (count, 1))
    before = used_memory()
    images, ends = np.asarray(_some(s.examples, 2 * size).images), []
    predict.predict(
        s.model.apply,
        variables,
        s.chosen,
        {"members": vectors},
        lambda rows, view: s.examples.plain(augment.shifted_view(jnp.asarray(images[rows]), view)),
        2 * size,
        batch=size,
        views=views,
        wanted=predict.Wanted(keep=True),
        callbacks=training.Callbacks(mesh=s.mesh, memory=s.config.compute.memory_mb * 2**20),
        progress=lambda done: ends.append(clock()),
    )
    return Evaluating((ends[1] - ends[0]) / size, size, used_memory() - before)


def used_memory() -> int:
    """Bytes that this process, or its device where that has memory of its own, has taken at most."""
    told = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return told.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
