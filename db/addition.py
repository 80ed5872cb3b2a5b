"""Addition of one batch of materials to the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from db.connection import chunks
from db.owners import resolve_owners
from db.records import (
    AddReport,
    CopyRecord,
    MaterialKey,
    MaterialRecord,
    PropertyValue,
    SourceRecord,
    utc_now,
)
from db.states import RoundState
from db.structures import FULL, Shards
from db.tables import Failure, Label, Material, MaterialProperty, QueueEntry, Round, Source, StructureShard


class Addition:
    """One batch to add: what is known already, and the rows to write.

    Known materials are found by the table of sources, which has a row for each id and hash a material ever had.
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
        self.renewed: dict[str, MaterialRecord] = {}  # owner -> record whose structure it gets

    def add(self, records: Sequence[MaterialRecord]) -> AddReport:
        """Classify each record, then write all."""
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

    def link(self, copies: Sequence[CopyRecord]) -> AddReport:
        """Add sources and properties to existing materials, and structures where copies represent them."""
        report = AddReport([], [], [], [])
        owners = resolve_owners(self.session, self.campaign_pk, [link.existing_id for link in copies])
        pks = {pk for pk, _ in owners.values()}
        ids = [material_id for _, material_id in owners.values()]
        sources = [_with_hash(link.copy.sources[0], link.copy.content_hash) for link in copies]
        self._look_up([*ids, *(source.record_id for source in sources)], [str(s.content_hash) for s in sources])
        used = self._used(pks) if any(link.represents for link in copies) else pks
        for link, source in zip(copies, sources, strict=True):
            pk, material_id = owners[link.existing_id]
            clash = self._clash(material_id, [source])
            other = self.owner_of_hash.get(link.copy.content_hash, material_id)
            if other != material_id:
                clash = f"that crystal is material {other!r} already"
            if clash:
                words = f"{source.record_id!r} cannot be linked to {material_id!r}: {clash}"
                report.conflicts.append((source.record_id, words))
                continue
            if source.record_id in self.hash_of_id:
                report.unchanged.append(source.record_id)
            else:
                report.duplicates.append((source.record_id, material_id))
            self._take(material_id, [source], link.copy.properties)
            if link.represents and pk not in used:
                self.renewed[material_id] = link.copy
        self._insert_details()
        self._renew()
        return report

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
        """Find the material that ``record`` is a copy of, by its hash or by an id and hash it had before."""
        known = self.hash_of_id.get(record.material_id)
        if known and known[1] == record.content_hash:
            return known[0]
        owners = (self.owner_of_hash.get(str(source.content_hash)) for source in sources)
        return self.owner_of_hash.get(record.content_hash) or next((owner for owner in owners if owner), None)

    def _clash(self, owner: str | None, sources: Sequence[SourceRecord]) -> str | None:
        """Message on an id that is known as another crystal, if there is one."""
        for source in sources:
            known = self.hash_of_id.get(source.record_id)
            if known and known[0] != owner:
                return (
                    f"id {source.record_id!r} is known already with another crystal (material {known[0]!r}, content "
                    f"hash {known[1]}, received {source.content_hash}); give the new crystal another id"
                )
        return None

    def _take(self, owner: str, sources: Iterable[SourceRecord], properties: dict[str, PropertyValue]) -> None:
        """Record what is to be written, so that later records of the batch are compared with it."""
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
        """Whether ``record`` restores a structure that can no longer be read."""
        own_hash, sha256 = self.held.get(owner, ("", ""))
        return own_hash == record.content_hash and not self.shards.is_sound(sha256)

    def _used(self, pks: Collection[int]) -> set[int]:
        """Materials whose structure cannot be replaced: with a label, a failure, a queue entry, or during a round."""
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
        """Replace the structure of materials."""
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
        """Write structures to a shard, which is on disk before any row refers to it."""
        return shard_pk(
            self.session, self.campaign_pk, self.shards.write([record.structure for record in records]), len(records)
        )


def shard_pk(session: Session, campaign_pk: int, sha256: str, rows: int) -> int:
    """Row of a shard, which may exist already: the same structures give the same file."""
    own = (StructureShard.campaign_id == campaign_pk, StructureShard.sha256 == sha256)
    known = session.scalar(select(StructureShard.id).where(*own))
    if known is None:
        statement = insert(StructureShard).returning(StructureShard.id)
        known = session.scalars(statement, [{"campaign_id": campaign_pk, "sha256": sha256, "rows": rows}]).one()
    return known


def _with_hash(source: SourceRecord, content_hash: str) -> SourceRecord:
    return source if source.content_hash is not None else replace(source, content_hash=content_hash)
