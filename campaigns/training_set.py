"""Labels of a campaign as the ensemble learns them: one value a material, one fidelity, learned units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from campaigns.exceptions import CampaignError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from campaigns.configuration import CampaignSection
    from db.records import LabelRecord
    from db.store import Store


@dataclass(frozen=True)
class Scale:
    """Between values as labels give them and learned units."""

    name: str
    """``log10`` or ``linear``."""

    def learned(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values in learned units."""
        values = np.asarray(values, dtype=np.float64)
        if self.name == "linear":
            return values
        if (values <= 0).any():
            raise CampaignError(f"{values.min():g} has no logarithm; learn this property with scale = 'linear'")
        return np.log10(values)

    def true(self, learned: ArrayLike) -> NDArray[np.float64]:
        """Learned units back to values."""
        learned = np.asarray(learned, dtype=np.float64)
        return learned if self.name == "linear" else 10.0**learned


def flaw(value: object, scale: str) -> str:
    """Say what keeps a value from being a label, or nothing if it can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    if not math.isfinite(value):
        return "is not finite"
    return "is not above zero and has no logarithm" if scale == "log10" and value <= 0 else ""


def default_scale(property: str) -> Literal["log10", "linear"]:
    """Scale a property is learned on unless the user says otherwise: conductivities span decades."""
    return "log10" if property.startswith("kappa") else "linear"


def training_labels(store: Store, settings: CampaignSection, up_to: int | None = None) -> dict[str, LabelRecord]:
    """Find each material's label that trains the model: of the campaign's property and fidelity, the latest written.

    ``up_to`` is the id of the last label that counts, so that an interrupted round learns from what it started with.
    """
    records = store.labels(settings.property, settings.fidelity, current_only=up_to is None)
    chosen: dict[str, LabelRecord] = {}
    for label in records:
        if up_to is not None and _is_later(label, up_to):
            continue
        chosen[label.material_id] = label
    return chosen


def best_value(labels: Mapping[str, LabelRecord], goal: str) -> float | None:
    """Find the best label so far, in the label's unit."""
    values = [label.value for label in labels.values()]
    if not values:
        return None
    return min(values) if goal == "min" else max(values)


def _is_later(label: LabelRecord, up_to: int) -> bool:
    """Whether a label did not count when ``up_to`` was the last: written later, or corrected by then."""
    assert label.id is not None
    return label.id > up_to or (label.superseded_by is not None and label.superseded_by <= up_to)
