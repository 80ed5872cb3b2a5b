"""Levels of a ladder of fidelities in a backtest: where their values are, and what a label of each costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.goals import flaw
from engine.learning.ensemble.records import model_folder
from engine.learning.ensemble.settings import minimum_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Material

WANTED = "dft"
"""Name of the wanted fidelity in the campaigns of a backtest."""
_FORM = "NAME=FIELD:COST"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

Cost = float | str
"""Core-hours of a label, or the field of the records' properties that has them."""


@dataclass(frozen=True)
class Level:
    """A fidelity below the wanted one."""

    name: str
    field: str
    """Field of the records' properties with its values; records may lack it."""
    cost: Cost


@dataclass(frozen=True, eq=False)
class LevelLabels:
    """Labels of one level for the N materials of a pool."""

    name: str
    values: NDArray[np.float64]
    """N values in the property's unit, NaN where there is none."""
    hours: NDArray[np.float64]
    """N core-hours, NaN where there is no value."""

    @property
    def known(self) -> NDArray[np.int64]:
        """Rows with a value."""
        return np.flatnonzero(np.isfinite(self.values))

    @property
    def mean_hours(self) -> float:
        """Core-hours of a label on average, which a campaign plans with."""
        return float(np.nanmean(self.hours))


def parse_levels(texts: Sequence[str], wanted: str) -> tuple[Level, ...]:
    """``NAME=FIELD:COST`` for each level, the cheapest first; COST as in :func:`parse_cost`.

    ``wanted`` is the field of the fidelity that is wanted, which no cheaper one may be.

    Raises
    ------
    CampaignError
        For another form, a name that is taken, or a cost that is not above zero.
    """
    levels = tuple(_parse(text) for text in texts)
    twice = [name for name, count in Counter(level.name for level in levels).items() if count > 1]
    if twice:
        raise CampaignError(f"--lower-fidelity names {twice[0]!r} twice; give each level a name of its own")
    if any(level.field == wanted for level in levels):
        raise CampaignError(
            f"--lower-fidelity has {wanted!r}, which --property wants; give another field of the records"
        )
    return levels


def parse_cost(text: str, option: str) -> Cost:
    """Core-hours of a label as a number, or the field that has them.

    Raises
    ------
    CampaignError
        For a number that is not above zero.
    """
    try:
        number = float(text)
    except ValueError:
        if not text:
            raise CampaignError(f"{option} has no cost; give core-hours of a label, or a field with them") from None
        return text
    if not 0 < number < np.inf:
        raise CampaignError(f"{option}: a label costs {text} core-hours; give a number above zero")
    return number


def read_wanted(field: str, cost: Cost, materials: Sequence[Material], scale: str) -> LevelLabels:
    """Labels of the wanted fidelity; each has a value.

    Raises
    ------
    CampaignError
        If a record has no usable cost.
    """
    return _labels(Level(WANTED, field, cost), "--label-cost", materials, scale)


def read_levels(
    levels: Sequence[Level], wanted: LevelLabels, materials: Sequence[Material], scale: str, members: int
) -> tuple[LevelLabels, ...]:
    """Labels of each lower level, from the cheapest.

    Raises
    ------
    CampaignError
        For a field that too few records have, values or costs that cannot be used, and costs that do not rise from
        level to level up to the wanted one.
    """
    found = []
    for level in levels:
        labels = _labels(level, f"--lower-fidelity {level.name}", materials, scale)
        needed = minimum_labels(members)
        if len(labels.known) < needed:
            raise CampaignError(
                f"--lower-fidelity {level.name}: {len(labels.known)} of {len(materials)} records have a "
                f"{level.field!r} where a model needs {needed} (there are: {_fields(materials)}); name another field, "
                "or leave the level out"
            )
        found.append(labels)
    for below, above in zip(found, [*found[1:], wanted], strict=True):
        if below.mean_hours >= above.mean_hours:
            raise CampaignError(
                f"a label of {below.name} costs {below.mean_hours:g} core-hours, one of {above.name} "
                f"{above.mean_hours:g}; give levels from the cheapest, each cheaper than the next and than --label-cost"
            )
    return tuple(found)


def _labels(level: Level, option: str, materials: Sequence[Material], scale: str) -> LevelLabels:
    has = [level.field in m.properties for m in materials]
    rows = [m for m, there in zip(materials, has, strict=True) if there]
    values = _column(rows, level.field, scale, option)
    hours = np.full(len(rows), level.cost) if isinstance(level.cost, float) else None
    if hours is None:
        hours = _column(rows, str(level.cost), "log10", option)  # a cost is above zero, too
    table = np.full((2, len(materials)), np.nan)
    table[:, has] = values, hours
    return LevelLabels(level.name, *table)


def _column(materials: Sequence[Material], field: str, scale: str, option: str) -> NDArray[np.float64]:
    for m in materials:
        problem = flaw(m.properties[field], scale) if field in m.properties else "is missing"
        if problem:
            raise CampaignError(
                f"{option}: {field} of {m.id} {problem} (there are: {_fields([m])}); correct it, name another field, "
                "or leave the record out"
            )
    return np.array([float(m.properties[field]) for m in materials], dtype=np.float64)


def _parse(text: str) -> Level:
    name, equals, rest = text.partition("=")
    field, colon, cost = rest.rpartition(":")
    if not (equals and colon and _NAME.fullmatch(name) and field):
        raise CampaignError(
            f"--lower-fidelity {text!r}: give {_FORM}, e.g. agl=kappa_agl_300K:0.5, with the core-hours of a label, or "
            "the field that has them"
        )
    if name == WANTED or model_folder(name) is not None:
        raise CampaignError(
            f"--lower-fidelity {name!r} is the name of {'the wanted fidelity' if name == WANTED else 'a trained model'}"
            "; give another name"
        )
    return Level(name, field, parse_cost(cost, f"--lower-fidelity {name}"))


def _fields(materials: Sequence[Material]) -> str:
    return ", ".join(sorted({name for m in materials for name in m.properties})) or "none"
