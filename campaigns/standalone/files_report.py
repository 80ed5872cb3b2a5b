"""A calculation for every crystal of some files that goes on where it stopped: what is left to do, what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.materials.checks import Rejection
from engine.materials.crystal import Crystal, Material

_SHOWN = 5
"""Failures that are listed one by one."""


@dataclass
class FilesReport:
    """What became of the crystals of a run."""

    before: int
    """Records that were in the file already."""
    calculated: int = 0
    failures: list[str] = field(default_factory=list)
    """A line for each crystal without a result."""
    refused: list[str] = field(default_factory=list)
    """A line for each record that is no usable crystal."""

    @property
    def progress(self) -> str:
        """Crystals in the file so far."""
        done = self.before + self.calculated + len(self.failures)
        return f"{done} crystals, {len(self.failures)} failed"

    def lines(self, calculated: str, out: Path) -> list[str]:
        """The report for a person, its last line the counts; ``calculated`` is a participle, as in ``relaxed``."""
        found = [*self.refused, *self.failures[:_SHOWN]]
        if len(self.failures) > _SHOWN:
            found.append(f"... and {len(self.failures) - _SHOWN} more; the reasons are in {out}")
        return [
            *found,
            f"{self.calculated} crystals {calculated}, {len(self.failures)} failed, {len(self.refused)} refused, "
            f"{self.before} in {out} before",
        ]


def unfinished_crystals(
    files: Sequence[Path], done: set[str], materials: dict[str, Material], refused: list[str]
) -> Iterator[tuple[str, Crystal]]:
    """Id and crystal of every record whose id is not in ``done``, which grows.

    ``materials`` keeps the records that were given out, ``refused`` a line for each that is no usable crystal.
    """
    from engine.materials.loading import load

    for part in load(files, workers=1):
        for one in part:
            if isinstance(one, Rejection):
                refused.append(f"{one.source}, {one.record_id}: {one.message}; {one.remedy}")
            elif one.id not in done:
                done.add(one.id)
                materials[one.id] = one
                yield one.id, one.crystal
