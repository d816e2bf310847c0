"""What `fit` shows while it works: a bar for each training, and lines; on a terminal and in a notebook."""

import sys
import warnings
from collections.abc import Iterable
from typing import Any

from bend_jax.training import Callbacks


def is_wanted(progress: bool | None) -> bool:
    """Whether to show anything: what was said, or else whether a person is looking: a terminal, a notebook."""
    return _in_notebook() or sys.stderr.isatty() if progress is None else progress


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


class Display:
    """Bars on stderr where they are wanted, and lines unless progress is False. Closed at the end of a `with`."""

    def __init__(self, progress: bool | None) -> None:
        self.is_shown, self.is_silent = is_wanted(progress), progress is False
        self.bar: Any = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def _open(self, **how: Any) -> Any:
        self._close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without widgets gets a bar of characters
            from tqdm.auto import tqdm

            self.bar = tqdm(file=sys.stderr, leave=False, disable=not self.is_shown, **how)
        return self.bar

    def say(self, line: str) -> None:
        """A line, above the bar; into a log too, where nobody looks at bars."""
        if not self.is_silent:
            self._close()
            print(line, file=sys.stderr, flush=True)

    def each(self, items: Iterable[Any], name: str, count: int | None) -> Iterable[Any]:
        """The same items, with a bar."""
        yield from self._open(iterable=items, desc=name, total=count)
        self._close()

    def watching(self, callbacks: Callbacks) -> Callbacks:
        """The same callbacks, which are shown too."""

        def say(line: str) -> None:
            callbacks.say(line)
            self.say(line)

        if not self.is_shown:
            return callbacks._replace(say=say)

        def resume(name: str, state: Any, steps: int) -> Any:
            found = callbacks.resume(name, state, steps)
            self._open(total=steps, initial=int(found.step), desc=name, unit="step")
            return found

        def segment(name: str, state: Any, losses: Any) -> None:
            callbacks.segment(name, state, losses)
            if self.bar is not None:
                self.bar.set_postfix(loss=f"{float(losses.mean()):.4f}", refresh=False)
                self.bar.update(int(state.step) - self.bar.n)

        return callbacks._replace(resume=resume, segment=segment, say=say)
