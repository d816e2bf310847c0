"""Standard streams that are closed, full, no longer read, or short of letters: a run goes on. Imports nothing heavy."""

import io
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn


def prepare() -> None:
    """Before anything is printed. A number that is free would go to a file of the run, and what a library prints there
    into that file; a letter that a stream lacks becomes an escape; what fails where nothing can be done is not told."""
    sys.unraisablehook = lambda _: None
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        binary, encoding = (old.buffer, old.encoding) if old else (os.fdopen(number, "wb", closefd=False), "utf-8")
        new = Lasting(binary, encoding, "backslashreplace", line_buffering=not old or old.line_buffering)
        new.replaced = old  # which would close what both write into
        setattr(sys, name, new)


def leave(code: int) -> NoReturn:
    """End the process; where a run has failed, without waiting for a library's threads, which may wait for minutes."""
    waiting = [thread for thread in threading.enumerate() if not thread.daemon]
    if code == 1 and waiting != [threading.main_thread()]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Lasting(io.TextIOWrapper):
    """A stream that writes into nothing once it cannot be written any more; of stdout, one line on stderr says so."""

    replaced: Any = None

    def write(self, text: str, /) -> int:
        """As of any stream."""
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """As of any stream."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        number = self.fileno()
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
        if number == 1 and not isinstance(error, BrokenPipeError):
            what = f"the output cannot be written ({error.strerror}); the run goes on without it"
            print(f"{Path(sys.argv[0]).name}: {what}", file=sys.stderr)
        super().flush()
