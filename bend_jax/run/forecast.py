"""What a run will take on this machine: seconds of every stage and bytes at the peak, of what `probes` has timed."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from bend_jax import training
from bend_jax.batch_norm import mixes_statistics
from bend_jax.checks import names
from bend_jax.data import corruptions
from bend_jax.ensemble import chunk_size
from bend_jax.evaluation import memorisation
from bend_jax.generate import average16
from bend_jax.operations import Operations, in_bytes
from bend_jax.run import cost, probes
from bend_jax.run.context import RunContext

# seconds of a CPU that depend on no setting, measured on two cores
STAGE = 0.2  # a stage's files and small programs
REPORT = 4.5  # its figures
SCORES = 2.5  # of an evaluation, beside PER_VOTE
PER_VOTE = 2e-7  # seconds of scoring, for one voter on one image
COMPILING = 1.5  # of a whole run, over that of the probes
LIBRARIES = 200 * 2**20  # bytes of Matplotlib and of programs that no probe loads; 33 to 236 MiB in docs/reliability.md


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


class _Parts(NamedTuple):
    """Seconds on this machine. image: what `Operations` counts, in seconds; collect: of all trainings; generate: by the
    name of the generator; evaluate: of all voters."""

    image: Operations
    collect: float
    generate: dict[str, probes.Generated]
    evaluate: probes.Evaluating

    def voter(self, s: RunContext) -> float:
        """Of one voter on an image's features, at all views."""
        views = len(names(s.config.evaluate.views))
        return max(self.evaluate.seconds - views * self.image.forward, 0.0) / cost.voters(s)

    def prefix(self, s: RunContext) -> float:
        """Of an image's features, at all views."""
        return max(self.evaluate.seconds - self.voter(s) * cost.voters(s), 0.0)


def forecast(s: RunContext, clock: probes.Clock = time.perf_counter) -> Forecast:
    """Seconds by `clock`. Trains for some steps and throws the result away; writes nothing but compiled programs."""
    ops = cost.operations(s)
    with probes.Meter(clock) as meter:
        variables = s.initial
        if variables is None:
            assert s.model.init is not None
            variables = training.once(s.model.init)(jax.random.key(0))
        parts = _parts(s, ops, variables, meter)
    return Forecast(_stages(s, parts), COMPILING * meter.compiling, _memory(s, ops, parts.evaluate))


def _parts(s: RunContext, ops: Operations, variables: Any, clock: probes.Clock) -> _Parts:
    image = probes.operations(s, ops, variables, clock)
    collect = probes.collect(s, ops, image, variables, clock)
    evaluate = probes.evaluate(s, ops, variables, clock)
    k = s.config.collect.settings.k
    return _Parts(image, collect, {n: probes.generate(s, n, k, clock) for n in s.config.generate.algorithms}, evaluate)


def _stages(s: RunContext, parts: _Parts) -> dict[str, float]:
    """Seconds by stage."""
    generated = {f"generate {name}": _generate(s, parts, name) for name in parts.generate}
    return {
        "base": _base(s, parts),
        "collect": parts.collect + STAGE,
        **generated,
        "evaluate": _evaluate(s, parts),
        "memorisation": _memorisation(s, parts),
        "report": REPORT,
    }


def _base(s: RunContext, parts: _Parts) -> float:
    """Its training, or a look at a given network's training images; validation images."""
    trains = s.initial is None or s.config.backbone.init_head
    seen = 3 * min(1000, len(s.dataset.train.labels)) * (not trains)
    base = (cost.base_epochs(s) * s.dataset.training_images * parts.image.step) if trains else 0.0
    return base + (len(s.dataset.validation.labels) + seen) * parts.image.forward + STAGE


def _statistics(s: RunContext, parts: _Parts, name: str) -> float:
    """Of estimating BN's statistics for the members of a generator, where they are not the checkpoints'."""
    c, generator = s.config, s.config.generate.algorithms[name]
    if generator.draws_checkpoints or not mixes_statistics(s.chosen):
        return 0.0
    images = 2 * min(c.generate.statistics, len(s.dataset.train.labels))
    return generator.members(c.members, c.collect.settings.k) * images * parts.image.forward


def _generate(s: RunContext, parts: _Parts, name: str) -> float:
    """Members are drawn twice, and once more for each value that is tried on validation images."""
    c, generator, own = s.config, s.config.generate.algorithms[name], parts.generate[name]
    m, values = generator.members(c.members, c.collect.settings.k), len(c.generate.tune) if generator.knob else 0
    drawn, validation = own.drawn + _statistics(s, parts, name), len(s.dataset.validation.labels)
    tuned = values * (drawn + validation * m * parts.voter(s)) + (validation * parts.prefix(s) if values else 0.0)
    return own.fixed + own.trained + 2 * drawn + tuned + STAGE


def _evaluate(s: RunContext, parts: _Parts) -> float:
    """All voters on validation and test images; base and members on other data sets and corrupted images."""
    c, images = s.config, len(s.dataset.validation.labels) + len(s.dataset.test.labels)
    shifted = len(names(c.evaluate.corruptions)) * len(corruptions.SEVERITIES) * len(s.dataset.test.labels)
    shifted += sum(len(other) for other in s.ood.values())
    votes = PER_VOTE * images * cost.voters(s) * len(names(c.evaluate.views))
    each = parts.prefix(s) + c.members * parts.voter(s)
    return images * parts.evaluate.seconds + shifted * each + votes + SCORES


def _memorisation(s: RunContext, parts: _Parts) -> float:
    """Generators once more on fewer checkpoints where some are held out; networks beside and between these."""
    k, test = s.config.collect.settings.k, len(s.dataset.test.labels)
    again = 0.0
    if len(_held_out(s)):
        for name, own in parts.generate.items():
            again += own.fixed + own.trained + own.drawn + _statistics(s, parts, name)
    references = 1 + memorisation.EACH * (len(memorisation.NOISES) + (k >= average16.MEANS_OF))
    plane, points = min(memorisation.IMAGES, len(s.dataset.validation.labels)), memorisation.PIXELS**2
    networks = test * references + plane * memorisation.GRID**2 + points * 2 * memorisation.PAIRS
    return again + (test + plane + points) * parts.prefix(s) + networks * parts.voter(s) + 3 * STAGE


def _held_out(s: RunContext) -> Any:
    k = s.config.collect.settings.k
    parts = memorisation.split(np.zeros((k, 1)), s.config.evaluate.held_out, jax.random.key(0))
    return () if parts is None else parts[1]


def _memory(s: RunContext, ops: Operations, evaluating: probes.Evaluating) -> int:
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
    return probes.used_memory() + LIBRARIES + max(cached, int(more) + votes) + cost.vector_bytes(s)
