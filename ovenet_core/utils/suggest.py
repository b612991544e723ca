"""The nearest right name for a wrong one."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any


def nearest(word: Any, names: Iterable[str]) -> str:
    """Return the name nearest to a word, or "" where none is near."""
    return next(iter(difflib.get_close_matches(str(word), list(names), n=1)), "")


def did_you_mean(word: Any, names: Iterable[str]) -> str:
    """Return `did you mean 'name'?` with the name nearest to a word, or "" where none is near."""
    near = nearest(word, names)
    return f"did you mean {near!r}?" if near else ""


def right_name(word: Any, names: Collection[str]) -> str:
    """Return what an error expects in place of a wrong name: the nearest right one, or else all of them."""
    return repr(nearest(word, names)) if nearest(word, names) else f"one of {', '.join(names)}"
