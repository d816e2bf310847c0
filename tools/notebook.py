"""Write docs/tutorial.ipynb: the blocks of docs/tutorial.md, which are those of examples/tutorial.py, as a notebook.

python tools/notebook.py
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE, TARGET = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<shown>.*?)```\n)?", re.DOTALL)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def text() -> str:
    """The notebook as JSON: words, code, and the output that the page shows."""
    page, cells, begin = SOURCE.read_text(), [], 0
    for block in BLOCK.finditer(page):
        cells += [words(page[begin : block.start()]), code(block["code"], block["shown"], len(cells))]
        begin = block.end()
    cells.append(words(page[begin:]))
    for i, cell in enumerate(cells):
        cell["id"] = f"tutorial-{i}"
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    metadata = {"kernelspec": KERNEL, "language_info": language}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def words(source: str) -> dict[str, Any]:
    """A cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": lines(source)}


def code(source: str, shown: str | None, before: int) -> dict[str, Any]:
    """A cell of code, with its output if the page shows one; it is the (before / 2 + 1)-th to run."""
    outputs = [{"name": "stdout", "output_type": "stream", "text": shown.splitlines(keepends=True)}] if shown else []
    own = {"cell_type": "code", "metadata": {}, "source": lines(source), "outputs": outputs}
    return {**own, "execution_count": before // 2 + 1}


def lines(source: str) -> list[str]:
    """As the format holds text."""
    return source.strip("\n").splitlines(keepends=True)


if __name__ == "__main__":
    TARGET.write_text(text())
    print(f"wrote {TARGET.relative_to(ROOT)}")
