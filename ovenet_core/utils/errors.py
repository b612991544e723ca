"""Errors that carry where, what was found, what was expected and the fix as fields, and format themselves."""

from pathlib import Path
from typing import Any


class OVeNetError(Exception):
    """Something that its user can mend: `where: found …, expected …. Fix: ….`

    Attributes:
        where: the file or folder, or the name of the field, argument or parameter.
        found: what is there or was given.
        expected: what would be right.
        fix: what to do.
    """

    def __init__(self, where: str | Path, found: Any = "", expected: str = "", fix: str = ""):
        super().__init__(str(where), str(found), expected, fix)  # all of them, so that workers can send it on
        self.where, self.found, self.expected, self.fix = where, str(found), expected, fix

    def __str__(self) -> str:
        parts = (self.found and f"found {self.found}", self.expected and f"expected {self.expected}")
        text = ": ".join(filter(None, (str(self.where), ", ".join(filter(None, parts)))))
        return f"{text}. Fix: {self.fix}." if self.fix else text


class DataError(OVeNetError, ValueError):
    """A file or folder of a dataset is wrong."""


class ConfigError(OVeNetError, ValueError):
    """A field, argument, parameter or key has a value that it cannot have, or does not exist."""


class WeightsError(OVeNetError, ValueError):
    """A file of weights does not fit the network, or holds something else."""


class SnapshotError(OVeNetError, RuntimeError):
    """A snapshot or result is of another run, or damaged."""


class RunError(OVeNetError, RuntimeError):
    """A run cannot start, go on or be read: its folder is in use, or what it needs is not there."""


class WriteError(OVeNetError, OSError):
    """A file could not be written; what was there before is kept. `errno` is the system's."""

    def __init__(self, where: str | Path, found: Any = "", expected: str = "", fix: str = ""):
        super().__init__(where, found, expected, fix)
        self.errno = getattr(found, "errno", None)
