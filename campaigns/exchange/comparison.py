"""New values beside what was predicted for them, and what they cost beside what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from campaigns.workspace import Workspace


@dataclass(frozen=True)
class Compared:
    """A value and its prediction, in the unit of the campaign's property."""

    id: str
    formula: str
    found: float
    predicted: float | None
    """None where no model predicted it."""
    lower: float | None
    upper: float | None
    is_inside: bool | None
    """Whether the value lies in the predicted interval."""
    core_hours: float | None
    expected_core_hours: float | None

    def row(self) -> dict[str, object]:
        """A row of a table."""
        inside = {None: None, True: "inside", False: "outside"}[self.is_inside]
        return {
            "id": self.id,
            "formula": self.formula,
            "predicted": self.predicted,
            "lower": self.lower,
            "upper": self.upper,
            "found": self.found,
            "interval": inside,
            "core_hours": self.core_hours,
            "expected_core_hours": self.expected_core_hours,
        }


def compared(workspace: Workspace, label_ids: Iterable[int]) -> list[Compared]:
    """New labels of the campaign's property that a round queued, each beside its prediction.

    Parameters
    ----------
    workspace
        The campaign's.
    label_ids
        Ids of labels in the store.
    """
    wanted = set(label_ids)
    if not wanted:
        return []
    store, section = workspace.store, workspace.configuration.campaign
    labels = [label for label in store.labels(section.property) if label.id in wanted]
    if not labels:
        return []
    entries = {
        (e.material_id, e.fidelity): e for e in store.queue(material_ids=[label.material_id for label in labels])
    }
    formulas = {key.material_id: key.formula for key in store.material_index([label.material_id for label in labels])}
    found = []
    for label in labels:
        entry = entries.get((label.material_id, label.fidelity))
        if entry is None:
            continue
        lower, upper = entry.predicted_lower, entry.predicted_upper
        inside = None if lower is None or upper is None else lower <= label.value <= upper
        found.append(
            Compared(
                id=label.material_id,
                formula=formulas[label.material_id],
                found=label.value,
                predicted=entry.predicted_mean,
                lower=lower,
                upper=upper,
                is_inside=inside,
                core_hours=label.cost,
                expected_core_hours=entry.expected_cost,
            )
        )
    return found
