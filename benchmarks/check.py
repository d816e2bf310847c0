"""Members' logits against a loop of full passes, in float32 (without TF32) and bfloat16."""

import sys
from typing import Any

import jax

from benchmarks import common, members
from bend_jax import ensemble

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # of the largest difference, in sd of the logits


def main(argv: list[str] | None = None) -> None:
    """Compare, print, write; exit code 1 where one is too far away."""
    args = common.arguments(str(__doc__), "check", argv)
    rows: dict[str, Any] = {}
    for dtype, tolerance in TOLERANCE.items():
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            case = members.prepare("resnet18 bn1+bn2", dtype, args.size)
            own = ensemble.member_logits(case.apply, case.variables, case.chosen, case.vectors, case.images)
            found = members.compare(case, own)
        rows[dtype] = {**found, "is_right": found["largest_difference"] <= tolerance * found["logits_sd"]}
        common.write(args, {"rows": rows})
        print(dtype, rows[dtype], flush=True)
    raise SystemExit(0 if all(row["is_right"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
