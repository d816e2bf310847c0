"""The documents of runs, seeds and runs side by side: what is in them, by hand, with every figure drawn once."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bend_jax import components, storage
from bend_jax.checks import SettingsError
from bend_jax.evaluation import memorisation
from bend_jax.report import (
    comparison,
    document,
    figures,
    grid,
    latent_maps,
    papers,
    plotting,
    run_report,
    side_by_side,
    tables,
    words,
)
from bend_jax.report import memorisation as memorisation_section
from bend_jax.report.content import Comparison, Row
from bend_jax.report.document import Document, Figure, Heading, Table, Text
from bend_jax.report.papers import published
from bend_jax.report.records import from_json, to_json
from bend_jax.run import summary
from tests.reported import row_json
from tests.reports import DIM, VALIDATION, K, M, N, check_page, combined, measured, report_of, settings

NAMES = {"accuracies", "by_members", "reliability", "risk_coverage", "diversity", "novelty", "latents_pca"}
ALONE = {"latents_pca", "nearest_distances", "heat", "boundaries", "plane"}  # not of several seeds
NAMES |= {"seconds", "training", *ALONE}


def curves() -> dict[str, Any]:
    """What the evaluation leaves for the figures."""
    rng = np.random.default_rng(1)
    members = {
        name: {"accuracy": rng.uniform(0.5, 0.7, m).tolist(), "max_iou": rng.uniform(0.8, 1, m).tolist()}
        for name, m in {"checkpoints": K, "bend": M, "gaussian": M, "identity": K}.items()
    }
    bins = {"confidence": [None, 0.3, 0.9], "accuracy": [None, 0.4, 0.8], "share": [0.0, 0.5, 0.5]}
    votes = ("base", "mean", "sbend")
    return {
        "by_members": {"m": [1, 2, 3], **{key: [0.5, 0.6, 0.7] for key in ("sbend", "mean", "single", "nll")}},
        "members": members,
        "reliability": {vote: {"before": bins, "after": bins} for vote in votes},
        "risk_coverage": {vote: {"coverage": [0.5, 1.0], "risk": [0.1, 0.3]} for vote in votes},
    }


def shifted(row: dict[str, float]) -> dict[str, Any]:
    """One other data set and one corruption."""
    return {
        "ood": {"mnist": {"sbend": {"entropy": {"auroc": 0.875, "fpr95": 0.5}}}},
        "corruptions": {"blur": {"1": {"base": row}, "2": {"base": {**row, "accuracy": 0.25}}}},
    }


def memorised() -> dict[str, Any]:
    """What the stage of that name measured of three generators."""
    rows = {"bend": -5.25, "gaussian": 0.5, "identity": None, "base": 12.0}
    numbers = {"nearest": 0.5, "nearest_held_out": 0.75, "energy": 0.25, "energy_low": 0.125, "energy_high": 0.5}
    copying = {name: {"z_u": z, **numbers, "energy_p": 0.0005} for name, z in rows.items()}
    means = {"accuracy": 0.625, "max_iou": 0.875, "nearest": 0.5, "disagreement": 0.0625, "disagreement_p10": 0.03125}
    names = ("checkpoints", "base", "noise 0.05", "noise 1.5", "average16")
    references = dict.fromkeys(names, means)
    return {"fitted_to": 80, "held_out": 20, "copying": copying, "references": references, "boundaries": 0.125}


def arrays() -> dict[str, Any]:
    """What it leaves for the figures."""
    rng = np.random.default_rng(2)
    checkpoints, members = rng.normal(size=(K, DIM)), rng.normal(size=(M, DIM))
    of = {"checkpoints": checkpoints, "bend": members}
    plane = memorisation.landscape({"checkpoints": checkpoints, "members": members, "base": members[:1]})
    assert plane is not None
    labels = rng.integers(0, 4, (M, 8, 8))
    places = {f"at_{name}": x for name, x in plane.places.items()}
    accuracy = rng.uniform(size=(memorisation.GRID, memorisation.GRID))
    return {
        "distances": memorisation.distances(of),
        "heat": memorisation.heat(checkpoints, members),
        "boundaries": {"members": labels, "checkpoints": labels},
        "plane": {"accuracy": accuracy, "along": plane.along, "shares": plane.shares, **places},
    }


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """A whole report of one run."""
    results = copy.deepcopy(measured())
    row = results["evaluate"]["votes"]["base"]
    results["evaluate"] |= {"curves": curves(), "shift": shifted(row)}
    loss = {"step": [10, 20], "loss": [2.0, 0.1]}
    results["base"]["training"] = {"base": loss}
    results["generate bend"]["training"] = {"autoencoder": {**loss, "held_out_loss": [2.0, None]}, "diffusion": loss}
    results["memorisation"] = {**memorised(), "compile": {}, "training": {"held-out bend diffusion": loss}}
    found = summary.assemble(settings(), "configs/digits.py", 3, DIM, results)
    one = {"seconds": 1.5, "versions": {"jax": "1", "numpy": "2"}}
    manifests = {"base": one, "evaluate": {**one, "versions": {"jax": "1.1", "numpy": "2"}}}
    return to_json(summary.with_stages(found, manifests, {"base": "base-12", "evaluate": "evaluate-34"}))


def several(content: dict[str, Any]) -> dict[str, Any]:
    """Two seeds."""
    other = copy.deepcopy(content) | {"seed": 4}
    other["curves"]["by_members"] = {key: own[:2] for key, own in other["curves"]["by_members"].items()}
    other["votes"]["base"]["accuracy"] += 0.1
    return {**combined([content, other]), "folders": {"3": "report-56", "4": "report-78"}}


def latents() -> dict[str, Any]:
    """A line of checkpoints, and members on it."""
    line = np.outer(np.arange(5.0), np.ones(3)).astype(np.float32)
    return {"checkpoints": line, "members": line[:3] + 0.5, "noised": line}


def tables_of(found: Document) -> list[Table]:
    """In order."""
    return [block for block in found.blocks if isinstance(block, Table)]


def table(found: Document, first: str) -> dict[str, list[str]]:
    """The table with that first head, its rows by their names."""
    (own,) = (block for block in tables_of(found) if block.header[0] == first)
    return {row[0]: row[1:] for row in own.rows}


def test_the_report_of_a_run_is_whole(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of it is drawn, and the page parses."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(latent_maps, "has_tsne", lambda: False)  # the tests of whole runs draw it
    report = report_of(content)
    found = run_report.document(report, latents(), arrays())
    drawn = [block for block in found.blocks if isinstance(block, Figure)]
    assert {figure.name for figure in drawn} == NAMES
    assert len({figure.sentence for figure in drawn}) == len(NAMES)
    said = document.write(found, tmp_path, report, run_report.rows_csv(report))
    assert said.endswith(f"{len(NAMES)} figures")
    check_page((tmp_path / "report.html").read_text())
    assert len(list((tmp_path / "figures").iterdir())) == 2 * len(NAMES)
    assert storage.read_json(tmp_path / "report.json") == content


def test_what_the_tables_hold(content: dict[str, Any]) -> None:
    """Where files are, what was tuned, versions that differ, shift, temperatures, settings."""
    found = run_report.document(report_of(content))
    assert table(found, "stage")["evaluate"] == ["1.50", "[evaluate-34](../store/evaluate-34)"]
    assert table(found, "generator") == {"gaussian": ["scale", "1.5"]}
    assert table(found, "other data") == {"mnist": ["sBEND", "entropy", "0.8750", "0.5000"]}
    (own,) = (block for block in tables_of(found) if block.header[0] == "accuracy % under")
    assert own.header[1:] == ["vote", "1", "2"]
    assert [[row[0], row[1], row[3]] for row in own.rows] == [["blur", "base", "25.00"]]
    assert set(table(found, "temperature of")) >= {"base", "average of the checkpoints", "bend", "gaussian"}
    assert table(found, "setting")["collect.k"] == [str(K)]
    assert table(found, "setting")["members"] == [str(M)]
    text = document.to_markdown(found, figures=False)
    assert "Made with jax 1 and 1.1, numpy 2." in text
    assert "None" not in text


def test_copies_or_new_networks(content: dict[str, Any]) -> None:
    """A row for each generator and reference, a sentence by Z_U, the trainings of held-out fits nowhere; over seeds
    with their sd and without the figures of one."""
    report = report_of(content)
    rows = table(run_report.document(report), "networks")
    assert rows["bend"][-3:] == ["-5.25", "0.25", "0.0005"]
    assert rows["bend"][0] == f"{100 * content['table']['mean']:.2f}"
    assert rows["gaussian"][1] == f"{content['generators']['gaussian']['novelty']['nearest']:.3g}"
    assert rows["identity"][-3] == "-"
    assert rows["checkpoints with noise 1.5"] == ["62.50", "0.5", "0.875", "6.25", "3.12", *["-"] * 5]
    assert rows["the base again and again"][-3:] == ["+12.00", "0.25", "0.0005"]
    text = document.to_markdown(run_report.document(report), figures=False)
    assert "Z_U of bend fitted to 80 checkpoints is -5.2: its members are nearer to those" in text
    assert "beside it gaussian +0.5, base +12.0." in text
    assert "against the other 20." in text
    assert set(content["training"]) == {"base", "autoencoder", "diffusion"}
    other = copy.deepcopy(content)
    other["memorisation"]["copying"]["bend"]["z_u"] = -4.25
    both = run_report.document(report_of(combined([content, other])))
    assert table(both, "networks")["bend"][-3] == "-4.75 ± 0.71"
    assert not {"plane", "heat"} & {block.name for block in both.blocks if isinstance(block, Figure)}


@pytest.mark.parametrize(("z", "said"), [(-3.5, "nearer"), (1.0, "as far"), (3.5, "farther"), (None, "No Z_U")])
def test_what_z_u_is_said_to_mean(content: dict[str, Any], z: float | None, said: str) -> None:
    """Beyond three standard deviations it is told."""
    changed = copy.deepcopy(content)
    changed["memorisation"]["copying"]["bend"]["z_u"] = z
    (line,) = [line for line in memorisation_section.said(report_of(changed))[1:] if "Z_U" in line]
    assert said in line
    assert ("copies" in line) == (z == -3.5)


def test_validation_on_test_images_is_said_in_every_table_of_test_figures(content: dict[str, Any]) -> None:
    """Of a run, on the terminal, of a comparison, a sweep, a paper's table; of runs side by side with their names."""
    said = "Validation images are 23 of the 60 test images, stratified"
    raw = settings()
    there = summary.validation_of(replace(raw, data=replace(raw.data, init_unseen="test")), VALIDATION, N)
    assert there is not None
    assert there.startswith(said)
    assert summary.validation_of(raw, VALIDATION, N) is None
    one = {**content, "setup": {**content["setup"], "validation": there, "warning": "Look here."}}
    blocks = run_report.document(report_of(one)).blocks
    end = blocks.index(Heading("Cost", folded=True))
    notes = [block.note for block in blocks[:end] if isinstance(block, Table)]
    assert len(notes) > 4
    assert all(note.endswith(there) for note in notes)
    assert isinstance(blocks[0], Text)
    assert "Warning: Look here." in blocks[0].text
    assert tables.terminal(report_of(one)).endswith(there)
    row = row_json("res18") | {"settings": {"members": 4}}
    row["setup"] |= {"validation": there}
    rows = [from_json(Row, own) for own in (row, {**row, "name": "res50"})]
    compared = Comparison(task="", config="", seed=[0], rows=[*rows])
    theirs = papers.renderer("table3", "digits").document(compared)
    for found in (comparison.document(compared), grid.document(compared), theirs):
        assert tables_of(found)
        assert all(table.note.endswith(there) for table in tables_of(found))
    runs = {name: side_by_side.Finished(Path("."), report_of(own)) for name, own in (("a", one), ("b", content))}
    (votes, *_) = tables_of(side_by_side.page(runs, Path(".")))
    assert votes.note.endswith(f"a: {there}")


