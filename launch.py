"""The command line of bend_jax: `python launch.py --help` lists its flags (bend_jax/run/flags.py)."""

import sys
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parent / ".venv"


def explain(missing: str | None) -> str:
    """Which module is missing for which interpreter, and what to do."""
    do = "pip install -e . with this interpreter"
    if ENVIRONMENT.is_dir() and Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        do = "activate the environment .venv, or use .venv/bin/python launch.py"
    return f"launch.py: the module {missing!r} is not installed for {sys.executable}: {do}"


if __name__ == "__main__":
    try:
        from bend_jax.run import signals, streams

        streams.prepare()
        signals.install()  # before anything that takes long to import
        from bend_jax.run.command_line import main

        streams.leave(main(sys.argv))
    except ModuleNotFoundError as error:
        if (error.name or "bend_jax").startswith("bend_jax"):
            raise
        print(explain(error.name), file=sys.stderr)
        sys.exit(2)
