"""Numbers and tables as text, for a terminal and in Markdown."""

import re
from textwrap import fill

from tabulate import tabulate

HEAD = 16  # letters of a line of a column's head on a terminal
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")


def number(value: float | None, sd: float | None = None, form: str = ".4f", factor: int = 1) -> str:
    """ "number ± sd", both times the factor; "-" where it is undefined, no "± sd" where that is.

    form: a format specification; its + is for the number alone.
    """
    if value is None:
        return "-"
    return f"{factor * value:{form}}" + (f" ± {factor * sd:{form.lstrip('+')}}" if sd is not None else "")


def percent(value: float | None, sd: float | None = None) -> str:
    """A share in percent, with two digits."""
    return number(value, sd, ".2f", 100)


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """Columns aligned for a terminal: the first to the left, the others to the right. Long heads take several lines."""
    sides = ("left", *["right"] * (len(header) - 1))
    heads = [*header[:1], *(fill(head, HEAD, break_long_words=False) for head in header[1:])]
    return tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=sides)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown, its cells escaped."""
    head, *lines = [[escaped(cell).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    return tabulate(lines, head, tablefmt="pipe", disable_numparse=True, stralign=None)


def escaped(text: str) -> str:
    """Plain text such that Markdown shows it as it is, but for `code` and links to the web or beside the page."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if i % 2 else re.sub(r"([*<&])", _escape, LINK.sub(_link, p)) for i, p in enumerate(parts))


def is_safe(target: str) -> bool:
    """Whether a link leads to the web or to a place beside the page; nothing that a browser would run."""
    word = "".join(c for c in target if c > " ").lower()  # browsers skip what cannot be printed
    scheme = re.match(r"[a-z][a-z0-9+.-]*:", word)
    return word.startswith(("http://", "https://")) or not (scheme or word.startswith(("//", "\\")))


def _link(found: re.Match[str]) -> str:
    return found[0] if is_safe(found[2]) else f"\\{found[0]}"


def _escape(found: re.Match[str]) -> str:
    return {"*": "\\*", "<": "&lt;", "&": "&amp;"}[found[1]]
