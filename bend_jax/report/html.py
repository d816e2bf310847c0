"""The pieces of a self-contained HTML page: every text escaped, no script, nothing fetched."""

import re
from html import escape

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
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--grid); }
p, ul { max-width: 50rem; margin: .6rem 0; overflow-wrap: anywhere; }
ul { padding-left: 1.25rem; }
li { margin: .2rem 0; }
a { color: var(--link); }
code { font: .875em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background: var(--band);
  padding: .1em .3em; border-radius: .25em; }
.scroll { overflow-x: auto; max-width: 100%; width: fit-content; margin: .8rem 0 .3rem; border: 1px solid var(--grid);
  border-radius: .4rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; white-space: nowrap; border-top: 1px solid var(--grid); }
td.long { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; }
thead th { border-top: 0; background: var(--band); }
tbody th { font-weight: 500; }
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
@media (max-width: 40rem) { th, td { padding: .3rem .45rem; } table { font-size: .82rem; }
  tbody th { white-space: normal; min-width: 7rem; overflow-wrap: break-word; }
  td:not(.number) { white-space: normal; min-width: 8.5rem; overflow-wrap: break-word; } }
@media print { main { max-width: none; padding: 0; } figure, .scroll { break-inside: avoid; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NUMBER = re.compile(r"^(-|[-+−]?\d.*)?$")
LONG = 48  # letters from which a cell may break into lines


def page(title: str, body: list[str]) -> str:
    """The whole file."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """Of a section."""
    return f"<h2>{inline(text)}</h2>"


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
    """It scrolls inside its own box; a column of numbers stands to the right."""
    right = [all(NUMBER.match(row[i]) for row in rows) for i in range(len(header))]
    kinds = [' class="number"' if r and i else "" for i, r in enumerate(right)]
    head = "".join(f'<th scope="col"{kind}>{inline(cell)}</th>' for cell, kind in zip(header, kinds, strict=True))
    lines = []
    for row in rows:
        cells = "".join(_cell(cell, kind) for cell, kind in zip(row[1:], kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{_name(row[0])}</th>{cells}</tr>')
    below = f'<p class="note">{inline(note)}</p>' if note else ""
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(", ".join(filter(None, header)))}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>{below}"
    )


def _name(cell: str) -> str:
    """Of a row; one like t_sample may break after its underscores."""
    found = inline(cell)
    return found if "<" in found else found.replace("_", "_<wbr>")


def _cell(cell: str, kind: str) -> str:
    long = ' class="long"' if len(cell) > LONG and not kind else ""
    return f"<td{kind or long}>{inline(cell)}</td>"


def figures(pictures: list[tuple[str, str, str]]) -> str:
    """Neighbours in a grid; each an inlined SVG, its title, and the sentence that says what to see."""
    parts = []
    for svg, title, sentence in pictures:
        labelled = svg.replace("<svg", f'<svg role="img" aria-label="{escape(f"{title}. {sentence}")}"', 1)
        caption = f"<figcaption><strong>{inline(title)}</strong>{inline(sentence)}</figcaption>"
        parts.append(f"<figure>{labelled}\n{caption}</figure>")
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"
