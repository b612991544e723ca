"""Validated, frozen dataclasses: pydantic checks types and ranges, the error is ours and names the field."""

import dataclasses
import re
from typing import Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from ovenet_core.utils.errors import ConfigError
from ovenet_core.utils.suggest import did_you_mean

T = TypeVar("T")
_RULES = {  # of pydantic's error types, in words
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "literal_error": "one of {expected}",
}


@dataclass_transform(frozen_default=True)
def config_dataclass(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are checked when it is made; ranges stand in their annotations.

    Lists become tuples, and text such as 1e-3, which YAML does not take for a number, a float. Otherwise types are
    strict: no bool for an int, no text for a number.

    Raises:
        ConfigError: at construction, with the field, what was given and what it may be.
    """
    made = dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))(cls)
    checked = made.__init__

    def __init__(self, *args: Any, **values: Any) -> None:
        names = [field.name for field in dataclasses.fields(made)]
        values |= dict(zip(names, args, strict=False))
        for name in values:
            if name not in names:
                expected = did_you_mean(name, names) or f"one of {', '.join(names)}"
                raise ConfigError(name, "no field of this name", expected, "correct the name")
        kinds = {name: str(hint) for name, hint in get_type_hints(made).items()}
        try:
            checked(self, **{name: _plain(value, "float" in kinds[name]) for name, value in values.items()})
        except ValidationError as error:
            raise _in_words(error, {f.name: f for f in dataclasses.fields(made)}) from None

    made.__init__ = __init__
    return made


def _plain(value: Any, is_float: bool) -> Any:
    """Return the value as Python would write it: tuples for lists, numbers for text that YAML left alone."""
    if isinstance(value, list | tuple):
        return tuple(_plain(inner, is_float) for inner in value)
    if is_float and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _in_words(error: ValidationError, fields: dict[str, dataclasses.Field]) -> ConfigError:
    """Translate pydantic's first error of the first wrong field."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if isinstance(part, int) or part in fields]
    name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in place) or "value"
    rule = _RULES.get(first["type"])
    if first["type"] == "value_error":  # of our own validators
        expected = str(first["ctx"]["error"])
    elif rule:
        expected = rule.format(**first.get("ctx", {}))
    else:
        several = [e["msg"].removeprefix("Input should be ") for e in error.errors() if e["loc"][0] == first["loc"][0]]
        expected = " or ".join(dict.fromkeys(text.removeprefix("a valid ") for text in several))
    return ConfigError(name, repr(first["input"]), expected, f"correct {str(place[0]) if place else name}")
