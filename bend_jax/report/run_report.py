"""A run's report.json as a document: what it means first, then every figure and table behind it."""

import dataclasses
from typing import Any

from bend_jax.report import certainty, figures, latent_maps, memorisation, tables
from bend_jax.report.content import Report, Shift
from bend_jax.report.document import Block, Document, Figure, Heading, Lines, Table, Text, noted
from bend_jax.report.document import rendering as rendered_by
from bend_jax.report.papers import published
from bend_jax.report.records import at, defined
from bend_jax.report.text import number, percent

WHAT = {  # of the measures and costs
    "members": "pairs of members: share of images labelled differently",
    "checkpoints": "pairs of checkpoints: the same",
    "cross": "pairs of a member and a checkpoint: the same",
    "eq14_members": "BEND's eq. 14 as printed, members",
    "eq14_checkpoints": "BEND's eq. 14 as printed, checkpoints",
    "eq15": "BEND's eq. 15 as printed",
    "iou_members": "largest error IoU with another member, mean",
    "iou_checkpoints": "largest error IoU with another checkpoint, mean",
    "iou_cross": "largest error IoU of a member with a checkpoint, mean",
    "nearest": "Euclidean distance of a member to its nearest checkpoint, mean",
    "leave_one_out": "the same of each checkpoint to the others; members far below it are near-copies",
    "copy_share": "share of members that are copies of a checkpoint",
    "max_iou": "largest error IoU of a member with a checkpoint, mean",
    "disagreement": "share of test images that a member labels otherwise than its nearest checkpoint, mean",
    "disagreement_p10": "the same, 10th percentile over members",
    "spread": "members' standard deviation over the checkpoints' (1: all of it)",
    "effective_rank_members": "effective rank of the members' vectors",
    "effective_rank_checkpoints": "effective rank of the checkpoints' vectors",
    "t_pre": "training the base, s",
    "t_collect": "collecting the checkpoints, s",
    "t_autoencoder": "training the autoencoder, s",
    "t_diffusion": "training the diffusion, s",
    "t_sample": "drawing the members, s",
    "t_evaluate": "evaluating, s",
    "t_epoch": "one epoch of the base, s",
    "break_even_m": "members from which m trainings of the base would have cost more (BEND's eq. 13)",
    "compile": "compiling, all stages, s",
}


def rendering() -> dict[str, Any]:
    """What a run's report depends on besides its content, for the digest of its stage."""
    return {**rendered_by(), "tsne": latent_maps.has_tsne()}


def document(report: Report, latents: dict[str, Any] | None = None, arrays: dict[str, Any] | None = None) -> Document:
    """The report of one run (latents: what its generator's encoder gave, for the maps; arrays: of the figures of
    `memorisation`) or of several seeds."""
    parts = [
        [Text(_setup(report)), *_where(report)],
        [Heading("What it says"), Text("\n".join(f"- {line}" for line in tables.verdict(report)))],
        *(
            noted(part, [report.setup.validation])
            for part in (
                _table3(report),
                _votes(report),
                _certainty(report),
                shifted(report.shift, report.sd.shift if report.sd else None),
                _diversity(report, latents),
                memorisation.section(report, arrays),
            )
        ),
        _cost(report),
        _training(report),
        _settings(report),
    ]
    return Document(report.task, tuple(block for part in parts for block in part))


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
        f"Views of each image in every vote: {setup.views}." + (f" Warning: {setup.warning}" if setup.warning else "")
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
    note = "max, mean, med: the members alone; orig: the checkpoints alone; potential: some member is right."
    blocks = [Heading("Test accuracy % (BEND's Table 3)"), Table(*tables.rows_table(report), note)]
    beside = rows_published(report)
    if beside:
        note = (
            "The difference is in points. The paper's nets, schedules and splits are not all known; rows of other k, m "
            "or training are beside it for orientation only."
        )
        blocks.append(Table(*beside, note))
    return [*blocks, *_shown(figures.accuracies(report.single), figures.by_members(report.single))]


def rows_published(report: Report) -> tuple[list[str], list[list[str]]] | None:
    """The paper's row, ours, and ours less the paper's, in percent; None for a task that it does not have."""
    theirs = published.row(report.task)
    if theirs is None:
        return None
    ours = {key: defined(report.table, key) for key in tables.TABLE}
    rows = [
        [published.SOURCE, *(percent(theirs[key]) for key in ours)],
        [f"ours (k = {report.k}, m = {report.m})", *map(percent, ours.values())],
        ["difference", *(f"{100 * (value - theirs[key]):+.2f}" for key, value in ours.items())],
    ]
    return ["", *tables.TABLE.values()], rows