def test_no_name_in_a_report_becomes_a_link_or_a_tag(content: dict[str, Any]) -> None:
    """Of the task, the data, the network, the subset, a setting, a library, a warning or a run: it stays text."""
    bad = '[x](javascript:alert(1))"><script>alert(1)</script>'
    free = ("data", "backbone", "collect", "subset", "views", "validation", "warning")
    one = {**content, "task": bad, "config": bad, "versions": {bad: bad}}
    one["setup"] = {**content["setup"], **dict.fromkeys(free, bad), "notes": [bad]}
    one["settings"] = {bad: bad} | {name: bad if isinstance(x, str) else x for name, x in content["settings"].items()}
    runs = {name: side_by_side.Finished(Path("."), report_of(own)) for name, own in ((bad, one), ("b", content))}
    for made in (run_report.document(report_of(one)), side_by_side.page(runs, Path("."))):
        page = check_page(document.to_html(made, {}))
        assert sum(bad in text for own in page.text.values() for text in own) > 5
        links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
        assert not [link for link in links if "javascript" in str(link)]


def test_a_store_made_before_has_no_curves(content: dict[str, Any]) -> None:
    """The report does without what is missing; so does one of several seeds."""
    old = {**content, "curves": None, "shift": None, "training": {}}
    del old["stages"], old["versions"], old["memorisation"]
    for one in (old, combined([old, old])):
        found = run_report.document(report_of(one))
        assert {block.name for block in found.blocks if isinstance(block, Figure)} == {"diversity", "seconds"}
        headings = {block.text for block in found.blocks if isinstance(block, Heading)}
        assert not {"Under shift", "Copies or new networks"} & headings
    votes = {name: {k: v for k, v in row.items() if k != "aurc"} for name, row in old["votes"].items()}
    assert "AURC" not in tables_of(run_report.document(report_of({**old, "votes": votes, "generators": {}})))[1].header


