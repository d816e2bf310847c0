"""A document to its faces: the known text, a page that parses and fetches nothing, the same bytes twice."""

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bend_jax.report import document, html, plotting
from bend_jax.report.document import Document, Figure, Heading, Table, Text
from bend_jax.report.text import LINK, escaped
from tests.reports import Page, check_page

NASTY = "a<b & \"c\" | *d* 'e'"


def sine(figure: Any) -> None:
    """Two curves, a clip path and a marker."""
    axes = figure.subplots()
    curves = [
        plotting.Line(f"seed <{i}>", [0, 1, 2], [1.0, None, 3.0 + i], c) for i, c in enumerate(plotting.COLOURS[:2])
    ]
    plotting.lines(axes, [*curves, plotting.Line("ink", [0, 1], [0, 1], plotting.INK, marker="o")], "m", "%")
    plotting.legend(figure, axes)


def known() -> Document:
    """Every kind of block."""
    return Document(
        "T <1>",
        (
            Text(f"{NASTY} `x<y*` [there](../store/evaluate-1)"),
            Heading("H & K"),
            Text("- one\n- two *"),
            Table(["", "a|b", "what"], [["x", "+1.00*", NASTY], ["y", "-", "w"]], "A note <."),
            Figure("first", "One <", "See & believe.", sine),
            Figure("second", "Two", "See.", sine),
            Text("After."),
        ),
    )


MARKDOWN = r"""# T &lt;1>

a&lt;b &amp; "c" | \*d\* 'e' `x<y*` [there](../store/evaluate-1)

## H &amp; K

- one
- two \*

|  | a\|b | what |
|----|---------|-------------------------------|
| x | +1.00\* | a&lt;b &amp; "c" \| \*d\* 'e' |
| y | - | w |

A note &lt;.

![One &lt;](figures/first.png)

One &lt;: See &amp; believe.

![Two](figures/second.png)

Two: See.

After.
"""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The known document, written two times."""
    pytest.importorskip("matplotlib")
    folders = [tmp_path_factory.mktemp(name) for name in ("once", "again")]
    for folder in folders:
        said = document.write(known(), folder, {"x": 1}, (["vote", "n"], [['a,"b"', "0.5"]]))
        assert said == "report.html, report.md, report.json, results.csv, 2 figures"
    return folders


def test_markdown_is_the_known_text(twice: list[Path]) -> None:
    """To the letter."""
    assert (twice[0] / "report.md").read_text() == MARKDOWN


def test_csv_reads_back(twice: list[Path]) -> None:
    """With its quotes and commas."""
    with (twice[0] / "results.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["vote", "n"], ['a,"b"', "0.5"]]


def test_the_page_is_whole_and_fetches_nothing(twice: list[Path]) -> None:
    """And says what the document says, letter by letter."""
    found = check_page((twice[0] / "report.html").read_text())
    assert found.text["title"] == found.text["h1"] == ["T <1>"]
    assert found.text["h2"] == ["H & K"]
    assert found.text["code"] == ["x<y*"]
    assert found.text["a"] == ["there"]
    assert found.text["li"] == ["one", "two *"]
    assert found.text["td"] == ["+1.00*", NASTY, "-", "w"]
    assert found.text["strong"] == ["One <", "Two"]
    assert found.text["figcaption"] == ["See & believe.", "See."]
    assert sum(tag == "svg" for tag, _ in found.tags) == 2
    assert any(text == "seed <0>" for text in found.text["text"])


def test_a_column_of_numbers_stands_to_the_right() -> None:
    """One of words does not, and neither does one with a word in it."""
    header, rows = ["", "n", "w", "mixed"], [["x", "+1.0 ± 2", "word", "1"], ["y", "-", "3 words", "b"]]
    found = Page(f"<div>{html.table(header, rows, '')}</div>")
    kinds = [attributes.get("class") for tag, attributes in found.tags if tag == "td"]
    assert kinds == ["number", None, None] * 2


def test_the_same_run_writes_the_same_bytes(twice: list[Path]) -> None:
    """Every file, the figures too."""
    files = [sorted(p.relative_to(folder) for folder in [root] for p in root.rglob("*.*")) for root in twice]
    assert files[0] == files[1]
    assert len(files[0]) == 4 + 4
    for name in files[0]:
        assert (twice[0] / name).read_bytes() == (twice[1] / name).read_bytes(), name


def test_inlined_figures_take_the_pages_colours(twice: list[Path]) -> None:
    """Ink, paper and grid are the page's in light and dark; the files beside it stand alone."""
    text = (twice[0] / "report.html").read_text()
    body = text[text.index("<main>") :]
    alone = (twice[0] / "figures" / "first.svg").read_text()
    for colour in (plotting.INK, plotting.PAPER, plotting.GRID, plotting.COLOURS[0]):
        assert colour not in body
        assert colour in alone
    assert "var(--ink)" in body
    assert "var(" not in alone
    assert not re.search(r"\d{4}-\d\d-\d\d", alone)


