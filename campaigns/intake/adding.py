"""Materials into the store: new ones are added, copies linked, other structures of known ids stored as versions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from campaigns.intake.ingest_report import IngestReport
from campaigns.pool.relatives import stored_material
from campaigns.stability.names import ENERGY_ABOVE_HULL
from db.records import CopyRecord, MaterialRecord, RejectionRecord, SourceRecord
from engine.materials.checks import RejectionReason
from engine.materials.crystal import Crystal, Material
from engine.materials.duplicates import Placed, link_duplicates, same_crystal, told_apart

if TYPE_CHECKING:
    from db.store import Store


@dataclass(frozen=True)
class Provenance:
    """Database, query and time of the rows of one page; empty for files."""

    query: str | None = None
    retrieved_at: str = ""
    database_version: str | None = None
    row_versions: Mapping[str, str] = field(default_factory=dict)
    """Version by record id, where rows have their own."""

    @property
    def is_database(self) -> bool:
        """Whether the rows came from a database."""
        return self.query is not None


FILES = Provenance()


def material_record(material: Material, provenance: Provenance = FILES) -> MaterialRecord:
    """Material of the store for one of the engine; a property that is not finite is replaced by a note."""
    broken = {name: v for name, v in material.properties.items() if isinstance(v, float) and not math.isfinite(v)}
    source = SourceRecord(
        record_id=material.id,
        origin=material.source,
        retrieved_at=provenance.retrieved_at or datetime.now(UTC).isoformat(timespec="seconds"),
        database_version=provenance.row_versions.get(material.id, provenance.database_version),
        query=provenance.query,
        note="; ".join([*material.notes, *(f"property {name} is {v}, left out" for name, v in broken.items())]),
        content_hash=material.content_hash,
        energy=_energy(material),
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


def add_materials(
    store: Store, materials: Sequence[Material], report: IngestReport, provenance: Provenance = FILES
) -> tuple[list[Material], list[RejectionRecord]]:
    """Add new crystals and link copies; returns those that are in the store now, and the refused.

    An id that the store knows with another crystal is refused from a file; a near copy under an id of its material is
    unchanged. Ids of a database are stable, so that another crystal from there is another version, stored under a new
    id beside the earlier one, and linked to it by a note.
    """
    materials = _with_own_hashes(store, materials)
    first = {m.id: m for m in reversed(materials)}
    other = {id(m) for m in materials if not same_crystal(m, first[m.id])}
    kept = [m for m in materials if id(m) not in other]
    refused = [
        _conflict(m, f"id {m.id!r} occurs earlier in this source with another crystal")
        for m in materials
        if id(m) in other
    ]
    with store.transaction():
        conflicts = _add(store, kept, report, provenance)
        if provenance.is_database and conflicts:
            versions = {m.id: _version(m) for m in kept if m.id in conflicts}
            rows = {v.id: provenance.row_versions[id_] for id_, v in versions.items() if id_ in provenance.row_versions}
            conflicts = _add(store, list(versions.values()), report, replace(provenance, row_versions=rows))
            report.add_versions([(id_, v.id) for id_, v in versions.items() if v.id not in conflicts])
            kept = [versions.get(m.id, m) for m in kept]
    refused += [_conflict(m, conflicts[m.id]) for m in kept if m.id in conflicts]
    return [m for m in kept if m.id not in conflicts], refused


def _with_own_hashes(store: Store, materials: Sequence[Material]) -> list[Material]:
    """Materials with unique hashes: one that shares the hash of another crystal (in the store or here) gets its own."""
    ids: dict[str, set[str]] = {}
    for material in materials:
        ids.setdefault(material.content_hash, set()).add(material.id)
    keys = [key for key in store.with_hashes(ids).values() if ids[key.content_hash] != {key.material_id}]
    structures = store.structures([key.material_id for key in keys])
    known = {
        k.content_hash: stored_material(k, Crystal.from_dict(s)) for k, (_, s) in zip(keys, structures, strict=True)
    }
    return told_apart(materials, known)


def _version(material: Material) -> Material:
    """Another structure of a known id, under an id made from its content, so that it is always the same."""
    note = f"another structure than the one known as {material.id}"
    return replace(material, id=f"{material.id}@{material.content_hash[:8]}", notes=(*material.notes, note))


def _add(store: Store, materials: Sequence[Material], report: IngestReport, provenance: Provenance) -> dict[str, str]:
    """Add materials that differ in id or are the same; ids that the store knows with another crystal, and why."""
    placed = _placed(store, materials)
    copies = {key: p.copy_of.id for key, p in placed.items() if p.copy_of}
    relaxed = {key: p.relaxation_of for key, p in placed.items() if p.relaxation_of}
    added = store.add_materials(
        material_record(_noted(m, relaxed.get(id(m))), provenance) for m in materials if id(m) not in copies
    )
    report.added += len(added.added)
    report.unchanged += len(added.unchanged)
    report.add_duplicates(added.duplicates)
    new = set(added.added)
    report.add_relaxations([(m.id, relaxed[id(m)].id) for m in materials if id(m) in relaxed and m.id in new])
    conflicts = dict(added.conflicts)
    found = [(m, copies[id(m)]) for m in materials if id(m) in copies]
    orphans = [m for m, original in found if original in conflicts]
    linked = [(m, original) for m, original in found if original not in conflicts]
    links = store.link_copies(_link(store, linked, provenance))
    report.unchanged += len(links.unchanged)
    report.add_duplicates(links.duplicates)
    conflicts |= dict(links.conflicts)
    return conflicts | _add(store, orphans, report, provenance) if orphans else conflicts


def _placed(store: Store, materials: Sequence[Material]) -> dict[int, Placed]:
    """Which materials are near copies or relaxations of another, by ``id()``.

    Structures are read only where needed: earlier materials are recognised by their hash alone.
    """
    known = store.known_hashes(m.content_hash for m in materials)
    unknown = [m for m in materials if m.content_hash not in known]
    present = store.in_buckets(m.bucket for m in unknown)
    ids = [key.material_id for keys in present.values() for key in keys]
    structures = {id_: structure for id_, (_, structure) in zip(ids, store.structures(ids), strict=True)}
    originals = {
        bucket: [stored_material(key, Crystal.from_dict(structures[key.material_id])) for key in keys]
        for bucket, keys in present.items()
    }
    return {
        id(placed.material): placed
        for placed in link_duplicates(unknown, originals)
        if placed.copy_of is None or placed.copy_of.content_hash != placed.material.content_hash
    }


def _noted(material: Material, relaxation: Material | None) -> Material:
    """The material with a note that names the same compound in another relaxation, where there is one."""
    if relaxation is None:
        return material
    own, other = (m.crystal.volume / len(m.crystal) for m in (material, relaxation))
    note = f"the same compound as {relaxation.id}, other relaxation ({own:.1f} A3 an atom, there {other:.1f})"
    return replace(material, notes=(*material.notes, note))


def _link(store: Store, linked: Sequence[tuple[Material, str]], provenance: Provenance) -> list[CopyRecord]:
    """Choose the copy that represents each crystal, in order of arrival; none under an id it has already."""
    best: dict[str, SourceRecord] = {}
    ids: dict[str, set[str]] = {}
    for kept in store.materials({original for _, original in linked}):
        own = [source for source in kept.sources if source.content_hash == kept.content_hash]
        best[kept.material_id] = min(own, key=_merit)
        ids[kept.material_id] = {source.record_id for source in kept.sources}
    copies = []
    for material, original in linked:
        record = material_record(material, provenance)
        source = record.sources[0]
        better = material.id not in ids[original] and _is_better(source, best[original])
        if better:
            best[original] = source
        copies.append(CopyRecord(original, record, represents=better))
    return copies


def _is_better(copy: SourceRecord, kept: SourceRecord) -> bool:
    """Whether ``copy`` represents its crystal rather than the one that is stored.

    The lower energy above the hull where both are known; else the one with more provenance (an energy, the
    database's query, its version); else the first.
    """
    if copy.energy is not None and kept.energy is not None and copy.energy != kept.energy:
        return copy.energy < kept.energy
    return _provenance(copy) > _provenance(kept)


def _merit(source: SourceRecord) -> tuple[float, int]:
    """Order sources of one structure: the smallest represents it."""
    return (math.inf if source.energy is None else source.energy), -_provenance(source)


def _provenance(source: SourceRecord) -> int:
    return sum(value is not None for value in (source.energy, source.query, source.database_version))


def _energy(material: Material) -> float | None:
    value = material.properties.get(ENERGY_ABOVE_HULL)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _conflict(material: Material, message: str) -> RejectionRecord:
    remedy = "give this structure a new id, or leave it out if it is an outdated version"
    return RejectionRecord(material.source, material.id, RejectionReason.ID_CONFLICT, message, remedy)
