"""Ctrl-C, SIGTERM and SIGHUP: a training saves its state first, everything else ends at once. Imports nothing heavy."""

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

GRACE = 4.5  # seconds that a training has to come to its next step and save
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal came, and the state of the training is saved. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(message(number))
        self.number = number


class _Asked:
    """What has come, and whether there is a training whose state can be saved."""

    number = 0
    is_training = False


def install() -> None:
    """Handle the signals that are not ignored already (nohup ignores SIGHUP)."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def training(is_training: bool) -> None:
    """Say that a training runs, whose state will be saved where `asked`; or that none does."""
    _Asked.is_training = is_training


def asked() -> int:
    """The signal that has come, 0 for none."""
    return _Asked.number


def message(number: int) -> str:
    """The one line for a signal."""
    return f"interrupted by {signal.Signals(number).name}; the same command goes on from the last saved state"


def exit_code(number: int) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, as a shell has it."""
    return 128 + number


def _handle(number: int, frame: FrameType | None) -> None:
    """The first one lets a training save; a second one, or one without a training, ends the process."""
    if _Asked.number or not _Asked.is_training:
        _leave(number)
    _Asked.number = number
    timer = threading.Timer(GRACE, _leave, (number,))  # a step may take longer
    timer.daemon = True
    timer.start()


def _leave(number: int) -> None:
    """Without unwinding: nothing that is imported or computed prints a traceback, and locks end with the process."""
    line = f"{Path(sys.argv[0]).name}: {message(number)}\n"
    with contextlib.suppress(OSError):  # nobody may read it
        os.write(2, (f"\n{line}" if sys.stderr.isatty() else line).encode())
    os._exit(exit_code(number))
