"""Settings as frozen dataclasses whose fields know their range and meaning, and the error for a user's mistake."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, dataclass_transform

DTYPES = ("float32", "bfloat16")


class SettingsError(ValueError):
    """A mistake in the settings or the input that a user can put right; its text is one or two lines."""


Bound = int | float | None


class Range(NamedTuple):
    """What a setting may be: one of `choices`, or a number between bounds (None: unbounded). NaN is in no range."""

    least: Bound = None  # the smallest value allowed
    above: Bound = None  # every value must be larger than this
    most: Bound = None  # the largest value allowed
    below: Bound = None  # every value must be smaller than this
    choices: tuple[str, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether the value is in the range."""
        if self.choices:
            return value in self.choices
        bounds = [
            self.least is None or value >= self.least,
            self.above is None or value > self.above,
            self.most is None or value <= self.most,
            self.below is None or value < self.below,
        ]
        return all(bounds)

    def words(self) -> str:
        """As a person reads it: "at least 1", "above 0", "in [0, 1)", "one of a, b"; nothing for no range."""
        if self.choices:
            named = ", ".join(choice for choice in self.choices if choice)
            return f"empty or one of {named}" if "" in self.choices else f"one of {named}"
        low = self.least if self.least is not None else self.above
        high = self.most if self.most is not None else self.below
        if low is None or high is None:
            texts = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
            return " and ".join(f"{word} {bound:g}" for word, bound in texts.items() if bound is not None)
        left, right = "[" if self.least is not None else "(", "]" if self.most is not None else ")"
        return f"in {left}{low:g}, {high:g}{right}"


def setting(
    what: str,
    *,
    default: Any,
    least: Bound = None,
    above: Bound = None,
    most: Bound = None,
    below: Bound = None,
    choices: tuple[str, ...] = (),
    digest: bool = True,
    added: bool = False,
    shared: str = "",
) -> Any:
    """A field of a Settings class.

    - what: its meaning, in a few words.
    - default: its default value; for a field that is itself a group of settings, its class.
    - least, above, most, below, choices: its range.
    - digest: False for a setting that changes speed, memory or what can be watched, never a number.
    - added: True for a setting that is younger than stores on disk: at its default it is in no digest.
    - shared: the name of another group of settings from which a run takes the value; "" for none.
    """
    metadata = {
        "what": what,
        "range": Range(least, above, most, below, choices),
        "digest": digest,
        "added": added,
        "shared": shared,
    }
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
class Settings:
    """Base of all settings. A subclass becomes a frozen dataclass with keyword arguments, its fields are checked
    against their ranges, and its documentation lists them."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        fields: Any = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        told = [f"{f.name}: {f.metadata['what']}{_limits(f)}." for f in fields]
        head = (cls.__doc__ or "").split("\n\nSettings:\n")[0].rstrip()
        cls.__doc__ = "\n".join([f"{head}\n\nSettings:\n", *(f"- {line}" for line in told)]) if told else head

    def __post_init__(self) -> None:
        """Raise SettingsError for the first field of the wrong type or out of its range."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if not _is_of(hints[field.name], value):
                raise SettingsError(f"{field.name} must be of type {hints[field.name].__name__}; got {value!r}")
            check_field(field, value, field.name)


def check_field(field: Any, value: Any, name: str) -> None:
    """Raise SettingsError, which calls the field by this name, for a value that is out of its range."""
    allowed = field.metadata["range"]
    if not allowed.holds(value):
        hint = did_you_mean(str(value), allowed.choices)
        raise SettingsError(f"{name} must be {allowed.words()}; got {_shown(value)}{hint}")


def _is_of(hint: Any, value: Any) -> bool:
    """Whether a value has a field's type; whole numbers are floats too, truth values are no numbers."""
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(value, Real if hint is float else Integral)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _limits(field: Any) -> str:
    """The default and the range of a field, for the documentation of its class."""
    allowed = field.metadata["range"].words()
    if field.default is dataclasses.MISSING:
        return ""
    return f" (default {field.default!r}{'; ' + allowed if allowed else ''})"


def settings_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON for a digest: without the fields that change no number, and later ones at their default."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.metadata["digest"] and not (field.metadata["added"] and value == field.default):
            result[field.name] = settings_json(value) if dataclasses.is_dataclass(value) else value
    return result


def expanded(text: str | Path) -> Path:
    """The path, ~ and ~name as their folders. Raises SettingsError where there is none, as without HOME for a user that
    the machine does not know."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{text}: {error} Set HOME, or write the whole path") from None


def check_letters(words: Iterable[str]) -> None:
    """Raise SettingsError for names that are no UTF-8, in which JSON and the libraries that write files have them."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            what = word.encode(errors="backslashreplace").decode()
            raise SettingsError(
                f"{what} is no UTF-8 here: choose a name in other letters, or set LC_ALL=C.UTF-8 where it is one"
            ) from None


def names(text: str) -> tuple[str, ...]:
    """The words of a comma-separated setting."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """' (did you mean ...?)' for the nearest choice, or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
