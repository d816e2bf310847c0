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


# BEND, Table 4 and eq. 13: ResNet-50 on CIFAR-10, one A100
TABLE4 = {  # epochs, epochs, and seconds on one A100; the break-even is m > 3.64
    "k_pre": 100,
    "k": 200,
    "t_orge": 28.0,  # of an epoch
    "t_ate": 931.39,
    "t_ddpm": 857.14,
    "t_sgen": 2.35,
    "break_even": 3.64,
}


# BEND, Table 5: ResNet-50 on CIFAR-10, test accuracy in %
TABLE5 = {  # subset, numbers; sBEND, aBEND, orig
    "last stage, last block, BN": ("layer4.2.bn3, bn2", 5120, 94.32, 94.33, 94.28),
    "last stage, first block, BN": ("layer4.0.bn3, bn2", 5120, 94.27, 94.23, 94.14),
    "stage before, last block, BN": ("layer3.5.bn3, bn2", 2560, 94.25, 94.12, 94.25),
    "stage before, first block, BN": ("layer3.0.bn3, bn2", 2560, 94.10, 94.13, 94.14),
    "first convolution of the first block": ("layer1.0.conv1.weight", 4096, 93.88, 93.09, 93.91),
    "last convolution of the stage before": ("layer3.5.conv3.weight", 262144, 84.01, 83.72, 94.01),
    "last layer": ("fc", 20490, 93.94, 89.17, 94.27),
}


# BEND, section 4.4; Fig. 4 has no numbers in its text
FIGURE4 = {"order": "members > between, checkpoints"}


# p-diff (arXiv:2402.13144, version 1), ResNet-18 on CIFAR-100: the original, and generated networks by k
PDIFF_K = {
    "original": 76.7,
    1: (76.6, 70.7, 73.2),  # best, mean, median
    10: (76.5, 71.2, 73.8),
    50: (76.7, 71.3, 74.3),
    200: (76.9, 72.4, 75.6),
    500: (76.8, 72.3, 75.4),
}


# BEND, section 4.5.2; Fig. 5b has no numbers in its text
FIGURE5B = {"rise": "rises with m", "above": "above 0 for every m"}


# p-diff, version 1: test accuracy in %
PDIFF_TABLE = {  # original, weight average ("ensemble"), best generated
    "res18_cifar10": (92.5, 92.5, 92.7),
    "res18_cifar100": (76.7, 76.7, 76.9),
    "res50_cifar10": (91.3, 91.4, 91.3),
    "res50_cifar100": (71.6, 71.6, 71.7),
}


# p-diff, version 1
PDIFF_NOISE = {  # best, mean, median of the generated ones; ResNet-18 on CIFAR-100
    "none": (76.7, 65.8, 65.0),
    "input": (76.7, 66.7, 67.3),
    "latent": (76.7, 72.1, 75.3),
    "both": (76.9, 72.4, 75.6),
    "original": 76.7,
}


# p-diff, version 1: error IoU, ResNet-18 on CIFAR-100
PDIFF_NOVELTY = {
    "among originals": 0.968,
    "among generated": 0.912,
    "generated to originals": 0.921,
}


# CBNN, its abstract
CBNN = {  # points of test error less than one network's at equal budget
    "balanced": {"CIFAR-100, ResNet-110": 4.16, "Tiny-ImageNet, ResNet-110": 6.96},
    "long-tailed": {"imbalanced sets, EfficientNet-B0, up to": 5.02},
}


def row(task: str) -> dict[str, float] | None:
    """The published row of a task, as shares in [0, 1]; None for a task that is not in the table."""
    return {key: value / 100 for key, value in zip(COLUMNS, TABLE3[task], strict=True)} if task in TABLE3 else None
