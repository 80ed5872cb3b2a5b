"""Materials, their sources and properties, and what was refused."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.connection import StoreConnection, chunks
from db.exceptions import BrokenShardError, UnknownMaterialError
from db.records import (
    AddReport,
    CopyRecord,
    Json,
    MaterialKey,
    MaterialRecord,
    PropertyValue,
    RejectionRecord,
    SourceRecord,
    utc_now,
)
from db.states import RoundState
from db.structures import FULL, Shards
from db.tables import (
    Failure,
    Label,
    Material,
    MaterialProperty,
    QueueEntry,
    Rejection,
    Round,
    Source,
    StructureShard,
)

KEY_COLUMNS = tuple(getattr(Material, name) for name in MaterialKey._fields)
SOURCE_COLUMNS = tuple(getattr(Source, name) for name in SourceRecord.__dataclass_fields__)


SMALL = FULL // 4
"""Shards of fewer structures are merged when there are many."""
MANY = 16
Place = tuple[str, int]
"""Where a structure is: SHA-256 of a shard, and row."""


class Materials(StoreConnection):
    """Verbs and finders of materials."""

    def add_materials(self, batch: Iterable[MaterialRecord]) -> AddReport:
        """Add crystals in one transaction; the same crystal becomes a source, a known id never changes its crystal.

        A structure whose shard is missing or damaged is written again when its crystal comes again.
        """
        records = list(batch)
        with self.session(write=True) as session:
            return _Addition(session, self.lock_campaign(session), self.shards).add(records)

    def link_copies(self, copies: Iterable[CopyRecord]) -> list[tuple[str, str]]:
        """Record crystals that are materials of the store in nearly equal form; ids that cannot be linked, and why.

        Properties are merged, never overwritten. A copy that is to represent the material gives it its structure,
        space group and hash; a material with a label, a failure or a queue entry, and any while a round is under way,
        stays as it is.
        """
        with self.session(write=True) as session:
            return _Addition(session, self.lock_campaign(session), self.shards).link(list(copies))

    def compact_structures(self) -> None:
        """Merge small shards where there are many, and delete those that nobody refers to any more."""
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            query = select(StructureShard.id, StructureShard.sha256, StructureShard.rows)
            query = query.where(StructureShard.campaign_id == campaign_pk, StructureShard.rows < SMALL)
            small = [row for row in session.execute(query.order_by(StructureShard.id)) if self.shards.is_sound(row[1])]
            if sum(rows for *_, rows in small) < FULL and len(small) <= MANY:
                return
            # what an earlier call has merged is deleted now only, when nobody reads it any more
            session.execute(delete(StructureShard).where(~exists().where(Material.shard_pk == StructureShard.id)))
            self.shards.sweep(set(session.scalars(select(StructureShard.sha256))))
            for group in _groups(small):
                rows_of_all = sum(rows for *_, rows in group)
                merged = self.shards.merge(sha256 for _, sha256, _ in group)
                into = _shard_pk(session, campaign_pk, merged, rows_of_all)
                start = 0
                for pk, _, rows in group:
                    moved = {"shard_pk": into, "shard_row": Material.shard_row + start}
                    session.execute(update(Material).where(Material.shard_pk == pk).values(moved))
                    start += rows
                session.execute(delete(StructureShard).where(StructureShard.id.in_([pk for pk, *_ in group])))

    def materials(self, ids: Iterable[str] | None = None, chunk: int = 1000) -> Iterator[MaterialRecord]:
        """Materials in order of insertion, or under ``ids`` in their order; memory holds one chunk.

        Each chunk is its own transaction: what is added meanwhile may appear, and writing meanwhile is possible.

        Raises
        ------
        BrokenShardError
            If structures are missing or damaged on the disk.
        """
        if ids is not None:
            for part in chunks(ids, chunk):
                yield from self._materials_under(part)
            return
        last = 0
        while True:
            with self.session() as session:
                query = select(Material.id).where(*_after(last, self.campaign_pk(session)))
                pks = session.scalars(query.order_by(Material.id).limit(chunk)).all()
                records = self._read(session, pks)
            if not pks:
                return
            yield from records.values()
            last = pks[-1]

    def material(self, any_id: str) -> MaterialRecord:
        """Find the material known under ``any_id``."""
        return next(self.materials([any_id]))

    def structures(self, ids: Iterable[str], chunk: int = FULL) -> Iterator[tuple[str, Json]]:
        """Content hash and structure of the materials under ``ids`` in their order, without what else is known."""
        for part in chunks(ids, chunk):
            with self.session() as session:
                owners = resolve_owners(session, self.campaign_pk(session), part)
                hashes: dict[int, str] = {}
                places: dict[int, Place] = {}
                for pks in chunks({pk for pk, _ in owners.values()}):
                    query = select(Material.id, Material.content_hash, StructureShard.sha256, Material.shard_row)
                    query = query.join(StructureShard, Material.shard_pk == StructureShard.id)
                    for pk, content_hash, sha256, row in session.execute(query.where(Material.id.in_(pks))):
                        hashes[pk], places[pk] = content_hash, (sha256, row)
                found = self._structures(session, places)
            yield from ((hashes[pk], found[pk]) for pk in (owners[id_][0] for id_ in part))

    def material_index(self, ids: Iterable[str] | None = None) -> list[MaterialKey]:
        """Light columns of the whole pool, in order of insertion, or of the materials under ``ids`` in their order."""
        with self.session() as session:
            query = select(*KEY_COLUMNS).where(Material.campaign_id == self.campaign_pk(session))
            if ids is None:
                return [MaterialKey(*row) for row in session.execute(query.order_by(Material.id))]
            wanted = list(ids)
            owners = resolve_owners(session, self.campaign_pk(session), wanted)
            found: dict[str, MaterialKey] = {}
            for part in chunks({pk for pk, _ in owners.values()}):
                found |= {row[0]: MaterialKey(*row) for row in session.execute(query.where(Material.id.in_(part)))}
        return [found[owners[id_][1]] for id_ in wanted]

    def material_columns(self, size: int | None = None, chunk: int = 32_768) -> Iterator[tuple[tuple[Any, ...], ...]]:
        """Light columns of the pool (or of its first ``size`` materials) in order of insertion, part by part.

        Each part holds one tuple a field of :class:`MaterialKey`, of ``chunk`` materials at most.
        """
        last, left = 0, math.inf if size is None else size
        while left > 0:
            with self.session() as session:
                query = select(Material.id, *KEY_COLUMNS).where(*_after(last, self.campaign_pk(session)))
                # plain rows of the connection take half the time of the session's
                rows = session.connection().execute(query.order_by(Material.id).limit(int(min(chunk, left)))).all()
            if not rows:
                return
            yield tuple(zip(*rows, strict=True))[1:]
            last, left = rows[-1][0], left - len(rows)

    def in_buckets(self, buckets: Iterable[str]) -> dict[str, list[MaterialKey]]:
        """Light columns of the materials of each bucket that has any, in order of insertion."""
        found: dict[str, list[MaterialKey]] = defaultdict(list)
        with self.session() as session:
            query = select(*KEY_COLUMNS).where(Material.campaign_id == self.campaign_pk(session)).order_by(Material.id)
            for part in chunks(dict.fromkeys(buckets)):
                for row in session.execute(query.where(Material.bucket.in_(part))):
                    key = MaterialKey(*row)
                    found[key.bucket].append(key)
        return dict(found)

    def known_hashes(self, hashes: Iterable[str]) -> set[str]:
        """Those of ``hashes`` under which a crystal ever came in."""
        with self.session() as session:
            query = select(Source.content_hash).where(Source.campaign_id == self.campaign_pk(session))
            parts = chunks(dict.fromkeys(hashes))
            return {h for part in parts for h in session.scalars(query.where(Source.content_hash.in_(part)))}

    def resolve(self, record_id: str) -> str:
        """Id of the material that is, or ever came in, under ``record_id``."""
        return self.resolve_all([record_id])[record_id]

    def resolve_all(self, record_ids: Iterable[str]) -> dict[str, str]:
        """As :meth:`resolve`, for many; one unknown id raises :class:`UnknownMaterialError` that lists them all."""
        with self.session() as session:
            owners = resolve_owners(session, self.campaign_pk(session), record_ids)
        return {record_id: material_id for record_id, (_, material_id) in owners.items()}

    def property_names(self) -> dict[str, int]:
        """How many materials have each property."""
        with self.session() as session:
            query = (
                select(MaterialProperty.name, func.count())
                .join(Material)
                .where(Material.campaign_id == self.campaign_pk(session))
                .group_by(MaterialProperty.name)
            )
            return dict(sorted(session.execute(query).all()))

    def property_values(self, names: Iterable[str]) -> dict[str, dict[str, PropertyValue]]:
        """Known values by property and material id; a material without the property is absent."""
        values: dict[str, dict[str, PropertyValue]] = {name: {} for name in names}
        with self.session() as session:
            query = (
                select(MaterialProperty.name, Material.material_id, MaterialProperty.value)
                .join(Material)
                .where(Material.campaign_id == self.campaign_pk(session), MaterialProperty.name.in_(values))
                .order_by(Material.id)
            )
            for name, material_id, value in session.execute(query):
                values[name][material_id] = value
        return values

    def add_rejections(self, batch: Iterable[RejectionRecord]) -> int:
        """Keep what was refused; return how many were new (same source, id and reason is known already)."""
        with self.session(write=True) as session:
            own = {"campaign_id": self.lock_campaign(session)}
            rows = [vars(record) | own | {"at": record.at or utc_now()} for record in batch]
            if not rows:
                return 0
            dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
            statement = dialect.insert(Rejection).on_conflict_do_nothing().returning(Rejection.id)
            return len(session.scalars(statement, rows).all())

    def rejections(self) -> list[RejectionRecord]:
        """Everything that was refused, in order."""
        with self.session() as session:
            query = select(Rejection).where(Rejection.campaign_id == self.campaign_pk(session)).order_by(Rejection.id)
            names = RejectionRecord.__dataclass_fields__
            return [RejectionRecord(**{name: getattr(row, name) for name in names}) for row in session.scalars(query)]

    def _materials_under(self, ids: Sequence[str]) -> list[MaterialRecord]:
        with self.session() as session:
            owners = resolve_owners(session, self.campaign_pk(session), ids)
            records = self._read(session, {pk for pk, _ in owners.values()})
        return [records[owners[any_id][0]] for any_id in ids]

    def _read(self, session: Session, pks: Collection[int]) -> dict[int, MaterialRecord]:
        """Read whole materials by row, in order of insertion, from plain columns: faster than mapped objects."""
        fields: dict[int, dict[str, Any]] = {}
        places: dict[int, Place] = {}
        properties: dict[int, dict[str, PropertyValue]] = defaultdict(dict)
        sources: dict[int, list[SourceRecord]] = defaultdict(list)
        for part in chunks(sorted(pks)):
            query = select(Material.id, StructureShard.sha256, Material.shard_row, *KEY_COLUMNS)
            query = query.join(StructureShard, Material.shard_pk == StructureShard.id).where(Material.id.in_(part))
            for pk, sha256, row, *key in session.execute(query.order_by(Material.id)):
                fields[pk] = dict(zip(MaterialKey._fields, key, strict=True))
                places[pk] = sha256, row
            query = select(MaterialProperty.material_pk, MaterialProperty.name, MaterialProperty.value).where(
                MaterialProperty.material_pk.in_(part)
            )
            for pk, name, value in session.execute(query.order_by(MaterialProperty.id)):
                properties[pk][name] = value
            query = select(Source.material_pk, *SOURCE_COLUMNS).where(Source.material_pk.in_(part))
            for pk, *columns in session.execute(query.order_by(Source.id)):
                sources[pk].append(SourceRecord(*columns))
        structures = self._structures(session, places)
        return {
            pk: MaterialRecord(
                **columns, structure=structures[pk], properties=properties[pk], sources=tuple(sources[pk])
            )
            for pk, columns in fields.items()
        }

    def _structures(self, session: Session, places: Mapping[int, Place]) -> dict[int, Json]:
        """Structures by row of the table of materials; each shard is read once."""
        wanted: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for pk, (sha256, row) in places.items():
            wanted[sha256].append((pk, row))
        found: dict[int, Json] = {}
        for sha256, rows in wanted.items():
            try:
                structures = self.shards.read(sha256, [row for _, row in rows])
            except BrokenShardError as error:
                raise BrokenShardError(error.path, error.fault, _origins(session, sha256)) from error
            found.update(zip((pk for pk, _ in rows), structures, strict=True))
        return found


class _Addition:
    """One batch on its way in: what is known already, and the rows to write.

    Everything is decided through the table of sources, where each id and each hash a material ever had is a row.
    """

    def __init__(self, session: Session, campaign_pk: int, shards: Shards):
        self.session = session
        self.campaign_pk = campaign_pk
        self.shards = shards
        self.pks: dict[str, int] = {}
        self.held: dict[str, tuple[str, str]] = {}  # owner -> content hash, shard of its structure
        self.hash_of_id: dict[str, tuple[str, str]] = {}  # record id -> owner, content hash
        self.owner_of_hash: dict[str, str] = {}
        self.known_sources: set[tuple[str, str]] = set()  # record id, origin
        self.known_properties: set[tuple[str, str]] = set()  # owner, name
        self.sources: list[tuple[str, SourceRecord]] = []
        self.properties: list[tuple[str, str, PropertyValue]] = []
        self.renewed: dict[str, MaterialRecord] = {}  # owner -> whose structure it gets

    def add(self, records: Sequence[MaterialRecord]) -> AddReport:
        """Decide what each record is, then write it all."""
        report = AddReport([], [], [], [])
        new: list[MaterialRecord] = []
        ids = [source.record_id for record in records for source in record.sources]
        self._look_up(ids, [record.content_hash for record in records])
        for record in records:
            sources = [_with_hash(source, record.content_hash) for source in record.sources]
            owner = self._owner(record, sources)
            if clash := self._clash(owner, sources):
                report.conflicts.append((record.material_id, clash))
                continue
            if owner is None:
                owner = record.material_id
                new.append(record)
                report.added.append(owner)
            elif record.material_id in self.hash_of_id:
                report.unchanged.append(record.material_id)
            else:
                report.duplicates.append((record.material_id, owner))
            self._take(owner, sources, record.properties)
            if self._is_lost(owner, record):
                self.renewed[owner] = record
        self._insert_materials(new)
        self._insert_details()
        self._renew()
        return report

    def link(self, copies: Sequence[CopyRecord]) -> list[tuple[str, str]]:
        """Add sources and properties to existing materials, and structures where copies represent them."""
        owners = resolve_owners(self.session, self.campaign_pk, [link.existing_id for link in copies])
        pks = {pk for pk, _ in owners.values()}
        ids = [material_id for _, material_id in owners.values()]
        sources = [_with_hash(link.copy.sources[0], link.copy.content_hash) for link in copies]
        self._look_up([*ids, *(source.record_id for source in sources)], [str(s.content_hash) for s in sources])
        used = self._used(pks) if any(link.represents for link in copies) else pks
        conflicts = []
        for link, source in zip(copies, sources, strict=True):
            pk, material_id = owners[link.existing_id]
            clash = self._clash(material_id, [source])
            other = self.owner_of_hash.get(link.copy.content_hash, material_id)
            if other != material_id:
                clash = f"that crystal is material {other!r} already"
            if clash:
                words = f"{source.record_id!r} cannot be linked to {material_id!r}: {clash}"
                conflicts.append((source.record_id, words))
                continue
            self._take(material_id, [source], link.copy.properties)
            if link.represents and pk not in used:
                self.renewed[material_id] = link.copy
        self._insert_details()
        self._renew()
        return conflicts

    def _look_up(self, ids: Iterable[str], hashes: Iterable[str]) -> None:
        """Load the sources that share an id or a hash with the batch, and their materials' property names."""
        query = (
            select(
                Source.record_id,
                Source.origin,
                Source.content_hash,
                Material.id,
                Material.material_id,
                Material.content_hash,
                StructureShard.sha256,
            )
            .join(Material, Source.material_pk == Material.id)
            .join(StructureShard, Material.shard_pk == StructureShard.id)
            .where(Source.campaign_id == self.campaign_pk)
        )
        for column, values in ((Source.record_id, ids), (Source.content_hash, hashes)):
            for part in chunks(dict.fromkeys(values)):
                rows = self.session.execute(query.where(column.in_(part)))
                for record_id, origin, content_hash, pk, owner, own_hash, sha256 in rows:
                    self.pks[owner] = pk
                    self.held[owner] = own_hash, sha256
                    self.hash_of_id[record_id] = (owner, content_hash)
                    self.owner_of_hash[content_hash] = owner
                    self.known_sources.add((record_id, origin))
        names = select(Material.material_id, MaterialProperty.name).join(Material)
        for pks in chunks(self.pks.values()):
            known = self.session.execute(names.where(MaterialProperty.material_pk.in_(pks)))
            self.known_properties.update((owner, name) for owner, name in known)

    def _owner(self, record: MaterialRecord, sources: Sequence[SourceRecord]) -> str | None:
        """Find the material that ``record`` is a copy of, by its hash or by an id and hash it came in under before."""
        known = self.hash_of_id.get(record.material_id)
        if known and known[1] == record.content_hash:
            return known[0]
        owners = (self.owner_of_hash.get(str(source.content_hash)) for source in sources)
        return self.owner_of_hash.get(record.content_hash) or next((owner for owner in owners if owner), None)

    def _clash(self, owner: str | None, sources: Sequence[SourceRecord]) -> str | None:
        """Say which id is known already as another crystal, if one is."""
        for source in sources:
            known = self.hash_of_id.get(source.record_id)
            if known and (known[1] != source.content_hash or known[0] != owner):
                return (
                    f"id {source.record_id!r} is known already with another crystal (material {known[0]!r}, content "
                    f"hash {known[1]}, received {source.content_hash}); give the new crystal an id of its own"
                )
        return None

    def _take(self, owner: str, sources: Iterable[SourceRecord], properties: dict[str, PropertyValue]) -> None:
        """Note what is to be written, so that later records of the batch see it too."""
        for source in sources:
            content_hash = str(source.content_hash)
            self.hash_of_id[source.record_id] = (owner, content_hash)
            self.owner_of_hash.setdefault(content_hash, owner)
            if (source.record_id, source.origin) not in self.known_sources:
                self.known_sources.add((source.record_id, source.origin))
                self.sources.append((owner, source))
        for name, value in properties.items():
            if (owner, name) not in self.known_properties:
                self.known_properties.add((owner, name))
                self.properties.append((owner, name, value))

    def _is_lost(self, owner: str, record: MaterialRecord) -> bool:
        """Whether ``record`` brings back a structure that cannot be read any more."""
        own_hash, sha256 = self.held.get(owner, ("", ""))
        return own_hash == record.content_hash and not self.shards.is_sound(sha256)

    def _used(self, pks: Collection[int]) -> set[int]:
        """Those of the materials whose structure something was decided on."""
        last = select(Round.state).where(Round.campaign_id == self.campaign_pk).order_by(Round.number.desc()).limit(1)
        state = self.session.scalar(last)
        if state is not None and state.step < RoundState.QUEUED.step:
            return set(pks)
        columns = (Label.material_pk, Failure.material_pk, QueueEntry.material_pk)
        return {
            pk
            for column in columns
            for part in chunks(pks)
            for pk in self.session.scalars(select(column).where(column.in_(part)))
        }

    def _insert_materials(self, records: Sequence[MaterialRecord]) -> None:
        for part in chunks(records, FULL):
            shard = self._write(part)
            rows = [
                {name: getattr(record, name) for name in MaterialKey._fields}
                | {"campaign_id": self.campaign_pk, "shard_pk": shard, "shard_row": i}
                for i, record in enumerate(part)
            ]
            statement = insert(Material).returning(Material.id, sort_by_parameter_order=True)
            pks = self.session.scalars(statement, rows)
            self.pks.update(zip((record.material_id for record in part), pks, strict=True))

    def _insert_details(self) -> None:
        now = utc_now()
        if self.sources:
            own = {"campaign_id": self.campaign_pk}
            rows = [vars(source) | own | {"material_pk": self.pks[owner]} for owner, source in self.sources]
            self.session.execute(insert(Source), [row | {"retrieved_at": row["retrieved_at"] or now} for row in rows])
        if self.properties:
            values = [
                {"material_pk": self.pks[owner], "name": name, "value": value} for owner, name, value in self.properties
            ]
            self.session.execute(insert(MaterialProperty), values)

    def _renew(self) -> None:
        """Give materials another structure."""
        names = ("content_hash", "spacegroup")
        statement = update(Material).where(Material.id == bindparam("row"))
        for part in chunks(self.renewed.items(), FULL):
            shard = self._write([record for _, record in part])
            rows = [
                {"row": self.pks[owner], "shard_pk": shard, "shard_row": i} | {n: getattr(record, n) for n in names}
                for i, (owner, record) in enumerate(part)
            ]
            self.session.connection().execute(
                statement.values({n: bindparam(n) for n in ("shard_pk", "shard_row", *names)}), rows
            )

    def _write(self, records: Sequence[MaterialRecord]) -> int:
        """Write structures to a shard, which is on the disk before any row refers to it."""
        return _shard_pk(
            self.session, self.campaign_pk, self.shards.write([record.structure for record in records]), len(records)
        )


