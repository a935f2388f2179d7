"""What every fact is: a frozen, keyword-only dataclass that turns into JSON and back.

Each value has three answers. A value; `None` for *absent* (looked for and not there); and `None`
with an entry in the dataclass's `unknown`, which maps the field's name to the reason why it could
not be had.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from doctor.errors import DoctorError

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[T], T]:
        """Of interest to type checkers alone."""
        return lambda function: function


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def fact(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass whose methods are those of `Fact`.

    `dataclass(frozen=True)` compiles six methods per class, which for all classes in here takes
    longer than looking at the machine does.
    """
    return dataclass(init=False, repr=False, eq=False)(cls)


@fact
class Fact:
    """Base of every dataclass in here."""

    unknown: Mapping[str, str] = field(default_factory=dict)
    """Field name -> why its value could not be had."""

    def __init__(self, **values: Any) -> None:
        state = self.__dict__
        for spec in fields(self):
            if spec.name in values:
                state[spec.name] = values.pop(spec.name)
            elif spec.default is not MISSING:
                state[spec.name] = spec.default
            elif spec.default_factory is not MISSING:
                state[spec.name] = spec.default_factory()
            else:
                raise TypeError(f"{type(self).__name__} lacks {spec.name!r}")
        if values:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(values))!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # mappings are among the fields

    def __repr__(self) -> str:
        given = (f"{name}={value!r}" for name, value in vars(self).items() if value or value == 0)
        return f"{type(self).__name__}({', '.join(given)})"


# --- JSON ------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """Turn a fact into plain dicts, lists, strings and numbers; an empty `unknown` is left out."""
    if is_dataclass(value):
        pairs = ((f.name, to_json(getattr(value, f.name))) for f in fields(value))
        return {name: item for name, item in pairs if name != "unknown" or item}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def read_json(kind: Any, data: Any, where: str) -> Any:
    """Build a value of type `kind` from parsed JSON; `where` names its place for errors.

    Raises:
        DoctorError: an unknown field, or a value of the wrong type, with its place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return read_json(inner, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise DoctorError(f"{where} in the facts file is no list.")
        _check_length(data, where)
        return tuple(read_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise DoctorError(f"{where} in the facts file is no object.")
        _check_length(data, where)
        return {k: read_json(arguments[1], v, f"{where}.{shortened(k)}") for k, v in data.items()}
    if is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    return _read_plain(kind, data, where)


LONGEST = 4096
"""Letters of a text, entries of a list: far more than any machine has, and less than what takes long to look at."""

LARGEST = 1 << 50
"""Of a number: there is no such size, count or time."""


def _read_plain(kind: Any, data: Any, where: str) -> Any:
    accepted = (int, float) if kind is float else kind
    if not isinstance(data, accepted) or (isinstance(data, bool) and kind is not bool):
        raise DoctorError(f"{where} in the facts file is {shortened(data)}, not {kind.__name__}.")
    if isinstance(data, str):
        _check_length(data, where)
    elif not 0 <= data <= LARGEST:  # not a number fails here, too
        raise DoctorError(f"{where} in the facts file is {shortened(data)}, which no machine has.")
    return data


def _check_length(data: Any, where: str) -> None:
    if len(data) > LONGEST:
        what = "letters" if isinstance(data, str) else "entries"
        raise DoctorError(
            f"{where} in the facts file has {len(data)} {what}; {LONGEST} is the most."
        )


def shortened(data: Any) -> str:
    """A value in a few letters: what is wrong may be as large as it likes."""
    if isinstance(data, (list, Mapping)):
        return "a list" if isinstance(data, list) else "an object"
    text = repr(data[:60] if isinstance(data, str) else data)
    return text if len(text) <= 70 else f"{text[:60]}…"


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise DoctorError(f"{where} in the facts file is no object.")
    known = {f.name: f for f in fields(kind)}
    if surplus := sorted(set(data) - set(known)):
        raise DoctorError(
            f"{where} in the facts file has the unknown field {shortened(surplus[0])}."
        )
    for name, spec in known.items():
        if name not in data and spec.default is MISSING and spec.default_factory is MISSING:
            raise DoctorError(f"{where}.{name} is missing in the facts file.")
    hints = _hints(kind)
    return kind(
        **{name: read_json(hints[name], item, f"{where}.{name}") for name, item in data.items()}
    )
