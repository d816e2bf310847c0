"""Cold compilation of a whole run: seconds of tracing, of lowering and of XLA, and what costs most."""

import argparse
import collections
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common
from bend_jax.run import command_line

BAR = 25.0  # seconds, of configs/digits.py on 2 cores
PARTS = {"jaxpr_trace": "tracing", "jaxpr_to_mlir_module": "lowering", "backend_compile": "XLA"}


def main(argv: list[str] | None = None) -> None:
    """Measure, print, write."""
    more: dict[str, dict[str, Any]] = {"task": {"default": "digits", "help": "of configs/<task>.py"}}
    args: argparse.Namespace = common.arguments(str(__doc__), "compilation", argv, False, **more)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "compiled")
        os.chdir(common.ROOT)
        words = [f"--config=configs/{args.task}.py", f"--workdir={Path(folder) / 'run'}"]
        if code := command_line.main(["launch.py", *words]):
            raise SystemExit(code)
    seconds: dict[str, float] = collections.defaultdict(float)
    programs: dict[str, list[float]] = collections.defaultdict(list)
    for span in common.COMPILING:
        if span.part in PARTS:
            seconds[PARTS[span.part]] += span.end - span.begin
        if span.part == "backend_compile":
            programs[span.program].append(span.end - span.begin)
    most = [{"program": name, "times": len(spent), "seconds": sum(spent)} for name, spent in programs.items()]
    most.sort(key=lambda row: -row["seconds"])
    total = sum(seconds.values())
    content = {"task": args.task, "bar": BAR, "total": total, "parts": seconds, "programs": most}
    common.write(args, content)
    rows = [[row["program"], str(row["times"]), common.number(row["seconds"])] for row in most[:12]]
    parts = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
    common.show(
        f"{total:.1f} s for {sum(map(len, programs.values()))} programs ({parts}); bar {BAR:g} for digits on 2 cores",
        ["program", "times", "seconds"],
        rows,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