def test_several_seeds_lie_over_each_other(content: dict[str, Any]) -> None:
    """One curve a seed with one place in the legend, though their lengths differ; numbers are means with their sd."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure as Canvas

    both = several(content)
    found = run_report.document(report_of(both))
    drawn = {block.name: block for block in found.blocks if isinstance(block, Figure)}
    assert set(drawn) == NAMES - ALONE
    canvas = Canvas()
    drawn["by_members"].draw(canvas)
    above = canvas.axes[0]
    lines = [line for line in above.lines if line.get_color() == figures.VOTES["sbend"][1]]
    assert [len(line.get_xdata()) for line in lines] == [3, 2]
    assert len(canvas.legends[0].get_texts()) == 4
    for figure in drawn.values():
        figure.draw(Canvas())
    (links,) = (block.text for block in found.blocks if isinstance(block, Text) and "Each by itself" in block.text)
    assert "seed 4: [report-78](../store/report-78)" in links
    header, rows = run_report.rows_csv(report_of(both))
    assert header[:4] == ["seed", "generator", "vote", "accuracy"]
    assert {row[0] for row in rows} == {"3", "4"}
    base = {row[0]: float(row[3]) for row in rows if row[2] == "base"}
    assert base["4"] - base["3"] == pytest.approx(0.1)


def test_the_published_row_stands_beside_ours(content: dict[str, Any]) -> None:
    """BEND's Table 3 and the difference in points, worked by hand; none for a task that it has not."""
    assert run_report.rows_published(report_of(content)) is None
    ours = {**content["table"], "sbend": 0.95, "potential": 0.9, "median": 0.9458}
    found = run_report.rows_published(report_of({**content, "task": "res18_cifar10", "table": ours}))
    assert found is not None
    header, (theirs, mine, difference) = found
    assert header[1:] == list(words.TABLE3.values())
    assert (theirs[1], theirs[5], theirs[9]) == ("94.58", "94.58", "94.71")
    assert (mine[1], mine[9]) == ("95.00", "90.00")
    assert (difference[1], difference[5], difference[9]) == ("+0.42", "+0.00", "-4.71")
    assert all(len(row) == len(published.COLUMNS) for row in published.TABLE3.values())


