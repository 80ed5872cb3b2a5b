"""Sources of crystals into the store: read, check, link copies, keep what was refused and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import CampaignError
from campaigns.training_set import default_scale, flaw
from db.exceptions import InvalidRecordError
from db.records import LabelRecord, MaterialRecord, RejectionRecord, SourceRecord
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal, Material
from engine.materials.duplicates import link_duplicates

if TYPE_CHECKING:
    from db.store import Store

REFERENCE = "builtin:reference"
CANDIDATES = "builtin:candidates"
BAD_LABEL = "bad_label"
"""Reason of a rejection beside those of :class:`RejectionReason`."""
_LATER = ("mp:", "optimade:", "aflow:")


@dataclass(frozen=True)
class LabelField:
    """Which field of the records' ``properties`` is a label: ``FIELD=PROPERTY@FIDELITY`` or ``...:UNIT``."""

    field: str
    property: str
    fidelity: str
    unit: str

    @classmethod
    def parse(cls, text: str) -> LabelField:
        """Read the command line's form; ``kappa*`` is in W/(m K) unless a unit is given, anything else needs one."""
        name, _, rest = text.partition("=")
        target, _, unit = rest.partition(":")
        property_, _, fidelity = target.partition("@")
        unit = unit or ("W/(m K)" if property_.startswith("kappa") else "")
        if not (name and property_ and fidelity and unit):
            raise CampaignError(
                f"cannot read --label {text!r}; write FIELD=PROPERTY@FIDELITY, and :UNIT behind it for anything but "
                "kappa, e.g. kappa_agl_300K_W_mK=kappa_300K@agl or bulk_modulus_vrh_GPa=bulk_modulus@agl:GPa"
            )
        return cls(name, property_, fidelity, unit)


@dataclass
class IngestReport:
    """What became of everything that came in."""

    added: int = 0
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Id that came in, id of the material it is a copy of."""
    unchanged: int = 0
    rejected: list[RejectionRecord] = field(default_factory=list)
    labels: int = 0

    @property
    def read(self) -> int:
        """Records read."""
        return self.added + self.unchanged + len(self.duplicates) + len(self.rejected)

    def reasons(self) -> dict[str, int]:
        """How many records were refused for each reason."""
        return dict(Counter(r.reason for r in self.rejected).most_common())


def ingest(
    store: Store,
    sources: Sequence[str],
    label_fields: Sequence[LabelField] = (),
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Add what ``sources`` hold to the store, chunk by chunk; a chunk is kept whole or not at all.

    ``progress`` is called with the number of records read so far.
    """
    report = IngestReport()
    found: set[str] = set()
    for outcomes in open_sources(sources, workers):
        materials = [o for o in outcomes if isinstance(o, Material)]
        refused = [_rejection(o) for o in outcomes if isinstance(o, Rejection)]
        refused += [r for m in materials if (r := _bad_label(m, label_fields))]
        bad = {id(m) for m in materials if _bad_label(m, label_fields)}
        with store.transaction():
            kept, conflicts = add_materials(store, [m for m in materials if id(m) not in bad], report)
            refused += conflicts
            store.add_rejections(refused)
            report.labels += len(store.add_labels(_labels(kept, label_fields)).added)
        report.rejected += refused
        found.update(name for m in materials for name in m.properties)
        if progress:
            progress(report.read)
    _check_fields(label_fields, found)
    return report


def open_sources(sources: Sequence[str], workers: int | None = None) -> Iterator[list[Material | Rejection]]:
    """Materials and rejections of files and of the built-in sets, in chunks."""
    from engine.materials.loading import load

    files = [s for s in sources if s not in (REFERENCE, CANDIDATES)]
    for source in files:
        if source.startswith(_LATER):
            raise CampaignError(
                f"{source}: this version reads files only; download the entries as CIF or JSON lines and give the files"
            )
    if files:
        yield from load(files, workers)
    for source in sources:
        if source == REFERENCE:
            from engine.materials.reference import reference_crystals, reference_labels

            values: dict[str, dict[str, Any]] = {}
            for label in reference_labels():
                values.setdefault(label["id"], {})[f"{label['property']}_{label['fidelity']}"] = label["value"]
            yield _generated(source, ((id_, crystal, values[id_]) for id_, crystal in reference_crystals().items()))
        elif source == CANDIDATES:
            from engine.materials.candidates import generate_candidates

            yield _generated(source, ((c.id, c.crystal, c.properties) for c in generate_candidates()))


