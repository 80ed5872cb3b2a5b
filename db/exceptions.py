"""Errors of the store.

Every message gives what was wrong, the value received and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class StoreError(Exception):
    """Base of all errors of the store."""


class StoreNotFoundError(StoreError):
    """There is no store at the given place."""


class NotAStoreError(StoreError):
    """The file or database is not a store of this program, or it is damaged."""


class StoreOutdatedError(StoreError):
    """The store was written by an older version and must be upgraded first."""


class StoreFromNewerVersionError(StoreError):
    """The store was written by a newer version than this one."""


class StoreNotWritableError(StoreError):
    """The store cannot be written: no permission, a read-only file system, a full disk."""


class StoreLockedError(StoreError):
    """Another process held the store for longer than the timeout."""


class StoreChangedError(StoreError):
    """Another process wrote the same thing at the same time."""


class StoreUnreachableError(StoreError):
    """The database server does not answer, or its driver is not installed."""


class BrokenShardError(StoreError):
    """A file of structures that is missing or damaged."""

    def __init__(self, path: Path, fault: str, origins: Sequence[str] = ()):
        self.path = path
        self.fault = fault
        named = f" (its crystals came from {', '.join(origins)})" if origins else ""
        super().__init__(
            f"{path} {fault}, and with it the structures of some materials; restore the file from a copy, or ingest "
            f"the same sources again{named}: lost structures are then written again"
        )


class NoCampaignError(StoreError):
    """The store holds no campaign of that name, or several and none was named."""


class InvalidRecordError(StoreError, ValueError):
    """A record that cannot be stored."""


class UnknownMaterialError(StoreError, KeyError):
    """No material of the store has, or ever had, that id."""

    __str__ = Exception.__str__


class UnknownRecordError(StoreError, KeyError):
    """No label, model, round or queue entry of the store has that id."""

    __str__ = Exception.__str__


class IllegalMoveError(StoreError):
    """A move between two states that is not in the table of legal moves."""


class StaleQueueError(StoreError):
    """A queue that contradicts the store: already queued, or not that of this round."""


@dataclass(frozen=True)
class LabelProblem:
    """One label that was refused: its place, its value, what is wrong and what to do."""

    location: str
    material_id: str
    value: object
    message: str

    def __str__(self) -> str:
        """One line of the error's list."""
        return f"{self.location}: {self.material_id!r}, value {self.value!r}: {self.message}"


class LabelError(StoreError, ValueError):
    """Labels of a batch that cannot be stored; nothing of the batch was written. ``problems`` lists every one."""

    shown = 50

    def __init__(self, problems: Sequence[LabelProblem], total: int):
        self.problems = tuple(problems)
        bad = len({problem.location for problem in problems})
        lines = [f"{bad} of {total} labels cannot be stored, so none was written; correct these and import again:"]
        lines += [f"  {problem}" for problem in problems[: self.shown]]
        if len(problems) > self.shown:
            lines.append(f"  ... and {len(problems) - self.shown} more")
        super().__init__("\n".join(lines))