def test_without_matplotlib_there_are_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every face says so, once; a document without figures has nothing to say."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert document.rendering() == {"format": document.FORMAT, "figures": False}
    said = document.write(known(), tmp_path, {}, (["a"], []))
    assert said.endswith("no figures (matplotlib is not installed)")
    assert not (tmp_path / "figures").exists()
    text = (tmp_path / "report.md").read_text()
    assert text.count("pip install matplotlib") == 1
    assert "figures/" not in text
    found = check_page((tmp_path / "report.html").read_text())
    assert "pip install matplotlib" in found.text["code"]
    assert "svg" not in {tag for tag, _ in found.tags}
    plain = Document("t", (Text("w"),))
    assert "matplotlib" not in document.to_markdown(plain, figures=False) + document.to_html(plain, {})


def test_a_report_is_published_once_and_anew_where_its_text_is_another(tmp_path: Path) -> None:
    """So that a newer version's sentences replace those of the same numbers."""

    def publish(text: str) -> str:
        made = document.Document("title", (Text(text),))
        document.publish(made, {"a": 1}, (["a"], [["1"]]), tmp_path, {"stage": "sweep"})
        return (tmp_path / "report").resolve().name

    first, again, other = publish("old"), publish("old"), publish("new")
    assert first == again != other
    assert "new" in (tmp_path / "report" / "report.md").read_text()
    assert len(list((tmp_path / "store").iterdir())) == 2


HOSTILE = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "\x01javascript:alert(1)",
    "data:text/html,<script>",
    "vbscript:x",
    "file:///etc/passwd",
    "//elsewhere.org/x",
]


@pytest.mark.parametrize("target", HOSTILE)
def test_no_text_of_a_run_becomes_a_link_that_runs_or_leads_astray(target: str, tmp_path: Path) -> None:
    """Wherever a task, a setting or a data set's name comes to stand; and the page forbids scripts altogether."""
    bad = f"[x]({target})"
    blocks = (document.Heading(bad), document.Text(bad), document.Text(f"- {bad}"), document.Table([bad], [[bad]], bad))
    made = document.Document(bad, blocks)
    document.write(made, tmp_path, {}, (["a"], []))
    page = (tmp_path / "report.html").read_text()
    assert "<a " not in page
    assert "default-src 'none'" in page
    text = (tmp_path / "report.md").read_text()
    assert not [found for found in LINK.finditer(text) if text[found.start() - 1] != "\\"]


def test_links_to_the_web_and_beside_the_page_stay() -> None:
    """As they are."""
    for target in ("https://arxiv.org/abs/2403.15766", "http://x.org", "../store/base-1", "a.md#b", "seed_0/x"):
        assert html.inline(f"[x]({target})") == f'<a href="{target}">x</a>'
        assert escaped(f"[x]({target})") == f"[x]({target})"
