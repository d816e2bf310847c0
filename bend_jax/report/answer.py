"""The answer of a report: what the ensemble's vote gains on the base, and whether stand-ins do the same."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bend_jax.metrics import Interval
from bend_jax.report.content import Report, Vote
from bend_jax.report.difference import Difference
from bend_jax.report.document import Table
from bend_jax.report.given import Evaluation
from bend_jax.report.text import number, percent
from bend_jax.report.words import NULLS, VOTES

LEVEL = 0.05  # a p-value from which a difference of accuracies is not told
ALIKE = 0.01  # stand-ins do the same within one point of accuracy and 1% of the NLL
SEVERAL = "the vote that validation chose for each seed"
RULE_OF_THREE = 3  # of n images none: 95% of the time a share below 3 / n


class Gap(NamedTuple):
    """The ensemble's vote less another: of the accuracy and of the scaled NLL; p: McNemar's of the first, by seed."""

    accuracy: Interval
    nll: Interval | None
    p: list[float]


class Voter(NamedTuple):
    """A vote by its name, with its figures seed by seed; NLL and ECE after temperature scaling."""

    name: str
    accuracy: list[float]
    nll: list[float]
    ece: list[float]
    gap: Gap | None = None


class Answer(NamedTuple):
    """The ensemble's vote, the base, and the same vote of every stand-in, on so many test images."""

    images: int
    ensemble: Voter
    base: Voter
    stand_ins: list[Voter]


def of_run(report: Report) -> Answer:
    """Of one run, or of several seeds. A report of an earlier version, in which no vote was chosen, has the mean."""
    runs, votes = report.single, [run.vote or "mean" for run in report.single]
    how = VOTES[votes[0]] if len(set(votes)) == 1 else SEVERAL

    def voter(name: str, found: Callable[[Report, str], Vote], other: str) -> Voter:
        pairs = [(run.differences or {}).get(f"{vote}_vs_{other}") for run, vote in zip(runs, votes, strict=True)]
        return _voter(name, [found(run, vote) for run, vote in zip(runs, votes, strict=True)], pairs)

    over_views = all(f"base_{vote}" in run.votes for run, vote in zip(runs, votes, strict=True))
    base = voter(
        VOTES["base_pool" if over_views else "base"],
        lambda run, vote: run.votes.get(f"base_{vote}", run.votes["base"]),
        "base",
    )
    stand_ins = [
        voter(name, lambda run, vote, name=name: run.generators[name].votes[vote], name) for name in report.generators
    ]
    return Answer(report.setup.test_images, voter(how, lambda run, vote: run.votes[vote], ""), base, stand_ins)


def of_evaluation(found: Evaluation) -> Answer:
    """Of members that came from anywhere."""
    base = _voter(VOTES["best"], [found.votes["base"]], [found.differences.get(f"{found.vote}_vs_base")])
    return Answer(found.images, _voter(VOTES[found.vote], [found.votes[found.vote]], []), base, [])


def _voter(name: str, votes: list[Vote], pairs: Sequence[Difference | None]) -> Voter:
    ece = [v.ece if v.ece_ts is None else v.ece_ts for v in votes]
    known = [pair for pair in pairs if pair is not None]
    gap = gap_of(known) if known and len(known) == len(votes) else None
    return Voter(name, [v.accuracy for v in votes], [v.nll_ts for v in votes], ece, gap)


def gap_of(found: list[Difference]) -> Gap:
    """Of one seed, or over several."""
    nll = [own.nll_ts for own in found if own.nll_ts is not None]
    p = [own.mcnemar_p for own in found if own.mcnemar_p is not None]
    return Gap(over_seeds([own.accuracy for own in found]), over_seeds(nll) if len(nll) == len(found) else None, p)


def over_seeds(found: list[Interval]) -> Interval:
    """The mean, and the wider of two 95% intervals on either side: Student's over seeds, and the mean of the seeds' own
    over test images, which all seeds share."""
    from scipy.stats import t

    n = len(found)
    if n == 1:
        return found[0]
    mean, low, high = (math.fsum(values) / n for values in zip(*found, strict=True))
    sd = math.sqrt(math.fsum((own.mean - mean) ** 2 for own in found) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, min(low, mean - half), max(high, mean + half))


def sign(found: Interval, p: Sequence[float] = ()) -> int:
    """1 or -1 where the interval leaves out 0, and with one p-value where it is below LEVEL too; else 0."""
    if len(p) == 1 and p[0] >= LEVEL:
        return 0
    return int(found.low > 0) - int(found.high < 0)


def line(found: Answer) -> str:
    """In one line: both accuracies, the difference, the NLL, and the stand-ins."""
    own, base = found.ensemble, found.base
    figures = f"{base.name.partition(',')[0]} {percent(_mean(base.accuracy))}%: {_accuracy(found)}"
    parts = [
        f"Ensemble {percent(_mean(own.accuracy))}%, {figures}",
        _nll(found),
        *_stand_ins(found),
    ]
    return "; ".join(parts) + "."


def _accuracy(found: Answer) -> str:
    gap, n = found.base.gap, found.images
    if gap is None:
        difference = _mean(found.ensemble.accuracy) - _mean(found.base.accuracy)
        return f"{round(100 * difference, 2) + 0.0:+.2f} points, without an interval (evaluated by an earlier version)"
    mean, low, high = (round(100 * x, 2) + 0.0 for x in gap.accuracy)
    if low == high == 0:
        few = f", too few to exclude {100 * RULE_OF_THREE / n:.1f} points" if ALIKE * n < RULE_OF_THREE else ""
        return f"{mean:+.2f} points, both are right on the same {n} test images{few}"
    said = f"{mean:+.2f} points (95% CI {low:+.2f} to {high:+.2f})"
    if sign(gap.accuracy, gap.p):
        return said if mean > 0 else f"{said}, a loss"
    least = f"{(high - low) / 2:.{1 if high - low > 0.2 else 2}f}"
    return f"{said}, not distinguishable: {n} test images show differences from about {least} points on"