def _votes(report: Report) -> list[Block]:
    note = (
        "NLL in nats; scaled: after temperature scaling on the validation split; ECE over "
        f"{report.settings['evaluate.bins']} bins; AURC: mean error over all coverages, surest images first."
    )
    blocks = [Heading("Votes: accuracy, calibration and risk"), Table(*tables.rows_votes(report), note)]
    blocks += _shown(figures.reliability(report.single), figures.risk_coverage(report.single))
    votes = list(dict.fromkeys(vote for own in report.temperatures.values() for vote in own))
    rows = []
    for name, own in report.temperatures.items():
        sd = report.sd.temperatures[name] if report.sd else {}
        rows.append([name, *(number(own.get(vote), sd.get(vote), ".3f") for vote in votes)])
    note = "Of each vote, fitted on validation images; above 1 it was too sure of itself."
    return [*blocks, Table(["temperature of", *votes], rows, note)]


def _certainty(report: Report) -> list[Block]:
    """How sure the votes of the base and of the main generator's members may be."""
    sd = report.sd
    votes = {
        vote: (name, report.votes[vote], sd.votes[vote] if sd else None)
        for vote, name in tables.VOTES.items()
        if vote in report.votes and vote != "abend"  # whose probabilities are sBEND's
    }
    calibrations = (report.calibrations, sd.calibrations if sd else None)
    doubts = certainty.doubts(report.doubt, sd and sd.doubt, report.shift, sd and sd.shift)
    return certainty.section(votes, report.coverage, calibrations, doubts)


def shifted(shift: Shift | None, sd: Shift | None) -> list[Block]:
    """Other data sets, and corrupted test images."""
    if not shift:
        return []
    blocks: list[Block] = [Heading("Under shift")]
    rows = []
    for data, votes in shift.ood.items():
        for vote, scores in votes.items():
            for score, own in scores.items():
                spread = sd.ood[data][vote][score] if sd else None
                auroc = number(own.auroc, spread.auroc if spread else None)
                rows.append([data, vote, score, auroc, number(own.fpr95, spread.fpr95 if spread else None)])
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
            line = [name, vote]
            for severity in severities:
                spread = at(sd.corruptions[name][severity][vote], key) if sd else None
                line.append(number(at(own[severity][vote], key), spread, form, factor))
            lines.append(line)
    note = "By severity. Temperatures are those of the clean validation images; report.json has every other measure."
    return Table([f"{title} under", "vote", *severities], lines, note)


def _diversity(report: Report, latents: dict[str, Any] | None) -> list[Block]:
    rows = _measures(report, "diversity", ".4g") + _measures(report, "novelty", ".4g")
    blocks: list[Block] = [Heading("Diversity and novelty"), Table(["measure", "value", "what it is"], rows)]
    drawn = _shown(figures.diversity(report.single), figures.novelty(report.single))
    return [*blocks, *drawn, *latent_maps.figures(latents)]


def _measures(report: Report, group: str, form: str) -> list[list[str]]:
    """A row for each number of a part of the report, in the order of its fields."""
    rows = []
    for own in dataclasses.fields(getattr(report, group)):
        path = f"{group}.{own.name}"
        sd = at(report.sd, path) if report.sd else None
        rows.append([own.name, number(at(report, path), sd, form), WHAT[own.name]])
    return rows


def _cost(report: Report) -> list[Block]:
    even = report.cost.break_even_m
    said = (
        f"Drawing with `{report.setup.generate}` is cheaper than training each member anew from {even:.2f} members on; "
        f"this run has {report.m}. That counts training alone, not what the members are worth."
        if even is not None
        else "There is no break-even: the base was brought along, a member costs as much as a training, or the seeds "
        "differ in that."
    )
    blocks: list[Block] = [Heading("Cost"), Text(said)]
    blocks.append(Table(["part", "value", "what it is"], _measures(report, "cost", ".2f")))
    if report.stages:
        rows = [[name, number(own.seconds, form=".1f"), _link(own.folder)] for name, own in report.stages.items()]
        note = "With loading, saving and compiling; the links open from the work directory's report folder."
        blocks.append(Table(["stage", "seconds in all", "where its files are"], rows, note))
    return [*blocks, *_shown(figures.seconds(report.single))]


def _training(report: Report) -> list[Block]:
    found = _shown(figures.trainings(report.single))
    return [Heading("Trainings"), *found] if found else []


def _settings(report: Report) -> list[Block]:
    """Tuned knobs, settings and versions."""
    blocks: list[Block] = [Heading("Settings and versions")]
    sd = report.sd.tuned if report.sd else {}
    rows = [
        [name, report.knobs[name] or "-", number(value, sd.get(name), "g")]
        for name, value in report.tuned.items()
        if value is not None
    ]
    if rows:
        note = f"Each of {report.settings['generate.tune']}: the one of least validation NLL of the mean vote."
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
                whose = "" if vote in tables.WITHOUT_MEMBERS else name
                lines.append([str(run.seed), whose, vote, *(repr(at(row, key)) for key in keys)])
    return ["seed", "generator", "vote", *keys], lines
