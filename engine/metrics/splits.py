"""Splits of labelled crystals into training and test rows that a model has to extrapolate across.

``formula``: no reduced formula on both sides; ``space_group``: no space-group number on both sides; ``tail``: training
values beyond a threshold, test values on the other side of it. arXiv 2605.11610 compares models of lattice thermal
conductivity on splits of the last two kinds beside random ones.

Whole groups (formulas or space groups) go to the test side in the order of a hash of seed and group, each that brings
the number of test rows closer to their share: the same seed gives the same sides whatever the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.exceptions import SplitError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from engine.materials.crystal import Material

SplitKind = Literal["formula", "space_group", "tail"]
TEST_SHARE = 0.2
"""Share of the rows that are tested."""
_GROUPS = {"formula": "reduced formulas", "space_group": "space groups"}


@dataclass(frozen=True)
class SplitSettings:
    """What decides a split of given rows."""

    kind: SplitKind
    seed: int = 0
    """Which groups are tested; a tail has no randomness."""
    share: float = TEST_SHARE
    """Of test rows; for a tail the quantile at which its threshold lies, where none is given."""
    tail: Literal["low", "high"] = "low"
    """Which values of a ``tail`` split are tested."""
    threshold: float | None = None
    """Of a ``tail`` split, in the unit of the values; one at the threshold is tested."""

    def __post_init__(self) -> None:
        """Refuse a share that leaves one side empty, and a threshold without a tail."""
        if not 0 < self.share < 1:
            raise SplitError(f"the share of test rows is {self.share:g}; give one between 0 and 1")
        if self.threshold is not None and self.kind != "tail":
            raise SplitError(f"a split by {self.kind} has no threshold, {self.threshold:g} is given; leave it out")


@dataclass(frozen=True, eq=False)
class Split:
    """Training and test rows, each in ascending order, without a row in common."""

    settings: SplitSettings
    training: NDArray[np.int64]
    test: NDArray[np.int64]
    threshold: float | None = None
    """Of a tail, in the unit of the values."""
    groups: tuple[int, int] | None = None
    """Number of formulas or space groups on the training and on the test side."""

    def describe(self) -> str:
        """Sizes of both sides, and the threshold or the groups between them."""
        sizes = f"{len(self.training)} training rows, {len(self.test)} test rows"
        if self.groups is None:
            sides = ("above", "at or below") if self.settings.tail == "low" else ("below", "at or above")
            return f"split at {self.threshold:.4g}: {sizes} ({sides[0]} and {sides[1]} it)"
        train, test = self.groups
        return (
            f"split by {_GROUPS[self.settings.kind]} (seed {self.settings.seed}): {sizes} ({train} and {test} groups)"
        )


def split_rows(
    settings: SplitSettings, formulas: Sequence[str], space_groups: Sequence[int], values: ArrayLike
) -> Split:
    """Split n rows by the reduced formula, space-group number or value (in the property's unit) of each.

    Raises
    ------
    SplitError
        If one side would be empty.
    """
    if settings.kind == "tail":
        return _split_tail(settings, np.asarray(values, dtype=np.float64))
    groups = [str(group) for group in (formulas if settings.kind == "formula" else space_groups)]
    tested = _tested_groups(settings, groups)
    test = np.array([group in tested for group in groups], dtype=bool)
    sizes = (len(set(groups) - tested), len(tested))
    return Split(settings, np.flatnonzero(~test), np.flatnonzero(test), groups=sizes)


def split_materials(settings: SplitSettings, materials: Sequence[Material], values: ArrayLike) -> Split:
    """Split n crystals as :func:`split_rows`, by their own formulas and space groups and their n values."""
    return split_rows(settings, [m.formula for m in materials], [m.spacegroup for m in materials], values)


def _tested_groups(settings: SplitSettings, groups: Sequence[str]) -> set[str]:
    """Groups in the order of their hashes, each that brings the share closer; the smallest one if none does."""
    counts = Counter(groups)
    if len(counts) < 2:
        raise SplitError(
            f"{len(groups)} rows of {len(counts)} {_GROUPS[settings.kind]} cannot be split by them; give crystals of "
            "at least two, or another split"
        )
    order = sorted(counts, key=lambda group: hashlib.sha256(f"{settings.seed} {group}".encode()).digest())
    wanted, rows = settings.share * len(groups), 0
    tested: set[str] = set()
    for group in order:
        if abs(rows + counts[group] - wanted) < abs(rows - wanted):
            tested.add(group)
            rows += counts[group]
    if len(tested) == len(counts):  # a share of nearly all rows
        tested.remove(order[-1])
    return tested or {min(order, key=lambda group: counts[group])}


def _split_tail(settings: SplitSettings, values: NDArray[np.float64]) -> Split:
    if len(values) < 2:
        raise SplitError(f"{len(values)} rows cannot be split; add labels")
    low, threshold = settings.tail == "low", settings.threshold
    if threshold is None:
        quantile, method = (settings.share, "lower") if low else (1 - settings.share, "higher")
        threshold = float(np.quantile(values, quantile, method=method))  # type: ignore[call-overload]
    test = values <= threshold if low else values >= threshold
    if test.all() or not test.any():
        beyond = "above" if low else "below"
        raise SplitError(
            f"{np.count_nonzero(~test)} of {len(values)} values (from {values.min():.4g} to {values.max():.4g}) lie "
            f"{beyond} the threshold {threshold:.4g} and {np.count_nonzero(test)} do not; give a threshold with values "
            "on both sides"
        )
    return Split(settings, np.flatnonzero(~test), np.flatnonzero(test), threshold=threshold)
