"""Records (dataclasses and NamedTuples) to and from JSON, and their numbers by dotted paths."""

import dataclasses
import types
import typing
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Records as JSON values; an undefined field is null, one whose default is None is left out."""
    if dataclasses.is_dataclass(value):
        own = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
        return {name: to_json(x) for name, (x, default) in own.items() if x is not None or default is not None}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return to_json(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, dict):
        return {name: to_json(x) for name, x in value.items()}
    return [to_json(x) for x in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], value: Any) -> T:
    """The inverse of `to_json`. A key that an earlier version did not write is None where the field may be None.

    Raises ValueError for any other missing key, and for a value that is no object where a record is expected.
    """
    return _read(kind, value)


def _read(kind: Any, value: Any) -> Any:
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [own for own in of if own is not types.NoneType]
        return value if value is None or len(kinds) > 1 else _read(kinds[0], value)
    if origin is list:
        return [_read(of[0], x) for x in value]
    if origin is dict:
        return {name: _read(of[1], x) for name, x in _object(kind, value).items()}
    if not hasattr(kind, "__dataclass_fields__") and not hasattr(kind, "_fields"):
        return value
    hints, found = _hints(kind), _object(kind, value)
    missing = [name for name, own in hints.items() if name not in found and not _may_be_none(own)]
    if missing:
        raise ValueError(f"{kind.__name__}: {', '.join(missing)} missing")
    return kind(**{name: _read(own, found.get(name)) for name, own in hints.items()})


def _object(kind: Any, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{kind}: expected an object; got {value!r:.80}")
    return value


def _may_be_none(kind: Any) -> bool:
    return kind is types.NoneType or types.NoneType in typing.get_args(kind)


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def at(tree: Any, path: str) -> float | None:
    """The number at a dotted path of a record, such as "votes.base.accuracy"."""
    for name in path.split("."):
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


def defined(tree: Any, path: str) -> float:
    """The same. Raises ValueError where it is undefined."""
    value = at(tree, path)
    if value is None:
        raise ValueError(f"{path} is undefined")
    return value
