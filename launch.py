"""bend_jax: an ensemble out of one training run.

  python launch.py --config=configs/digits.py                      the whole run
  python launch.py --config=configs/digits.py --seed=0,1,2         three runs, mean and standard deviation
  python launch.py --config=configs/compare_digits.py --seed=0,1,2 many systems in one table
  python launch.py --config=configs/digits.py --sweep=collect.k=2,10,50 --sweep=members=10,100    a grid of runs
  python launch.py --config=configs/paper/table3.py --scale=digits a table of the papers, or =cifar10_small, =full
  python launch.py --compare=runs/digits,runs/other                finished runs side by side, without computing
  python launch.py --config=configs/digits.py --print_config       every setting and its value
  python launch.py --config=configs/digits.py --dry_run            dimensions, memory, a rough time
  python launch.py --config=configs/digits.py --distributed=HOST:PORT,COUNT,INDEX   one of COUNT processes

Any setting is a flag:  --config.collect.name=bootstrap --config.collect.k=20 --config.members=10
"""

import difflib
import os
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from bend_jax.checks import SettingsError, did_you_mean
from bend_jax.run.config import Config, parse

STAGES = ("base", "collect", "generate", "evaluate", "report", "export")
OWN = (  # flags, in the order of --help
    *("config", "workdir", "stages", "seed", "init", "sweep", "scale", "compare"),
    *("distributed", "tensorboard", "print_config", "dry_run"),
)
FLAGS = flags.FLAGS
FOUND: dict[str, Any] = {}  # what the configuration's file defines: a comparison or a paper's table has get_rows


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr and a non-zero exit: 2 for a user's mistake, 1 for a run that cannot go on."""
    print(f"launch.py: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


def define_flags() -> None:
    """The flags; absl opens a --flagfile while they are defined."""
    config_flags.DEFINE_config_file("config", help_string="A file with get_config(), e.g. configs/digits.py.")
    flags.DEFINE_string("workdir", "", "Where everything is written; runs/<task> where none is given.")
    flags.DEFINE_list(
        "stages", list(STAGES[:-1]), f"Which of {','.join(STAGES)} to run; what they read must be in the store."
    )
    flags.DEFINE_list("seed", ["0"], "The seed of all randomness; several with commas run one after the other.")
    flags.DEFINE_string(
        "init", "", "A trained model to start from: .safetensors or .pth of PyTorch, or an orbax folder."
    )
    flags.DEFINE_string(
        "distributed",
        "",
        "One run in many processes: HOST:PORT,COUNT,INDEX, or auto on a cluster (docs/scaling.md).",
    )
    flags.DEFINE_multi_string(
        "sweep", [], "setting=value,value: a run for each, in one table; several: a grid. ; between values with commas."
    )
    flags.DEFINE_string("scale", "", "Of a paper's configuration: digits (where none is given), cifar10_small or full.")
    flags.DEFINE_list("compare", [], "Work directories of finished runs, to put side by side; computes nothing.")
    flags.DEFINE_bool("tensorboard", False, "Write TensorBoard's event files under <workdir>/tensorboard as well.")
    flags.DEFINE_bool("print_config", False, "Print every setting and stop; reads no data, writes nothing.")
    flags.DEFINE_bool("dry_run", False, "Print dimensions, memory and a rough time, and stop; writes nothing.")


def parse_flags(argv: list[str]) -> None:
    """Parse the command line, with one line for every mistake (absl's own parser exits with a traceback or with 1)."""
    try:
        define_flags()
    except flags.Error as error:
        fail(str(error))
    words = [word.split("=")[0].lstrip("-") for word in argv[1:] if word.startswith("-")]
    if {"help", "h", "helpfull", "helpshort"} & set(words):
        print(__doc__, *(f"  --{name:13} {FLAGS[name].help}" for name in OWN), sep="\n")
        raise SystemExit(0)
    path, scale, config = (Path(), "", ConfigDict()) if "compare" in words else config_file(argv)
    known = flat(config.to_dict())
    if "compare" in words and set(words) - {"compare", "workdir"}:
        more = ", ".join(f"--{word}" for word in words if word not in ("compare", "workdir"))
        fail(f"--compare puts finished runs side by side and takes --workdir alone; got {more}")
    check_overrides(known, [word for word in words if word.startswith("config.")])
    try:
        rest = FLAGS(with_scale(argv, path, scale) if scale else argv)
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if not found:
            fail(str(error))
        fail(f"{found[1]} takes a value of type {type(known[found[1]]).__name__}; got {found[2]!r}")
    except (flags.Error, ValueError, OSError) as error:
        fail(str(error))
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}: every setting is a flag, --config.name=value")


