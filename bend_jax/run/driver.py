"""From a parsed command line to what it asks for: runs, a table of many, reports side by side, or only an answer."""

import os
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from bend_jax import compilation, conformal, devices, given_logits, links, storage
from bend_jax.checks import SettingsError, check_letters, did_you_mean
from bend_jax.data import splits
from bend_jax.evaluation.scores import Evaluate
from bend_jax.generate import GENERATORS
from bend_jax.report import comparison, document, grid, papers, side_by_side, tables
from bend_jax.report.content import Report
from bend_jax.report.records import from_json
from bend_jax.run import config_file, cost, export, forecast, pipeline
from bend_jax.run import rows as table
from bend_jax.run.config import Config, add_groups, defaults, parse, with_presets
from bend_jax.run.config_file import ConfigFile
from bend_jax.run.context import prepare
from bend_jax.run.flags import STAGES, every_flag


def run(own: flags.FlagValues, words: list[str]) -> None:
    """Check everything, then compute, or only print what was asked.

    own: launch.py's own flags; words: the rest of the command line. Raises SettingsError for a user's mistake,
    StoppedError or DamagedError for a run that cannot go on.
    """
    if own["compare"].present:
        put_side_by_side(own, words)
        return
    if own["evaluate"].present:
        evaluate_logits(own, words)
        return
    if own["verify"].present:
        check_store(own, words)
        return
    if not own.config:
        no_config(own, words)
    file = config_file.read(own.config)
    settings = [*words, "--config.compute.tensorboard"] if own.tensorboard else words
    sys.path.append(current())  # where a user's own algorithms are
    add_groups(file.settings, settings)
    config_file.override(file.settings, settings, list(own))
    given = config_file.given_names(words)
    config = parse(file.settings, given)
    stages, seeds = read_stages(own.stages), read_seeds(own.seed)
    check_installed("--tensorboard", ("tensorboardX",) if config.compute.tensorboard else ())
    check_installed("--stages=export", export.NEEDED if "export" in stages else ())
    workdir = check_workdir(Path(own.workdir or Path("runs") / config.task), pipeline.linked(stages))
    rows = read_rows(file, own.sweep, stages, given)
    if own.print_config:
        print_config(file, rows, given)
        return
    compilation.keep()
    if own.distributed:
        devices.initialize(own.distributed)
    devices.check()
    try:
        if own.repair and not own.dry_run:
            set_damaged_aside(workdir)
        if rows:
            run_rows(own, file, rows, workdir, seeds)
        else:
            run_stages(own, config, file.name, workdir, stages, seeds)
    except (SettingsError, pipeline.StoppedError, storage.DamagedError):
        raise
    except Exception as error:  # a lost process shows as an error of many kinds
        if not own.distributed:
            raise
        what = f"{type(error).__name__}: {error}"
        devices.abort(f"launch.py: stopped, most likely because another process was lost: {what}")


def check_installed(flag: str, modules: Iterable[str]) -> None:
    """Raise SettingsError for modules that a flag needs and that are missing, with the command that installs them."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        what = f"{flag} needs {' and '.join(missing)}, not installed here"
        raise SettingsError(f"{what}: pip install {' '.join(missing)}")


def check_store(own: flags.FlagValues, words: list[str]) -> None:
    """Say that every entry of a store is whole. Raises DamagedError with all that is wrong."""
    refuse_others(own, words, "--verify checks what is on disk and takes no other flag", "verify")
    store = Path(own.verify) / "store"
    if not store.is_dir():
        raise SettingsError(f"--verify: there is no folder {store}; give the work directory of a run")
    found = storage.damaged(store)
    count = len(storage.stages(store))
    if found:
        what = "; ".join(found.values())
        raise storage.DamagedError(f"{len(found)} of {count} stages in {store} are not what was written: {what}")
    print(f"{count} stages in {store}: every file is what was written")


def set_damaged_aside(workdir: Path) -> None:
    """Make room for what is to be computed again. Nothing is deleted: a user's file may lie in a stage."""
    store = workdir / "store"
    if devices.is_first() and store.is_dir():
        for path, what in storage.damaged(store).items():
            (workdir / "damaged").mkdir(exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=workdir / "damaged")) / path.name
            path.rename(aside)
            say(f"moved store/{path.name} to {aside.relative_to(workdir)}: {what.split('; ')[0]}")
    devices.barrier("repaired")


def refuse_others(own: flags.FlagValues, words: list[str], what: str, *names: str) -> None:
    """Raise SettingsError for every flag but these."""
    given = [f"--{flag.name}" for flag in every_flag(own) if flag.present and flag.name not in names]
    if given or words:
        raise SettingsError(f"{what}; got {', '.join([*given, *words])}")


