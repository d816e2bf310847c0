"""What a run will take on this machine: seconds and bytes, from the first steps of its own trainings and batches."""

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
from bend_jax.batch_norm import holds_statistics, mixes_statistics
from bend_jax.checks import names
from bend_jax.collect.collector import Work
from bend_jax.data import augment, corruptions
from bend_jax.ensemble import chunk_size
from bend_jax.evaluation import memorisation, predict
from bend_jax.generate import average16
from bend_jax.generate.generator import Size
from bend_jax.operations import Operations, in_bytes
from bend_jax.rng import stream
from bend_jax.run import cost
from bend_jax.run.context import RunContext
from bend_jax.split import cut

Clock = Callable[[], float]
BUDGET = {"cpu": 5e9, "gpu": 2e13}  # floating-point operations of a probe, at most: some tenths of a second
# CPU seconds that were measured on two cores and depend on no setting: a stage's files and small programs; figures
STAGE, REPORT, SCORES = 0.2, 4.5, 2.5
PER_VOTE = 2e-7  # seconds of scoring, for one voter on one image
STRUCTURES = 1.5  # candidates that a denoiser is trained for, over those of Gaussian vectors: one or two
STEPS = 30  # of a collector's probe between two checkpoints
COMPILING = 1.5  # of a whole run, over that of the calibration
LIBRARIES = 300 * 2**20  # bytes of Matplotlib and of programs that a calibration does not load


class Forecast(NamedTuple):
    """Seconds by stage, without compilation; seconds of that; bytes at the peak, of the process or of its device."""

    seconds: dict[str, float]
    compiling: float
    memory: int

    def __str__(self) -> str:
        """Two lines."""
        every = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in self.seconds.items())
        return (
            f"time      {in_words(sum(self.seconds.values()))}: {every}; and about {in_words(self.compiling)} of "
            "compilation (from the first steps of the run's own trainings, on this machine as it is now)\n"
            f"memory    {in_bytes(self.memory)} at the peak"
        )


def in_words(seconds: float) -> str:
    """Seconds, minutes, hours or days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


class _EnoughError(Exception):
    """Raised by a callback once a training has been timed."""


class _Watch:
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


def forecast(s: RunContext, clock: Clock = time.perf_counter) -> Forecast:
    """Seconds by `clock`. Trains for some steps and throws the result away; writes nothing but compiled programs."""
    ops = cost.operations(s)
    with _Meter(clock) as meter:
        variables = s.initial
        if variables is None:
            assert s.model.init is not None
            variables = training.once(s.model.init)(jax.random.key(0))
        seconds, evaluating = _stages(s, ops, variables, meter)
    return Forecast(seconds, COMPILING * meter.compiling, _memory(s, ops, evaluating))


class _Meter:
    """A clock that stands still while JAX traces, lowers and compiles. Of CPU seconds these cannot be told apart: there
    the clock goes on, and a second forecast in the same process, which compiles little, is the better one."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.spans = clock, list[tuple[float, float]]()

    def __enter__(self) -> "_Meter":
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


def _operations(s: RunContext, ops: Operations, variables: Any, clock: Clock) -> Operations:
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
    watch, key = _Watch(clock), stream(s.seed, "base")
    how: Any = {"initial": variables, "callbacks": watch.callbacks(mesh=s.mesh)}
    watch.run(lambda: training.train_base(s.model, examples, key, settings, **how))
    return watch.seconds / batch


def _collect(s: RunContext, ops: Operations, timed: Operations, variables: Any, clock: Clock) -> float:
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
        watch, key = _Watch(clock), stream(s.seed, "collect")
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


class _Generated(NamedTuple):
    """Seconds of a generator's fit without its trainings, of these, and of drawing m members."""

    fixed: float
    trained: float
    drawn: float


def _generate(s: RunContext, name: str, k: int, clock: Clock) -> _Generated:
    """From its own fit to Gaussian vectors: all trainings skipped, then each for one segment."""
    generator, m = s.config.generate.algorithms[name], s.config.members
    total = generator.cost(generator.settings, Size(k, s.chosen.dim, m))
    alone = generator.cost(generator.settings, Size(k, s.chosen.dim, 0))
    dim = _fitting(k * 1e4, s.chosen.dim)  # what is done to each number; wide vectors are cut
    scale, key = s.chosen.dim / dim, jax.random.key(0)
    vectors = 1 + 0.01 * jax.random.normal(key, (k, dim))

    def fit(watch: _Watch) -> Any:
        callbacks = watch.callbacks(score=lambda v: np.zeros(len(v)))
        return watch.run(lambda: generator.fit(vectors, key, generator.settings, callbacks=callbacks))

    first = _Watch(clock, only=None)
    fitted, fixed = _took(lambda: fit(first), clock)
    trained = 0.0
    for training_name, steps in first.steps.items():
        watch = _Watch(clock, only=training_name, segments=1)
        fit(watch)
        trained += watch.seconds * steps * (STRUCTURES if training_name == "diffusion" else 1.0)
    if total - alone < _budget():
        drawn = _took(lambda: generator.sample(fitted, key, m), clock)[1]
    else:
        drawn = trained * (total - alone) / alone
    return _Generated(fixed * scale, trained * scale, drawn * scale)