def config_file(argv: list[str]) -> tuple[Path, str, ConfigDict]:
    """The configuration's file, the scale that it is taken at ("" where it has none), and what it gives before any flag
    changes it."""
    paths = given(argv, "config")
    if not paths or not paths[-1]:
        fail(f"no --config was given; there are {', '.join(available())}")
    path = Path(paths[-1])
    if not path.is_file():
        every = [*available(), *available("configs/paper")]
        fail(f"--config: there is no file {path}{did_you_mean(str(path), every)}; there are {', '.join(every)}")
    try:
        FOUND.update(run_path(str(path)))
        scale = scale_of(path, given(argv, "scale")[-1:])
        return path, scale, FOUND["get_config"](*([scale] if scale else []))
    except Exception as error:  # noqa: BLE001  a configuration is code: whatever it raises is the user's to see
        fail(f"--config: {path} cannot be loaded: {type(error).__name__}: {error}")


def given(argv: list[str], flag: str) -> list[str]:
    """The values of a flag on the command line, before absl reads it."""
    values = [after for word, after in zip(argv, [*argv[1:], ""], strict=True) if word in (f"--{flag}", f"-{flag}")]
    return values + [word.split("=", 1)[1] for word in argv if word.startswith((f"--{flag}=", f"-{flag}="))]


def with_scale(argv: list[str], path: Path, scale: str) -> list[str]:
    """The command line with file:scale for the file, which ml_collections reads as get_config(scale)."""
    pairs = zip(["", *argv], argv, strict=False)
    whole = [f"{path}:{scale}" if before in ("--config", "-config") else word for before, word in pairs]
    return [f"--config={path}:{scale}" if w.startswith(("--config=", "-config=")) else w for w in whole]


def scale_of(path: Path, words: list[str]) -> str:
    """The scale of a paper's configuration, its first where none is given; "" for a configuration without scales."""
    scales = FOUND.get("SCALES", ())
    if words and not scales:
        fail(f"--scale: {path} has no scales; those of configs/paper have: {', '.join(available('configs/paper'))}")
    if words and words[0] not in scales:
        fail(f"--scale: unknown {words[0]!r}{did_you_mean(words[0], scales)}; there are {', '.join(scales)}")
    return words[0] if words else next(iter(scales), "")


def available(folder: str = "configs") -> list[str]:
    """The configurations beside this file."""
    return [f"{folder}/{p.name}" for p in sorted((Path(__file__).parent / folder).glob("[!_]*.py"))]


