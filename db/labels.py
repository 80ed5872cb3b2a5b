"""Labels: nothing is overwritten; labels are superseded by corrections, or withdrawn."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import ColumnElement, RowMapping, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from db.connection import StoreConnection, chunks
from db.exceptions import IllegalMoveError, LabelError, LabelProblem, UnknownRecordError
from db.json_values import require_json
from db.owners import find_owners, of_materials
from db.records import KAPPA_UNIT, Json, LabelRecord, LabelReport, utc_now
from db.tables import Label, Material

KAPPA_SPELLINGS = {"W/mK", "W/m/K", "W/Km", "Wm-1K-1", "WK-1m-1", "Wm⁻¹K⁻¹"}
"""Spellings of W/(m K), without spaces, brackets and signs of multiplication or power."""
KEY = ("property", "fidelity", "temperature", "method", "source", "record_id")
"""Fields that identify a label, besides its material."""
VALUE = ("value", "unit", "uncertainty")
"""Fields whose change makes a corrected label."""
CURRENT = (Label.superseded_by.is_(None), Label.withdrawal.is_(None))
"""Conditions of a query for labels that count."""
FILLED_IN = frozenset(
    {"id", "material_id", "superseded_by", "withdrawal", "withdrawn_at", "withdrawn_by", "withdrawn_reason"}
)
"""Fields of a record that the store alone writes."""
Identity = tuple[object, ...]
"""Values of :data:`KEY` or :data:`VALUE`."""
Limits = tuple[float | None, float | None]
"""Lowest and highest value; None where there is no limit."""


class Labels(StoreConnection):
    """Methods for labels."""

    label_limits: Mapping[str, Limits] = MappingProxyType({})
    """Allowed values by property; a label outside is refused."""

    def add_labels(
        self, batch: Iterable[LabelRecord], locations: Sequence[str] | None = None, again: bool = False
    ) -> LabelReport:
        """Add labels, all or none; one :class:`LabelError` lists every bad one.

        A label with the material, property, fidelity, temperature, method, source and id of an earlier one supersedes
        it when its value, unit or uncertainty differ, and changes nothing when they do not. Nor does one that was
        withdrawn with the same value.

        Parameters
        ----------
        batch
            Labels; ``material_id`` is any id the material is known under.
        locations
            Place of each label, for messages (``labels.csv line 7``); ``label 1``, ``label 2``, ... if not given.
        again
            Store labels that were withdrawn before as new ones, rather than skip them.
        """
        labels = list(batch)
        places = locations or [f"label {i}" for i in range(1, len(labels) + 1)]
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            owners = find_owners(session, campaign_pk, (label.material_id for label in labels))
            units = _known_units(session, campaign_pk, {label.property for label in labels})
            problems = list(_problems(labels, places, owners, units, self.label_limits))
            if problems:
                raise LabelError(problems, len(labels))
            rows = [_label_row(label, owners[label.material_id][0], campaign_pk) for label in labels]
            return _write_labels(session, rows, again)

    def withdraw_labels(self, ids: Iterable[int], author: str, reason: str) -> list[LabelRecord]:
        """Withdraw current labels, all or none: they stay in the store with who, when and why.

        Raises
        ------
        UnknownRecordError
            If a label is not there.
        IllegalMoveError
            If a label is not current, or no reason is given.
        """
        wanted = list(dict.fromkeys(ids))
        if not reason.strip():
            raise IllegalMoveError("no reason for the withdrawal; give one")
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            rows: list[Label] = []
            for part in chunks(wanted):
                query = select(Label).where(Label.campaign_id == campaign_pk, Label.id.in_(part)).order_by(Label.id)
                rows += session.scalars(query)
            if unknown := sorted(set(wanted) - {row.id for row in rows}):
                raise UnknownRecordError(
                    f"no labels {', '.join(map(str, unknown))}; `kappascout label list DIR` lists them"
                )
            if refused := [message for row in rows if (message := _no_longer_current(row))]:
                raise IllegalMoveError("; ".join(refused))
            number, now = _last_withdrawal(session, campaign_pk) + 1, utc_now()
            for row in rows:
                row.withdrawal, row.withdrawn_at = number, now
                row.withdrawn_by, row.withdrawn_reason = author, reason.strip()
            session.flush()
        return self.labels(current_only=False, ids=wanted)

    def withdrawn_labels(self) -> list[LabelRecord]:
        """Labels that were withdrawn, in the order they were written."""
        with self.session() as session:
            query = select(Label, Material.material_id).join(Material, Label.material_pk == Material.id)
            query = query.where(Label.campaign_id == self.campaign_pk(session), Label.withdrawal.is_not(None))
            return [_label_record(row, material_id) for row, material_id in session.execute(query.order_by(Label.id))]

    def last_label(self) -> int:
        """Id of the label written last, also if it is corrected or withdrawn; 0 if there is none."""
        with self.session() as session:
            query = select(func.max(Label.id)).where(Label.campaign_id == self.campaign_pk(session))
            return session.scalar(query) or 0

    def last_withdrawal(self) -> int:
        """Number of the latest withdrawal, 0 if there was none."""
        with self.session() as session:
            return _last_withdrawal(session, self.campaign_pk(session))

    def labels(
        self,
        property: str | None = None,
        fidelity: str | None = None,
        current_only: bool = True,
        material_ids: Collection[str] | None = None,
        ids: Collection[int] | None = None,
    ) -> list[LabelRecord]:
        """Labels in the order they were written, filtered by what is given.

        ``material_ids`` are any ids of the materials, ``ids`` those of the labels.
        """
        with self.session() as session:
            campaign_pk = self.campaign_pk(session)
            query = select(Label, Material.material_id).join(Material, Label.material_pk == Material.id)
            query = query.where(Label.campaign_id == campaign_pk)
            if property is not None:
                query = query.where(Label.property == property)
            if fidelity is not None:
                query = query.where(Label.fidelity == fidelity)
            if current_only:
                query = query.where(*CURRENT)
            wanted = set(ids or ())
            if ids is not None:  # a range, since a list may be longer than a query can be
                query = query.where(Label.id.between(min(wanted, default=0), max(wanted, default=-1)))
            rows = of_materials(session, campaign_pk, query, Label, material_ids)
            records = (_label_record(row, material_id) for row, material_id in rows if ids is None or row.id in wanted)
            return sorted(records, key=lambda label: label.id or 0)

    def fidelities(self, property: str) -> dict[str, int]:
        """Number of current labels of ``property`` by fidelity."""
        with self.session() as session:
            query = (
                select(Label.fidelity, func.count())
                .where(Label.campaign_id == self.campaign_pk(session), Label.property == property, *CURRENT)
                .group_by(Label.fidelity)
            )
            return dict(sorted(session.execute(query).all()))

    def labelled_fidelities(self) -> dict[str, int]:
        """Number of current labels by fidelity, of all properties."""
        with self.session() as session:
            query = select(Label.fidelity, func.count()).where(Label.campaign_id == self.campaign_pk(session), *CURRENT)
            return dict(sorted(session.execute(query.group_by(Label.fidelity)).all()))

    def labelled_properties(self) -> dict[str, int]:
        """Number of current labels by property."""
        with self.session() as session:
            query = select(Label.property, func.count()).where(Label.campaign_id == self.campaign_pk(session), *CURRENT)
            return dict(sorted(session.execute(query.group_by(Label.property)).all()))


def canonical_unit(property: str, unit: str) -> str:
    """Normalise the usual spellings of W/(m K) for ``kappa*``; other units are unchanged."""
    if property.startswith("kappa") and re.sub(r"[\s()*·^.]", "", unit) in KAPPA_SPELLINGS:
        return KAPPA_UNIT
    return unit.strip()


def _known_units(session: Session, campaign_pk: int, properties: Collection[str]) -> dict[str, str]:
    """Unit of each property with labels; all labels of a property have the same."""
    found = {}
    for name in properties:  # one label is enough, and is found by an index
        query = select(Label.unit).where(Label.campaign_id == campaign_pk, Label.property == name)
        unit = session.scalar(query.where(Label.withdrawal.is_(None)).order_by(Label.id).limit(1))
        if unit is not None:
            found[name] = unit
    return found


def _problems(
    labels: Sequence[LabelRecord],
    places: Sequence[str],
    owners: Mapping[str, tuple[int, str]],
    units: dict[str, str],
    limits: Mapping[str, Limits],
) -> Iterator[LabelProblem]:
    seen: dict[Identity, tuple[str, LabelRecord]] = {}
    for place, label in zip(places, labels, strict=True):
        messages = list(_value_problems(label)) or [beyond(label.property, label.value, limits)]
        messages = [*filter(None, messages), *_unit_problems(label, units)]
        if label.material_id not in owners:
            messages.append("no material is known under this id; ingest it first, or check the id")
        key = (label.material_id, *(getattr(label, name) for name in KEY[:-1]))
        before, twin = seen.setdefault(key, (place, label))
        if (twin.value, twin.unit, twin.uncertainty) != (label.value, label.unit, label.uncertainty):
            messages.append(
                f"contradicts {before} (value {twin.value!r}); keep one, or distinguish them by method or source"
            )
        for message in messages:
            yield LabelProblem(place, label.material_id, label.value, message)


def beyond(property: str, value: float, limits: Mapping[str, Limits]) -> str:
    """Limit by which a value is refused, as text; empty if the value is within the limits."""
    low, high = limits.get(property, (None, None))
    if low is not None and value < low:
        return f"below {low:g}, the least that [labels] limits allows for {property}; correct it, or widen the limits"
    if high is not None and value > high:
        return f"above {high:g}, the most that [labels] limits allows for {property}; correct it, or widen the limits"
    return ""


def _value_problems(label: LabelRecord) -> Iterator[str]:
    value = label.value
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        yield "the value is not a finite number; correct it, or import a failure instead of a label"
    elif label.property.startswith("kappa") and value <= 0:
        yield f"{label.property} must be above zero; correct it, or import a failure instead of a label"
    for name in ("property", "fidelity"):
        if not getattr(label, name).strip():
            yield f"no {name}; name it"
    if label.temperature is not None and not 0 < label.temperature < math.inf:
        yield f"temperature {label.temperature!r} K; give a temperature above zero, or none"
    for name in ("uncertainty", "cost"):
        amount = getattr(label, name)
        if amount is not None and not 0 <= amount < math.inf:
            yield f"{name} {amount!r}; give a number from zero up, or none"
    try:
        require_json(label.provenance, "provenance")
    except ValueError as error:
        yield str(error)


def _unit_problems(label: LabelRecord, units: dict[str, str]) -> Iterator[str]:
    unit = canonical_unit(label.property, label.unit)
    if not unit:
        yield "no unit; name it (kappa is in W/(m K))"
    elif label.property.startswith("kappa") and unit != KAPPA_UNIT:
        yield f"unit {unit!r}; convert the value to {KAPPA_UNIT}"
    elif unit != units.setdefault(label.property, unit):
        yield f"unit {unit!r}, but {label.property} is stored in {units[label.property]!r} here; convert the value"


def _write_labels(session: Session, rows: list[Json], again: bool) -> LabelReport:
    """Compare with the current labels of the same materials, then insert and supersede."""
    pks = {row["material_pk"] for row in rows}
    current = _current_labels(session, pks)
    withdrawn = {} if again else _withdrawn_values(session, pks)
    report = LabelReport([], [], [])
    new: list[Json] = []
    replaced: list[int | None] = []
    for row in rows:
        key = _key(row)
        old_id, old_value = current.get(key, (None, None))
        value = _value(row)
        if old_value == value:
            if old_id is not None:
                report.unchanged.append(old_id)
            continue
        if (key, value) in withdrawn:
            report.unchanged.append(withdrawn[key, value])
            continue
        current[key] = (None, value)  # the same label twice in one batch is one label
        new.append(row)
        replaced.append(old_id)
    report.added.extend(_insert(session, new))
    pairs = [{"old": old, "new": new_id} for old, new_id in zip(replaced, report.added, strict=True) if old is not None]
    if pairs:
        statement = update(Label.__table__).where(Label.__table__.c.id == bindparam("old"))  # type: ignore[arg-type]
        session.connection().execute(statement.values(superseded_by=bindparam("new")), pairs)
        report.superseded.extend(pair["old"] for pair in pairs)
    return report


def _current_labels(session: Session, pks: Collection[int]) -> dict[Identity, tuple[int | None, Identity]]:
    return {_key(row): (row["id"], _value(row)) for row in _labels_of(session, pks, *CURRENT)}


def _withdrawn_values(session: Session, pks: Collection[int]) -> dict[tuple[Identity, Identity], int]:
    """Latest withdrawn label of each kind and value."""
    rows = _labels_of(session, pks, Label.withdrawal.is_not(None))
    return {(_key(row), _value(row)): row["id"] for row in rows}


def _labels_of(session: Session, pks: Collection[int], *conditions: ColumnElement[bool]) -> Iterator[RowMapping]:
    query = select(*(getattr(Label, name) for name in ("material_pk", *KEY, "id", *VALUE))).where(*conditions)
    for part in chunks(pks):
        yield from session.execute(query.where(Label.material_pk.in_(part)).order_by(Label.id)).mappings()


def _last_withdrawal(session: Session, campaign_pk: int) -> int:
    return session.scalar(select(func.max(Label.withdrawal)).where(Label.campaign_id == campaign_pk)) or 0


def _no_longer_current(row: Label) -> str:
    if row.withdrawal is not None:
        return f"label {row.id} was withdrawn on {row.withdrawn_at} by {row.withdrawn_by}: {row.withdrawn_reason}"
    if row.superseded_by is not None:
        return f"label {row.id} is corrected by label {row.superseded_by}; withdraw that one, or leave both"
    return ""


def _key(row: Mapping[str, object] | RowMapping) -> Identity:
    return tuple(row[name] for name in ("material_pk", *KEY))


def _value(row: Mapping[str, object] | RowMapping) -> Identity:
    return tuple(row[name] for name in VALUE)


def _insert(session: Session, rows: list[Json]) -> list[int]:
    if not rows:
        return []
    return list(session.scalars(insert(Label).returning(Label.id, sort_by_parameter_order=True), rows))


def _label_row(label: LabelRecord, material_pk: int, campaign_pk: int) -> Json:
    row = {name: value for name, value in vars(label).items() if name not in FILLED_IN}
    return row | {
        "campaign_id": campaign_pk,
        "material_pk": material_pk,
        "record_id": label.material_id,
        "value": float(label.value),
        "unit": canonical_unit(label.property, label.unit),
        "created_at": utc_now(),
    }


def _label_record(row: Label, material_id: str) -> LabelRecord:
    names = (name for name in LabelRecord.__dataclass_fields__ if name != "material_id")
    return LabelRecord(material_id=material_id, **{name: getattr(row, name) for name in names})
