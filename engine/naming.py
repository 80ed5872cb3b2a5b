"""Names that users write: the nearest known name for the message about an unknown one."""

from __future__ import annotations

from collections.abc import Iterable


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'ucb'? `` where a known name is close, an empty text where none is; upper case does not count."""
    from difflib import get_close_matches

    folded = {other.lower(): other for other in known}
    near = get_close_matches(name.lower(), folded, n=1)
    return f"did you mean {folded[near[0]]!r}? " if near else ""
