"""A report as headings, texts, tables and figures; and its faces: HTML, Markdown, plain text, JSON, CSV, PNG, SVG."""

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bend_jax import devices, links, storage
from bend_jax.report import html, plotting
from bend_jax.report.content import Comparison
from bend_jax.report.records import to_json
from bend_jax.report.text import escaped, markdown_table, text_table

FORMAT = 5  # of the rendering: a report stage's digest covers it, so that an upgrade renders again
BARE = (
    "This report has no figures, because matplotlib is not installed: "
    "`pip install matplotlib`, and `--stages=report` renders it again with them."
)


class Heading(NamedTuple):
    """Of a section, which ends before the next one. folded: a page shows the heading alone until it is opened."""

    text: str
    folded: bool = False


class Text(NamedTuple):
    """One paragraph of plain text with `code` and [words](relative/path), or a list: every line begins with "- "."""

    text: str


class Table(NamedTuple):
    """Rows of cells as they are to be read; the first column names the row."""

    header: list[str]
    rows: list[list[str]]
    note: str = ""


class Figure(NamedTuple):
    """draw(matplotlib figure) draws it; name: of its files; sentence: what to see in it."""

    name: str
    title: str
    sentence: str
    draw: Callable[[Any], None]


Block = Heading | Text | Table | Figure


class Document(NamedTuple):
    """What a report says, in order. answer: in one line, before all else."""

    title: str
    blocks: tuple[Block, ...]
    answer: str = ""


def noted(blocks: Iterable[Block], sentences: Iterable[str | None]) -> list[Block]:
    """The blocks with these sentences, each once, at the end of every table's note."""
    more = " ".join(dict.fromkeys(sentence for sentence in sentences if sentence))
    return [b._replace(note=f"{b.note} {more}".strip()) if isinstance(b, Table) else b for b in blocks]


Lines = tuple[list[str], list[list[str]]]  # header and lines of results.csv


class Renderer(NamedTuple):
    """How the rows of a comparison, a sweep or a paper's table are reported.

    stage: the name of the report's folder in the store; curves: whether report.json keeps the curves of every row and
    seed, which are long.
    """

    stage: str
    document: Callable[[Comparison], Document]
    rows_csv: Callable[[Comparison], Lines]
    curves: bool


def write(
    document: Document, folder: Path, content: Any, rows: Lines, arrays: Mapping[str, np.ndarray] | None = None
) -> str:
    """Write every face of it into the folder, and return one line that says what was written.

    content: what report.json holds, as records; rows: header and lines of results.csv; arrays: of images.npz. Figures
    need matplotlib; without it there are none, and the report says so. Of several processes the first writes.
    """
    if not devices.is_first():
        return ""
    drawn = _draw(document, folder) if plotting.available() else {}
    storage.write_json(folder / "report.json", to_json(content))
    (folder / "report.md").write_text(to_markdown(document, figures=bool(drawn)), encoding="utf-8")
    (folder / "report.html").write_text(to_html(document, drawn), encoding="utf-8")
    with (folder / "results.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([rows[0], *rows[1]])
    if arrays:
        np.savez_compressed(folder / "images.npz", allow_pickle=False, **arrays)
    count = {0: "no figures", 1: "1 figure"}.get(len(drawn), f"{len(drawn)} figures")
    missing = " (matplotlib is not installed)" if _bare(document, bool(drawn)) else ""
    return f"report.html, report.md, report.json, results.csv, {count}{missing}"


def publish(
    document: Document,
    content: Any,
    rows: Lines,
    workdir: Path,
    manifest: dict[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """`write` it into the work directory's store and link it as its report; the same one is not written twice.

    manifest: with "stage", the kind of the document.
    """
    said = {"rendering": rendering(), "text": to_markdown(document, figures=False)}
    held = {"arrays": storage.tree_digest(dict(arrays))} if arrays else {}
    digest = storage.digest_of({"format": storage.FORMAT, "content": to_json(content), "of": manifest, **said, **held})
    stage = manifest["stage"]

    def build(partial: storage.Partial) -> None:
        write(document, partial.output, content, rows, arrays)

    storage.once(workdir / "store", stage, digest, manifest, build)
    links.link(workdir, "report", storage.entry(workdir / "store", stage, digest))


def rendering() -> dict[str, Any]:
    """What the faces depend on besides the content, for the digest of a stage that writes them."""
    return {"format": FORMAT, "figures": plotting.available()}


def _draw(document: Document, folder: Path) -> dict[str, str]:
    """Every figure's SVG for the page, by its name."""
    found = [block for block in document.blocks if isinstance(block, Figure)]
    if found:
        (folder / "figures").mkdir()
    return {figure.name: plotting.draw(figure.draw, figure.name, folder / "figures") for figure in found}


def _bare(document: Document, drawn: bool) -> bool:
    return not drawn and any(isinstance(block, Figure) for block in document.blocks)


def to_html(document: Document, drawn: dict[str, str]) -> str:
    """report.html, with the figures that were drawn."""
    sections: list[tuple[Heading | None, list[str]]] = [(None, [])]
    row: list[tuple[str, str, str]] = []
    for block in (*document.blocks, Text("")):
        if isinstance(block, Figure):
            row += [(drawn[block.name], block.title, block.sentence)] if block.name in drawn else []
            continue
        body = sections[-1][1]
        if row:
            body.append(html.figures(row))
            row = []
        if isinstance(block, Heading):
            sections.append((block, []))
        elif isinstance(block, Table):
            body.append(html.table(*block))
        elif block.text:
            body.append(html.text(block.text))
    if _bare(document, bool(drawn)):
        sections[0][1].append(html.text(BARE))
    return html.page(document.title, document.answer, sections)


def to_markdown(document: Document, *, figures: bool) -> str:
    """report.md; figures: whether they were drawn."""
    parts = [f"# {escaped(document.title)}", *([f"**{escaped(document.answer)}**"] if document.answer else [])]
    for block in document.blocks:
        if isinstance(block, Heading):
            parts.append(f"## {escaped(block.text)}")
        elif isinstance(block, Text):
            parts.append(escaped(block.text))
        elif isinstance(block, Table):
            parts += [markdown_table(block.header, block.rows), *([escaped(block.note)] if block.note else [])]
        elif figures:
            title = escaped(block.title)
            parts.append(f"![{title}](figures/{block.name}.png)\n\n{title}: {escaped(block.sentence)}")
    parts += [BARE] if _bare(document, figures) else []
    return "\n\n".join(parts) + "\n"


def to_text(document: Document) -> str:
    """Its answer, headings, sentences and tables for a terminal."""
    parts = [document.answer] if document.answer else []
    for block in document.blocks:
        if isinstance(block, Table):
            parts.append("\n".join([text_table(block.header, block.rows), *([block.note] if block.note else [])]))
        elif not isinstance(block, Figure):
            parts.append(block.text)
    return "\n\n".join(parts)
