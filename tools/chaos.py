"""Injects into real runs what goes wrong on real machines, and counts what they survive.

python tools/chaos.py                        # everything; about ten minutes of one core
python tools/chaos.py places environments    # of these groups
python tools/chaos.py --tree=PATH            # another checkout, such as an older one
python tools/chaos.py --seed=1               # other moments, other bytes

A run of a few seconds meets each injection in a process of its own. To survive is to end right, or with one line, no
traceback and the code that belongs to it; every finished stage stays whole; and the same command, once the cause is
gone, ends with the arrays of a run that nothing happened to. Full disks and read-only folders are real mounts, which
take root and Linux: without them these are counted as not injected.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tools import faults_around, faults_within  # noqa: E402
from tools.injecting import Bench  # noqa: E402

GROUPS = faults_within.GROUPS | faults_around.GROUPS


def main() -> int:
    """Inject, print a line for each that fell short and a table. Returns 0 where all were survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "groups", nargs="*", help=f"of {', '.join(GROUPS)} or of their functions; all where none is given"
    )
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows, short = list[tuple[str, str, int, int, int]](), 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        bench = Bench(Path(folder), given.tree.resolve(), given.seed)
        for group, functions in GROUPS.items():
            for function in functions:
                if given.groups and not {group, function.__name__} & set(given.groups):
                    continue
                counts = [0, 0, 0]  # injected, survived, not injected
                for name, fault in function(bench):
                    counts[0] += fault is not None
                    counts[1] += fault == ""
                    counts[2] += fault is None
                    if fault:
                        print(f"{function.__name__}: {name}: {fault}", flush=True)
                short += counts[0] - counts[1]
                rows.append((group, function.__name__, counts[0], counts[1], counts[2]))
                print(f"{function.__name__}: {counts[1]} of {counts[0]} survived", flush=True)
    print(f"\n{'':14}{'':20}{'injected':>10}{'survived':>10}{'not injected':>14}")
    for group, name, injected, survived, skipped in rows:
        print(f"{group:14}{name:20}{injected:10}{survived:10}{skipped:14}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