def test_components_of_points_on_a_line_and_in_a_plane() -> None:
    """A line has all its variance in the first; a plane keeps its distances."""
    line = np.outer(np.arange(5.0), [3.0, 4.0, 0.0]) + 7
    found = components.plane(line)
    points, shares = components.onto(found, line), found.shares
    np.testing.assert_allclose(shares, [1, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(np.diff(points[:, 0])), 5)
    plane = np.random.default_rng(0).normal(size=(9, 2)) @ np.random.default_rng(1).normal(size=(2, 6)) + 3
    found = components.plane(plane)
    points, shares = components.onto(found, plane), found.shares
    assert shares.sum() == pytest.approx(1)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(apart, np.linalg.norm(plane[:, None] - plane[None], axis=2), atol=1e-9)
    points = components.onto(components.plane(np.ones((3, 1))), np.ones((3, 1)))
    assert points.shape == (3, 2)
    assert np.isfinite(points).all()


def test_the_rows_that_no_cheaper_one_betters() -> None:
    """Where more is better, and where less is."""
    points = ((1.0, 0.5), (2.0, 0.7), (2.0, 0.6), (3.0, 0.7), (4.0, 0.9))
    rows = [from_json(Row, row_json(str(i)) | {"training": t, "accuracy": a}) for i, (t, a) in enumerate(points)]
    assert figures._front(rows, "accuracy", 100) == [rows[0], rows[1], rows[3], rows[4]]
    assert figures._front(rows, "accuracy", -1) == [rows[0]]


def test_a_comparisons_figures() -> None:
    """A row without a likelihood is left out of that figure alone."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure as Canvas

    row = row_json("base") | {"training": 2.0, "inference": 1.0, "accuracy": 0.8, "nll_ts": 0.5}
    single = {**row, "name": "single", "training": 3.0, "accuracy": 0.9, "nll_ts": None}
    rows = [from_json(Row, own) for own in (row, single)]
    for figure, points in zip(figures.against_cost(rows), (2, 1), strict=True):
        canvas = Canvas()
        figure.draw(canvas)
        assert len(canvas.axes[0].collections) == points


# side by side


def write(folder: Path, content: dict[str, Any] | str) -> str:
    """A work directory with nothing but a report in it."""
    folder.mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    with storage.publishing(folder / "report", {"stage": "report"}) as partial:
        (partial.output / "report.json").write_text(text)
    return str(folder)


def test_runs_side_by_side(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their votes, the settings that differ and no others, a link to each; nothing is computed."""
    monkeypatch.setattr(plotting, "available", lambda: False)
    other = several({**content, "settings": {**content["settings"], "members": 7}})
    folders = [write(tmp_path / "a", content), write(tmp_path / "b c", other)]
    workdir = tmp_path / "both"
    side_by_side.run(folders, workdir)
    kept = storage.read_json(workdir / "report" / "report.json")["runs"]
    assert {name: one["seed"] for name, one in kept.items()} == {"a": 3, "b c": [3, 4]}
    runs = side_by_side.read(folders)
    found = side_by_side.page(runs, workdir)
    assert table(found, "setting") == {"members": [str(M), "7"]}
    rows = [row for row in tables_of(found)[0].rows if row[1] == "base"]
    assert [row[0] for row in rows] == ["a", "b c"]
    assert rows[0][2] == f"{100 * content['votes']['base']['accuracy']:.2f}"
    assert " ± 7.07" in rows[1][2]
    assert "](../../b%20c/report/report.html)" in (workdir / "report" / "report.md").read_text()
    check_page((workdir / "report" / "report.html").read_text())
    side_by_side.run(folders, workdir)  # again: the same stage
    assert len(list((workdir / "store").iterdir())) == 1
    assert "None: they differ" in document.to_markdown(
        side_by_side.page(dict.fromkeys("ab", runs["a"]), workdir), figures=False
    )


def test_their_figures(content: dict[str, Any]) -> None:
    """A row for each run, bars of sd for several seeds."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas()
    reports = {"a": report_of(content), "b": report_of(several(content))}
    figures.beside(reports, "accuracy", 100, "test accuracy, %").draw(canvas)
    assert [text.get_text() for text in canvas.axes[0].get_yticklabels()] == ["a", "b"]


def test_a_folder_that_is_no_finished_run_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    """In one line, and nothing is written."""
    good = write(tmp_path / "good", content)
    sweep = write(tmp_path / "sweep", {"rows": []})
    (tmp_path / "empty").mkdir()
    write(tmp_path / "broken", '{"votes": ')
    cases = {
        "nowhere": "there is no folder",
        "empty": "has no report/report.json",
        "broken": "cannot be read",
        "sweep": "is of a comparison or a sweep",
        "good": "two or more different folders",
    }
    for name, says in cases.items():
        with pytest.raises(SettingsError) as error:
            side_by_side.run([good, str(tmp_path / name)], tmp_path / "out")
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    assert sweep
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("step", "held_out", "said"),
    [
        (0, 2.0, "The diffusion kept its Gaussian start"),
        (
            750,
            1.9,
            "after 750 steps it explains 5.0 ± 0.5% of what the Gaussian leaves open in 2",
        ),
        (750, None, None),
    ],
)
def test_what_the_diffusion_learnt_is_said(
    content: dict[str, Any], step: int, held_out: float | None, said: str | None
) -> None:
    """In the verdict: its held-out loss against that of a denoiser which is zero; nothing without folds."""
    found = {"step": step, "latents": 2, "held_out": held_out, "held_out_se": 0.01, "zero": 2.0, "seen": 1.8}
    report = report_of({**content, "learnt": found})
    text = "\n".join(tables.verdict(report))
    assert ("Gaussian start" in text) == (said is not None)
    assert (said or "") in text
    assert ("(10.0% of its own)" in text) == (step > 0 and held_out is not None)
    both = report_of(combined([{**content, "learnt": found}, {**content, "learnt": None, "seed": 1}]))
    assert both.learnt is None
    assert (": the diffusion" in "\n".join(tables.verdict(both))) == (said is not None)
