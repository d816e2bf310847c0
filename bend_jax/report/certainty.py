"""The section on how sure a vote may be: conformal sets, calibration by more than a temperature, what doubt is of."""

from collections.abc import Mapping

from bend_jax import conformal
from bend_jax.report.content import Calibrated, Doubt, SetQuality, Shift, Vote
from bend_jax.report.document import Block, Heading, Table
from bend_jax.report.text import number, percent

METHODS = {"lac": "LAC", "aps": "APS", "raps": "RAPS", "class_conditional": "by class"}
KINDS = {"vector": "vector", "dirichlet": "Dirichlet"}
Calibrations = Mapping[str, Mapping[str, Calibrated | None]]


def section(
    votes: Mapping[str, tuple[str, Vote, Vote | None]],
    coverage: float | None,
    calibrations: tuple[Calibrations | None, Calibrations | None],
    doubts: Mapping[str, tuple[Doubt, Doubt | None]],
) -> list[Block]:
    """Its tables, as far as the numbers are there; none for reports of earlier versions.

    votes: by name (what to call it, the vote, its standard deviations); calibrations: and their standard deviations;
    doubts: by what the images are, with theirs.
    """
    blocks = [*sets(list(votes.values()), coverage), *calibrated(votes, *calibrations), *doubt(doubts)]
    return [Heading("How sure", folded=True), *blocks] if blocks else []


def sets(votes: list[tuple[str, Vote, Vote | None]], coverage: float | None) -> list[Block]:
    """Coverage and mean size of every vote's conformal sets."""
    rows = []
    for name, vote, sd in votes:
        if vote.sets is None:
            continue
        cells = []
        for method in METHODS:
            own, spread = vote.sets.get(method), (sd.sets or {}).get(method) if sd else None
            cells.append(_quality(own, spread))
        rows.append([name, *cells])
    if not rows or coverage is None:
        return []
    least = f" ({conformal.smallest(coverage)} are needed, by class of every class)"
    few = f"too few of these{least if any('-' in row for row in rows) else ''}"
    note = (
        "Share of test images whose conformal set holds the label (%) / mean number of labels in a set. Asked for: "
        f"{percent(coverage)} %, on average over draws of the validation images, on which they are calibrated; -: "
        f"{few}. LAC has the smallest sets, which may be empty. APS's and RAPS's hold the most probable label: "
        "they cover no less than the accuracy. By class: LAC, calibrated within every class."
    )
    return [Table(["conformal sets of", *METHODS.values()], rows, note)]


def _quality(own: SetQuality | None, sd: SetQuality | None) -> str:
    if own is None:
        return "-"
    return f"{percent(own.coverage, sd and sd.coverage)} / {number(own.size, sd and sd.size, '.2f')}"


def calibrated(
    votes: Mapping[str, tuple[str, Vote, Vote | None]], found: Calibrations | None, sds: Calibrations | None
) -> list[Block]:
    """NLL and ECE of the votes by how they were calibrated."""
    rows = []
    for vote, kinds in (found or {}).items():
        name, own, sd = votes[vote]
        nll = [number(own.nll, sd and sd.nll), number(own.nll_ts, sd and sd.nll_ts)]
        ece = [number(own.ece, sd and sd.ece), number(own.ece_ts, sd and sd.ece_ts)]
        for kind in KINDS:
            one, spread = kinds.get(kind), (sds or {}).get(vote, {}).get(kind)
            nll.append(number(one and one.nll, spread and spread.nll))
            ece.append(number(one and one.ece, spread and spread.ece))
        rows.append([name, *nll, *ece])
    if not rows:
        return []
    names = ["as it is", "temperature", *KINDS.values()]
    note = (
        "All fitted on validation images. Vector: a factor and a bias for each class (Guo et al. 2017); Dirichlet: a "
        "matrix and a bias (Kull et al. 2019); both are shrunk towards the temperature, and equal to it where "
        "cross-validation shows no clear gain; -: more numbers than validation images."
    )
    return [Table(["calibration of", *(f"NLL, {n}" for n in names), *(f"ECE, {n}" for n in names)], rows, note)]


def doubts(
    own: Mapping[str, Doubt] | None, sd: Mapping[str, Doubt] | None, shift: Shift | None, shift_sd: Shift | None
) -> dict[str, tuple[Doubt, Doubt | None]]:
    """By what the images are: test images labelled rightly and wrongly, and every other data set."""
    found = {f"test images, labelled {name}ly": (one, (sd or {}).get(name)) for name, one in (own or {}).items()}
    others, theirs = (part.doubt if part else None for part in (shift, shift_sd))
    return found | {name: (one, (theirs or {}).get(name)) for name, one in (others or {}).items()}


def doubt(doubts: Mapping[str, tuple[Doubt, Doubt | None]]) -> list[Block]:
    """What the members are unsure of, on several kinds of images."""
    rows = []
    for images, (own, sd) in doubts.items():
        parts = [(own.total, sd and sd.total), (own.aleatoric, sd and sd.aleatoric)]
        parts.append((own.epistemic, sd and sd.epistemic))
        rows.append([images, *(number(value, spread) for value, spread in parts)])
    if not rows:
        return []
    note = (
        "Means over images, in nats. Total: entropy of the members' mean; aleatoric: mean entropy of a member; "
        "epistemic: the rest, on which members differ."
    )
    return [Table(["doubt about", "total", "aleatoric", "epistemic"], rows, note)]
