"""The nearest right name for a wrong one."""

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(word: Any, names: Iterable[str]) -> str:
    """Return `did you mean 'name'?` with the name nearest to a word, or "" where none is near."""
    near = difflib.get_close_matches(str(word), list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