def resolve_owners(session: Session, campaign_pk: int, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Row and id of the material behind each id, whichever of its ids it is; all unknown ids in one error."""
    wanted = list(dict.fromkeys(ids))
    owners = find_owners(session, campaign_pk, wanted)
    if unknown := [record_id for record_id in wanted if record_id not in owners]:
        shown = ", ".join(repr(record_id) for record_id in unknown[:20])
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        raise UnknownMaterialError(f"no material under {shown}{more}; ingest it first, or check the id")
    return owners


def find_owners(session: Session, campaign_pk: int, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Row and id of the material behind each id; unknown ids are absent."""
    owners: dict[str, tuple[int, str]] = {}
    query = select(Source.record_id, Material.id, Material.material_id).join(
        Material, Source.material_pk == Material.id
    )
    for part in chunks(dict.fromkeys(ids)):
        rows = session.execute(query.where(Source.campaign_id == campaign_pk, Source.record_id.in_(part)))
        owners.update({record_id: (pk, material_id) for record_id, pk, material_id in rows})
    return owners


def _after(last: int, campaign_pk: int) -> tuple[ColumnElement[bool], ...]:
    """Tell materials behind row ``last``; the sum keeps SQLite from walking an index of the campaign at every chunk."""
    return Material.id > last, Material.campaign_id + 0 == campaign_pk


def _with_hash(source: SourceRecord, content_hash: str) -> SourceRecord:
    return source if source.content_hash is not None else replace(source, content_hash=content_hash)


def _shard_pk(session: Session, campaign_pk: int, sha256: str, rows: int) -> int:
    """Row of a shard, which may be there already: the same structures give the same file."""
    own = (StructureShard.campaign_id == campaign_pk, StructureShard.sha256 == sha256)
    known = session.scalar(select(StructureShard.id).where(*own))
    if known is None:
        statement = insert(StructureShard).returning(StructureShard.id)
        known = session.scalars(statement, [{"campaign_id": campaign_pk, "sha256": sha256, "rows": rows}]).one()
    return known


def _groups(small: Sequence[Any]) -> Iterator[list[Any]]:
    """Shards to merge into one, each of at most :data:`FULL` rows."""
    group: list[Any] = []
    for row in [*small, None]:
        if row is None or sum(rows for *_, rows in [*group, row]) > FULL:
            if len(group) > 1:
                yield group
            group = []
        group.append(row)


def _origins(session: Session, sha256: str) -> list[str]:
    """Files and databases that the structures of a shard came from, the first few."""
    query = select(Source.origin).join(Material, Source.material_pk == Material.id)
    query = query.join(StructureShard, Material.shard_pk == StructureShard.id).where(StructureShard.sha256 == sha256)
    files = dict.fromkeys(_PLACE_IN_FILE.sub("", origin) for origin in session.scalars(query.order_by(Source.id)))
    return [*list(files)[:3], *(["..."] if len(files) > 3 else [])]


_PLACE_IN_FILE = re.compile(r"(::.*|:\d+|\[\d+\]|#.*)$")
