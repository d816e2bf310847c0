"""What report.json holds on one vote against another."""

from dataclasses import dataclass

from bend_jax.metrics import Interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One vote minus another on the same test images: of the accuracy, and of the NLL after temperature scaling, with
    95% bootstrap intervals; mcnemar_p: exact, two-sided, of the first."""

    accuracy: Interval
    nll_ts: Interval | None
    mcnemar_p: float | None = None
