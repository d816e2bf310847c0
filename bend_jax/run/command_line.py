"""The command line: an exit code, and one line on stderr for every mistake. Imports no jax before it computes."""

import sys
from pathlib import Path

from absl.flags import Error, FlagValues

from bend_jax.checks import SettingsError
from bend_jax.run import signals
from bend_jax.run.flags import USAGE, define_flags, every_flag


def main(argv: list[str]) -> int:
    """Do what a command line asks for. Returns the exit code: 2 for a user's mistake, 1 for a run that cannot go on."""
    own = define_flags()
    try:
        try:
            settings = own(argv, known_only=True)[1:]
        except (Error, ValueError) as error:  # ValueError: --noNAME=value
            raise SettingsError(str(error)) from None
        if own.help:
            print(USAGE, *(f"  --{flag.name:13} {flag.help}" for flag in every_flag(own)), sep="\n")
            return 0
        return start(own, settings, Path(argv[0]).parent)
    except SettingsError as error:
        return complain(error, 2)
    except signals.Interrupted as error:
        return complain(error, signals.exit_code(error.number))


def start(own: FlagValues, settings: list[str], home: Path) -> int:
    """Run, now that everything that computes may be imported. Returns the exit code."""
    from bend_jax import storage
    from bend_jax.run import driver, pipeline

    try:
        driver.run(own, settings, home)
    except (pipeline.StoppedError, storage.DamagedError) as error:
        return complain(error, 1)
    return 0


def complain(message: object, code: int) -> int:
    """One line on stderr. Returns the exit code."""
    print(f"launch.py: {' '.join(str(message).split())}", file=sys.stderr)
    return code
