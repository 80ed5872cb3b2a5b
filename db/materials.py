"""Materials, their sources and properties, and rejected records."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy import Row as RowOf
from sqlalchemy.orm import Session

from db.addition import Addition, shard_pk
from db.connection import StoreConnection, chunks
from db.exceptions import BrokenShardError
from db.owners import resolve_owners
from db.records import (
    AddReport,
    CopyRecord,
    Json,
    MaterialKey,
    MaterialRecord,
    PropertyValue,
    RejectionRecord,
    SourceNote,
    SourceRecord,
    utc_now,
)
from db.structures import FULL
from db.tables import Base, Material, MaterialProperty, Rejection, Source, StructureShard

KEY_COLUMNS = tuple(getattr(Material, name) for name in MaterialKey._fields)
SOURCE_COLUMNS = tuple(getattr(Source, name) for name in SourceRecord.__dataclass_fields__)

SMALL = FULL // 4
"""Shards of fewer structures are merged when there are many."""
MOST_SMALL = 16
"""So many of them are left as they are."""
Small = RowOf[int, str, int]
Place = tuple[str, int]
"""Place of a structure: SHA-256 of a shard, and row."""


class Materials(StoreConnection):
    """Methods for materials."""

    def add_materials(self, batch: Iterable[MaterialRecord]) -> AddReport:
        """Add crystals in one transaction; the same crystal becomes a source, a known id never changes its crystal.

        A structure whose shard is missing or damaged is written again when its crystal is added again.
        """
        records = list(batch)
        with self.session(write=True) as session:
            return Addition(session, self.lock_campaign(session), self.shards).add(records)

    def link_copies(self, copies: Iterable[CopyRecord]) -> AddReport:
        """Record near copies of materials of the store; no material is added.

        One under an id of its material is unchanged; one whose id is another material's is a conflict.
        Properties are merged, never overwritten. A copy that is to represent the material replaces its structure,
        space group and hash; a material with a label, a failure or a queue entry, and any while a round is under way,
        is not changed.
        """
        with self.session(write=True) as session:
            return Addition(session, self.lock_campaign(session), self.shards).link(list(copies))

    def compact_structures(self) -> None:
        """Merge small shards where there are many, and delete those without references."""
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            query = select(StructureShard.id, StructureShard.sha256, StructureShard.rows)
            query = query.where(StructureShard.campaign_id == campaign_pk, StructureShard.rows < SMALL)
            small = [row for row in session.execute(query.order_by(StructureShard.id)) if self.shards.is_sound(row[1])]
            if sum(rows for *_, rows in small) < FULL and len(small) <= MOST_SMALL:
                return
            # shards merged by an earlier call are deleted only now, when no process reads them any more
            session.execute(delete(StructureShard).where(~exists().where(Material.shard_pk == StructureShard.id)))
            self.shards.sweep(set(session.scalars(select(StructureShard.sha256))))
            for group in _groups(small):
                rows_of_all = sum(rows for *_, rows in group)
                merged = self.shards.merge(sha256 for _, sha256, _ in group)
                into = shard_pk(session, campaign_pk, merged, rows_of_all)
                start = 0
                for pk, _, rows in group:
                    moved = {"shard_pk": into, "shard_row": Material.shard_row + start}
                    session.execute(update(Material).where(Material.shard_pk == pk).values(moved))
                    start += rows
                session.execute(delete(StructureShard).where(StructureShard.id.in_([pk for pk, *_ in group])))

    def materials(self, ids: Iterable[str] | None = None, chunk: int = 1000) -> Iterator[MaterialRecord]:
        """Materials in order of insertion, or under ``ids`` in their order; memory holds one chunk.

        Each chunk is its own transaction: materials added meanwhile may appear, and writing meanwhile is possible.

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
        """Content hash and structure of the materials under ``ids`` in their order, without other data."""
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
        """Key columns of the whole pool, in order of insertion, or of the materials under ``ids`` in their order."""
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

    def material_columns(
        self, size: int | None = None, chunk: int = 32_768
    ) -> Iterator[tuple[tuple[object, ...], ...]]:
        """Key columns of the pool (or of its first ``size`` materials) in order of insertion, part by part.

        Each part holds one tuple for each field of :class:`MaterialKey`, of ``chunk`` materials at most.
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
        """Key columns of the materials of each bucket that has any, in order of insertion."""
        found: dict[str, list[MaterialKey]] = defaultdict(list)
        with self.session() as session:
            query = select(*KEY_COLUMNS).where(Material.campaign_id == self.campaign_pk(session)).order_by(Material.id)
            for part in chunks(dict.fromkeys(buckets)):
                for row in session.execute(query.where(Material.bucket.in_(part))):
                    key = MaterialKey(*row)
                    found[key.bucket].append(key)
        return dict(found)

    def known_hashes(self, hashes: Iterable[str]) -> set[str]:
        """The ``hashes`` that a crystal was ever added with."""
        with self.session() as session:
            query = select(Source.content_hash).where(Source.campaign_id == self.campaign_pk(session))
            parts = chunks(dict.fromkeys(hashes))
            return {h for part in parts for h in session.scalars(query.where(Source.content_hash.in_(part)))}

    def with_hashes(self, hashes: Iterable[str]) -> dict[str, MaterialKey]:
        """Materials whose own crystal has one of ``hashes``, by hash."""
        with self.session() as session:
            query = select(*KEY_COLUMNS).where(Material.campaign_id == self.campaign_pk(session))
            rows = [
                MaterialKey(*row)
                for part in chunks(dict.fromkeys(hashes))
                for row in session.execute(query.where(Material.content_hash.in_(part)))
            ]
        return {key.content_hash: key for key in rows}

    def resolve(self, record_id: str) -> str:
        """Id of the material that has, or ever had, the id ``record_id``."""
        return self.resolve_all([record_id])[record_id]

    def resolve_all(self, record_ids: Iterable[str]) -> dict[str, str]:
        """As :meth:`resolve`, for many; unknown ids raise one :class:`UnknownMaterialError` that lists all."""
        with self.session() as session:
            owners = resolve_owners(session, self.campaign_pk(session), record_ids)
        return {record_id: material_id for record_id, (_, material_id) in owners.items()}

    def property_names(self) -> dict[str, int]:
        """Number of materials with each property."""
        with self.session() as session:
            query = (
                select(MaterialProperty.name, func.count())
                .join(Material)
                .where(Material.campaign_id == self.campaign_pk(session))
                .group_by(MaterialProperty.name)
            )
            return dict(sorted(session.execute(query).all()))

    def property_values(
        self, names: Iterable[str], ids: Iterable[str] | None = None
    ) -> dict[str, dict[str, PropertyValue]]:
        """Known values by property and material id, of all materials or those whose own ids are among ``ids``.

        A material without the property is absent.
        """
        values: dict[str, dict[str, PropertyValue]] = {name: {} for name in names}
        with self.session() as session:
            query = (
                select(MaterialProperty.name, Material.material_id, MaterialProperty.value)
                .join(Material)
                .where(Material.campaign_id == self.campaign_pk(session), MaterialProperty.name.in_(values))
                .order_by(Material.id)
            )
            parts = [None] if ids is None else [Material.material_id.in_(p) for p in chunks(dict.fromkeys(ids))]
            for part in parts:
                for name, material_id, value in session.execute(query if part is None else query.where(part)):
                    values[name][material_id] = value
        return values

    def add_property(self, name: str, values: Mapping[str, PropertyValue]) -> None:
        """Add a property to materials that lack it, by any of their ids; known values are not changed."""
        with self.session(write=True) as session:
            owners = resolve_owners(session, self.lock_campaign(session), values)
            rows = [{"material_pk": owners[id_][0], "name": name, "value": v} for id_, v in values.items()]
            if rows:
                session.execute(_insert(session, MaterialProperty).on_conflict_do_nothing(), rows)

    def set_properties(self, values: Mapping[str, Mapping[str, PropertyValue | None]]) -> None:
        """Set properties by material id (any) and name, whatever they were before; None removes one."""
        with self.session(write=True) as session:
            owners = resolve_owners(session, self.lock_campaign(session), values)
            rows = []
            for id_, properties in values.items():
                pk = owners[id_][0]
                of_material = MaterialProperty.material_pk == pk
                session.execute(delete(MaterialProperty).where(of_material, MaterialProperty.name.in_(properties)))
                rows += [
                    {"material_pk": pk, "name": name, "value": value}
                    for name, value in properties.items()
                    if value is not None
                ]
            if rows:
                session.execute(_insert(session, MaterialProperty), rows)

    def add_rejections(self, batch: Iterable[RejectionRecord]) -> int:
        """Add rejected records; return the number of new ones (same source, id and reason is not new)."""
        with self.session(write=True) as session:
            own = {"campaign_id": self.lock_campaign(session)}
            rows = [vars(record) | own | {"at": record.at or utc_now()} for record in batch]
            if not rows:
                return 0
            statement = _insert(session, Rejection).on_conflict_do_nothing().returning(Rejection.id)
            return len(session.scalars(statement, rows).all())

    def rejections(self) -> list[RejectionRecord]:
        """All rejected records, in order."""
        with self.session() as session:
            query = select(Rejection).where(Rejection.campaign_id == self.campaign_pk(session)).order_by(Rejection.id)
            names = RejectionRecord.__dataclass_fields__
            return [RejectionRecord(**{name: getattr(row, name) for name in names}) for row in session.scalars(query)]

    def source_notes(self) -> list[SourceNote]:
        """All crystals added with a note, in order."""
        with self.session() as session:
            query = select(Source.origin, Source.record_id, Material.material_id, Source.note)
            query = query.join(Material, Source.material_pk == Material.id)
            query = query.where(Source.campaign_id == self.campaign_pk(session), Source.note != "")
            return [SourceNote(*row) for row in session.execute(query.order_by(Source.id))]

    def _materials_under(self, ids: Sequence[str]) -> list[MaterialRecord]:
        with self.session() as session:
            owners = resolve_owners(session, self.campaign_pk(session), ids)
            records = self._read(session, {pk for pk, _ in owners.values()})
        return [records[owners[any_id][0]] for any_id in ids]

    def _read(self, session: Session, pks: Collection[int]) -> dict[int, MaterialRecord]:
        """Read whole materials by row, in order of insertion, from plain columns, faster than mapped objects."""
        fields: dict[int, Json] = {}
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


def _insert(session: Session, table: type[Base]) -> Any:
    """Insert statement of this database that skips existing rows."""
    if session.get_bind().dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def _after(last: int, campaign_pk: int) -> tuple[ColumnElement[bool], ...]:
    """Condition for materials behind row ``last``; a sum keeps SQLite off the index of the campaign."""
    return Material.id > last, Material.campaign_id + 0 == campaign_pk


def _groups(small: Sequence[Small]) -> Iterator[list[Small]]:
    """Shards to merge into one, each of at most :data:`FULL` rows."""
    group: list[Small] = []
    for row in small:
        if sum(rows for *_, rows in [*group, row]) > FULL:
            if len(group) > 1:
                yield group
            group = []
        group.append(row)
    if len(group) > 1:
        yield group


def _origins(session: Session, sha256: str) -> list[str]:
    """Files and databases that the structures of a shard came from, the first few."""
    query = select(Source.origin).join(Material, Source.material_pk == Material.id)
    query = query.join(StructureShard, Material.shard_pk == StructureShard.id).where(StructureShard.sha256 == sha256)
    files = dict.fromkeys(_PLACE_IN_FILE.sub("", origin) for origin in session.scalars(query.order_by(Source.id)))
    return [*list(files)[:3], *(["..."] if len(files) > 3 else [])]


_PLACE_IN_FILE = re.compile(r"(::.*|:\d+|\[\d+\]|#.*)$")
