"""report.json of `bend_jax.evaluate` as a document: what it says first, then every table and figure behind it."""

from bend_jax import conformal
from bend_jax.report import certainty, figures, run_report, tables
from bend_jax.report.content import Vote
from bend_jax.report.document import Block, Document, Heading, Lines, Table, Text
from bend_jax.report.given import Evaluation
from bend_jax.report.records import at
from bend_jax.report.text import number, percent

NAMES = {
    **tables.VOTES,
    "base": "best member on validation",
    "weighted": "mean with the given weights",
    "weighted_pool": "opinion pool with the given weights",
}
MEMBERS = {"max": "max", "mean": "mean", "median": "med", "potential": "potential"}


def document(name: str, found: Evaluation) -> Document:
    """The report of these members. name: its title."""
    named = {vote: (text, found.votes[vote], None) for vote, text in NAMES.items() if vote in found.votes}
    certain = {vote: own for vote, own in named.items() if vote != "abend"}  # whose probabilities are sBEND's
    doubts = certainty.doubts(found.doubt, None, found.shift, None)
    blocks: list[Block] = [
        Text(_setup(found)),
        Heading("What it says"),
        Text("\n".join(f"- {line}" for line in verdict(found))),
        *_votes(found, named),
        *certainty.section(certain, found.coverage, (found.calibrations, None), doubts),
        *run_report.shifted(found.shift, None),
        *_members(found),
    ]
    return Document(name, tuple(blocks))


def _setup(found: Evaluation) -> str:
    """What was evaluated."""
    return (
        f"{found.members} members that tell {found.classes} classes apart, by their logits on {found.images} test "
        f"images. Temperatures, conformal sets and choices are from {found.validation_images} validation images. "
        f"Member {found.base}, counted from 0, is the most accurate there: it stands for one network, the `base` of "
        "the figures."
    )


def verdict(found: Evaluation) -> list[str]:
    """What voting gains on the best member, in plain sentences."""
    one, own, gap = found.votes["base"], found.votes[found.vote], found.differences["mean_vs_base"]
    majority = found.differences["sbend_vs_base"]["accuracy"]
    relative = f" ({100 * (own.nll_ts / one.nll_ts - 1):+.1f}%)" if one.nll_ts else ""
    lines = [
        f"Vote of all members ({NAMES[found.vote]}, chosen on validation): {percent(own.accuracy)}%, the best member "
        f"{percent(one.accuracy)}%; NLL after temperature scaling {number(own.nll_ts)} and {number(one.nll_ts)}"
        f"{relative}.",
        f"Mean of probabilities less the best member: {_interval(gap['accuracy'], 100, '+.2f')} points, "
        f"{_interval(gap['nll_ts'], 1, '+.4f')} nats of the NLL.",
        f"Majority vote less the best member: {_interval(majority, 100, '+.2f')} points (McNemar's p "
        f"{number(found.test['sbend_vs_base_mcnemar_p'], form='.2g')}).",
    ]
    own_sets = (own.sets or {}).get("lac")
    if own_sets:
        low, high = conformal.expected_coverage(found.validation_images, found.coverage, found.images)
        lines.append(
            f"Its conformal sets (LAC, asked to cover {percent(found.coverage)}%) hold the label of "
            f"{percent(own_sets.coverage)}% of the test images, with {own_sets.size:.2f} labels on average; chance "
            f"alone leaves the former between {percent(low)} and {percent(high)}% in 95 of 100 draws of images."
        )
    if found.disagreement is not None:
        lines.append(f"Two members disagree on {percent(found.disagreement)}% of the test images.")
    return lines


def _interval(own: tuple[float, float, float], factor: int, form: str) -> str:
    mean, low, high = (f"{factor * value:{form}}" for value in own)
    return f"{mean} [{low}, {high}]"


def _votes(found: Evaluation, named: dict[str, tuple[str, Vote, None]]) -> list[Block]:
    rows = [[text, *tables.vote_cells(vote, None, list(tables.COLUMNS))] for text, vote, _ in named.values()]
    note = (
        "NLL in nats; scaled: after temperature scaling on the validation images; ECE over 15 bins; AURC: mean error "
        "over all coverages, surest images first. Brackets above: 95% bootstrap intervals over test images."
    )
    drawn = (figures.by_members([found]), figures.reliability([found]), figures.risk_coverage([found]))
    table = Table(["vote", "accuracy %", *tables.COLUMNS.values()], rows, note)
    return [Heading("Votes: accuracy, calibration and risk"), table, *(figure for figure in drawn if figure)]


def _members(found: Evaluation) -> list[Block]:
    """The members alone, and how much they differ."""
    row = [*(percent(at(found.table, key)) for key in MEMBERS), percent(found.disagreement), number(found.error_iou)]
    note = (
        "Accuracies of single members; potential: some member is right. Disagreement: share of images that two members "
        "label differently; error IoU: the largest overlap of a member's errors with another's, mean."
    )
    header = ["", *(f"{text} %" for text in MEMBERS.values()), "disagreement %", "error IoU"]
    return [Heading("Members"), Table(header, [["members", *row]], note)]


def rows_csv(found: Evaluation) -> Lines:
    """results.csv: a line for each vote, numbers in full."""
    keys = ["accuracy", *tables.COLUMNS]
    lines = [[vote, *(repr(at(own, key)) for key in keys)] for vote, own in found.votes.items()]
    return ["vote", *keys], lines