def check_overrides(known: dict[str, Any], overrides: list[str]) -> None:
    """Every --config.name must be a setting of the file."""
    groups = {name.rsplit(".", 1)[0] for name in known if "." in name}
    for word in overrides:
        name = word.removeprefix("config.")
        if name in groups:
            fail(f"{name} is a group of settings: {', '.join(k for k in known if k.startswith(name + '.'))}")
        if name not in known:
            same_leaf = [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or same_leaf[:1]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            fail(f"unknown setting {name}{hint}; --print_config lists them all")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    result = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def check_flags(config: Config) -> tuple[Path, tuple[str, ...], list[int]]:
    """(work directory, stages, seeds). Raises SettingsError for one that cannot be used."""
    for stage in FLAGS.stages:
        if stage not in STAGES:
            raise SettingsError(
                f"--stages: unknown {stage!r}{did_you_mean(stage, STAGES)}; there are {', '.join(STAGES)}"
            )
    try:
        seeds = [int(word) for word in FLAGS.seed]
    except ValueError:
        raise SettingsError(f"--seed takes whole numbers with commas between; got {','.join(FLAGS.seed)!r}") from None
    if not seeds or not FLAGS.stages or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise SettingsError(
            "--stages and --seed need at least one value each, and seeds must be different, from 0 to 2**32 - 1"
        )
    if config.compute.tensorboard and find_spec("tensorboardX") is None:
        raise SettingsError("--tensorboard needs tensorboardX, which is not installed: pip install tensorboardX")
    return check_workdir(Path("runs") / config.task), tuple(FLAGS.stages), seeds


def check_workdir(default: Path) -> Path:
    """The work directory. Raises SettingsError for one that cannot be written."""
    workdir = Path(FLAGS.workdir or default).resolve()
    nearest = next(p for p in (workdir, *workdir.parents) if p.exists())
    try:
        os.rmdir(tempfile.mkdtemp(dir=nearest))  # the one sure test
    except OSError as error:
        raise SettingsError(f"--workdir: cannot write into {workdir}: {nearest}: {error.strerror}") from None
    return workdir


def use_compilation_cache() -> None:
    """Keep compiled programs from run to run; an existing JAX_COMPILATION_CACHE_DIR wins."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "bend_jax" / "compiled"))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def say(line: str) -> None:
    """A line on the terminal, from one process."""
    from bend_jax import devices

    if devices.is_first():
        print(line, flush=True)


def print_config(rows: list[Any]) -> None:
    """Every setting with its value, and what each row changes."""
    print(*(f"{name} = {value!r}" for name, value in flat(FLAGS.config.to_dict()).items()), sep="\n")
    for row in rows:
        print(f"row {row.name!r} ({row.vote}):", ", ".join(f"{k} = {v!r}" for k, v in row.settings.items()))


def read_rows(stages: tuple[str, ...], scale: str) -> list[Any]:
    """The rows of a sweep, of a comparison or of a paper's table; none for a single run."""
    if FLAGS.sweep and "get_rows" in FOUND:
        raise SettingsError("--sweep takes the configuration of a run; this one has rows of its own")
    if not FLAGS.sweep and "get_rows" not in FOUND:
        return []
    from bend_jax.run import rows as table

    raw = FLAGS.config.to_dict()
    if set(STAGES[:-1]) != set(stages):
        what = "sweep" if FLAGS.sweep else "comparison"
        raise SettingsError(f"--stages: a {what} runs {','.join(STAGES[:-1])}; those in the store are reused")
    if FLAGS.sweep:
        return table.read_rows(raw, table.read_sweep(flat(raw), FLAGS.sweep))
    return table.read_rows(raw, FOUND["get_rows"](FLAGS.config, *([scale] if scale else [])))


def run_rows(rows: list[Any], name: str, scale: str, workdir: Path, seeds: list[int]) -> None:
    """Every row of a sweep, of a paper's table or of a comparison with every seed, or only what each would cost."""
    from bend_jax.report import comparison, document, grid, papers
    from bend_jax.run import rows as table

    if FLAGS.dry_run:
        print(table.plan(rows, name, workdir))
        return
    if FLAGS.sweep:
        renderer = grid.RENDERER
    else:
        renderer = papers.renderer(FOUND["PAPER"], scale) if "PAPER" in FOUND else comparison.RENDERER
    content, made = table.run(rows, name, seeds, workdir, say, renderer, FLAGS.init)
    say(f"\n{document.to_text(made)}\n")
    say(where(workdir, STAGES[:-1]))
    stopped = [row.name for row in content.stopped]
    if stopped:
        fail(f"{len(stopped)} of {len(rows)} rows stopped, as the report says: {'; '.join(stopped)}", 1)


def put_side_by_side() -> None:
    """The reports of finished runs in one document."""
    from bend_jax.report import side_by_side

    workdir = check_workdir(Path("runs") / "compared")
    side_by_side.run(FLAGS.compare, workdir)
    print(where(workdir, STAGES[:-1]))


def run(config: Config, name: str, workdir: Path, stages: tuple[str, ...], seeds: list[int]) -> None:
    """Check everything, then run the stages for each seed, or only say what they would need."""
    from bend_jax import storage
    from bend_jax.data import splits
    from bend_jax.report import tables
    from bend_jax.report.content import Report
    from bend_jax.report.records import from_json
    from bend_jax.run import cost, pipeline
    from bend_jax.run.context import prepare

    dataset = splits.load(config.data)
    settings = [prepare(config, name, seed, workdir, dataset, FLAGS.init) for seed in seeds]
    if FLAGS.dry_run:
        print(cost.describe(settings[0]))
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
    say(where(workdir, stages))


def where(workdir: Path, stages: tuple[str, ...]) -> str:
    """The last line of a run: what to open."""
    files = [*(workdir / "report").glob("*.*")] if "report" in stages else []
    files += [*(workdir / "export").glob("ensemble.*")] if "export" in stages else []
    names = [str(path.relative_to(workdir)) for path in sorted(files) if path.name != "manifest.json"]
    board = [f"tensorboard --logdir {workdir / 'tensorboard'}"] if tensorboard() else []
    return "; ".join([f"Everything is in {workdir}" + (": " if names else "") + ", ".join(names), *board])


def tensorboard() -> bool:
    """Whether TensorBoard's files were asked for."""
    return not FLAGS["compare"].present and FLAGS.config.compute.tensorboard


def main(argv: list[str]) -> None:
    """Flags, checks, stages; every expected failure is one line."""
    parse_flags(argv)
    try:
        if FLAGS["compare"].present:
            put_side_by_side()
            return
        config = parse(FLAGS.config)
        if FLAGS.tensorboard:
            FLAGS.config.compute.tensorboard = True
            config = parse(FLAGS.config)
        workdir, stages, seeds = check_flags(config)
        name, _, scale = config_flags.get_config_filename(FLAGS["config"]).partition(":")
        rows = read_rows(stages, scale)
        if FLAGS.print_config:
            print_config(rows)
            return
        use_compilation_cache()
        from bend_jax import devices, storage
        from bend_jax.run import pipeline

        if FLAGS.distributed:
            devices.join(FLAGS.distributed)

        try:
            if rows:
                run_rows(rows, name, scale, workdir, seeds)
            else:
                run(config, name, workdir, stages, seeds)
        except (pipeline.StoppedError, storage.DamagedError) as error:
            fail(str(error), 1)
        except RuntimeError as error:
            if not FLAGS.distributed:
                raise
            devices.leave(f"launch.py: stopped, most likely because another process was lost: {error}")
    except SettingsError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last saved state", 130)


if __name__ == "__main__":
    main(sys.argv)
