"""What `--dry_run` predicts beside what a run takes, stage by stage: seconds, CPU seconds and memory."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import bend_jax
from benchmarks import common
from bend_jax import compilation, subset, training
from bend_jax.data import splits
from bend_jax.run import config_file, context, forecast, pipeline
from bend_jax.run.config import add_groups, parse

STAGES = ("base", "collect", "generate", "evaluate", "report")
BOUND = 1.5  # of predicted over measured, either way


def prepared(words: list[str], workdir: Path) -> context.RunContext:
    """A run's context from a command line without --workdir: "digits", "--init=FILE", "--config.a.b=value"."""
    init = "".join(word.removeprefix("--init=") for word in words[1:] if word.startswith("--init="))
    settings = [word for word in words[1:] if not word.startswith("--init=")]
    file = config_file.read(words[0])
    add_groups(file.settings, settings)
    config_file.override(file.settings, settings, [])
    config = parse(file.settings, config_file.given_names(settings))
    return context.prepare(config, file.name, 0, workdir, splits.load(config.data), init)


def perceptron() -> tuple[Any, Any]:
    """A network of one's own for `fit`, with random weights: apply and variables."""
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = zip(keys, (64, 64, 64), (64, 64, 10), strict=True)
    variables = {f"dense{i}": 0.1 * jax.random.normal(key, (a, b)) for i, (key, a, b) in enumerate(sizes)}

    def apply(variables: Any, images: Any) -> Any:
        x = images.reshape(len(images), -1)
        for i in range(2):
            x = jax.nn.relu(x @ variables[f"dense{i}"])
        return x @ variables["dense2"]

    return apply, variables


def fitted(s: context.RunContext) -> context.RunContext:
    """The context as a `fit` of the perceptron on the same images has it."""
    apply, variables = perceptron()
    chosen = subset.select(variables, ["dense2"])
    as_floats = s.examples.plain(s.examples.images)
    examples = training.Examples(as_floats, s.examples.labels, lambda keys, x, view=0: x, lambda x: x)
    model = training.Model(apply, None, lambda key: variables)
    return s._replace(model=model, chosen=chosen, examples=examples, collected=examples, initial=variables)


def predict(words: list[str]) -> dict[str, Any]:
    """Seconds of each stage by both clocks, of compilation, and bytes. By CPU seconds the second time, when little is
    left to compile."""
    s = prepared([word for word in words if word != "fit"], Path())
    s = fitted(s) if "fit" in words else s
    started = time.perf_counter()
    first = forecast.forecast(s)
    seconds = time.perf_counter() - started
    again = forecast.forecast(s)
    cpu = forecast.forecast(s, time.process_time)
    found = {"seconds": again.seconds, "cpu": cpu.seconds, "memory": first.memory}
    return {**found, "compiling": first.compiling, "took": seconds}


def measure(words: list[str]) -> dict[str, Any]:
    """The run itself: seconds of each stage by both clocks, and bytes at the peak of this process."""
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    before = [time.perf_counter(), time.process_time()]

    def say(line: str) -> None:
        now = [time.perf_counter(), time.process_time()]
        name = line.split(":")[0]
        seconds[name], cpu[name] = (a - b for a, b in zip(now, before, strict=True))
        before[:] = now

    with tempfile.TemporaryDirectory() as folder:
        s = prepared([word for word in words if word != "fit"], Path(folder))
        before[:] = [time.perf_counter(), time.process_time()]
        if "fit" in words:
            _fit(fitted(s), say)
        else:
            pipeline.run(s, STAGES, say)
    return {"seconds": seconds, "cpu": cpu, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _fit(s: context.RunContext, say: Any) -> None:
    """Collect and generate, as `bend_jax.fit` does."""
    images = np.asarray(s.examples.images)
    how: Any = {"subset": "dense2", "collect": s.config.collect.settings, "members": s.config.members}
    bend_jax.fit(s.model.apply, s.initial, images, jnp.asarray(s.examples.labels), **how)
    say("fit")


def row(name: str, predicted: float, measured: float) -> list[str]:
    """A line of the table."""
    ratio = predicted / measured
    kept = "yes" if 1 / BOUND <= ratio <= BOUND else "no"
    return [name, common.number(predicted), common.number(measured), f"{ratio:.2f}", kept]


def table(predicted: dict[str, Any], measured: dict[str, Any], clock: str) -> list[list[str]]:
    """Every stage, then all of them, with what is said of compilation where that is told apart: a stage's own part of
    it is in what was measured alone. Of a fit, a part of a run, that part is not known."""
    own, real = predicted[clock], measured[clock]
    if "fit" in real:
        return [
            row("fit", own["collect"] + own[next(name for name in own if name.startswith("generate"))], real["fit"])
        ]
    rows = [row(name, own[name], real[name]) for name in real if name in own]
    compiling = predicted["compiling"] if clock == "seconds" else 0.0
    return [*rows, row("all", sum(own.values()) + compiling, sum(real.values()))]


def main(argv: list[str] | None = None) -> None:
    """Predict, run, print, write; each in a process of its own."""
    more: dict[str, dict[str, Any]] = {
        "run": {"action": "append", "help": 'words as launch.py takes them, such as "digits"; "fit digits" for a fit'},
        "part": {"help": argparse.SUPPRESS},
    }
    args = common.arguments(str(__doc__), "dry_run", argv, False, **more)
    if args.part:
        jax.config.update(compilation.FOLDER, None)
        compilation.keep()
        words = args.run[0].split()
        print(json.dumps({"predict": predict, "measure": measure}[args.part](words)))
        return
    content: dict[str, Any] = {}
    for words in args.run or ["digits", "fit digits"]:
        found: dict[str, Any] = {}
        for part in ("predict", "measure"):
            command = [sys.executable, "-m", "benchmarks.dry_run", f"--part={part}", f"--run={words}"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=common.ROOT)
            found[part] = json.loads(done.stdout.splitlines()[-1])
        content[words] = found
        common.write(args, {"rows": content})
        head = ["stage", "predicted", "measured", "ratio", f"within {BOUND}"]
        for clock, unit in (("seconds", "seconds"), ("cpu", "CPU seconds")):
            common.show(
                f"{words}: {unit}, warm",
                head,
                table(found["predict"], found["measure"], clock),
            )
        memory = row("memory, MB", found["predict"]["memory"] / 1e6, found["measure"]["memory"] / 1e6)
        common.show(f"{words}; the forecast took {found['predict']['took']:.1f} s", head, [memory])


if __name__ == "__main__":
    main(sys.argv[1:])
