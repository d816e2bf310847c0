"""A run's report.json as a document: what it means first, then every figure and table behind it."""

from typing import Any

from bend_jax.report import answer, certainty, figures, latent_maps, memorisation, tables
from bend_jax.report.content import Report, Shift
from bend_jax.report.document import Block, Document, Figure, Heading, Lines, Table, Text, noted
from bend_jax.report.document import rendering as rendered_by
from bend_jax.report.papers import published
from bend_jax.report.records import at, defined
from bend_jax.report.text import number, percent
from bend_jax.report.words import MEASURES, SCORES, SETS, TABLE3, VOTES, VOTES_NOTE, WITHOUT_MEMBERS


def rendering() -> dict[str, Any]:
    """What a run's report depends on besides its content, for the digest of its stage."""
    return {**rendered_by(), "tsne": latent_maps.has_tsne()}


def document(report: Report, latents: dict[str, Any] | None = None, arrays: dict[str, Any] | None = None) -> Document:
    """The report of one run (latents: what its generator's encoder gave, for the maps; arrays: of the figures of
    `memorisation`) or of several seeds."""
    found = answer.of_run(report)
    said = tables.verdict(report)
    tested = [
        [answer.table(found), *([Text("\n".join(f"- {line}" for line in said))] if said else [])],
        *([Text(_setup(report)), *_where(report)], _figures(report)),
        *(_table3(report), _votes(report), _certainty(report)),
        shifted(report.shift, report.sd.shift if report.sd else None),
        *(_diversity(report, latents), memorisation.section(report, arrays)),
    ]
    parts = [
        _warnings(report),
        *(noted(part, [report.setup.validation]) for part in tested),
        *(_cost(report), _training(report), _settings(report)),
    ]
    return Document(report.task, tuple(block for part in parts for block in part), answer.line(found))


def _warnings(report: Report) -> list[Block]:
    """What a reader has to know before any number."""
    setup = report.setup
    found = [f"Warning: {setup.warning}"] if setup.warning else []
    found += [f"Of the data: {'; '.join(setup.notes)}."] if setup.notes else []
    return [Text(" ".join(found))] if found else []


def _figures(report: Report) -> list[Block]:
    """Those that come before all sections."""
    runs = report.single
    drawn = (figures.accuracies(runs), figures.by_members(runs), figures.reliability(runs))
    return _shown(*drawn, figures.risk_coverage(runs), figures.diversity(runs), figures.novelty(runs))


def _shown(*found: Figure | None) -> list[Block]:
    return [figure for figure in found if figure]


def _setup(report: Report) -> str:
    """What was run, in a paragraph."""
    setup = report.setup
    noise = f", with Gaussian pixel noise of sd {setup.noise:g} added to every split" if setup.noise else ""
    return (
        f"`{report.config}`, seed {', '.join(map(str, report.seeds))}: {setup.backbone} on {setup.data}{noise}; "
        f"{setup.test_images} test images. k = {report.k} checkpoints of {setup.subset} "
        f"({report.dim} numbers) by `{setup.collect}`; m = {report.m} members by `{setup.generate}`. "
        f"Views of each image in every vote: {setup.views}."
    )


def _where(report: Report) -> list[Block]:
    """Links to the report of each of several seeds."""
    if not report.runs:
        return []
    links = [f"seed {seed}: {_link(folder)}" for seed, folder in (report.folders or {}).items()]
    alone = f" Each by itself: {', '.join(links)}." if links else ""
    return [Text(f"Mean ± sd over {len(report.runs)} seeds.{alone}")]


def _link(folder: str) -> str:
    """To a stage in the store, from where <workdir>/report is opened."""
    return f"[{folder}](../store/{folder})"


def _table3(report: Report) -> list[Block]:
    note = (
        "sBEND: the members' majority vote; aBEND: the label of one member, drawn for each image, ± the draw's sd. "
        "Then single members, single checkpoints, and the share of images that some member has right."
    )
    blocks: list[Block] = [Heading("BEND's Table 3: votes, members, checkpoints", folded=True)]
    blocks.append(Table(*tables.rows_table(report), note))
    beside = rows_published(report)
    if beside:
        note = (
            "The difference is in points. The paper's nets, schedules and splits are not all known; rows of other k, m "
            "or training are beside it for orientation only."
        )
        blocks.append(Table(*beside, note))
    return blocks


