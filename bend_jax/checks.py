"""What settings are checked with: the error for a user's mistake, and ranges."""

import difflib
from collections.abc import Iterable
from typing import Any

RUN_ONLY = {"digest": False}  # changes speed or memory, never a number: not part of a stage's digest


def names(text: str) -> tuple[str, ...]:
    """The words of a comma-separated setting."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


DTYPES = ("float32", "bfloat16")


class SettingsError(ValueError):
    """A mistake in the settings or the input that a user can put right; its text is one or two lines."""


def at_least(settings: Any, least: int, *names: str) -> None:
    """Raise SettingsError unless these fields are at least so much (NaN is not)."""
    for name in names:
        if not getattr(settings, name) >= least:
            raise SettingsError(f"{name} must be at least {least:g}; got {getattr(settings, name)}")


def positive(settings: Any, *names: str) -> None:
    """Raise SettingsError unless these fields are above 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise SettingsError(f"{name} must be above 0; got {getattr(settings, name)}")


def one_of(settings: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raise SettingsError unless the field is one of the choices."""
    value = getattr(settings, name)
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}; got {value!r}{did_you_mean(value, choices)}")


def share(settings: Any, *names: str) -> None:
    """Raise SettingsError unless these fields are in [0, 1)."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise SettingsError(f"{name} must be in [0, 1); got {getattr(settings, name)}")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """' (did you mean ...?)' for the nearest choice, or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
