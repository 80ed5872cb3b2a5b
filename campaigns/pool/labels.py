"""Labels of a campaign as the ensemble learns them: one value a material, one fidelity, learned units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.property_names import Property

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from campaigns.configuration import Configuration
    from db.records import LabelRecord
    from db.store import Store
    from engine.acquire.objectives import Objective

_ROUNDING = 1e-12
_DECADES = 300
_LARGEST = 1e30
"""Squares of larger labels, which a spread is made of, leave the range of single precision."""


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
        # an interval of a model without any idea would leave the range of numbers, which no store takes
        return learned if self.name == "linear" else 10.0 ** np.clip(learned, -_DECADES, _DECADES)


@dataclass(frozen=True)
class Goal:
    """What is wanted of a property, asked in the property's own unit; what is better has the larger utility."""

    objective: Objective
    """In learned units."""
    scale: Scale

    def utility(self, values: ArrayLike) -> NDArray[np.float64]:
        """Turn values into utilities: the value, its negative, or minus the distance (learned units) to the window."""
        values = np.asarray(values, dtype=np.float64)
        return self.objective.utility(self.scale.learned(values) if self.objective.kind == "window" else values)

    def best(self, values: ArrayLike) -> float | None:
        """Find the best value."""
        values = np.asarray(values, dtype=np.float64)
        return float(values[np.argmax(self.utility(values))]) if len(values) else None

    def is_hit(self, values: ArrayLike, hit: float) -> NDArray[np.bool_]:
        """Mask of the values that are as good as ``hit`` or better."""
        return self.utility(values) >= self.utility(hit) - _ROUNDING * abs(self.utility(hit))

    def hit_probability(self, mean: NDArray[np.float64], std: NDArray[np.float64], hit: float) -> NDArray[np.float64]:
        """Probability of predictions (N, learned units) to be as good as a value ``hit`` or better."""
        from engine.acquire.objectives import probability_inside

        objective, learned = self.objective, float(self.scale.learned(hit))
        if objective.kind == "window":
            off = -float(self.utility(hit))
            return probability_inside(mean, std, objective.low - off, objective.high + off)
        return probability_inside(mean, std, *((None, learned) if objective.kind == "min" else (learned, None)))

    def best_tenth(self, values: ArrayLike) -> float:
        """Find the value that a tenth of the values equals or beats."""
        values = np.asarray(values, dtype=np.float64)
        if self.objective.kind != "window":
            return float(np.quantile(values, 0.1 if self.objective.kind == "min" else 0.9, method="nearest"))
        ranked = values[np.argsort(-self.utility(values), kind="stable")]
        return float(ranked[round(0.1 * (len(ranked) - 1))])


def flaw(value: object, scale: str) -> str:
    """Say what keeps a value from being a label, or nothing if it can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "is no number"
    if not math.isfinite(value):
        return "is not finite"
    if scale == "log10":
        return "is not above zero and has no logarithm" if value <= 0 else ""
    return f"is beyond {_LARGEST:g} and cannot be learned" if abs(value) > _LARGEST else ""


def default_scale(property: str) -> Literal["log10", "linear"]:
    """Scale a property is learned on unless the user says otherwise."""
    return Property(property).scale


@dataclass(frozen=True)
class Moment:
    """When a round began, as far as labels go, so that an interrupted one learns from what it started with."""

    labels: int
    """Id of the last label that was there."""
    withdrawals: int
    """Number of the last withdrawal that had been made."""

    @classmethod
    def now(cls, store: Store) -> Moment:
        """Give the present one."""
        return cls(store.last_label(), store.last_withdrawal())

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Moment:
        """Give that of a round's manifest."""
        return cls(manifest["labels_up_to"], manifest.get("withdrawals_up_to", 0))

    def to_manifest(self) -> dict[str, int]:
        """As a round's manifest keeps it."""
        return {"labels_up_to": self.labels, "withdrawals_up_to": self.withdrawals}

    def counted(self, label: LabelRecord) -> bool:
        """Whether a label counted then: it was written, and not yet corrected or withdrawn."""
        assert label.id is not None
        is_corrected = label.superseded_by is not None and label.superseded_by <= self.labels
        is_withdrawn = label.withdrawal is not None and label.withdrawal <= self.withdrawals
        return label.id <= self.labels and not is_corrected and not is_withdrawn


def training_labels(
    store: Store, settings: Configuration, up_to: Moment | None = None, fidelity: str | None = None
) -> dict[str, LabelRecord]:
    """Find each material's label that trains the model, by material id in the order in which materials got one.

    Of the labels of the campaign's property and fidelity it is the one that ``[labels] prefer`` names: of the method
    that stands first there, and of several the latest written.

    Parameters
    ----------
    store
        Where they are.
    settings
        Property, fidelity, and which labels are preferred.
    up_to
        When a round began: labels, corrections and withdrawals after that do not count. None: all that there are.
    fidelity
        Another fidelity than the campaign's.
    """
    records = store.labels(
        settings.campaign.property, fidelity or settings.campaign.fidelity, current_only=up_to is None
    )
    order = settings.labels.methods
    rank = {method: place for place, method in enumerate(order)}
    chosen: dict[str, LabelRecord] = {}
    for label in records:
        if up_to is not None and not up_to.counted(label):
            continue
        other = chosen.get(label.material_id)
        if other is None or rank.get(label.method, len(order)) <= rank.get(other.method, len(order)):
            chosen[label.material_id] = label
    return chosen


def best_label(labels: Mapping[str, LabelRecord], goal: Goal) -> LabelRecord | None:
    """Find the best label so far."""
    found = list(labels.values())
    return found[int(np.argmax(goal.utility([label.value for label in found])))] if found else None


def best_value(labels: Mapping[str, LabelRecord], goal: Goal) -> float | None:
    """Find the best label so far, in the label's unit."""
    best = best_label(labels, goal)
    return None if best is None else float(best.value)
