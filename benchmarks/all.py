"""All five benchmarks one after the other within some minutes, a check of the members' logits first."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# name, the share of the time that is left which it may take, more arguments where the size is full
PARTS = (
    ("check", 0.15, ()),
    ("members", 0.3, ("--dtype", "float32,bfloat16")),
    ("train", 0.35, ()),
    ("collect", 0.5, ("--repeats", "2")),
    ("cost", 0.75, ()),
    ("generate", 1.0, ("--published_seconds", "20")),
)
ROOT = Path(__file__).parents[1]


def run(name: str, args: argparse.Namespace, seconds: float, more: tuple[str, ...]) -> dict[str, Any]:
    """One benchmark in a process of its own, so that each has the device's memory to itself; ended when its time is
    over, and what it wrote until then stays."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--size", args.size, "--repeats", str(args.repeats)]
    command += ["--out", str(args.out.resolve()), *(more if args.size == "full" else ())]
    started = time.perf_counter()
    with (args.out / f"{name}.log").open("w") as log:
        try:
            code: int | str = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = "out of time"
    return {"exit": code, "seconds": time.perf_counter() - started}


def main(argv: list[str] | None = None) -> int:
    """Run, print, write; 0 where all of them ended well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON and the logs")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of them")
    parser.add_argument("--only", default=",".join(name for name, *_ in PARTS), help="some of these")
    parser.add_argument("--size", choices=("tiny", "small", "full"), default="full", help="of each; see theirs")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    summary: dict[str, Any] = {}
    for name, share, more in [part for part in PARTS if part[0] in args.only.split(",")]:
        summary[name] = run(name, args, share * max(end - time.monotonic(), 1.0), more)
        (args.out / "all.json").write_text(json.dumps(summary, indent=1) + "\n")
        lines = (args.out / f"{name}.log").read_text().splitlines()
        print(f"{name}: {json.dumps(summary[name])}", *lines[-20:], sep="\n", flush=True)
    return 0 if all(part["exit"] == 0 for part in summary.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
