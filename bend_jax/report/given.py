"""What report.json of `bend_jax.evaluate` holds, as records."""

from dataclasses import dataclass

from bend_jax.report.content import Calibrated, Curves, Doubt, Shift, Vote
from bend_jax.report.difference import Difference


@dataclass(frozen=True, kw_only=True)
class MembersRow:
    """Accuracies of the votes and of the members; potential: some member is right."""

    sbend: float
    abend: float
    abend_std: float
    max: float
    mean: float
    median: float
    potential: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """report.json of members that came from anywhere, by their logits.

    base: which member is the most accurate on validation images, whose figures are votes["base"]; vote, temperature:
    the vote of all members that validation chose (mean or pool); all others as in `Report`.
    """

    members: int
    images: int
    validation_images: int
    classes: int
    base: int
    vote: str
    temperature: float
    coverage: float
    table: MembersRow
    votes: dict[str, Vote]
    temperatures: dict[str, dict[str, float]]
    disagreement: float | None
    error_iou: float | None
    test: dict[str, float | None]
    differences: dict[str, Difference]
    calibrations: dict[str, dict[str, Calibrated | None]]
    doubt: dict[str, Doubt]
    shift: Shift | None
    curves: Curves
