"""The papers' tables and figures as documents: what was measured here beside what was published, and the difference."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from bend_jax.report import grid
from bend_jax.report.content import Comparison
from bend_jax.report.document import Document, Heading, Renderer, Text, noted
from bend_jax.report.papers import bend, pdiff_cbnn, published
from bend_jax.report.papers.cells import Blocks, Published, Rows


class Paper(NamedTuple):
    """A table or figure: its title, where it is published, what is published, and the blocks that show it."""

    title: str
    source: str
    published: Any
    blocks: Callable[[Rows, Published], Blocks]


BEND, PDIFF, CBNN = "BEND (arXiv 2403.15766)", "p-diff (arXiv 2402.13144, version 1)", "CBNN, its abstract"
PAPERS = {
    "table3": Paper("BEND, Table 3: test accuracy", f"{BEND}, Table 3", published.TABLE3, bend.table3),
    "table4": Paper("BEND, Table 4: cost", f"{BEND}, Table 4 and eq. 10 to 13", published.TABLE4, bend.table4),
    "table5": Paper("BEND, Table 5: which layers", f"{BEND}, Table 5", published.TABLE5, bend.table5),
    "figure4": Paper("BEND, Figure 4: diversity", f"{BEND}, Fig. 4", published.FIGURE4, bend.figure4),
    "figure5a": Paper("BEND, Figure 5a: checkpoints", f"{BEND}, Fig. 5a; {PDIFF}", published.PDIFF_K, bend.figure5a),
    "figure5b": Paper("BEND, Figure 5b: members", f"{BEND}, Fig. 5b", published.FIGURE5B, bend.figure5b),
    "pdiff_table": Paper("p-diff: original, average, generated", PDIFF, published.PDIFF_TABLE, pdiff_cbnn.pdiff_table),
    "pdiff_noise": Paper("p-diff: noise in the autoencoder", PDIFF, published.PDIFF_NOISE, pdiff_cbnn.pdiff_noise),
    "pdiff_novelty": Paper("p-diff: copies or new", PDIFF, published.PDIFF_NOVELTY, pdiff_cbnn.pdiff_novelty),
    "cbnn": Paper("CBNN: boosted checkpoints at equal budget", CBNN, published.CBNN, pdiff_cbnn.cbnn),
}


def document(paper: str, scale: str, content: Comparison) -> Document:
    """The document of one paper's table. Rows that stopped are named and left out."""
    title, source, theirs, work = PAPERS[paper]
    rows, seeds = content.finished, ", ".join(map(str, content.seed))
    blocks: Blocks = [Text(f"`{content.config}` at scale `{scale}`, seed {seeds}. Published: {source}.")]
    lines = [f"{row.name} stopped: {row.failed}" for row in content.stopped]
    if rows:
        images, settings = rows[0].setup.test_images, rows[0].runs[0].settings
        blocks += work(rows, theirs)
        lines.append(
            f"{images} test images of {settings['data.name']}, {settings['base.epochs']} epochs of training; one image "
            f"is {100 / images:.2f} points."
        )
    if scale != "full":
        lines.append(
            "Other data, a smaller network and a shorter training than the paper's: the differences say how far "
            "this small experiment is from the published one, not how well that one was repeated; "
            f"`{content.config}:full` has its setup."
        )
    lines.append("Differences are ours minus published." + (" ±: sd over seeds." if len(content.seed) > 1 else ""))
    blocks += [Heading("Notes"), Text("\n".join(f"- {line}" for line in lines))]
    return Document(title, tuple(noted(blocks, [row.setup.validation for row in rows])), grid.tally(rows))


def renderer(paper: str, scale: str) -> Renderer:
    """How the rows of that paper's configuration are reported."""
    return Renderer("sweep", partial(document, paper, scale), grid.rows_csv, curves=True)
