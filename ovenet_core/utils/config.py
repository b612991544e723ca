"""Validated, frozen dataclasses: pydantic checks types and ranges, the error is ours and names the field."""

import dataclasses
import re
from typing import Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from ovenet_core.utils.errors import ConfigError
from ovenet_core.utils.suggest import right_name

T = TypeVar("T")
_EXPECTED = {  # pydantic's error types in words
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "literal_error": "one of {expected}",
    "value_error": "{error}",  # raised by validators of the class
}


@dataclass_transform(frozen_default=True)
def config_dataclass(cls: type[T]) -> type[T]:
    """Make a frozen dataclass that checks its fields at construction; ranges stand in their annotations.

    Lists become tuples, and text such as 1e-3, which YAML does not read as a number, becomes a float. Otherwise types
    are strict: no bool for an int, no text for a number.

    Raises:
        ConfigError: at construction, with the field, the value given and what is expected.
    """
    made = dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))(cls)
    validated_init = made.__init__
    hints = get_type_hints(made)
    kinds = {field.name: str(hints[field.name]) for field in dataclasses.fields(made)}

    def __init__(self, *args: Any, **values: Any) -> None:
        values |= dict(zip(kinds, args, strict=False))
        for name in values:
            if name not in kinds:
                raise ConfigError(name, "no such field", right_name(name, kinds), "correct the name")
        try:
            validated_init(self, **{name: _as_python(value, "float" in kinds[name]) for name, value in values.items()})
        except ValidationError as error:
            raise _config_error(error, kinds) from None

    made.__init__ = __init__
    return made


def _as_python(value: Any, is_float: bool) -> Any:
    """Return a value from JSON or YAML as Python writes it: tuples for lists, floats for text such as 1e-3."""
    if isinstance(value, list | tuple):
        return tuple(_as_python(part, is_float) for part in value)
    if is_float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _config_error(error: ValidationError, kinds: dict[str, str]) -> ConfigError:
    """Translate what pydantic says about the first wrong field; `kinds` are the types of all fields in words."""
    first, *others = error.errors()
    path = [part for part in first["loc"] if isinstance(part, int) or part in kinds]
    where = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in path) or "fields"
    if first["type"] in _EXPECTED:
        expected = _EXPECTED[first["type"]].format(**first.get("ctx", {}))
    elif first["type"] in ("tuple_type", "missing", "too_long"):  # no sequence, or one of another length
        where, expected = str(path[0]), kinds[path[0]]
    else:  # one message for each type that the field may have
        same = [first, *(other for other in others if other["loc"][:1] == first["loc"][:1])]
        messages = (e["msg"].removeprefix("Input should be ").removeprefix("a valid ") for e in same)
        expected = " or ".join(dict.fromkeys(messages))
    return ConfigError(where, repr(first["input"]), expected, f"correct {path[0] if path else 'them'}")
