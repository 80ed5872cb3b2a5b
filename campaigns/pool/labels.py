"""Labels that train the ensemble: one value for each material, of one fidelity, in learned units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from campaigns.configuration import Configuration
    from campaigns.goals import Goal
    from db.records import LabelRecord
    from db.store import Store


@dataclass(frozen=True)
class Moment:
    """State of the labels when a round began, so that an interrupted one trains on the same labels."""

    labels: int
    """Id of the last label."""
    withdrawals: int
    """Number of the last withdrawal."""

    @classmethod
    def now(cls, store: Store) -> Moment:
        """The present state."""
        return cls(store.last_label(), store.last_withdrawal())

    def counted(self, label: LabelRecord) -> bool:
        """Whether a label was current then: written, and not yet corrected or withdrawn."""
        assert label.id is not None
        is_corrected = label.superseded_by is not None and label.superseded_by <= self.labels
        is_withdrawn = label.withdrawal is not None and label.withdrawal <= self.withdrawals
        return label.id <= self.labels and not is_corrected and not is_withdrawn


def training_labels(
    store: Store, settings: Configuration, up_to: Moment | None = None, fidelity: str | None = None
) -> dict[str, LabelRecord]:
    """Find each material's label that trains the model, by material id in the order in which materials got one.

    Of the labels of the campaign's property and fidelity it is the one that ``[labels] prefer`` selects: of the method
    that stands first there, and of several the latest written.

    Parameters
    ----------
    store
        Store of the labels.
    settings
        Property, fidelity, and which labels are preferred.
    up_to
        When a round began: labels, corrections and withdrawals after that do not count. None: all labels.
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


def fidelity_note(store: Store, settings: Configuration) -> str | None:
    """Labels of the campaign's property that do not train its models, as text; empty if there are none."""
    section = settings.campaign
    known = store.fidelities(section.property)
    used = known.pop(section.fidelity, 0)
    for name in settings.lower_fidelities:
        known.pop(name, None)
    if not known:
        return None
    others = ", ".join(f"{n} of fidelity {name!r}" for name, n in known.items())
    return (
        f"labels of {section.property} that train: {used} of fidelity {section.fidelity!r}; that do not: {others} "
        f"(one fidelity trains a campaign, set in campaign.toml)"
    )


def best_label(labels: Mapping[str, LabelRecord], goal: Goal) -> LabelRecord | None:
    """Best label so far, the first of several with the same value; None without labels."""
    found = list(labels.values())
    if not found:
        return None
    if goal.objective.kind != "window":
        sign = goal.objective.sign
        return max(found, key=lambda label: sign * label.value)
    import numpy as np

    return found[int(np.argmax(goal.utility([label.value for label in found])))]


def best_value(labels: Mapping[str, LabelRecord], goal: Goal) -> float | None:
    """Find the best label so far, in the label's unit."""
    best = best_label(labels, goal)
    return None if best is None else float(best.value)
