"""report.json of `bend_jax.evaluate` as a document: what it says first, then every table and figure behind it."""

from bend_jax import conformal
from bend_jax.report import answer, certainty, figures, run_report, tables, words
from bend_jax.report.content import Vote
from bend_jax.report.document import Block, Document, Figure, Heading, Lines, Table, Text
from bend_jax.report.given import Evaluation
from bend_jax.report.records import at
from bend_jax.report.text import number, percent

NAMES = {
    **words.VOTES,
    "base": "best member on validation",
    "weighted": "mean with the given weights",
    "weighted_pool": "opinion pool with the given weights",
}
MEMBERS = ("max", "mean", "median", "potential")


def document(name: str, found: Evaluation) -> Document:
    """The report of these members. name: its title."""
    named = {vote: (text, found.votes[vote], None) for vote, text in NAMES.items() if vote in found.votes}
    certain = {vote: own for vote, own in named.items() if vote != "abend"}  # whose probabilities are sBEND's
    doubts = certainty.doubts(found.doubt, None, found.shift, None)
    own = answer.of_evaluation(found)
    blocks: list[Block] = [
        answer.table(own),
        Text("\n".join(f"- {line}" for line in verdict(found))),
        Text(_setup(found)),
        *_figures(found),
        *_votes(found, named),
        *certainty.section(certain, found.coverage, (found.calibrations, None), doubts),
        *run_report.shifted(found.shift, None),
        *_members(found),
    ]
    return Document(name, tuple(blocks), answer.line(own))


def _setup(found: Evaluation) -> str:
    """What was evaluated."""
    return (
        f"{found.members} members that tell {found.classes} classes apart, by their logits on {found.images} test "
        f"images. Temperatures, conformal sets and choices are from {found.validation_images} validation images. "
        f"Member {found.base}, counted from 0, is the most accurate there: it stands for one network, the `base` of "
        "the figures."
    )


def verdict(found: Evaluation) -> list[str]:
    """What the conformal sets hold and how much members differ, in plain sentences."""
    lines, own_sets = [], (found.votes[found.vote].sets or {}).get("lac")
    if own_sets:
        low, high = conformal.expected_coverage(found.validation_images, found.coverage, found.images)
        lines.append(
            f"The ensemble's conformal sets (LAC, asked to cover {percent(found.coverage)}%) hold the label of "
            f"{percent(own_sets.coverage)}% of the test images, with {own_sets.size:.2f} labels on average; chance "
            f"alone leaves the former between {percent(low)} and {percent(high)}% in 95 of 100 draws of images."
        )
    if few := conformal.shortage(found.validation_images, found.coverage):
        lines.append(f"{few[0].upper()}{few[1:]}.")
    if found.disagreement is not None:
        lines.append(f"Two members disagree on {percent(found.disagreement)}% of the test images.")
    return lines or ["One member alone: there is nothing to vote on."]


def _figures(found: Evaluation) -> list[Figure]:
    drawn = (figures.by_members([found]), figures.reliability([found]), figures.risk_coverage([found]))
    return [figure for figure in drawn if figure]


def _votes(found: Evaluation, named: dict[str, tuple[str, Vote, None]]) -> list[Block]:
    rows = [[text, *tables.vote_cells(vote, None, list(tables.COLUMNS))] for text, vote, _ in named.values()]
    note = (
        "NLL in nats; scaled: after temperature scaling on the validation images; ECE over 15 bins; AURC: mean error "
        f"over all coverages, surest images first. {words.VOTES_NOTE}"
    )
    between = [
        [f"{NAMES[pair.removesuffix('_vs_base')]} less {NAMES['base']}", *answer.gap_cells(answer.gap_of([own]))]
        for pair, own in found.differences.items()
    ]
    tested = "In brackets 95% intervals of a paired bootstrap over test images; p: McNemar's exact test of the points."
    return [
        Heading("All votes and their differences", folded=True),
        Table(["votes of all members", "points", "p", "NLL"], between, tested),
        Table(["vote", "accuracy %", *tables.COLUMNS.values()], rows, note),
    ]


def _members(found: Evaluation) -> list[Block]:
    """The members alone, and how much they differ."""
    row = [*(percent(at(found.table, key)) for key in MEMBERS), percent(found.disagreement), number(found.error_iou)]
    note = (
        "Accuracies of single members, and of a choice that is right where some member is. Disagreement: share of "
        "images that two members label differently; error IoU: the largest overlap of a member's errors with "
        "another's, mean."
    )
    header = ["", *(f"{words.TABLE3[key]}, %" for key in MEMBERS), "disagreement %", "error IoU"]
    return [Heading("Members", folded=True), Table(header, [["members", *row]], note)]


def rows_csv(found: Evaluation) -> Lines:
    """results.csv: a line for each vote, numbers in full."""
    keys = ["accuracy", *tables.COLUMNS]
    lines = [[vote, *(repr(at(own, key)) for key in keys)] for vote, own in found.votes.items()]
    return ["vote", *keys], lines
