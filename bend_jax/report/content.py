"""What report.json holds, as records: a run's report, one over several seeds, and the rows of a comparison.

The names of the fields are the keys of report.json (`records.to_json`). Shares lie in [0, 1], times are in seconds.
"""

from dataclasses import dataclass
from typing import Any

from bend_jax.report.difference import Difference
from bend_jax.report.learning import Learnt, Memorisation


@dataclass(frozen=True, kw_only=True)
class SetQuality:
    """Conformal sets of the test images: the share that holds the label, in all and in the class where it is least, and
    how many labels a set has on average."""

    coverage: float
    size: float
    worst_class: float


@dataclass(frozen=True, kw_only=True)
class Vote:
    """Accuracy, calibration and risk of one vote on the test images; "_ts": after temperature scaling; sets: by
    conformal method, None where there were too few validation images."""

    accuracy: float
    nll: float
    nll_ts: float
    brier: float
    brier_ts: float | None = None
    ece: float
    ece_ts: float | None = None
    aurc: float | None = None
    sets: dict[str, SetQuality | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A vote on the test images after vector scaling or Dirichlet calibration."""

    nll: float
    brier: float
    ece: float


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Means over images of the members' doubt in nats, total = aleatoric + epistemic; None where there is no image."""

    total: float | None
    aleatoric: float | None
    epistemic: float | None


@dataclass(frozen=True, kw_only=True)
class Table3:
    """A row of BEND's Table 3: accuracies of the votes, of the members and ("orig") of the checkpoints."""

    sbend: float
    abend: float
    abend_std: float
    max: float
    mean: float
    median: float
    orig_max: float
    orig_mean: float
    orig_median: float
    potential: float


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What was run: the data and its pixel noise, the network, the algorithms.

    validation: a sentence on where the validation images are from, None for the training images; warning: of a network
    that was brought along; notes: of the data set, such as classes without test images.
    """

    data: str
    noise: float
    test_images: int
    backbone: str
    collect: str
    subset: str
    generate: str
    views: str
    validation: str | None = None
    warning: str | None = None
    notes: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """How often two nets disagree, and how much their errors overlap (IoU)."""

    members: float | None
    checkpoints: float | None
    cross: float | None
    eq14_members: float | None
    eq14_checkpoints: float | None
    eq15: float | None
    iou_members: float | None
    iou_checkpoints: float | None
    iou_cross: float | None


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """How far the members are from the checkpoints: in their vectors, (max_iou) in their errors, and (disagreement:
    mean and 10th percentile) in the labels that they give otherwise than their nearest checkpoint."""

    nearest: float | None
    leave_one_out: float | None
    copy_share: float | None
    spread: float | None
    effective_rank_members: float | None
    effective_rank_checkpoints: float | None
    max_iou: float | None
    disagreement: float | None
    disagreement_p10: float | None


@dataclass(frozen=True, kw_only=True)
class Generator:
    """One null: what the report says of its m members (over several seeds, their mean number)."""

    m: int | float
    table: Table3
    votes: dict[str, Vote]
    novelty: Novelty


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of each part without compilation, and the break-even number of members (BEND's eq. 13)."""

    t_pre: float | None
    t_collect: float | None
    t_autoencoder: float | None
    t_diffusion: float | None
    t_sample: float | None
    t_evaluate: float | None
    t_epoch: float | None
    break_even_m: float | None
    compile: float | None


@dataclass(frozen=True, kw_only=True)
class ByMembers:
    """Votes over the first m members, a value for each m."""

    m: list[int]
    sbend: list[float]
    mean: list[float]
    single: list[float]
    nll: list[float]


@dataclass(frozen=True, kw_only=True)
class EachMember:
    """Accuracy of every member, and its largest error IoU with a checkpoint."""

    accuracy: list[float]
    max_iou: list[float | None]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A reliability diagram: a value for each bin, None in an empty one."""

    confidence: list[float | None]
    accuracy: list[float | None]
    share: list[float | None]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Before and after temperature scaling."""

    before: Bins
    after: Bins


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """The error among the images that a vote is surest of, at several coverages."""

    coverage: list[float]
    risk: list[float]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The arrays behind a run's figures; members by set, reliability and risk_coverage by vote."""

    by_members: ByMembers
    members: dict[str, EachMember]
    reliability: dict[str, Reliability]
    risk_coverage: dict[str, RiskCoverage]


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a score tells another data set's images from the test images."""

    auroc: float
    fpr95: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Other data sets (by data set, vote and score) and corrupted test images (by corruption, severity and vote);
    doubt: on each other data set."""

    ood: dict[str, dict[str, dict[str, Detection]]]
    corruptions: dict[str, dict[str, dict[str, Vote]]]
    doubt: dict[str, Doubt] | None = None


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """Losses of one training, a value for each step shown."""

    step: list[int]
    loss: list[float | None]
    held_out_loss: list[float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Seconds of one stage in all, and its folder in the store."""

    seconds: float | None
    folder: str


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """The numbers of a report that are averaged over seeds; as `Report.sd` their standard deviations (n - 1)."""

    table: Table3
    votes: dict[str, Vote]
    diversity: Diversity
    novelty: Novelty
    generators: dict[str, Generator]
    cost: Cost
    temperatures: dict[str, dict[str, float]]
    tuned: dict[str, float | None]
    shift: Shift | None
    memorisation: Memorisation | None = None
    calibrations: dict[str, dict[str, Calibrated | None]] | None = None
    doubt: dict[str, Doubt] | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """report.json of one run; over several seeds with means, `sd`, `runs` and each seed's folder in the store.

    votes, table, novelty: of the main generator (setup.generate); generators: its nulls. vote: "mean" or "pool",
    whichever validation images chose, as `fit` does; differences: of the main generator's votes, by
    "<vote>_vs_<base or null>". Both are None over several seeds. temperatures: by set and vote.
    calibrations: by vote and kind, None where there were too few validation images; doubt: on test images that are
    labelled rightly ("right") and wrongly. settings: by dotted name.
    """

    task: str
    config: str
    seed: int | list[int]
    k: int
    m: int
    dim: int
    setup: Setup
    table: Table3
    votes: dict[str, Vote]
    diversity: Diversity
    novelty: Novelty
    generators: dict[str, Generator]
    cost: Cost
    test: dict[str, float | None]
    temperatures: dict[str, dict[str, float]]
    tuned: dict[str, float | None]
    knobs: dict[str, str | None]
    curves: Curves | None
    shift: Shift | None
    training: dict[str, LossCurve] | None
    settings: dict[str, Any]
    stages: dict[str, Stage] | None
    memorisation: Memorisation | None = None
    vote: str | None = None  # None of older stores, as differences, calibrations and doubt
    differences: dict[str, Difference] | None = None
    calibrations: dict[str, dict[str, Calibrated | None]] | None = None
    doubt: dict[str, Doubt] | None = None
    coverage: float | None = None  # that the votes' conformal sets are calibrated for
    learnt: Learnt | None = None  # None of several seeds, without a diffusion, of older stores
    versions: dict[str, str] | None = None
    sd: Averaged | None = None
    runs: "list[Report] | None" = None
    folders: dict[str, str] | None = None

    @property
    def seeds(self) -> list[int]:
        """One, or several."""
        return self.seed if isinstance(self.seed, list) else [self.seed]

    @property
    def single(self) -> "list[Report]":
        """The reports of single seeds: `runs`, or this one."""
        return self.runs or [self]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One combination of settings over all seeds; training and inference: its cost in epochs and passes of the base.

    accuracy to knob: of the row's vote, with their standard deviations; vs_base: against the first row; vs_against:
    against the row named `against`; runs: the reports of single seeds.
    """

    name: str
    vote: str
    settings: dict[str, Any]
    training: float
    inference: float
    failed: None
    accuracy: float
    accuracy_sd: float | None
    nll: float | None
    nll_sd: float | None
    nll_ts: float | None
    nll_ts_sd: float | None
    ece: float | None
    ece_sd: float | None
    ece_ts: float | None
    ece_ts_sd: float | None
    disagreement: float | None
    disagreement_sd: float | None
    knob: float | None
    knob_sd: float | None
    vs_base: Difference | None
    vs_against: Difference | None
    against: str | None
    k: int
    m: int
    dim: int
    setup: Setup
    table: Table3
    votes: dict[str, Vote]
    diversity: Diversity
    novelty: Novelty
    generators: dict[str, Generator]
    cost: Cost
    sd: Averaged | None
    runs: list[Report]


@dataclass(frozen=True, kw_only=True)
class StoppedRow:
    """One combination that met a NaN or Inf; failed: with which seed and where."""

    name: str
    vote: str
    settings: dict[str, Any]
    training: float
    inference: float
    failed: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """report.json of a comparison, a sweep or a paper's table."""

    task: str
    config: str
    seed: list[int]
    rows: list[Row | StoppedRow]

    @property
    def finished(self) -> list[Row]:
        """The rows that came to their end."""
        return [row for row in self.rows if isinstance(row, Row)]

    @property
    def stopped(self) -> list[StoppedRow]:
        """The other ones."""
        return [row for row in self.rows if isinstance(row, StoppedRow)]