def no_config(own: flags.FlagValues, words: list[str]) -> NoReturn:
    """Raise SettingsError that says what was misspelt, or that --config is missing."""
    config_file.check_flags(flatten_dict(defaults(), sep="."), words, list(own))
    found = [word for word in words if config_file.find(word.partition(":")[0])]
    hint = f"did you mean --config={found[0]}? " if found else ""
    raise SettingsError(f"no --config was given; {hint}there are {', '.join(config_file.available())}")


def put_side_by_side(own: flags.FlagValues, words: list[str]) -> None:
    """The reports of finished runs in one document."""
    alone = "--compare puts finished runs side by side and takes --workdir alone"
    refuse_others(own, words, alone, "compare", "workdir")
    devices.check()
    workdir = check_workdir(Path(own.workdir or "runs/compared"))
    side_by_side.run(own.compare, workdir)
    print(where(workdir, STAGES[:-1]))


def evaluate_logits(own: flags.FlagValues, words: list[str]) -> None:
    """The report of members that came from anywhere, from a file of their logits."""
    settings = ConfigDict({"evaluate": {"coverage": Evaluate().coverage}})
    foreign = [word for word in words if config_file.given_names([word]) != {"evaluate.coverage"}]
    what = "--evaluate reports on logits and takes --workdir and --config.evaluate.coverage"
    refuse_others(own, foreign, what, "evaluate", "workdir")
    config_file.override(settings, words, list(own))
    path = Path(own.evaluate)
    workdir = check_workdir(Path(own.workdir or Path("runs") / path.stem))
    if not own.workdir:
        check_source(workdir, path)
    compilation.keep()
    devices.check()
    try:
        found = given_logits.evaluate_file(path, settings.to_dict()["evaluate"]["coverage"])
    except SettingsError as error:
        raise SettingsError(f"--evaluate: {error}") from None
    found.publish(workdir, str(path))
    say(f"{found}\n")
    say(where(workdir, STAGES[:-1]))


def check_source(workdir: Path, path: Path) -> None:
    """Raise SettingsError where the report of a run, or of another file of the same name, would be replaced."""
    manifest = workdir / "report" / "manifest.json"
    try:
        found = storage.read_json(manifest)
        (source,) = found["inputs"] if found["stage"] == "evaluation" else ["a run"]
    except FileNotFoundError:
        return
    except (KeyError, TypeError, ValueError):
        source = "something else"
    if source == "a run" or Path(source).resolve() != path.resolve():
        raise SettingsError(
            f"--evaluate: {workdir / 'report'} is the report of {source}, which this one would replace: "
            "give a --workdir"
        )


def read_stages(words: list[str]) -> tuple[str, ...]:
    """The stages to run. Raises SettingsError."""
    for word in words:
        if word not in STAGES:
            hint = did_you_mean(word, STAGES)
            raise SettingsError(f"--stages: unknown {word!r}{hint}; there are {', '.join(STAGES)}")
    if not words:
        raise SettingsError(f"--stages needs at least one of {', '.join(STAGES)}")
    return tuple(words)


def read_seeds(words: list[str]) -> list[int]:
    """The seeds, one run each. Raises SettingsError."""
    try:
        seeds = [int(word) for word in words]
    except ValueError:
        raise SettingsError(f"--seed takes whole numbers with commas between; got {','.join(words)!r}") from None
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise SettingsError(f"--seed takes different numbers from 0 to 2**32 - 1; got {','.join(words)!r}")
    return seeds


def check_workdir(path: Path, names: Iterable[str] = ("report",)) -> Path:
    """The absolute work directory. Raises SettingsError for one that cannot be written, or where something else stands
    in the place of these stages' links."""
    try:
        workdir = path.resolve()
    except RuntimeError as error:  # links in a circle
        raise SettingsError(f"--workdir: {error}") from None
    check_letters([str(workdir)])
    nearest = next(p for p in (workdir, *workdir.parents) if p.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=nearest))  # the one sure test
    except OSError as error:
        raise SettingsError(f"--workdir: cannot write into {workdir}: {nearest}: {error.strerror}") from None
    links.check(workdir, names)
    return workdir


