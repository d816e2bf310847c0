"""Figures of the papers, to stand beside a run's own."""

# BEND (arXiv:2403.15766), Table 3: test accuracy in %, k = 200 checkpoints, m = 100 members, two batch-normalisation
# layers of the last block; columns as in `report.TABLE`. In the second row aBEND cannot be as printed: its expectation
# is the members' mean accuracy.
SOURCE = "BEND, Table 3 (k = 200, m = 100)"
COLUMNS = ("sbend", "abend", "max", "mean", "median", "orig_max", "orig_mean", "orig_median", "potential")
TABLE3 = {
    "res18_cifar10": (94.58, 94.59, 94.64, 94.58, 94.58, 94.69, 94.58, 94.59, 94.71),
    "res18_cifar100": (76.51, 76.52, 76.62, 76.16, 76.52, 76.79, 76.49, 76.49, 79.11),
    "res50_cifar10": (94.32, 94.33, 94.37, 94.32, 94.32, 94.44, 94.28, 94.28, 94.87),
    "res50_cifar100": (77.49, 77.45, 77.61, 77.31, 77.49, 77.72, 77.43, 77.42, 84.10),
    "regx_cifar10": (94.75, 94.75, 94.78, 94.73, 94.75, 94.93, 94.77, 94.77, 95.61),
    "regx_cifar100": (75.91, 75.82, 75.96, 75.77, 75.91, 76.32, 76.03, 76.04, 80.48),
    "regy_cifar10": (94.42, 94.44, 94.49, 94.42, 94.42, 94.60, 94.48, 94.48, 95.14),
    "regy_cifar100": (76.97, 76.95, 77.05, 76.94, 76.95, 77.17, 76.82, 76.82, 78.66),
}


def row(task: str) -> dict[str, float] | None:
    """The published row of a task, as shares in [0, 1]; None for a task that is not in the table."""
    return {key: value / 100 for key, value in zip(COLUMNS, TABLE3[task], strict=True)} if task in TABLE3 else None