def material_record(material: Material) -> MaterialRecord:
    """Turn a material of the engine into one of the store; a property that is not finite becomes a note."""
    broken = {name: v for name, v in material.properties.items() if isinstance(v, float) and not math.isfinite(v)}
    source = SourceRecord(
        record_id=material.id,
        origin=material.source,
        retrieved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        note="; ".join([*material.notes, *(f"property {name} is {v}, left out" for name, v in broken.items())]),
        content_hash=material.content_hash,
    )
    return MaterialRecord(
        material_id=material.id,
        content_hash=material.content_hash,
        formula=material.formula,
        chemical_system=material.crystal.chemical_system,
        spacegroup=material.spacegroup,
        n_sites=len(material.crystal),
        bucket=material.bucket,
        structure=material.crystal.to_dict(),
        properties={name: v for name, v in material.properties.items() if name not in broken},
        sources=(source,),
    )


def stored_material(record: MaterialRecord) -> Material:
    """Turn a stored material into one of the engine."""
    return Material(
        record.material_id,
        Crystal.from_dict(record.structure),
        record.content_hash,
        record.spacegroup,
        dict(record.properties),
    )


def add_materials(
    store: Store, materials: Sequence[Material], report: IngestReport
) -> tuple[list[Material], list[RejectionRecord]]:
    """Add new crystals and link copies; returns those that are in the store now, and the refused."""
    first = {m.id: m for m in reversed(materials)}
    kept = [m for m in materials if first[m.id].content_hash == m.content_hash]
    refused = [
        _conflict(m, f"id {m.id!r} stands in this source before with another crystal")
        for m in materials
        if first[m.id].content_hash != m.content_hash
    ]
    with store.transaction():
        conflicts = _add(store, kept, report)
    refused += [_conflict(m, conflicts[m.id]) for m in kept if m.id in conflicts]
    return [m for m in kept if m.id not in conflicts], refused


def _add(store: Store, materials: Sequence[Material], report: IngestReport) -> dict[str, str]:
    """Add materials that differ in id or are the same; ids that the store knows with another crystal, and why."""
    present = store.materials_in_buckets({m.bucket for m in materials})
    known = {bucket: [stored_material(r) for r in records] for bucket, records in present.items()}
    pairs = link_duplicates(materials, known)
    copies = {id(m): original for m, original in pairs if original and original.content_hash != m.content_hash}
    added = store.add_materials(material_record(m) for m in materials if id(m) not in copies)
    report.added += len(added.added)
    report.unchanged += len(added.unchanged)
    report.duplicates += added.duplicates
    conflicts = dict(added.conflicts)
    orphans = []
    for material in materials:
        original = copies.get(id(material))
        if original is None:
            continue
        if original.id in conflicts:
            orphans.append(material)
            continue
        record = material_record(material)
        try:
            store.link_duplicate(original.id, record.sources[0], record.properties)
            report.duplicates.append((material.id, original.id))
        except InvalidRecordError as error:
            conflicts[material.id] = str(error)
    return conflicts | _add(store, orphans, report) if orphans else conflicts


def _conflict(material: Material, message: str) -> RejectionRecord:
    remedy = "give this structure an id of its own, or leave it out if it is an outdated version"
    return RejectionRecord(material.source, material.id, RejectionReason.ID_CONFLICT, message, remedy)


def _bad_label(material: Material, label_fields: Sequence[LabelField]) -> RejectionRecord | None:
    """Refuse a material with an impossible label, rather than keep it without one."""
    for wanted in label_fields:
        if wanted.field in material.properties:
            value = material.properties[wanted.field]
            if problem := flaw(value, default_scale(wanted.property)):
                message = f"{wanted.field} is {value!r}, which {problem}"
                remedy = "correct the value or remove the field"
                return RejectionRecord(material.source, material.id, BAD_LABEL, message, remedy)
    return None


def _labels(materials: Sequence[Material], label_fields: Sequence[LabelField]) -> list[LabelRecord]:
    return [
        LabelRecord(
            material_id=material.id,
            property=wanted.property,
            value=float(material.properties[wanted.field]),
            unit=wanted.unit,
            fidelity=wanted.fidelity,
            source=material.source,
            provenance={"field": wanted.field},
            record_id=material.id,
        )
        for material in materials
        for wanted in label_fields
        if wanted.field in material.properties
    ]


def _check_fields(label_fields: Sequence[LabelField], found: set[str]) -> None:
    absent = [f.field for f in label_fields if f.field not in found]
    if absent:
        raise CampaignError(
            f"no record has the property {', '.join(map(repr, absent))} that --label asks for (there are: "
            f"{', '.join(sorted(found)) or 'none'}); the crystals were kept without it: give the right name and "
            "ingest again, what is there already is passed over"
        )


def _rejection(rejection: Rejection) -> RejectionRecord:
    return RejectionRecord(
        rejection.source, rejection.record_id, str(rejection.reason), rejection.message, rejection.remedy
    )


def _generated(source: str, entries: Iterable[tuple[str, Crystal, dict[str, Any]]]) -> list[Material | Rejection]:
    from engine.materials.identity import identify

    return [identify(id_, crystal, properties, source) for id_, crystal, properties in entries]