def current() -> str:
    """The current directory. Raises SettingsError where it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise SettingsError("the current directory is gone: change to another one") from None


def read_rows(file: ConfigFile, sweep: list[str], stages: tuple[str, ...], given: set[str]) -> list[table.Row]:
    """The rows of a sweep, of a comparison or of a paper's table; none for a single run."""
    rows, settings = config_file.rows(file), file.settings.to_dict()
    if sweep and rows:
        raise SettingsError("--sweep takes the configuration of a run; this one has rows of its own")
    if sweep:
        rows = table.read_sweep(flatten_dict(settings, sep="."), sweep)
    if rows and set(STAGES[:-1]) != set(stages):
        what = "sweep" if sweep else "comparison"
        raise SettingsError(f"--stages: a {what} runs {','.join(STAGES[:-1])}; those in the store are reused")
    return table.read_rows(settings, rows, given) if rows else []


def print_config(file: ConfigFile, rows: list[table.Row], given: set[str]) -> None:
    """Every setting with its value, presets filled in, and what each row changes."""
    settings = file.settings.to_dict()
    settings["generate"] = with_presets(settings["generate"], GENERATORS, given)
    print(*(f"{name} = {value!r}" for name, value in flatten_dict(settings, sep=".").items()), sep="\n")
    for row in rows:
        print(f"row {row.name!r} ({row.vote}):", ", ".join(f"{k} = {v!r}" for k, v in row.settings.items()))


def say(line: str) -> None:
    """A line on the terminal, from one process."""
    if devices.is_first():
        print(line, flush=True)


def run_rows(own: flags.FlagValues, file: ConfigFile, rows: list[table.Row], workdir: Path, seeds: list[int]) -> None:
    """Every row of a sweep, of a paper's table or of a comparison with every seed, or only what each would cost."""
    if own.dry_run:
        print(table.plan(rows, file.name, workdir, own.init))
        return
    if own.sweep:
        renderer = grid.RENDERER
    elif "PAPER" in file.defined:
        renderer = papers.renderer(file.defined["PAPER"], file.scale)
    else:
        renderer = comparison.RENDERER
    content, made = table.run(rows, file.name, seeds, workdir, say, renderer, own.init)
    say(f"\n{document.to_text(made)}\n")
    say(where(workdir, STAGES[:-1], file.settings.compute.tensorboard))
    stopped = [row.name for row in content.stopped]
    if stopped:
        names = "; ".join(stopped)
        raise pipeline.StoppedError(f"{len(stopped)} of {len(rows)} rows stopped, as the report says: {names}")


def run_stages(
    own: flags.FlagValues, config: Config, name: str, workdir: Path, stages: tuple[str, ...], seeds: list[int]
) -> None:
    """The stages of one run for each seed, or only what they would need."""
    dataset = splits.load(config.data, dry=own.dry_run)
    settings = [prepare(config, name, seed, workdir, dataset, own.init, dry=own.dry_run) for seed in seeds]
    for note in dataset.notes:
        say(f"{config.data.name}: {note}")
    if few := conformal.shortage(len(dataset.validation.labels), config.evaluate.coverage):
        say(few)
    if own.dry_run:
        say(cost.describe(settings[0]))
        say(cost.unmeasured(settings[0]) or str(forecast.forecast(settings[0])))
        return
    plans = []
    for s in settings:
        if len(seeds) > 1:
            say(f"seed {s.seed}")
        plans.append(pipeline.run(s, stages, say))
    if "report" in stages:
        path = pipeline.summarise(settings, plans, say) if len(seeds) > 1 else plans[0]["report"].path
        report = from_json(Report, storage.read_json(path / "report.json"))
        say(f"\n{tables.terminal(report)}\n")
    say(where(workdir, stages, config.compute.tensorboard))
    if "export" in stages:
        say(how_to_call(workdir / "export" / "ensemble.jax", dataset))


def how_to_call(path: Path, dataset: splits.Dataset) -> str:
    """Three lines of Python that run what the stage export wrote."""
    shape, classes = ", ".join(map(str, dataset.test.images.shape[1:])), dataset.num_classes
    lines = [
        "import jax.export, pathlib",
        f"vote = jax.export.deserialize(bytearray(pathlib.Path({str(path)!r}).read_bytes())).call",
        f"labels, probabilities = vote(images)  # uint8 [n, {shape}] in; [n] and [n, {classes}] out",
    ]
    return "\n".join(lines)


def where(workdir: Path, stages: tuple[str, ...], has_events: bool = False) -> str:
    """The last line of a run: what to open."""
    files = [*(workdir / "report").glob("*.*")] if "report" in stages else []
    files += [*(workdir / "export").glob("ensemble.*")] if "export" in stages else []
    names = [str(path.relative_to(workdir)) for path in sorted(files) if path.name != "manifest.json"]
    board = [f"tensorboard --logdir {workdir / 'tensorboard'}"] if has_events else []
    return "; ".join([f"Everything is in {workdir}" + (": " if names else "") + ", ".join(names), *board])