def rows_published(report: Report) -> tuple[list[str], list[list[str]]] | None:
    """The paper's row, ours, and ours less the paper's, in percent; None for a task that it does not have."""
    theirs = published.row(report.task)
    if theirs is None:
        return None
    ours = {key: defined(report.table, key) for key in TABLE3}
    rows = [
        [published.SOURCE, *(percent(theirs[key]) for key in ours)],
        [f"ours (k = {report.k}, m = {report.m})", *map(percent, ours.values())],
        ["difference", *(f"{100 * (value - theirs[key]):+.2f}" for key, value in ours.items())],
    ]
    return ["", *TABLE3.values()], rows


def _votes(report: Report) -> list[Block]:
    note = (
        "NLL in nats; scaled: after temperature scaling on the validation split; ECE over "
        f"{report.settings['evaluate.bins']} bins; AURC: mean error over all coverages, surest images first. "
        + VOTES_NOTE
    )
    blocks: list[Block] = [Heading("All votes and their differences", folded=True)]
    between = tables.differences(report)
    blocks += [between] if between else []
    blocks.append(Table(*tables.rows_votes(report), note))
    votes = list(dict.fromkeys(vote for own in report.temperatures.values() for vote in own))
    rows = []
    for name, own in report.temperatures.items():
        sd = report.sd.temperatures[name] if report.sd else {}
        rows.append([SETS.get(name, name), *(number(own.get(vote), sd.get(vote), ".3f") for vote in votes)])
    note = "Of each vote, fitted on validation images; above 1 it was too sure of itself."
    return [*blocks, Table(["temperature of", *(VOTES[vote] for vote in votes)], rows, note)]


def _certainty(report: Report) -> list[Block]:
    """How sure the votes of the base and of the main generator's members may be."""
    sd = report.sd
    votes = {
        vote: (name, report.votes[vote], sd.votes[vote] if sd else None)
        for vote, name in VOTES.items()
        if vote in report.votes and vote != "abend"  # whose probabilities are sBEND's
    }
    calibrations = (report.calibrations, sd.calibrations if sd else None)
    doubts = certainty.doubts(report.doubt, sd and sd.doubt, report.shift, sd and sd.shift)
    return certainty.section(votes, report.coverage, calibrations, doubts)


def shifted(shift: Shift | None, sd: Shift | None) -> list[Block]:
    """Other data sets, and corrupted test images."""
    if not shift:
        return []
    blocks: list[Block] = [Heading("Under shift", folded=True)]
    rows = []
    for data, votes in shift.ood.items():
        for vote, scores in votes.items():
            for score, own in scores.items():
                spread = sd.ood[data][vote][score] if sd else None
                auroc = number(own.auroc, spread.auroc if spread else None)
                rows.append(
                    [
                        data,
                        VOTES[vote],
                        SCORES[score],
                        auroc,
                        number(own.fpr95, spread.fpr95 if spread else None),
                    ]
                )
    if rows:
        note = "Telling that set's images from the test images by the score; AUROC .5 is chance, FPR95 is best at 0."
        blocks.append(Table(["other data", "vote", "score", "AUROC", "FPR95"], rows, note))
    if shift.corruptions:
        blocks.append(_by_severity(shift, sd, "accuracy %", "accuracy", ".2f", 100))
        blocks.append(_by_severity(shift, sd, "NLL, scaled", "nll_ts", ".4f", 1))
    return blocks


