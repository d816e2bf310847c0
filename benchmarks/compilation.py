"""Cold compilation of a whole run on few data: seconds of tracing, of lowering and of XLA, and what costs most."""

import argparse
import collections
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.monitoring

from benchmarks import common

BAR = 25.0  # seconds, of configs/digits.py on 2 cores
PARTS = {"jaxpr_trace": "tracing", "jaxpr_to_mlir_module": "lowering", "backend_compile": "XLA"}
SECONDS: dict[str, float] = collections.defaultdict(float)  # of each part
PROGRAMS: dict[str, list[float]] = collections.defaultdict(list)  # of each program, by XLA


def note(event: str, duration_secs: float, **details: Any) -> None:
    """One event of JAX's."""
    part = event.removeprefix("/jax/core/compile/").removesuffix("_duration")
    if event.startswith("/jax/core/compile/") and part in PARTS:
        SECONDS[PARTS[part]] += duration_secs
        if part == "backend_compile":
            PROGRAMS[str(details.get("fun_name"))].append(duration_secs)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    more: dict[str, dict[str, Any]] = {"task": {"default": "digits", "help": "of configs/<task>.py"}}
    args: argparse.Namespace = common.arguments(str(__doc__), "compilation", argv, **more)
    jax.monitoring.register_event_duration_secs_listener(note)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "compiled")
        sys.argv = ["launch.py", f"--config=configs/{args.task}.py", f"--workdir={Path(folder) / 'run'}"]
        os.chdir(common.ROOT)
        runpy.run_path("launch.py", run_name="__main__")
    most = [{"program": name, "times": len(spent), "seconds": sum(spent)} for name, spent in PROGRAMS.items()]
    most.sort(key=lambda row: -row["seconds"])
    total = sum(SECONDS.values())
    content = {"task": args.task, "bar": BAR, "total": total, "parts": SECONDS, "programs": most}
    common.write(args, content)
    rows = [[row["program"], str(row["times"]), common.number(row["seconds"])] for row in most[:12]]
    parts = ", ".join(f"{name} {spent:.1f}" for name, spent in SECONDS.items())
    common.show(
        f"{total:.1f} s for {sum(map(len, PROGRAMS.values()))} programs ({parts}); bar {BAR:g} for digits on 2 cores",
        ["program", "times", "seconds"],
        rows,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
