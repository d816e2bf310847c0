"""The pieces of a self-contained HTML page: every text escaped, no script, nothing fetched."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from bend_jax.report.text import LINK, is_safe

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --grid: #d0d7de; --link: #0a5cad;
  --band: #f6f8fa; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa5b1; --paper: #12161c; --grid: #343c46;
  --link: #7ab7ff; --band: #1a2028; --blue: #4aa8e8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .75rem 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--grid); }
.answer { font-size: 1.3rem; line-height: 1.4; font-weight: 600; max-width: 62rem; margin: .5rem 0 .75rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: .5rem 0 .9rem; font-size: .9rem; }
details { border-top: 1px solid var(--grid); }
details:last-of-type { border-bottom: 1px solid var(--grid); }
summary { cursor: pointer; padding: .7rem 0; }
summary:hover { color: var(--link); }
summary h2 { display: inline; margin: 0; padding: 0; border: 0; font-size: 1.1rem; }
.section { scroll-margin-top: 4rem; padding: 0 0 1.25rem; }
p, ul { max-width: 50rem; margin: .6rem 0; overflow-wrap: anywhere; }
ul { padding-left: 1.25rem; }
li { margin: .2rem 0; }
a { color: var(--link); }
code { font: .875em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background: var(--band);
  padding: .1em .3em; border-radius: .25em; }
.scroll { overflow-x: auto; max-width: 100%; width: fit-content; margin: .8rem 0 .3rem; border: 1px solid var(--grid);
  border-radius: .4rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .65rem; text-align: left; border-top: 1px solid var(--grid); }
thead th { border-top: 0; background: var(--band); vertical-align: bottom; max-width: 10rem; }
tbody th { font-weight: 500; max-width: 24rem; }
.few tbody th { max-width: 40rem; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); }
thead th:first-child { background: var(--band); }
.number { text-align: right; }
.note, figcaption { color: var(--soft); font-size: .875rem; }
.note { margin-top: .2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2rem;
  align-items: start; margin: 1rem 0; }
figure { margin: 0; min-width: 0; max-width: 38rem; }
figure svg { display: block; width: 100%; height: auto; font-family: inherit; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption strong { display: block; color: var(--ink); font-size: 1rem; margin-bottom: .15rem; }
@media (max-width: 48rem) {
  main { padding: .5rem 1rem 3rem; }
  .answer { font-size: 1.1rem; }
  .scroll { width: auto; }
  th, td, td.long { white-space: normal; min-width: 0; max-width: none; overflow-wrap: anywhere; padding: .3rem .5rem; }
  table.few { width: 100%; }
  table.few th { overflow-wrap: break-word; }
  .cards, .cards tbody { display: block; }
  .cards thead { display: none; }
  .cards tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .1rem .6rem;
    padding: .45rem .6rem; border-top: 1px solid var(--grid); }
  .cards tr:first-child { border-top: 0; }
  .cards th, .cards td { display: block; padding: 0; border: 0; text-align: left; }
  .cards th { grid-column: 1 / -1; font-weight: 600; position: static; }
  .cards td.long { grid-column: 1 / -1; }
  .cards td[data-wide] { grid-column: span 2; }
  .cards td[data-none] { display: none; }
  .cards td::before { content: attr(data-name); display: block; color: var(--soft); font-size: .75rem;
    line-height: 1.2; }
}
@media print { main { max-width: none; padding: 0; } figure, .scroll { break-inside: avoid; } nav { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NUMBER = re.compile(r"^(-|[-+−]?\d.*)?$")
LONG = 40  # letters from which a cell may break into lines
WIDE = 14  # letters from which a figure takes two places of a card
FEW = 3  # columns, at most, of a table that stays one on a phone


def page(title: str, answer: str, sections: Sequence[tuple[Any, list[str]]]) -> str:
    """The whole file. sections: (its heading with `text` and `folded`, its pieces); None for what has no heading."""
    named = _anchors([head.text for head, _ in sections if head])
    body = [f'<p class="answer">{inline(answer)}</p>'] if answer else []
    folded = [(head.text, anchor) for (head, _), anchor in zip(sections[1:], named, strict=True) if head.folded]
    if folded:
        links = " ".join(f'<a href="#{anchor}">{escape(words)}</a>' for words, anchor in folded)
        body.append(f'<nav aria-label="Sections">{links}</nav>')
    for (head, pieces), anchor in zip(sections, ["", *named], strict=True):
        inside = "\n".join(pieces)
        if head is None:
            body += pieces
        elif head.folded:  # a link to what is inside opens it
            opened = f'<div class="section" id="{anchor}">\n{inside}\n</div>'
            body.append(f"<details>\n<summary><h2>{inline(head.text)}</h2></summary>\n{opened}\n</details>")
        else:
            body += [f'<h2 id="{anchor}">{inline(head.text)}</h2>', *pieces]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _anchors(headings: list[str]) -> list[str]:
    """A name for each, by its words and place."""
    return [f"{i + 1}-{re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')}" for i, text in enumerate(headings)]


def inline(text: str) -> str:
    """`code` and [words](relative/path), all else as it is."""
    parts = re.split(r"(`[^`]*`|\[[^\]]*\]\([^)\s]*\))", text)
    return "".join(_piece(part) for part in parts)


def _piece(part: str) -> str:
    link = re.fullmatch(LINK, part)
    if link and is_safe(link[2]):
        return f'<a href="{escape(link[2])}">{escape(link[1])}</a>'
    if len(part) > 1 and part[0] == part[-1] == "`":
        return f"<code>{escape(part[1:-1])}</code>"
    return escape(part)


def text(words: str) -> str:
    """A paragraph, or a list where its lines begin with "- "."""
    lines = words.splitlines()
    if lines and all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{inline(line[2:])}</li>" for line in lines) + "</ul>"
    return f"<p>{inline(words)}</p>"


def table(header: list[str], rows: list[list[str]], note: str) -> str:
    """A column of numbers stands to the right. Where it is narrow, each row of many columns is a card whose figures
    stand below their heads; on a wide screen a table that is too wide scrolls inside its own box."""
    right = [all(NUMBER.match(row[i]) for row in rows) for i in range(len(header))]
    kinds = [' class="number"' if r and i else "" for i, r in enumerate(right)]
    head = "".join(f'<th scope="col"{kind}>{inline(cell)}</th>' for cell, kind in zip(header, kinds, strict=True))
    cards = len(header) > FEW
    lines = []
    for row in rows:
        named = zip(row[1:], kinds[1:], header[1:] if cards else [""] * (len(row) - 1), strict=True)
        cells = "".join(_cell(cell, kind, name) for cell, kind, name in named)
        lines.append(f'<tr><th scope="row">{_name(row[0])}</th>{cells}</tr>')
    below = f'<p class="note">{inline(note)}</p>' if note else ""
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(", ".join(filter(None, header)))}">'
        f'<table class="{"cards" if cards else "few"}">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>{below}"
    )


def _name(cell: str) -> str:
    """Of a row; one like collect.save_seconds may break after its dots and underscores."""
    found = inline(cell)
    return found if "<" in found else re.sub(r"(?<=\w)([._])(?=[a-z])", r"\1<wbr>", found)


def _cell(cell: str, kind: str, name: str) -> str:
    long = ' class="long"' if len(cell) > LONG and not kind else ""
    named = f' data-name="{escape(name)}"' if name else ""
    how = " data-none" if cell == "-" else " data-wide" if WIDE < len(cell) <= LONG else ""
    return f"<td{kind or long}{named}{how if name else ''}>{inline(cell)}</td>"


def figures(pictures: list[tuple[str, str, str]]) -> str:
    """Neighbours in a grid; each an inlined SVG, its title, and the sentence that says what to see."""
    parts = []
    for svg, title, sentence in pictures:
        labelled = svg.replace("<svg", f'<svg role="img" aria-label="{escape(f"{title}. {sentence}")}"', 1)
        caption = f"<figcaption><strong>{inline(title)}</strong>{inline(sentence)}</figcaption>"
        parts.append(f"<figure>{labelled}\n{caption}</figure>")
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"