def _by_severity(shift: Shift, sd: Shift | None, title: str, key: str, form: str, factor: int) -> Table:
    """One measure of every vote on every corruption, a column for each severity."""
    severities = list(next(iter(shift.corruptions.values())))
    lines = []
    for name, own in shift.corruptions.items():
        for vote in own[severities[0]]:
            line = [name, VOTES[vote]]
            for severity in severities:
                spread = at(sd.corruptions[name][severity][vote], key) if sd else None
                line.append(number(at(own[severity][vote], key), spread, form, factor))
            lines.append(line)
    note = "By severity. Temperatures are those of the clean validation images; report.json has every other measure."
    return Table([f"{title} under", "vote", *severities], lines, note)


def _diversity(report: Report, latents: dict[str, Any] | None) -> list[Block]:
    rows = []
    for name, text in MEASURES.items():
        path = f"{'diversity' if hasattr(report.diversity, name) else 'novelty'}.{name}"
        rows.append([text, number(at(report, path), at(report.sd, path) if report.sd else None, ".4g")])
    note = (
        "Disagreement: share of test images labelled differently. Error IoU: overlap of two nets' errors, 1 where they "
        "make the same. Distance: Euclidean, of the vectors; members far nearer to a checkpoint than checkpoints are "
        "to each other are near-copies. A spread of 1 is all of the checkpoints'."
    )
    blocks: list[Block] = [Heading("Diversity and novelty", folded=True), Table(["measure", "value"], rows, note)]
    return [*blocks, *latent_maps.figures(latents)]


def _cost(report: Report) -> list[Block]:
    even = report.cost.break_even_m
    said = (
        f"Drawing with `{report.setup.generate}` is cheaper than training each member anew from {even:.2f} members on "
        f"(BEND's eq. 13); this run has {report.m}. That counts training alone, not what the members are worth."
        if even is not None
        else "There is no break-even: the base was brought along, a member costs as much as a training, or the seeds "
        "differ in that."
    )
    epoch = report.cost.t_epoch
    said += "" if epoch is None else f" One epoch of the base takes {epoch:.2f} s."
    rows = [[text, number(seconds, sd, ".2f")] for text, seconds, sd in tables.costs(report)]
    blocks: list[Block] = [Heading("Cost", folded=True), Text(said), Table(["part", "seconds"], rows)]
    if report.stages:
        rows = [[name, number(own.seconds, form=".2f"), _link(own.folder)] for name, own in report.stages.items()]
        note = (
            "With loading, saving and compiling, when each stage was computed. The links open from the work "
            "directory's report folder."
        )
        blocks.append(Table(["stage", "seconds in all", "where its files are"], rows, note))
    return [*blocks, *_shown(figures.seconds(report.single))]


def _training(report: Report) -> list[Block]:
    found = _shown(figures.trainings(report.single))
    return [Heading("Trainings", folded=True), *found] if found else []


def _settings(report: Report) -> list[Block]:
    """Tuned knobs, settings and versions."""
    blocks: list[Block] = [Heading("Settings and versions", folded=True)]
    sd = report.sd.tuned if report.sd else {}
    rows = [
        [name, report.knobs[name] or "-", number(value, sd.get(name), "g")]
        for name, value in report.tuned.items()
        if value is not None
    ]
    if rows:
        note = (
            f"Each of {report.settings['generate.tune']}: the one of least validation NLL of the mean of probabilities."
        )
        blocks.append(Table(["generator", "tuned", "value"], rows, note))
    if report.versions:
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        blocks.append(Text(f"Made with {versions}."))
    rows = [[name, plain(value)] for name, value in report.settings.items()]
    return [*blocks, Table(["setting", "value"], rows)]


def plain(value: Any) -> str:
    """A setting's value as it is read."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value) if value != "" else "-"


def rows_csv(report: Report) -> Lines:
    """results.csv: a line for each seed, generator and vote, numbers in full."""
    keys = ["accuracy", *tables.columns(report)]
    lines = []
    for run in report.single:
        for name, part in {run.setup.generate: run, **run.generators}.items():
            for vote, row in part.votes.items():
                whose = "" if vote in WITHOUT_MEMBERS else name
                lines.append([str(run.seed), whose, vote, *(repr(at(row, key)) for key in keys)])
    return ["seed", "generator", "vote", *keys], lines