def _nll(found: Answer) -> str:
    own, base = _mean(found.ensemble.nll), _mean(found.base.nll)
    if not base:  # a perfect base
        return f"NLL {own:.4f} against 0"
    change = 100 * (own / base - 1)
    said = f"NLL {change:+.0f}%" if abs(change) >= 10 else f"NLL {change:+.1f}%"
    gap = found.base.gap
    if gap is None or gap.nll is None:
        return said
    return said + ("" if sign(gap.nll) < 0 else ", worse" if sign(gap.nll) else ", not distinguishable")


WORDS = {  # of stand-ins: one does, several do
    "better": ("does better", "do better"),
    "better by NLL": ("does better in NLL", "do better in NLL"),
    "same": ("does the same", "do the same"),
    "mixed": ("is better in one and worse in the other", "are better in one and worse in the other"),
    "unclear": ("cannot be told from it", "cannot be told from it"),
    "worse": ("does less well", "do less well"),
    "worse by NLL": ("does less well in NLL", "do less well in NLL"),
    "unknown": ("has no interval", "have no interval"),
}


def beside(found: Voter) -> str:
    """What a stand-in does, a key of WORDS: by the intervals of the accuracy and of the NLL, of which one below ALIKE
    of the stand-in's own counts for nothing."""
    gap = found.gap
    if gap is None:
        return "unknown"
    by_accuracy = sign(gap.accuracy, gap.p)
    signs = {by_accuracy}
    if gap.nll is not None and abs(gap.nll.mean) >= ALIKE * _mean(found.nll):
        signs.add(-sign(gap.nll))
    if {1, -1} <= signs:
        return "mixed"
    if signs != {0}:
        return ("worse" if 1 in signs else "better") + (" by NLL" if not by_accuracy else "")
    return "same" if max(abs(gap.accuracy.low), abs(gap.accuracy.high)) <= ALIKE else "unclear"


def _stand_ins(found: Answer) -> list[str]:
    """Those that do alike together."""
    if not found.stand_ins:
        return ["no stand-in was run"] if found.base.name != VOTES["best"] else []
    groups: dict[str, list[str]] = {}
    for own in found.stand_ins:
        groups.setdefault(beside(own), []).append(own.name)
    texts = []
    for kind, words in WORDS.items():
        names = groups.get(kind, [])
        if names:
            listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            texts.append(f"stand-in{'s' if names[1:] else ''} {listed} {words[len(names) > 1]}")
    return ["the " + ", the ".join(texts)]


def table(found: Answer) -> Table:
    """The ensemble, the base and the stand-ins, with how far the ensemble is from each."""
    header = ["", "accuracy %", "NLL", "ECE", "ensemble minus this, points", "p", "ensemble minus this, NLL"]
    voters = [("ensemble", found.ensemble), (found.base.name, found.base)]
    voters += [(f"stand-in {own.name}", own) for own in found.stand_ins]
    rows = [[name, *_figures(own), *gap_cells(own.gap)] for name, own in voters]
    used = ", the vote that predict uses" if found.base.name != VOTES["best"] else ""
    chosen = "" if found.ensemble.name == SEVERAL else f"{used}, chosen on validation images"
    words = "; ".join(f"{own.name}: {NULLS[own.name]}" for own in found.stand_ins if own.name in NULLS)
    note = (
        f"Ensemble: {found.ensemble.name}{chosen}. NLL (nats) and ECE after temperature scaling. In brackets 95% "
        "intervals over test images; p: McNemar's of the points." + (f" Stand-ins: {words}." if words else "")
    )
    return Table(header, rows, note)


def _figures(own: Voter) -> list[str]:
    """Accuracy, NLL and ECE, with their standard deviations over seeds."""
    accuracy, nll, ece = ((_mean(x), _sd(x)) for x in (own.accuracy, own.nll, own.ece))
    return [percent(*accuracy), number(*nll), number(*ece)]


def gap_cells(gap: Gap | None) -> list[str]:
    """Points with their interval, p, and the NLL with its own."""
    if gap is None:
        return ["-"] * 3
    p = " / ".join(number(x, form=".2g") for x in gap.p) or "-"
    return [interval(gap.accuracy, 100, "+.2f"), p, "-" if gap.nll is None else interval(gap.nll, 1, "+.4f")]


def interval(found: Interval, factor: int, form: str) -> str:
    """ "mean [low, high]", all times the factor; no minus before nothing."""
    digits = int(form.strip("+.f"))
    mean, low, high = (f"{round(factor * value, digits) + 0.0:{form}}" for value in found)
    return f"{mean} [{low}, {high}]"


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _sd(values: list[float]) -> float | None:
    if len(values) == 1:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def tally(answers: list[Answer]) -> str:
    """Of several runs: in how many the ensemble is better than its base, and in how many worse."""
    gaps = [found.base.gap for found in answers if found.base.gap is not None]
    if not gaps:
        return ""
    accuracy = [sign(gap.accuracy, gap.p) for gap in gaps]
    nll = [-sign(gap.nll) for gap in gaps if gap.nll is not None]
    n = len(gaps)
    return (
        f"Of {n} ensembles {accuracy.count(1)} are more accurate than their base and {accuracy.count(-1)} less; "
        f"{nll.count(1)} have less NLL and {nll.count(-1)} more; the rest is not distinguishable (95% intervals over "
        "test images, not corrected for the number of ensembles)."
    )
