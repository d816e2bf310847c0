"""A run's report.json as a document: what it means first, then every figure and table behind it."""

from typing import Any

from bend_jax.report import figures, latent_maps, tables
from bend_jax.report.document import Document, Figure, Heading, Table, Text
from bend_jax.report.document import rendering as rendered_by
from bend_jax.report.papers import published

Block = Heading | Text | Table | Figure
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


def document(content: dict[str, Any], latents: dict[str, Any] | None = None) -> Document:
    """The report of one run (latents: what its generator's encoder gave, for the maps) or of several seeds."""
    runs = content.get("runs", [content])
    parts = [
        [Text(_setup(content)), *_where(content)],
        [Heading("What it says"), Text("\n".join(f"- {line}" for line in tables.verdict(content)))],
        _table3(content, runs),
        _votes(content, runs),
        _shift(content),
        _diversity(content, runs, latents),
        _cost(content, runs),
        _training(runs),
        _settings(content),
    ]
    return Document(content["task"], tuple(block for part in parts for block in part))


def _shown(*found: Figure | None) -> list[Block]:
    return [figure for figure in found if figure]


def _setup(content: dict[str, Any]) -> str:
    """What was run, in a paragraph."""
    setup = content["setup"]
    noise = f", with Gaussian pixel noise of sd {setup['noise']:g} added to every split" if setup["noise"] else ""
    seeds = content["seed"] if isinstance(content["seed"], list) else [content["seed"]]
    return (
        f"`{content['config']}`, seed {', '.join(map(str, seeds))}: {setup['backbone']} on {setup['data']}{noise}; "
        f"{setup['test_images']} test images. k = {content['k']} checkpoints of {setup['subset']} "
        f"({content['dim']} numbers) by `{setup['collect']}`; m = {content['m']} members by `{setup['generate']}`. "
        f"Views of each image in every vote: {setup['views']}."
    )


def _where(content: dict[str, Any]) -> list[Block]:
    """Links to the report of each of several seeds."""
    if "runs" not in content:
        return []
    links = [f"seed {seed}: {_link(folder)}" for seed, folder in content.get("folders", {}).items()]
    alone = f" Each by itself: {', '.join(links)}." if links else ""
    return [Text(f"Mean ± sd over {len(content['runs'])} seeds.{alone}")]


def _link(folder: str) -> str:
    """To a stage in the store, from where <workdir>/report is opened."""
    return f"[{folder}](../store/{folder})"


def _table3(content: dict[str, Any], runs: list[Any]) -> list[Block]:
    note = "max, mean, med: the members alone; orig: the checkpoints alone; potential: some member is right."
    blocks = [Heading("Test accuracy % (BEND's Table 3)"), Table(*tables.rows_table(content), note)]
    beside = rows_published(content)
    if beside:
        note = (
            "The difference is in points. The paper's nets, schedules and splits are not all known; rows of other k, m "
            "or training are beside it for orientation only."
        )
        blocks.append(Table(*beside, note))
    return [*blocks, *_shown(figures.accuracies(runs), figures.by_members(runs))]


