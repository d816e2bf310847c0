"""Several finished runs side by side in one document, from their reports alone."""

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from bend_jax import storage
from bend_jax.checks import SettingsError
from bend_jax.report import answer, document, figures, run_report, tables, words
from bend_jax.report.content import Report
from bend_jax.report.records import from_json, to_json
from bend_jax.report.text import number

NOTE = "Mean ± sd where a run has several seeds. Runs of other data, splits or noise have other test images."


class Finished(NamedTuple):
    """A finished run: the folder of its report, and the report."""

    folder: Path
    report: Report


Runs = dict[str, Finished]  # by a short name


def read(folders: list[str]) -> Runs:
    """The runs of those folders: work directories, or their reports'. Raises SettingsError for one that is no finished
    run."""
    if len(folders) < 2 or len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise SettingsError(f"--compare takes two or more different folders of finished runs; got {', '.join(folders)}")
    short = [Path(folder).resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else folders
    return {name: _read(Path(folder)) for name, folder in zip(names, folders, strict=True)}


def _read(folder: Path) -> Finished:
    if not folder.is_dir():
        raise SettingsError(f"--compare: there is no folder {folder}; give the work directories of finished runs")
    places = [place for place in (folder / "report", folder) if (place / "report.json").is_file()]
    if not places:
        raise SettingsError(
            f"--compare: {folder} has no report/report.json: its run has not finished, or is no run; run it to its end"
        )
    path = places[0] / "report.json"
    if not storage.is_complete(places[0]):
        raise SettingsError(
            f"--compare: {places[0]} has no manifest.json, so that nothing says whether it is whole: give the work "
            "directory, or a copy of its report folder with every file"
        )
    storage.verify(places[0].resolve(), "render it again by --stages=report --repair")
    try:
        content = storage.read_json(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--compare: {path} cannot be read ({error}); render it again by --stages=report") from None
    try:
        return Finished(places[0].resolve(), from_json(Report, content))
    except ValueError:
        what = "is of a comparison or a sweep" if isinstance(content, dict) and "rows" in content else "is no run's"
        raise SettingsError(
            f"--compare: {path} {what}, or of an earlier version; give single runs, rendered by this version"
        ) from None


def run(folders: list[str], workdir: Path) -> None:
    """Write the document into the work directory's store and link it as its report."""
    runs = read(folders)
    content = {"runs": {name: {"folder": str(one.folder), **to_json(one.report)} for name, one in runs.items()}}
    manifest = {"stage": "compare", "inputs": [str(one.folder) for one in runs.values()]}
    document.publish(page(runs, workdir), content, rows_csv(runs), workdir, manifest)


def page(runs: Runs, workdir: Path) -> document.Document:
    """The runs' votes, what they differ in, what they cost."""
    reports = {name: one.report for name, one in runs.items()}
    head = [
        f"- {_link(name, one.folder, workdir)}: `{one.report.config}`, seed {', '.join(map(str, one.report.seeds))}. "
        + answer.line(answer.of_run(one.report))
        for name, one in runs.items()
    ]
    keys = list(dict.fromkeys(key for one in reports.values() for key in tables.columns(one)))
    blocks = [
        document.Text("\n".join(head)),
        document.Heading("Votes"),
        document.Table(
            ["run", "vote", "accuracy %", *(tables.COLUMNS[key] for key in keys)],
            [[name, *row] for name, one in reports.items() for row in _votes(one, keys)],
            " ".join([NOTE, *_validation(reports)]),
        ),
        figures.beside(reports, "accuracy", 100, "test accuracy, %"),
        figures.beside(reports, "nll_ts", 1, "test NLL after temperature scaling, nats"),
        document.Heading("Settings that differ", folded=True),
        *_differences(reports),
        document.Heading("Cost", folded=True),
        document.Table(["", *runs], _costs(reports), "Seconds. Machines may differ."),
    ]
    return document.Document(f"{len(runs)} runs side by side", tuple(blocks))


def _validation(reports: dict[str, Report]) -> list[str]:
    """Where validation images are from, with the runs whose are not from the training images."""
    return [f"{name}: {one.setup.validation}" for name, one in reports.items() if one.setup.validation]


def _link(name: str, folder: Path, workdir: Path) -> str:
    """To the run's own page, from where <workdir>/report is opened."""
    return f"[{name}]({quote(os.path.relpath(folder / 'report.html', workdir.resolve() / 'report'))})"


def _votes(one: Report, keys: list[str]) -> list[list[str]]:
    return [
        [label, *tables.vote_cells(one.votes[vote], one.sd.votes[vote] if one.sd else None, keys)]
        for vote, label in words.VOTES.items()
        if vote in one.votes
    ]


def _differences(reports: dict[str, Report]) -> list[document.Text | document.Table]:
    every = list(dict.fromkeys(key for one in reports.values() for key in one.settings))
    rows = [[key, *(_setting(one, key) for one in reports.values())] for key in every]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return [document.Text("None: they differ in seeds, machines or versions alone.")]
    return [document.Table(["setting", *reports], rows, "-: a setting of an algorithm that this run does not use.")]


def _setting(one: Report, key: str) -> str:
    return run_report.plain(one.settings[key]) if key in one.settings else "-"


def _costs(reports: dict[str, Report]) -> list[list[str]]:
    found = [{text: own for text, *own in tables.costs(one)} for one in reports.values()]
    parts = list(dict.fromkeys(text for own in found for text in own if text != "sum"))

    def cell(value: float | None = None, sd: float | None = None) -> str:
        return number(value, sd, ".2f")

    return [[text, *(cell(*own.get(text, [])) for own in found)] for text in (*parts, "sum")]


def rows_csv(runs: Runs) -> document.Lines:
    """results.csv: the lines of each run's own, with its name; a measure that a run lacks is empty."""
    header, lines = ["run", "seed", "generator", "vote", "accuracy", *tables.COLUMNS], []
    for name, one in runs.items():
        names, rows = run_report.rows_csv(one.report)
        for row in rows:
            by_name = dict(zip(names, row, strict=True))
            lines.append([name, *(by_name.get(key, "") for key in header[1:])])
    return header, lines
