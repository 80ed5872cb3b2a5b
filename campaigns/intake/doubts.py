"""Doubtful labels: outside the usual range, far from another label, or far from their prediction."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from campaigns.goals import Scale
from campaigns.pool.labels import best_label
from campaigns.property_names import Property
from campaigns.round.manifest import RoundManifest
from db.records import KAPPA_UNIT, Json, LabelRecord

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import Prediction
    from db.store import Store

LOWEST, HIGHEST = 0.01, 5000.0
"""W/(m K); below the least conductive crystals known, above diamond at room temperature."""
FACTOR = 10.0
"""Factor beyond which two values of one quantity disagree, even where methods differ."""
BEYOND = 3.0
"""Factor outside the 99 % interval of its prediction (on a linear scale: half widths away from it)."""
Z99 = 2.5758293035489004


@dataclass(frozen=True)
class Doubt:
    """A label and the reasons to doubt it."""

    label: LabelRecord
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """The label and the reasons on one line."""
        label = self.label
        return (
            f"label {label.id}, {label.value:g} {label.unit} ({label.property} of {label.material_id}, "
            f"{label.fidelity}): {'; '.join(self.reasons)}"
        )

    def row(self) -> Json:
        """As plain values."""
        names = ("id", "material_id", "property", "value", "unit", "fidelity", "method", "source")
        return {name: vars(self.label)[name] for name in names} | {"reasons": list(self.reasons)}


def doubts(store: Store) -> dict[int, Doubt]:
    """Find the doubtful ones among all current labels, by id."""
    labels = store.labels()
    predictions = _predictions(store, {label.material_id for label in labels})
    return _found(labels, labels, predictions)


def new_doubts(store: Store, ids: Collection[int]) -> list[Doubt]:
    """Find the doubtful ones among labels that have just been written, given those that were current before."""
    if not ids:
        return []
    written = set(ids)
    new = [label for label in store.labels(ids=written) if label.is_current]
    materials = {label.material_id for label in new}
    beside = [
        label
        for label in store.labels(current_only=False, material_ids=materials)
        if label.is_current or label.superseded_by in written
    ]
    return list(_found(new, beside, _predictions(store, materials)).values())


def best_doubt(workspace: Workspace, labels: Mapping[str, LabelRecord]) -> Doubt | None:
    """Doubt on the best of the labels that train, with which every candidate is compared; None if there is none."""
    best = best_label(labels, workspace.configuration.campaign.sought)
    if best is None or best.id is None:
        return None
    beside = workspace.store.labels(best.property, material_ids=[best.material_id])
    return _found([best], beside, _predictions(workspace.store, {best.material_id})).get(best.id)


def _found(
    labels: Sequence[LabelRecord], beside: Sequence[LabelRecord], predictions: Mapping[tuple[str, str, str], Prediction]
) -> dict[int, Doubt]:
    earlier: dict[tuple[str, str], list[LabelRecord]] = {}
    for label in beside:
        earlier.setdefault((label.material_id, label.property), []).append(label)
    found = {}
    for label in labels:
        same = earlier.get((label.material_id, label.property), [])
        prediction = predictions.get((label.material_id, label.property, label.fidelity))
        reasons = (*_range(label), *_other_label(label, same), *_prediction(label, prediction))
        if reasons:
            found[label.id or 0] = Doubt(label, reasons)
    return found


def _range(label: LabelRecord) -> Iterator[str]:
    if Property(label.property).is_conductivity and label.unit == KAPPA_UNIT:
        if label.value < LOWEST:
            yield f"below {LOWEST:g} {KAPPA_UNIT}"
        elif label.value > HIGHEST:
            yield f"above {HIGHEST:,.0f} {KAPPA_UNIT}"


def _other_label(label: LabelRecord, same: Sequence[LabelRecord]) -> Iterator[str]:
    """Compare with the latest earlier label of the same fidelity, or of any where there is none."""
    if label.value <= 0:
        return
    before = [o for o in same if (o.id or 0) < (label.id or 0) and o.value > 0 and _same_temperature(o, label)]
    alike = [o for o in before if o.fidelity == label.fidelity] or before
    if not alike:
        return
    other = alike[-1]
    off = label.value / other.value
    if max(off, 1 / off) > FACTOR * (1 + 1e-9):
        yield (
            f"a factor of {max(off, 1 / off):.3g} {'above' if off > 1 else 'below'} the earlier label {other.id}, "
            f"{other.value:g} {other.unit} ({other.fidelity})"
        )


def _same_temperature(one: LabelRecord, two: LabelRecord) -> bool:
    temperatures = [label.temperature for label in (one, two) if label.temperature is not None]
    return len(temperatures) < 2 or math.isclose(*temperatures, rel_tol=0.05)


def _prediction(label: LabelRecord, prediction: Prediction | None) -> Iterator[str]:
    if prediction is None:
        return
    scale = Scale("log10" if prediction.is_logarithmic else "linear")
    if prediction.is_logarithmic and label.value <= 0:
        return
    half = Z99 * prediction.std
    off = abs(float(scale.learned(label.value)) - prediction.mean)
    if off <= (half + math.log10(BEYOND) if prediction.is_logarithmic else half * BEYOND):
        return
    low, high = scale.true([prediction.mean - half, prediction.mean + half]).tolist()
    end, side = (high, "above") if label.value > high else (low, "below")
    how = f"a factor of {max(label.value / end, end / label.value):.3g} {side}" if prediction.is_logarithmic else side
    yield f"{how} the 99 % interval predicted in round {prediction.round}, {low:.3g} to {high:.3g} {label.unit}"


def _predictions(store: Store, material_ids: Collection[str]) -> dict[tuple[str, str, str], Prediction]:
    """Latest prediction of queue entries by material, property and fidelity."""
    rounds = store.rounds()
    if not rounds or not material_ids:
        return {}
    manifests = {record.number: RoundManifest.of(record) for record in rounds}
    found = {}
    for prediction in store.predictions(material_ids):
        manifest = manifests[prediction.round]
        if manifest.fidelity in (None, prediction.fidelity):  # an entry of a lower fidelity has none
            found[prediction.material_id, manifest.target, prediction.fidelity] = prediction
    return found
