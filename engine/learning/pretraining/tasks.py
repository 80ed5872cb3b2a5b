"""Properties to learn, and materials that know some of them: what a stage is trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from engine.exceptions import TooFewLabelsError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Material


TaskScale = Literal["log10", "linear"]
LARGEST = 1e30
"""Squares of larger labels, which a spread is made of, leave the range of single precision."""


@dataclass(frozen=True)
class PropertyTask:
    """One property to learn: its name in the materials' ``properties`` and the scale it is learned on."""

    name: str
    scale: TaskScale = "linear"

    def __post_init__(self) -> None:
        """Refuse a scale that is not known, which would count as linear."""
        if self.scale not in get_args(TaskScale):
            raise TrainingError(f"scale {self.scale!r} of {self.name!r} is none of {', '.join(get_args(TaskScale))}")


@dataclass(frozen=True, eq=False)
class DataSet:
    """Materials that know some properties."""

    materials: Sequence[Material]
    tasks: tuple[PropertyTask, ...] = ()
    """What to learn of them, in place of what a stage says."""
    fidelities: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Fidelities among the labels of a property, where they are known."""


def merge_copies(materials: Iterable[Material]) -> list[Material]:
    """One material a crystal: copies of it (same content hash) give their properties to the first."""
    merged: dict[str, Material] = {}
    for material in materials:
        first = merged.setdefault(material.content_hash, material)
        if first is not material:
            both = {**material.properties, **first.properties}
            merged[material.content_hash] = replace(first, properties=both)
    return list(merged.values())


def materials_hash(materials: Sequence[Material]) -> str:
    """SHA-256 over content hashes and properties, in order-free form."""
    lines = sorted(f"{m.content_hash} {sorted(m.properties.items())}" for m in materials)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def number(properties: Mapping[str, Any], name: str) -> float:
    """Value of a property, NaN where it is unknown or no finite number."""
    value = properties.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return np.nan


def learned_values(materials: Sequence[Material], tasks: Sequence[PropertyTask]) -> NDArray[np.float64]:
    """N x P values on the scales they are learned on, NaN where unknown or without a logarithm."""
    values = np.array([[number(m.properties, t.name) for t in tasks] for m in materials], dtype=np.float64)
    values = values.reshape(len(materials), len(tasks))
    for column, task in enumerate(tasks):
        if task.scale == "log10":
            positive = values[:, column] > 0
            values[~positive, column] = np.nan
            values[positive, column] = np.log10(values[positive, column])
    return values


def check_labels(
    values: NDArray[np.float64], training: NDArray[np.bool_], tasks: Sequence[PropertyTask], fewest: int
) -> None:
    """Refuse a property (column of N x P) with labels that cannot be learned.

    Raises
    ------
    TooFewLabelsError
        If they are too few, or all equal.
    TrainingError
        If one is too large for the arithmetic.
    """
    for column, task in zip(values.T, tasks, strict=True):
        known = column[np.isfinite(column)]
        if len(known) < fewest:
            raise TooFewLabelsError(
                f"property {task.name!r} has {len(known)} usable labels, {fewest} are needed; "
                "check its name or leave it out"
            )
        if (largest := np.abs(known).max()) > LARGEST:
            raise TrainingError(
                f"a label of {task.name!r} is {largest:g}, too large to be learned; check its unit, or learn it on a "
                "log10 scale"
            )
        if np.ptp(known) == 0:
            raise TooFewLabelsError(
                f"all {len(known)} labels of {task.name!r} are equal ({known[0]:g}); leave this property out"
            )
        trained = column[training & np.isfinite(column)]
        if len(trained) < 2 or np.ptp(trained) == 0:
            raise TooFewLabelsError(
                f"the {len(trained)} labels of {task.name!r} that are not held out have nothing to tell apart; "
                "add labels or hold out less"
            )


def held_out_rows(materials: Sequence[Material], fraction: float, seed: int) -> NDArray[np.bool_]:
    """By formula, so that a polymorph of a trained compound is not counted as unseen; stable when rows are added."""
    digests = [hashlib.sha256(f"{seed} {m.formula}".encode()).digest() for m in materials]
    return np.array([int.from_bytes(d[:4], "big") / 2**32 < fraction for d in digests], dtype=bool)


def seen_prefixes(
    materials: Sequence[Material], tasks: Sequence[PropertyTask], *before: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """First 12 hex digits of the content hash of every crystal a property was known of, so that leaks can be found.

    ``before`` is what start and teachers had seen.
    """
    seen: dict[str, set[str]] = {}
    for known in before:
        for name, prefixes in known.items():
            seen.setdefault(name, set()).update(prefixes)
    for task in tasks:
        here = {m.content_hash[:12] for m in materials if task.name in m.properties}
        seen.setdefault(task.name, set()).update(here)
    return {name: sorted(prefixes) for name, prefixes in seen.items()}
