"""Sources of crystals into the store: read, check, link copies, keep what was refused and why."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import CampaignError
from campaigns.goals import default_scale, flaw
from campaigns.intake.checkpoints import Cursor
from campaigns.intake.label_files import TEMPERATURE_TOLERANCE
from campaigns.output import Count
from campaigns.pool.relatives import stored_material
from campaigns.property_names import Property
from db.labels import Limits, beyond
from db.records import CopyRecord, LabelRecord, MaterialRecord, RejectionRecord, SourceRecord
from engine.exceptions import RefusedRequestError, SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal, Material
from engine.materials.duplicates import Placed, link_duplicates, same_crystal, told_apart
from engine.materials.sources.opening import is_remote, open_source
from engine.materials.sources.source import Page, Source

if TYPE_CHECKING:
    from campaigns.intake.doubts import Doubt
    from db.store import Store

REFERENCE = "builtin:reference"
CANDIDATES = "builtin:candidates"
BAD_LABEL = "bad_label"
"""Reason of a rejection beside those of :class:`RejectionReason`."""
BATCH = 2048
"""Records of files that are kept together; a killed ingest has lost at most as many."""
EXAMPLES = 1000
"""How many duplicates, rejections and versions a report names; the store keeps them all."""
_NAMED = 5
"""How many of them a note names."""
ENERGY = "energy_above_hull_eV"
"""The property that decides between copies: of all energies only this one compares across databases."""


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
        unit = unit or Property(property_).unit
        if not (name and property_ and fidelity and unit):
            raise CampaignError(
                f"cannot read --label {text!r}; write FIELD=PROPERTY@FIDELITY, and :UNIT behind it for anything but "
                "kappa, e.g. kappa_agl_300K_W_mK=kappa_300K@agl or bulk_modulus_vrh_GPa=bulk_modulus@agl:GPa"
            )
        wanted = Property(property_).temperature  # a name with two is refused here
        given = Property(name).temperature if Property(name).is_conductivity else None
        if wanted and given and abs(wanted - given) > TEMPERATURE_TOLERANCE * wanted:
            raise CampaignError(
                f"--label {text!r}: the field is the value at {given:g} K, the property that at {wanted:g} K; name the "
                f"property {Property(property_).at(given)}"
            )
        return cls(name, property_, fidelity, unit)


# AFLOW's quasi-harmonic Debye conductivities are labels without being asked for
_OWN_LABELS = {"aflow": (LabelField("kappa_agl_300K_W_mK", "kappa_300K", "agl", "W/(m K)"),)}


@dataclass(frozen=True)
class Provenance:
    """Where and when the rows of one page came from a database; empty for files."""

    query: str | None = None
    retrieved_at: str = ""
    database_version: str | None = None
    row_versions: Mapping[str, str] = field(default_factory=dict)
    """By record id, where rows have versions of their own."""

    @property
    def is_database(self) -> bool:
        """Tell a database from a file."""
        return self.query is not None


_FILES = Provenance()


@dataclass
class IngestReport:
    """What became of everything that came in; lists hold the first :data:`EXAMPLES`, so that memory is bounded."""

    added: int = 0
    duplicate: int = 0
    unchanged: int = 0
    rejected: int = 0
    labels: int = 0
    label_ids: list[int] = field(default_factory=list)
    """Of the labels written."""
    unchanged_label_ids: list[int] = field(default_factory=list)
    """Of labels that were there already, withdrawn ones too."""
    doubtful: list[Doubt] = field(default_factory=list)
    """Labels that were written and are doubtful."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Id that came in, id of the material it is a copy of."""
    rejections: list[RejectionRecord] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """How many records were refused for each reason."""
    version: int = 0
    versions: list[tuple[str, str]] = field(default_factory=list)
    """Id under which another structure was known, id under which the one that came now is kept."""
    relaxation: int = 0
    relaxations: list[tuple[str, str]] = field(default_factory=list)
    """Id of a new material, id of the one that is the same compound, relaxed otherwise."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, e.g. that a database announced more than it sent."""
    noted: int = 0
    """Crystals that came in with a note; ``rejections --notes`` lists them."""
    note_kinds: dict[str, tuple[int, str]] = field(default_factory=dict)
    """How many notes of each kind, which is a note without its numbers and names, and the first of them."""

    @property
    def read(self) -> int:
        """Records read."""
        return self.added + self.unchanged + self.duplicate + self.rejected

    def add_duplicates(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count copies."""
        self.duplicate += len(pairs)
        _extend(self.duplicates, pairs)

    def add_rejections(self, records: Sequence[RejectionRecord]) -> None:
        """Count what was refused."""
        self.rejected += len(records)
        self.reasons.update(record.reason for record in records)
        _extend(self.rejections, records)

    def add_notes(self, materials: Sequence[Material]) -> None:
        """Count what readers noticed of crystals that came in."""
        for material in materials:
            self.noted += bool(material.notes)
            for note in material.notes:
                kind = re.sub(r"'[^']*'|[-+]?\d[\d.eE+-]*", "*", note).split(": ")[0]
                count, first = self.note_kinds.get(kind, (0, f"{material.id}: {note}"))
                self.note_kinds[kind] = count + 1, first

    def all_notes(self) -> list[str]:
        """One line a note of a database, and one a kind of note on crystals."""
        return [*self.notes, *(f"{first} ({n} of the kind)" for n, first in self.note_kinds.values())]

    def add_versions(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count other structures of known ids."""
        self.version += len(pairs)
        _extend(self.versions, pairs)

    def add_relaxations(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count materials of one compound."""
        self.relaxation += len(pairs)
        _extend(self.relaxations, pairs)


def ingest(
    store: Store,
    sources: Sequence[str],
    label_fields: Sequence[LabelField] = (),
    workers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    cursors: Path | None = None,
) -> IngestReport:
    """Add what ``sources`` hold to the store, chunk by chunk; a chunk is kept whole or not at all.

    Parameters
    ----------
    store
        Where to.
    sources
        Files, folders, archives, built-in sets, and databases (``mp:``, ``optimade:``, ``aflow:``), which come last.
    label_fields
        Which properties are labels too.
    workers
        Processes that read files; None takes one a core.
    say
        Is told how far it is.
    cursors
        Folder that keeps how far each database has been read, so that an interrupted ingest goes on there; None
        starts at the beginning.

    Raises
    ------
    CampaignError
        A source cannot be asked or read, or none holds anything; what came before is kept.
    """
    report = IngestReport()
    found: set[str] = set()
    remote = [(text, _opened(text, say)) for text in sources if is_remote(text)]
    local = [text for text in sources if not is_remote(text)]
    for outcomes in _gathered(open_sources(local, workers)) if local else ():
        found |= _take(store, outcomes, label_fields, report, _FILES)
        say(Count(f"{report.read} records read"))
    for text, source in remote:
        fields = [*label_fields, *_OWN_LABELS.get(text.partition(":")[0], ())]
        for outcomes, provenance in _asked(text, source, report, say, cursors):
            found |= _take(store, outcomes, fields, report, provenance)
    if sources and not report.read:
        raise CampaignError(
            f"nothing was read: {', '.join(sources)} {'holds' if len(sources) == 1 else 'hold'} no crystal, not even "
            "one to refuse; give files of crystals (tables of properties by id are joined to crystals read with them)"
        )
    if report.relaxation:
        report.notes.append(_relaxation_note(report))
    _check_fields(label_fields, found)
    return report


def _relaxation_note(report: IngestReport) -> str:
    shown = ", ".join(f"{new} and {known}" for new, known in report.relaxations[:_NAMED])
    are = (
        "materials are the same compound as another"
        if report.relaxation > 1
        else "material is the same compound as another"
    )
    more = ", ..." if report.relaxation > _NAMED else ""
    return f"{report.relaxation} {are} in the store, other relaxation; a batch holds one of each: {shown}{more}"


def _take(
    store: Store,
    outcomes: Sequence[Material | Rejection],
    label_fields: Sequence[LabelField],
    report: IngestReport,
    provenance: Provenance,
) -> set[str]:
    """Keep one chunk; the names of the properties that were in it."""
    materials = [o for o in outcomes if isinstance(o, Material)]
    refused = [_rejection(o) for o in outcomes if isinstance(o, Rejection)]
    bad = {id(m): r for m in materials if (r := _bad_label(m, label_fields, store.label_limits))}
    refused += bad.values()
    with store.transaction():
        kept, conflicts = add_materials(store, [m for m in materials if id(m) not in bad], report, provenance)
        refused += conflicts
        store.add_rejections(refused)
        labels = store.add_labels(_labels(kept, label_fields))
    report.labels += len(labels.added)
    report.label_ids += labels.added
    report.unchanged_label_ids += labels.unchanged
    store.compact_structures()
    report.add_rejections(refused)
    report.add_notes(kept)
    return {name for m in materials for name in m.properties}


def _gathered(lists: Iterable[list[Material | Rejection]]) -> Iterator[list[Material | Rejection]]:
    """Join lists until they hold :data:`BATCH` outcomes."""
    batch: list[Material | Rejection] = []
    for outcomes in lists:
        batch += outcomes
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _opened(text: str, say: Callable[[str], None]) -> Source:
    """Give a database, or say why not before anything is read from anywhere."""
    try:
        return open_source(text, say)
    except SourceError as error:
        raise CampaignError(str(error)) from error


def _asked(
    text: str, source: Source, report: IngestReport, say: Callable[[str], None], folder: Path | None
) -> Iterator[tuple[list[Material | Rejection], Provenance]]:
    """Pages of a database, from where an earlier ingest of the same words was interrupted.

    The place is written when the caller comes for the next page, so that a page counts when it is in the store.
    """
    from engine.materials.loading import process

    cursor = Cursor.load(folder, text)
    try:
        cursor, pages = _resumed(source, cursor, say)
        for page in _ahead(pages):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            yield process(page.records), Provenance(source.query, now, page.version, page.row_versions)
            read = cursor.read + len(page.records)
            cursor = Cursor(text, page.next, cursor.page + 1, read, page.version)
            cursor.write(folder)
            of = f" of {page.total}" if page.total else ""
            say(Count(f"{text}: page {cursor.page}, {read}{of} records read"))
            report.notes += page.notes
            if page.next is None and page.total is not None and page.total != read:
                report.notes.append(f"{source.origin} announced {page.total} records and sent {read}")
    except SourceError as error:
        raise CampaignError(f"{text}, page {cursor.page + 1}: {error}") from error


def _ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """Give each page while the next one is being fetched."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = thread.submit(next, pages, None)
            yield page


def _resumed(source: Source, cursor: Cursor, say: Callable[[str], None]) -> tuple[Cursor, Iterator[Page]]:
    """Pages from the cursor on; from the first where the place is gone or the database another one by now."""
    if cursor.next is None:
        return cursor, source.pages()
    pages = source.pages(cursor.next)
    try:
        first = next(pages)
    except RefusedRequestError as error:
        why = f"its page {cursor.page + 1} is not there any more ({error})"
    else:
        if first.version == cursor.database_version:
            say(f"{cursor.source}: going on at page {cursor.page + 1}; {cursor.read} records were read before")
            return cursor, chain([first], pages)
        why = f"the database was {cursor.database_version} and is {first.version} now"
    say(f"{cursor.source}: {why}; starting over, what is there already is passed over")
    return Cursor(cursor.source), source.pages()


def open_sources(sources: Sequence[str], workers: int | None = None) -> Iterator[list[Material | Rejection]]:
    """Materials and rejections of files and of the built-in sets, in chunks."""
    from engine.materials.loading import load

    files = [s for s in sources if s not in (REFERENCE, CANDIDATES)]
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


def material_record(material: Material, provenance: Provenance = _FILES) -> MaterialRecord:
    """Turn a material of the engine into one of the store; a property that is not finite becomes a note."""
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
    store: Store, materials: Sequence[Material], report: IngestReport, provenance: Provenance = _FILES
) -> tuple[list[Material], list[RejectionRecord]]:
    """Add new crystals and link copies; returns those that are in the store now, and the refused.

    An id that the store knows with another crystal is refused from a file; a near copy under an id of its material is
    unchanged. A database's ids are its own, so that from there another crystal is another version: kept under an id of
    its own beside the earlier one, and linked to it by a note.
    """
    materials = _with_own_hashes(store, materials)
    first = {m.id: m for m in reversed(materials)}
    other = {id(m) for m in materials if not same_crystal(m, first[m.id])}
    kept = [m for m in materials if id(m) not in other]
    refused = [
        _conflict(m, f"id {m.id!r} stands in this source before with another crystal")
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
    """Tell crystals apart that share the hash of another, in the store or among these, and are none."""
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
    """Give another structure of a known id an id that follows from its content, the same whenever it comes."""
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
    """Tell which are near copies or relaxations of another, by ``id()``.

    Structures are read only where that is to be seen: what came in before under its hash is told by that alone.
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
    """Say which material is the same compound, relaxed otherwise."""
    if relaxation is None:
        return material
    own, other = (m.crystal.volume / len(m.crystal) for m in (material, relaxation))
    note = f"the same compound as {relaxation.id}, other relaxation ({own:.1f} A3 an atom, there {other:.1f})"
    return replace(material, notes=(*material.notes, note))


def _link(store: Store, linked: Sequence[tuple[Material, str]], provenance: Provenance) -> list[CopyRecord]:
    """Decide which copy represents each crystal, in the order in which they came; none under an id it has already."""
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
    """Tell whether ``copy`` represents its crystal rather than what is kept.

    The lower energy above the hull where both are known; else what comes with more provenance (an energy, the
    database's query, its version); else what came first.
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
    value = material.properties.get(ENERGY)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _extend(examples: list[Any], more: Sequence[Any]) -> None:
    examples += more[: max(0, EXAMPLES - len(examples))]


def _conflict(material: Material, message: str) -> RejectionRecord:
    remedy = "give this structure an id of its own, or leave it out if it is an outdated version"
    return RejectionRecord(material.source, material.id, RejectionReason.ID_CONFLICT, message, remedy)


def _bad_label(
    material: Material, label_fields: Sequence[LabelField], limits: Mapping[str, Limits]
) -> RejectionRecord | None:
    """Refuse a material with an impossible label, or one beyond ``[labels] limits``, rather than keep it without."""
    for wanted in label_fields:
        if wanted.field in material.properties:
            value = material.properties[wanted.field]
            problem = flaw(value, default_scale(wanted.property))
            if not problem and (limit := beyond(wanted.property, float(value), limits)):
                problem = f"is {limit}"
            if problem:
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
