"""The command line: an exit code, and one line on stderr for every mistake. Imports no jax before it computes."""

import errno
import importlib
import logging
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from absl.flags import Error, FlagValues

from bend_jax.checks import SettingsError, check_letters
from bend_jax.run import signals, streams
from bend_jax.run.flags import USAGE, define_flags, every_flag, expand_paths

NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)  # of a user's mistakes


def console() -> NoReturn:
    """The command bend-jax of an installed package."""
    streams.prepare()
    signals.install()
    streams.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Do what a command line asks for. Returns the exit code: 2 for a user's mistake, 1 for a run that cannot go on."""
    own, program = define_flags(), Path(argv[0]).name
    try:
        check_letters(argv)
        try:
            settings = own(argv, known_only=True)[1:]
        except (Error, ValueError) as error:  # ValueError: --noNAME=value
            raise SettingsError(str(error)) from None
        if own.help:
            usage = USAGE if program == "launch.py" else USAGE.replace("python launch.py", program)
            print(usage, *(f"  --{flag.name:13} {flag.help}" for flag in every_flag(own)), sep="\n")
            return 0
        expand_paths(own)
        return start(own, settings, program)
    except SettingsError as error:
        return complain(program, error, 2)
    except signals.Interrupted as error:
        return complain(program, error, signals.exit_code(error.number))
    except OSError as error:
        return complain(program, stopped(error), 2 if error.errno in NAMES else 1)


def stopped(error: OSError) -> str:
    """The line for a file that cannot be read or written, or a machine that has run out of something."""
    names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"{names}: {error.strerror}" if names and error.strerror else str(error)
    return f"stopped: {what}; what was finished is kept, and the same command goes on from there"


def start(own: FlagValues, settings: list[str], program: str) -> int:
    """Run, now that everything that computes may be imported. Returns the exit code."""
    try:
        for name in ("jax", "absl.logging"):
            importlib.import_module(name)
    except ValueError as error:  # JAX reads its environment
        raise SettingsError(f"JAX cannot be imported: {error}") from None
    from bend_jax import storage
    from bend_jax.run import driver, pipeline

    for name in ("absl", "asyncio"):  # one error of orbax's is a traceback for each of its threads and tasks
        logging.getLogger(name).disabled = True
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # the same
    try:
        driver.run(own, settings)
    except (pipeline.StoppedError, storage.DamagedError) as error:
        return complain(program, error, 1)
    return 0


def complain(program: str, message: object, code: int) -> int:
    """One line on stderr, without characters that a terminal obeys. Returns the exit code."""
    text = " ".join(f"{program}: {message}".split())
    print("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), file=sys.stderr)
    return code
