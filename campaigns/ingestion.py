"""Sources of crystals into the store: read, check, link copies, keep what was refused and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import CampaignError
from db.exceptions import StoreError
from db.records import LabelRecord, MaterialRecord, RejectionRecord, SourceRecord
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal, Material
from engine.materials.duplicates import link_duplicates

if TYPE_CHECKING:
    from db.store import Store

REFERENCE = "builtin:reference"
CANDIDATES = "builtin:candidates"
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
    for outcomes in open_sources(sources, workers):
        materials = [o for o in outcomes if isinstance(o, Material)]
        refused = [_rejection(o) for o in outcomes if isinstance(o, Rejection)]
        labels, bad_labels = _labels(materials, label_fields)
        unlabelled = {r.record_id for r in bad_labels}
        kept = [m for m in materials if m.id not in unlabelled]
        refused += bad_labels + add_materials(store, kept, report)
        store.add_rejections(refused)
        report.rejected += refused
        conflicting = {r.record_id for r in refused}
        report.labels += len(store.add_labels([x for x in labels if x.material_id not in conflicting]).added)
        if progress:
            progress(report.read)
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
    """A material of the engine as the store keeps it."""
    source = SourceRecord(
        record_id=material.id,
        origin=material.source,
        retrieved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        note="; ".join(material.notes),
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
        properties={k: v for k, v in material.properties.items() if v is not None and v == v},
        sources=(source,),
    )


def stored_material(record: MaterialRecord) -> Material:
    """A stored material as the engine knows it."""
    return Material(
        record.material_id,
        Crystal.from_dict(record.structure),
        record.content_hash,
        record.spacegroup,
        dict(record.properties),
    )


def add_materials(store: Store, materials: Sequence[Material], report: IngestReport) -> list[RejectionRecord]:
    """Add new crystals and link copies; returns the refused."""
    present = store.materials_in_buckets({m.bucket for m in materials})
    known = {bucket: [stored_material(r) for r in records] for bucket, records in present.items()}
    pairs = link_duplicates(materials, known)
    near = [(m, original) for m, original in pairs if original and original.content_hash != m.content_hash]
    near_ids = {m.id for m, _ in near}
    added = store.add_materials(material_record(m) for m in materials if m.id not in near_ids)
    for material, original in near:
        if original.id == material.id:  # the same entry, written with other digits
            report.unchanged += 1
            continue
        record = material_record(material)
        try:
            store.link_duplicate(original.id, record.sources[0], record.properties)
            report.duplicates.append((material.id, original.id))
        except StoreError as error:
            added.conflicts.append((material.id, str(error)))
    report.added += len(added.added)
    report.unchanged += len(added.unchanged)
    report.duplicates += added.duplicates
    origin = {m.id: m.source for m in materials}
    return [
        RejectionRecord(
            origin.get(id_, ""),
            id_,
            RejectionReason.ID_CONFLICT,
            message,
            "give this structure an id of its own, or leave it out if it is an outdated version",
        )
        for id_, message in added.conflicts
    ]


def _labels(
    materials: Sequence[Material], label_fields: Sequence[LabelField]
) -> tuple[list[LabelRecord], list[RejectionRecord]]:
    """Labels in the records' properties; a material with an impossible one is refused rather than kept without it."""
    labels, refused = [], []
    for material in materials:
        for wanted in label_fields:
            value = material.properties.get(wanted.field)
            if value is None:
                continue
            problem = _impossible(value, wanted.property)
            if problem:
                refused.append(
                    RejectionRecord(
                        material.source,
                        material.id,
                        "bad_label",
                        f"{wanted.field} is {value!r}, {problem}",
                        "correct the value or remove the field",
                    )
                )
                break
            labels.append(
                LabelRecord(
                    material_id=material.id,
                    property=wanted.property,
                    value=float(value),
                    unit=wanted.unit,
                    fidelity=wanted.fidelity,
                    source=material.source,
                    provenance={"field": wanted.field},
                    record_id=material.id,
                )
            )
    return labels, refused


def _impossible(value: Any, property_: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "which is no number"
    if value != value or value in (float("inf"), float("-inf")):
        return "which is not finite"
    return "but a conductivity is positive" if property_.startswith("kappa") and value <= 0 else ""


def _rejection(rejection: Rejection) -> RejectionRecord:
    return RejectionRecord(
        rejection.source, rejection.record_id, str(rejection.reason), rejection.message, rejection.remedy
    )


def _generated(source: str, entries: Iterable[tuple[str, Crystal, dict[str, Any]]]) -> list[Material | Rejection]:
    from engine.materials.identity import identify

    return [identify(id_, crystal, properties, source) for id_, crystal, properties in entries]
