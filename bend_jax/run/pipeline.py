"""Which stages a run consists of, what their digests cover, which are there already; and running those that are not."""

import inspect
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bend_jax import links, storage
from bend_jax.batch_norm import mixes_statistics
from bend_jax.checks import SettingsError, settings_json
from bend_jax.collect import Collector
from bend_jax.data import out_of_distribution, splits
from bend_jax.generate import Generator
from bend_jax.report import document, run_report
from bend_jax.report.content import Report
from bend_jax.report.records import from_json
from bend_jax.run import cost, summary
from bend_jax.run.context import RunContext
from bend_jax.run.progress import TrainingLog, replay, watching
from bend_jax.run.stage import StageContext
from bend_jax.run.stages import WORK
from bend_jax.training import NonFiniteError

Say = Callable[[str], None]
# settings of JAX that change numbers, as they come
ARITHMETIC = {
    "enable_x64": False,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "default_matmul_precision": None,
}


class StoppedError(RuntimeError):
    """A stage that cannot go on; its text names the stage, the step and what to try."""


class Job(NamedTuple):
    """One stage of one run: where its output is, and what its digest covers."""

    stage: str
    name: str  # what a person reads: "generate gaussian"
    digest: str
    path: Path
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    generator: str = ""


def plan(s: RunContext) -> dict[str, Job]:
    """Every stage's job by name, in order. A digest covers settings, seed, data, platform, and the inputs' digests."""
    c, jobs = s.config, {}
    content = splits.content_digest(s.dataset)

    def add(stage: str, settings: dict[str, Any], inputs: tuple[str, ...], generator: str = "") -> None:
        covered = {"format": storage.FORMAT, "stage": stage, "settings": settings, "seed": s.seed, "data": content}
        covered |= {"platform": jax.default_backend(), "inputs": {i: jobs[i].digest for i in inputs}, **arithmetic()}
        digest, name = storage.digest_of(covered), f"{stage} {generator}".strip()
        path = storage.entry(s.workdir / "store", stage, digest)
        jobs[name] = Job(stage, name, digest, path, settings, inputs, generator)

    of = settings_json
    of_training, of_members = cost.memory_setting(s)
    given = {} if s.initial is None else {"init": storage.tree_digest(s.initial)}
    how = {**given, **of(c.base)} if c.backbone.init_head else given or of(c.base)
    add("base", {"data": of(c.data), "backbone": of(c.backbone), "base": how}, ())
    add("collect", {**of(c.collect), **code_of(c.collect.algorithm), **of_training}, ("base",))
    for name in (c.generate.name, *c.generate.nulls):
        tuned = of_members if c.generate.tune else {}
        add("generate", {**_generate_settings(s, name), **tuned}, ("base", "collect"), name)
    generated = tuple(name for name in jobs if name.startswith("generate "))
    measured: dict[str, Any] = {"statistics": c.generate.statistics} if mixes_statistics(s.chosen) else {}
    measured |= {"others": out_of_distribution.content_digest(s.ood)} if s.ood else {}
    how = {"main": c.generate.name, **of(c.evaluate), **measured, **of_members}
    add("evaluate", how, ("base", "collect", *generated))
    add("memorisation", {"held_out": c.evaluate.held_out, **of_members}, tuple(jobs))
    add("report", {"task": c.task, "config": s.config_name, "rendering": run_report.rendering()}, tuple(jobs))
    add("export", {}, ("base", "collect", f"generate {c.generate.name}"))
    return jobs


def arithmetic() -> dict[str, Any]:
    """What of JAX's own settings changes numbers and is not as it comes; nothing where all of it is."""
    read = {name: getattr(jax.config, f"jax_{name}") for name in ARITHMETIC}
    other: dict[str, Any] = {name: value for name, value in read.items() if value != ARITHMETIC[name]}
    words = [word for word in os.environ.get("XLA_FLAGS", "").split() if word.startswith("--xla_gpu_deterministic_ops")]
    if words and jax.default_backend() == "gpu":
        other["xla_flags"] = words
    return {"jax": other} if other else {}


def _generate_settings(s: RunContext, name: str) -> dict[str, Any]:
    """What a generator's digest covers: also how it was tuned, and how BN statistics were re-estimated, where they
    are."""
    c, generator = s.config.generate, s.config.generate.algorithms[name]
    covered = {"name": name, "m": s.config.members, **settings_json(generator.settings), **code_of(generator)}
    if c.tune and generator.knob:
        covered |= {"tune": c.tune, "views": s.config.evaluate.views}
    if mixes_statistics(s.chosen) and not generator.draws_checkpoints:
        covered |= {"statistics": c.statistics}
    return covered


def code_of(algorithm: Collector | Generator) -> dict[str, str]:
    """The digest of the source of a user's own algorithm; ours changes with the format of the store."""
    module = inspect.getmodule(algorithm.settings)
    if module is None or module.__name__.startswith("bend_jax."):
        return {}
    return {"code": storage.digest_of(inspect.getsource(module))}


def run(s: RunContext, stages: tuple[str, ...], say: Say) -> dict[str, Job]:
    """Run the named stages, reusing what the store has, and link them in the work directory.

    Raises SettingsError where a stage that is needed is neither named nor in the store, StoppedError where one meets
    a NaN or Inf, storage.DamagedError where a file of the store is not what was written.
    """
    jobs = plan(s)
    stages = linked(stages)
    needed = check_inputs(s, jobs, stages)
    storage.sweep(s.workdir / "store")
    for job in jobs.values():
        if job.stage in stages:
            run_job(s, jobs, job, say)
            if job.generator in ("", s.config.generate.name):
                links.link(s.workdir, job.stage, job.path)
        elif job.name in needed:
            found = storage.verify(job.path, expected=_manifest(s, jobs, job))
            if other := _other_versions(found):
                say(f"{job.name}: read from store/{job.path.name}{other}")
    return jobs


