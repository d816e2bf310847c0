"""Several finished runs side by side in one document, from their reports alone."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bend_jax import storage
from bend_jax.checks import SettingsError
from bend_jax.report import document, figures, run_report, tables

NEEDED = {"votes", "table", "cost", "settings", "setup"}  # of a run's report.json


def read(folders: list[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """(folder of the report, its content) of each run, by a short name; folders: work directories, or reports'.

    Raises SettingsError for one that is no finished run.
    """
    if len(folders) < 2 or len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise SettingsError(f"--compare takes two or more different folders of finished runs; got {', '.join(folders)}")
    short = [Path(folder).resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else folders
    return {name: _read(Path(folder)) for name, folder in zip(names, folders, strict=True)}


def _read(folder: Path) -> tuple[Path, dict[str, Any]]:
    if not folder.is_dir():
        raise SettingsError(f"--compare: there is no folder {folder}; give the work directories of finished runs")
    places = [place for place in (folder / "report", folder) if (place / "report.json").is_file()]
    if not places:
        raise SettingsError(
            f"--compare: {folder} has no report/report.json: its run has not finished, or is no run; run it to its end"
        )
    path = places[0] / "report.json"
    try:
        content = storage.read_json(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--compare: {path} cannot be read ({error}); render it again by --stages=report") from None
    if not isinstance(content, dict) or not set(content) >= NEEDED:
        what = "is of a comparison or a sweep" if isinstance(content, dict) and "rows" in content else "is no run's"
        raise SettingsError(
            f"--compare: {path} {what}, or of an earlier version; give single runs, rendered by this version"
        )
    return places[0], content


def run(folders: list[str], workdir: Path) -> None:
    """Write the document into the work directory's store and link it as its report."""
    found = read(folders)
    content = {"runs": {name: {"folder": str(place.resolve()), **one} for name, (place, one) in found.items()}}
    manifest = {"stage": "compare", "inputs": [one["folder"] for one in content["runs"].values()]}
    document.publish(page(content["runs"], workdir), content, rows_csv(content["runs"]), workdir, manifest)


def page(runs: dict[str, dict[str, Any]], workdir: Path) -> document.Document:
    """The runs' votes, what they differ in, what they cost."""
    head = [f"- {_link(name, one, workdir)}: `{one['config']}`, seed {_seeds(one)}" for name, one in runs.items()]
    keys = list(dict.fromkeys(key for one in runs.values() for key in tables.columns(one)))
    blocks = [
        document.Text("\n".join(head)),
        document.Heading("Votes"),
        document.Table(
            ["run", "vote", "accuracy %", *(tables.COLUMNS[key] for key in keys)],
            [[name, *row] for name, one in runs.items() for row in _votes(one, keys)],
            "Mean ± sd where a run has several seeds. Runs of other data, splits or noise have other test images.",
        ),
        figures.beside(runs, "accuracy", 100, "test accuracy, %"),
        figures.beside(runs, "nll_ts", 1, "test NLL after temperature scaling, nats"),
        document.Heading("Settings that differ"),
        *_differences(runs),
        document.Heading("Cost"),
        document.Table(["", *runs], _costs(runs), "Seconds; break_even_m: members. Machines may differ."),
    ]
    return document.Document(f"{len(runs)} runs side by side", tuple(blocks))


def _seeds(one: dict[str, Any]) -> str:
    return ", ".join(map(str, one["seed"])) if isinstance(one["seed"], list) else str(one["seed"])


def _link(name: str, one: dict[str, Any], workdir: Path) -> str:
    """To the run's own page, from where <workdir>/report is opened."""
    page_of = os.path.relpath(Path(one["folder"]) / "report.html", workdir.resolve() / "report")
    return f"[{name}]({quote(page_of)})"


def _votes(one: dict[str, Any], keys: list[str]) -> list[list[str]]:
    sd, rows = one.get("sd"), []
    for vote, label in tables.VOTES.items():
        if vote in one["votes"]:
            own = dict.fromkeys(keys) | one["votes"][vote]
            rows.append([label, *tables.vote_cells(own, sd and sd["votes"][vote], keys)])
    return rows


def _differences(runs: dict[str, dict[str, Any]]) -> list[document.Text | document.Table]:
    every = list(dict.fromkeys(key for one in runs.values() for key in one["settings"]))
    rows = [[key, *(_setting(one, key) for one in runs.values())] for key in every]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return [document.Text("None: they differ in seeds, machines or versions alone.")]
    return [document.Table(["setting", *runs], rows, "-: a setting of an algorithm that this run does not use.")]


def _setting(one: dict[str, Any], key: str) -> str:
    return run_report.plain(one["settings"][key]) if key in one["settings"] else "-"


def _costs(runs: dict[str, dict[str, Any]]) -> list[list[str]]:
    keys = next(iter(runs.values()))["cost"]
    spreads = {name: (one.get("sd") or {}).get("cost") for name, one in runs.items()}
    return [[key, *(tables.number(one["cost"], spreads[n], key, ".2f") for n, one in runs.items())] for key in keys]


def rows_csv(runs: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """results.csv: the lines of each run's own, with its name; a measure that a run has not is empty."""
    header, lines = ["run", "seed", "generator", "vote", "accuracy", *tables.COLUMNS], []
    for name, one in runs.items():
        names, rows = run_report.rows_csv(one)
        for row in rows:
            by_name = dict(zip(names, row, strict=True))
            lines.append([name, *(by_name.get(key, "") for key in header[1:])])
    return header, lines
