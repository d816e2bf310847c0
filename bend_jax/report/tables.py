"""The tables of a run's report, what they say in sentences, and both on a terminal."""

import math

from bend_jax.report import answer
from bend_jax.report.content import Averaged, Generator, Report, Vote
from bend_jax.report.document import Document, Table, Text, to_text
from bend_jax.report.records import at
from bend_jax.report.text import number, percent
from bend_jax.report.words import PARTS, REST, TABLE3, VOTES, WITHOUT_MEMBERS

COLUMNS = {  # of a vote besides its accuracy; those that a report holds are shown
    "nll": "NLL",
    "nll_ts": "NLL, scaled",
    "brier": "Brier",
    "brier_ts": "Brier, scaled",
    "ece": "ECE",
    "ece_ts": "ECE, scaled",
    "aurc": "AURC",
}


def rows_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Table 3: a row for the main generator and one for each null, in percent."""
    rows = []
    for name, part, sd in _generators(report):
        cells = {key: percent(at(part.table, key), at(sd.table, key) if sd else None) for key in TABLE3}
        if not sd:
            cells["abend"] += f"±{percent(part.table.abend_std)}"
        rows.append([name, *cells.values()])
    return ["accuracy %", *TABLE3.values()], rows


def _generators(report: Report) -> list[tuple[str, Report | Generator, Averaged | Generator | None]]:
    """(name, its part of the report, the same part of the sd or None), the main generator first."""
    nulls = [(name, part, report.sd and report.sd.generators[name]) for name, part in report.generators.items()]
    return [(report.setup.generate, report, report.sd), *nulls]


def columns(report: Report) -> dict[str, str]:
    """COLUMNS without those that a report of an earlier version lacks."""
    return {key: text for key, text in COLUMNS.items() if at(report.votes["base"], key) is not None}


def rows_votes(report: Report) -> tuple[list[str], list[list[str]]]:
    """Every vote: accuracy in percent, the others plain."""
    rows, keys = [], columns(report)
    for name, part, sd in _generators(report):
        for vote, label in VOTES.items():
            if vote in part.votes:
                whose = "" if vote in WITHOUT_MEMBERS else f"{name}: "
                rows.append([whose + label, *vote_cells(part.votes[vote], sd and sd.votes[vote], list(keys))])
    return ["vote", "accuracy %", *keys.values()], rows


def vote_cells(vote: Vote, sd: Vote | None, keys: list[str]) -> list[str]:
    """Its accuracy in percent, then the measures of those names."""
    accuracy = percent(vote.accuracy, sd.accuracy if sd else None)
    return [accuracy, *(number(at(vote, key), at(sd, key) if sd else None) for key in keys)]


def verdict(report: Report) -> list[str]:
    """What the run says about its generator, in plain sentences."""
    lines, novelty = _learnt(report.single), report.novelty
    if novelty.spread is not None:
        null = report.generators.get("low_rank_gaussian")  # what a share is to be read beside: few axes make "copies"
        beside = (
            "" if null is None else f" ({null.novelty.copy_share:.0%} of low_rank_gaussian's, which copies nothing)"
        )
        lines.append(
            f"Members keep {novelty.spread:.2f} of the checkpoints' spread (1 is all of it); "
            f"{novelty.copy_share:.0%} of them are copies of a checkpoint{beside}."
        )
    return lines


def differences(report: Report) -> Table | None:
    """Every vote of the main generator less that of the base and of each null; None for a report of an earlier
    version."""
    rows = []
    for pair in report.single[0].differences or {}:
        found = [run.differences[pair] for run in report.single if run.differences and pair in run.differences]
        if len(found) == len(report.single):
            vote, _, other = pair.partition("_vs_")
            theirs = f"that of {other}" if other in report.generators else "the base"
            rows.append([f"{VOTES[vote]} less {theirs}", *answer.gap_cells(answer.gap_of(found))])
    if not rows:
        return None
    note = (
        "In brackets 95% intervals of a paired bootstrap over test images, p: McNemar's exact test of the first column"
        + (", seed by seed; over seeds the wider of that interval and Student's." if report.runs else ".")
    )
    return Table([f"votes over the members of {report.setup.generate}", "points", "p", "NLL"], rows, note)


def _learnt(runs: list[Report]) -> list[str]:
    """Whether the diffusion is more than the Gaussian that it starts from."""
    lines = []
    for run in runs:
        found, seed = run.learnt, f"Seed {run.seeds[0]}: the" if len(runs) > 1 else "The"
        if found is None or found.held_out is None or not found.zero or found.held_out_se is None:
            continue
        if found.step == 0:
            lines.append(
                f"{seed} diffusion kept its Gaussian start: no number of steps lowered its loss on checkpoints that it "
                "had not seen, so that its members are draws of a Gaussian."
            )
            continue
        gain, error = (100 * x / found.zero for x in (found.zero - found.held_out, found.held_out_se))
        seen = "" if found.seen is None else f" ({100 * (1 - found.seen / found.zero):.1f}% of its own)"
        lines.append(
            f"{seed} diffusion left its Gaussian start: after {found.step} steps it explains {gain:.1f} ± {error:.1f}% "
            f"of what the Gaussian leaves open in {found.latents} latents of checkpoints that it had not seen{seen}."
        )
    return lines


def costs(report: Report) -> list[tuple[str, float | None, float | None]]:
    """(part, its seconds to a hundredth, their sd) of the time, then what is left of all stages, and the sum of all
    above."""
    found = []
    for key, text in PARTS.items():
        seconds = at(report.cost, key)
        found.append((text, seconds and round(seconds, 2), at(report.sd.cost, key) if report.sd else None))
    known = math.fsum(seconds or 0.0 for _, seconds, _ in found)
    if report.stages:  # those of a run that was resumed know the time since then alone
        whole = math.fsum(round(own.seconds or 0.0, 2) for own in report.stages.values())
        found.append((REST, max(whole - known, 0.0), None))
        known = max(known, whole)
    return [*found, ("sum", known, None)]


def terminal(report: Report) -> str:
    """The answer with its table, Table 3's rows, and what the run says of its generator."""
    found = answer.of_run(report)
    said = ["\n".join(verdict(report)), report.setup.validation]
    texts = [Text(text) for text in said if text]
    blocks = (answer.table(found), Table(*rows_table(report)), *texts)
    return to_text(Document("", blocks, answer.line(found)))