class _Evaluating(NamedTuple):
    """Seconds of all voters on one image; of how many images it was told, and by how many bytes the process grew."""

    seconds: float
    size: int
    grown: int


def _predict(s: RunContext, ops: Operations, variables: Any, clock: Clock) -> _Evaluating:
    """All voters on one image at all views, their votes included: of a second batch, which compiles nothing."""
    voters, views = cost.voters(s), names(s.config.evaluate.views)
    size = _batch(s, len(views) * (ops.forward + (voters - 1) * ops.suffix), s.config.evaluate.batch)
    vectors = np.tile(np.asarray(subset.flatten(s.chosen, variables))[None], (voters, 1))
    before = _used()
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
    return _Evaluating((ends[1] - ends[0]) / size, size, _used() - before)


def _stages(s: RunContext, ops: Operations, variables: Any, clock: Clock) -> tuple[dict[str, float], _Evaluating]:
    """Seconds by stage, and what evaluation takes."""
    timed = _operations(s, ops, variables, clock)
    c, k = s.config, s.config.collect.settings.k
    validation, test = len(s.dataset.validation.labels), len(s.dataset.test.labels)
    trains = s.initial is None or c.backbone.init_head
    seen = 3 * min(1000, len(s.dataset.train.labels)) * (not trains)
    base = (cost.base_epochs(s) * s.dataset.training_images * timed.step) if trains else 0.0
    found = {
        "base": base + (validation + seen) * timed.forward + STAGE,
        "collect": _collect(s, ops, timed, variables, clock) + STAGE,
    }
    views = len(names(c.evaluate.views))
    evaluating = _predict(s, ops, variables, clock)
    every = evaluating.seconds
    voter = max(every - views * timed.forward, 0.0) / cost.voters(s)  # at all views
    prefix = max(every - voter * cost.voters(s), 0.0)
    again, measured = 0.0, 0.0
    if mixes_statistics(s.chosen):
        measured = 2 * min(c.generate.statistics, len(s.dataset.train.labels)) * timed.forward
    rest = k - len(_held_out(s))
    for name, generator in c.generate.algorithms.items():
        m, values = generator.members(c.members, k), len(c.generate.tune) if generator.knob else 0
        own = _generate(s, name, k, clock)
        statistics = 0.0 if generator.draws_checkpoints else m * measured
        tuned = values * (own.drawn + statistics + validation * m * voter) + (validation * prefix if values else 0.0)
        found[f"generate {name}"] = own.fixed + own.trained + 2 * (own.drawn + statistics) + tuned + STAGE
        again += (own.fixed + own.trained + own.drawn + statistics) if rest < k else 0.0
    shifted = len(names(c.evaluate.corruptions)) * len(corruptions.SEVERITIES) * test
    shifted += sum(len(images) for images in s.ood.values())
    votes = PER_VOTE * (validation + test) * cost.voters(s) * views
    found["evaluate"] = (validation + test) * every + shifted * (prefix + c.members * voter) + votes + SCORES
    references = 1 + memorisation.EACH * (len(memorisation.NOISES) + (k >= average16.MEANS_OF))
    plane, points = min(memorisation.IMAGES, validation), memorisation.PIXELS**2
    found["memorisation"] = again + (test + plane + points) * prefix + 3 * STAGE
    found["memorisation"] += (
        test * references + plane * memorisation.GRID**2 + points * 2 * memorisation.PAIRS
    ) * voter
    found["report"] = REPORT
    return found, evaluating


def _held_out(s: RunContext) -> Any:
    k = s.config.collect.settings.k
    parts = memorisation.split(np.zeros((k, 1)), s.config.evaluate.held_out, jax.random.key(0))
    return () if parts is None else parts[1]


def _memory(s: RunContext, ops: Operations, evaluating: _Evaluating) -> int:
    """Bytes at the peak: what this process took so far, and what of a run is larger than its calibration."""
    c = s.config
    memory = c.compute.memory_mb * 2**20
    cached = cost.collect_cost(s, ops).cached_bytes
    cached = cached if cached <= memory else 0

    def members(batch: int) -> int:
        parts = ops.parts._replace(suffix_bytes=batch * ops.parts.suffix_bytes)
        return min(chunk_size(parts, memory), cost.voters(s)) * parts.suffix_bytes

    batch = min(c.evaluate.batch, len(s.dataset.validation.labels), len(s.dataset.test.labels))
    bound = members(evaluating.size)
    more = max(members(batch) - bound, 0) * min(evaluating.grown / max(bound, 1), 1.0)
    of_votes = cost.voters(s) * len(names(c.evaluate.views)) * s.dataset.num_classes
    votes = 4 * of_votes * (2 * len(s.dataset.validation.labels) + batch)
    return _used() + LIBRARIES + max(cached, int(more) + votes) + cost.vector_bytes(s)


def _used() -> int:
    """Bytes that this process, or its device where that has memory of its own, has taken at most."""
    told = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return told.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