def linked(stages: tuple[str, ...]) -> tuple[str, ...]:
    """The stages that run where these are named; each gets a link. A report has measurements of its own."""
    return (*stages, "memorisation") if "report" in stages else stages


def check_inputs(s: RunContext, jobs: dict[str, Job], stages: tuple[str, ...]) -> set[str]:
    """The jobs that the named stages still have to read. Raises SettingsError for one that is not to be had."""
    missing = [job for job in jobs.values() if job.stage in stages and not storage.is_complete(job.path)]
    needed = {name for job in missing for name in job.inputs}
    read = [job for job in jobs.values() if job.name in needed and job.stage not in stages]
    absent = [job for job in read if not storage.is_complete(job.path)]
    if absent:
        add = ",".join(dict.fromkeys(job.stage for job in absent))
        raise SettingsError(
            f"--stages={','.join(stages)}: {', '.join(job.name for job in absent)}: needed and not in "
            f"{s.workdir / 'store'}; add {add} to --stages"
        )
    return needed


def run_job(s: RunContext, jobs: dict[str, Job], job: Job, say: Say) -> None:
    """Build one stage, or check its files and say that it is reused."""
    manifest, said = _manifest(s, jobs, job), ""

    def build(partial: storage.Partial) -> None:
        nonlocal said
        clock = TrainingLog({}, {}, {}, {})
        inputs = {name: jobs[name].path for name in job.inputs}
        started = time.perf_counter()
        try:
            with watching(s.config, partial, clock, _events(s, job), s.mesh) as callbacks:
                task = StageContext(inputs, partial.output, callbacks, clock, job.generator)
                said = WORK[job.stage](s, task)
        except NonFiniteError as error:
            raise StoppedError(f"{job.name} stopped: {error}; {_advice(s, job, error.name)}") from None
        manifest["seconds"] = time.perf_counter() - started

    def waiting() -> None:
        say(f"{job.name}: another run is computing it; waiting")

    found = storage.once(s.workdir / "store", job.stage, job.digest, manifest, build, waiting)
    if found is None:
        say(f"{job.name}: {said} ({manifest['seconds']:.1f} s)")
        return
    if s.config.compute.tensorboard:
        replay(job.path, _events(s, job))
    say(f"{job.name}: reused store/{job.path.name}{_other_versions(found)}")


def _other_versions(manifest: dict[str, Any]) -> str:
    """The warning for a stage that other versions have made: computed now, some of its bits could be others."""
    then, now = manifest["versions"], storage.versions()
    other = [f"{name} {then.get(name)}, now {now[name]}" for name in now if then.get(name) != now[name]]
    return (
        f"; warning: made with {'; '.join(other)}, so that its last digits may not be those of today" if other else ""
    )


def _manifest(s: RunContext, jobs: dict[str, Job], job: Job) -> dict[str, Any]:
    """What a stage's manifest says of it beside its files."""
    said: dict[str, Any] = {"stage": job.stage, "name": job.name, "digest": job.digest, "seed": s.seed}
    return {**said, "settings": job.settings, "inputs": {name: jobs[name].digest for name in job.inputs}}


def _events(s: RunContext, job: Job) -> Path:
    """Where TensorBoard's files of a stage go: other settings and seeds are other curves."""
    return s.workdir / "tensorboard" / job.stage / f"{job.generator}-{job.digest}".lstrip("-")


def _advice(s: RunContext, job: Job, training: str) -> str:
    """What to try when a training of this stage met a NaN or Inf."""
    name, look = training.split()[0], f"look for NaN in what {', '.join(job.inputs) or 'the images'} gave it"
    rate = ""
    if job.stage not in ("base", "collect", "generate"):
        return f"look for large numbers in what gave it {training}"
    if job.stage == "base" or hasattr(s.config.collect.settings, "base"):
        rate = "base.lr"
    elif hasattr(s.config.collect.settings, "lr"):
        rate = f"collect.{s.config.collect.name}.lr"
    if job.generator:
        part = getattr(s.config.generate.settings[job.generator], name, None)
        rate = f"generate.bend.{name}.lr" if hasattr(part, "lr") else ""
    return f"try a smaller {rate}, and {look}" if rate else look


def summarise(settings: list[RunContext], plans: list[dict[str, Job]], say: Say) -> Path:
    """The report over several seeds, as a report stage of its own: means and standard deviations."""
    s = settings[0]
    digest = storage.digest_of({"format": storage.FORMAT, "seeds": [jobs["report"].digest for jobs in plans]})
    path = storage.entry(s.workdir / "store", "report", digest)
    manifest = {"seeds": [x.seed for x in settings], "inputs": [jobs["report"].digest for jobs in plans]}

    def build(partial: storage.Partial) -> None:
        reports = [from_json(Report, storage.read_json(jobs["report"].path / "report.json")) for jobs in plans]
        folders = {str(x.seed): jobs["report"].path.name for x, jobs in zip(settings, plans, strict=True)}
        report = replace(summary.combine(reports), folders=folders)
        document.write(run_report.document(report), partial.output, report, run_report.rows_csv(report))

    storage.once(s.workdir / "store", "report", digest, manifest, build)
    links.link(s.workdir, "report", path)
    say(f"report over seeds {', '.join(str(x.seed) for x in settings)}: store/{path.name}")
    return path