def rows_published(content: dict[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """The paper's row, ours, and ours less the paper's, in percent; None for a task that it does not have."""
    theirs = published.row(content["task"])
    if theirs is None:
        return None
    ours = content["table"]
    mine = f"ours (k = {content['k']}, m = {content['m']})"
    rows = [
        [published.SOURCE, *(f"{100 * theirs[key]:.2f}" for key in tables.TABLE)],
        [mine, *(f"{100 * ours[key]:.2f}" for key in tables.TABLE)],
        ["difference", *(f"{100 * (ours[key] - theirs[key]):+.2f}" for key in tables.TABLE)],
    ]
    return ["", *tables.TABLE.values()], rows


def _votes(content: dict[str, Any], runs: list[Any]) -> list[Block]:
    note = (
        "NLL in nats; scaled: after temperature scaling on the validation split; ECE over "
        f"{content['settings']['evaluate.bins']} bins; AURC: mean error over all coverages, surest images first."
    )
    blocks = [Heading("Votes: accuracy, calibration and risk"), Table(*tables.rows_votes(content), note)]
    blocks += _shown(figures.reliability(runs), figures.risk_coverage(runs))
    found, sd = content["temperatures"], (content.get("sd") or {}).get("temperatures")
    votes = list(dict.fromkeys(vote for own in found.values() for vote in own))
    rows = [
        [name, *(tables.number(own, sd and sd[name], v, ".3f") if v in own else "-" for v in votes)]
        for name, own in found.items()
    ]
    note = "Of each vote, fitted on validation images; above 1 it was too sure of itself."
    return [*blocks, Table(["temperature of", *votes], rows, note)]


def _shift(content: dict[str, Any]) -> list[Block]:
    """Other data sets, and corrupted test images."""
    if not content["shift"]:
        return []
    shift, sd = content["shift"], (content.get("sd") or {}).get("shift") or {}
    blocks: list[Block] = [Heading("Under shift")]
    rows = [
        [data, vote, score, *(tables.number(found, _at(sd, "ood", data, vote, score), k) for k in ("auroc", "fpr95"))]
        for data, votes in (shift["ood"] or {}).items()
        for vote, scores in votes.items()
        for score, found in scores.items()
    ]
    if rows:
        note = "Telling that set's images from the test images by the score; AUROC .5 is chance, FPR95 is best at 0."
        blocks.append(Table(["other data", "vote", "score", "AUROC", "FPR95"], rows, note))
    if shift["corruptions"]:
        for title, key, factor, form in (("accuracy %", "accuracy", 100, ".2f"), ("NLL, scaled", "nll_ts", 1, ".4f")):
            blocks.append(_by_severity(shift["corruptions"], sd.get("corruptions"), title, (key, factor, form)))
    return blocks


def _by_severity(found: dict[str, Any], sd: Any, title: str, measure: tuple[str, int, str]) -> Table:
    """One measure of every vote on every corruption, a column for each severity."""
    key, factor, form = measure
    severities = list(next(iter(found.values())))
    lines = []
    for name, own in found.items():
        for vote in own[severities[0]]:
            line = [name, vote]
            for severity in severities:
                value, spread = own[severity][vote][key], _at(sd, name, severity, vote, key)
                line.append(f"{factor * value:{form}}" + (f" ± {factor * spread:{form}}" if spread is not None else ""))
            lines.append(line)
    note = "By severity. Temperatures are those of the clean validation images; report.json has every other measure."
    return Table([f"{title} under", "vote", *severities], lines, note)


def _at(tree: Any, *path: str) -> Any:
    """The branch of a tree of standard deviations; None where there is none."""
    for key in path:
        tree = tree[key] if tree else None
    return tree


def _diversity(content: dict[str, Any], runs: list[Any], latents: dict[str, Any] | None) -> list[Block]:
    rows = _measures(content, ("diversity", "novelty"), ".4g")
    blocks: list[Block] = [Heading("Diversity and novelty"), Table(["measure", "value", "what it is"], rows)]
    return [*blocks, *_shown(figures.diversity(runs), figures.novelty(runs), *latent_maps.figures(latents))]


def _measures(content: dict[str, Any], groups: tuple[str, ...], form: str) -> list[list[str]]:
    sd = content.get("sd")
    return [
        [key, tables.number(content[group], sd and sd[group], key, form), WHAT[key]]
        for group in groups
        for key in content[group]
    ]


def _cost(content: dict[str, Any], runs: list[Any]) -> list[Block]:
    main, even = content["setup"]["generate"], content["cost"]["break_even_m"]
    said = (
        f"Drawing with `{main}` is cheaper than training each member anew from {even:.2f} members on; "
        f"this run has {content['m']}. That counts training alone, not what the members are worth."
        if even is not None
        else "There is no break-even: the base was brought along, a member costs as much as a training, or the seeds "
        "differ in that."
    )
    blocks: list[Block] = [Heading("Cost"), Text(said)]
    blocks.append(Table(["part", "value", "what it is"], _measures(content, ("cost",), ".2f")))
    stages = content.get("stages")
    if stages:
        rows = [
            [name, "-" if own["seconds"] is None else f"{own['seconds']:.1f}", _link(own["folder"])]
            for name, own in stages.items()
        ]
        note = "With loading, saving and compiling; the links open from the work directory's report folder."
        blocks.append(Table(["stage", "seconds in all", "where its files are"], rows, note))
    return [*blocks, *_shown(figures.seconds(runs))]


def _training(runs: list[Any]) -> list[Block]:
    found = _shown(figures.trainings(runs))
    return [Heading("Trainings"), *found] if found else []


def _settings(content: dict[str, Any]) -> list[Block]:
    """Tuned knobs, settings and versions."""
    blocks: list[Block] = [Heading("Settings and versions")]
    tuned = {name: value for name, value in content["tuned"].items() if value is not None}
    if tuned:
        sd = (content.get("sd") or {}).get("tuned")
        rows = [[name, content["knobs"][name], tables.number(tuned, sd, name, "g")] for name in tuned]
        note = f"Each of {content['settings']['generate.tune']}: the one of least validation NLL of the mean vote."
        blocks.append(Table(["generator", "tuned", "value"], rows, note))
    versions = content.get("versions")
    if versions:
        blocks.append(Text("Made with " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "."))
    rows = [[name, plain(value)] for name, value in content["settings"].items()]
    return [*blocks, Table(["setting", "value"], rows)]


def plain(value: Any) -> str:
    """A setting's value as it is read."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value) if value != "" else "-"


def rows_csv(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """results.csv: a line for each seed, generator and vote, numbers in full."""
    keys = ["accuracy", *tables.columns(content)]
    lines = []
    for run in content.get("runs", [content]):
        parts = {run["setup"]["generate"]: run["votes"]}
        parts |= {name: part["votes"] for name, part in run["generators"].items()}
        for name, votes in parts.items():
            for vote, row in votes.items():
                alone = vote in ("base", "swa", "checkpoints_best", "checkpoints_mean")
                lines.append([str(run["seed"]), "" if alone else name, vote, *(repr(row[key]) for key in keys)])
    return ["seed", "generator", "vote", *keys], lines


def stages_of(manifests: dict[str, Any], folders: dict[str, str]) -> dict[str, Any]:
    """What a report takes from its stages' manifests: "stages" (seconds, and folder in the store) and "versions"."""
    versions: dict[str, list[str]] = {}
    for manifest in manifests.values():
        for name, number in manifest["versions"].items():
            if number not in versions.setdefault(name, []):
                versions[name].append(number)
    stages = {name: {"seconds": m["seconds"], "folder": folders[name]} for name, m in manifests.items()}
    return {"stages": stages, "versions": {name: " and ".join(found) for name, found in versions.items()}}
