"""Crystals of files for a calculation that goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.materials.checks import Rejection
from engine.materials.crystal import Crystal, Material


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
