"""The tables of a run's report, what they say in sentences, and both on a terminal."""

import math

from bend_jax.report.content import Averaged, Generator, Report, Vote
from bend_jax.report.records import at
from bend_jax.report.text import number, percent, text_table

TABLE = {
    "sbend": "sBEND",
    "abend": "aBEND",
    "max": "max",
    "mean": "mean",
    "median": "med",
    "orig_max": "orig max",
    "orig_mean": "orig mean",
    "orig_median": "orig med",
    "potential": "potential",
}
VOTES = {
    "base": "base",
    "base_pool": "base, opinion pool of its views",
    "swa": "average of the checkpoints",
    "checkpoints_best": "best checkpoint on validation",
    "checkpoints_mean": "checkpoints, mean of probabilities",
    "checkpoints_pool": "checkpoints, opinion pool",
    "sbend": "sBEND (majority)",
    "abend": "aBEND (sampled)",
    "mean": "mean of probabilities",
    "pool": "opinion pool (mean of logits)",
    "weighted": "mean weighted by the collector",
    "weighted_pool": "opinion pool weighted by the collector",
    "greedy": "mean of a greedy choice on validation",
    "best": "best member on validation",
}
# votes that are the same for every generator
WITHOUT_MEMBERS = ("base", "base_pool", "swa", "checkpoints_best", "checkpoints_mean", "checkpoints_pool")
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
        cells = {key: percent(at(part.table, key), at(sd.table, key) if sd else None) for key in TABLE}
        if not sd:
            cells["abend"] += f"±{percent(part.table.abend_std)}"
        rows.append([name, *cells.values()])
    return ["", *TABLE.values()], rows


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
    """What the run says about the generator and its nulls, in plain sentences."""
    main, runs = report.setup.generate, report.single
    own = f"sBEND over the members of {main}"
    sbend = [run.votes["sbend"].accuracy for run in runs]
    lines = [_difference(own, "the base", sbend, [run.votes["base"].accuracy for run in runs])]
    for name in report.generators:
        other = [run.generators[name].votes["sbend"].accuracy for run in runs]
        lines.append(_difference(own, f"sBEND over {name}", sbend, other))
    lines += [_mcnemar(runs), *_learnt(runs)]
    novelty = report.novelty
    if novelty.spread is not None:
        null = report.generators.get("low_rank_gaussian")  # what a share is to be read beside: few axes make "copies"
        beside = (
            "" if null is None else f" ({null.novelty.copy_share:.0%} of low_rank_gaussian's, which copies nothing)"
        )
        lines.append(
            f"Members keep {novelty.spread:.2f} of the checkpoints' spread (1 is all of it); "
            f"{novelty.copy_share:.0%} of them are copies of a checkpoint{beside}."
        )
    change = 100 * (report.votes["mean"].nll_ts / report.votes["base"].nll_ts - 1)
    return [*lines, f"The members' mean vote has an NLL {change:+.1f}% from the base's, both temperature-scaled."]


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


def _difference(own: str, other: str, a: list[float], b: list[float]) -> str:
    """How many points accuracies a are above accuracies b, seed by seed."""
    values = [100 * (x - y) for x, y in zip(a, b, strict=True)]
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return f"{own} is {mean:+.2f} points from {other} on the same test images."
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return f"{own} is {number(mean, sd, '+.2f')} points from {other} (mean ± sd over {len(values)} seeds)."


def _mcnemar(runs: list[Report]) -> str:
    """The p-values of those differences."""
    texts = []
    for key in runs[0].test:
        p = " / ".join(number(run.test[key], form=".2g") for run in runs)
        texts.append(f"{key.removeprefix('sbend_vs_').removesuffix('_mcnemar_p')} {p}")
    by_seed = " (seed by seed)" if len(runs) > 1 else ""
    return f"McNemar's p of those differences{by_seed}: {', '.join(texts)}."


def terminal(report: Report) -> str:
    """Table 3's rows, the votes, and what they say."""
    parts = [f"Test accuracy % (k = {report.k}, m = {report.m}, {report.setup.collect})"]
    parts += [text_table(*rows_table(report)), "", text_table(*rows_votes(report)), "", *verdict(report)]
    parts += [report.setup.validation] if report.setup.validation else []
    return "\n".join(parts)
