"""Materials, their sources and properties, and what was refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from db.connection import StoreConnection, chunks
from db.exceptions import InvalidRecordError, UnknownMaterialError
from db.records import (
    AddReport,
    MaterialKey,
    MaterialRecord,
    PropertyValue,
    RejectionRecord,
    SourceRecord,
    require_properties,
    utc_now,
)
from db.tables import Material, MaterialProperty, Rejection, Source

KEY_COLUMNS = tuple(getattr(Material, name) for name in MaterialKey._fields)
SOURCE_COLUMNS = tuple(getattr(Source, name) for name in SourceRecord.__dataclass_fields__)


class Materials(StoreConnection):
    """Verbs and finders of materials."""

    def add_materials(self, batch: Iterable[MaterialRecord]) -> AddReport:
        """Add crystals in one transaction; the same crystal becomes a source, a known id never changes its crystal."""
        records = list(batch)
        with self.session(write=True) as session:
            return _Addition(session, self.lock_campaign(session)).add(records)

    def link_duplicate(
        self, existing_id: str, source: SourceRecord, properties: dict[str, PropertyValue] | None = None
    ) -> None:
        """Record that ``source`` holds the same crystal as ``existing_id`` in near-equal form.

        ``source.content_hash`` is the hash of the linked copy, so that the copy is recognised when it comes again.
        Properties are merged, never overwritten.
        """
        if source.content_hash is None:
            raise InvalidRecordError(
                f"linking {source.record_id!r} to {existing_id!r} needs the content hash of the linked copy"
            )
        require_properties(properties or {}, source.record_id)
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            owner = resolve_owners(session, campaign_pk, [existing_id])[existing_id]
            _Addition(session, campaign_pk).link(owner, source, properties or {})

    def materials(self, ids: Iterable[str] | None = None, chunk: int = 1000) -> Iterator[MaterialRecord]:
        """Materials in order of insertion, or under ``ids`` in their order; memory holds one chunk.

        Each chunk is its own transaction: what is added meanwhile may appear, and writing meanwhile is possible.
        """
        if ids is not None:
            for part in chunks(ids, chunk):
                yield from self._materials_under(part)
            return
        last = 0
        while True:
            with self.session() as session:
                query = select(Material.id).where(Material.campaign_id == self.campaign_pk(session), Material.id > last)
                pks = session.scalars(query.order_by(Material.id).limit(chunk)).all()
                records = _read(session, pks)
            if not pks:
                return
            yield from records.values()
            last = pks[-1]

    def material(self, any_id: str) -> MaterialRecord:
        """Find the material known under ``any_id``."""
        return next(self.materials([any_id]))

    def structures(self, ids: Iterable[str], chunk: int = 1000) -> Iterator[tuple[str, dict[str, Any]]]:
        """Content hash and structure of the materials under ``ids`` in their order, without what else is known."""
        for part in chunks(ids, chunk):
            with self.session() as session:
                owners = resolve_owners(session, self.campaign_pk(session), part)
                found: dict[int, tuple[str, dict[str, Any]]] = {}
                for pks in chunks({pk for pk, _ in owners.values()}):
                    query = select(Material.id, Material.content_hash, Material.structure).where(Material.id.in_(pks))
                    found |= {pk: (digest, structure) for pk, digest, structure in session.execute(query)}
            yield from (found[owners[id_][0]] for id_ in part)

    def material_index(self) -> list[MaterialKey]:
        """Light columns of the whole pool, in order of insertion."""
        with self.session() as session:
            query = select(*KEY_COLUMNS).where(Material.campaign_id == self.campaign_pk(session))
            return [MaterialKey(*row) for row in session.execute(query.order_by(Material.id))]

    def materials_in_buckets(self, buckets: Collection[str]) -> dict[str, list[MaterialRecord]]:
        """Materials of each bucket that has any, in order of insertion."""
        found: dict[str, list[MaterialRecord]] = defaultdict(list)
        with self.session() as session:
            campaign_pk = self.campaign_pk(session)
            for part in chunks(dict.fromkeys(buckets)):
                query = select(Material.id).where(Material.campaign_id == campaign_pk, Material.bucket.in_(part))
                for record in _read(session, session.scalars(query.order_by(Material.id)).all()).values():
                    found[record.bucket].append(record)
        return dict(found)

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
            campaign_pk = self.lock_campaign(session)
            query = select(Rejection.source, Rejection.record_id, Rejection.reason)
            known = {tuple(row) for row in session.execute(query.where(Rejection.campaign_id == campaign_pk))}
            new: dict[tuple[str, str, str], dict[str, Any]] = {}
            for record in batch:
                key = (record.source, record.record_id, record.reason)
                if key not in known:
                    new[key] = vars(record) | {"campaign_id": campaign_pk, "at": record.at or utc_now()}
            if new:
                session.execute(insert(Rejection), list(new.values()))
            return len(new)

    def rejections(self) -> list[RejectionRecord]:
        """Everything that was refused, in order."""
        with self.session() as session:
            query = select(Rejection).where(Rejection.campaign_id == self.campaign_pk(session)).order_by(Rejection.id)
            names = RejectionRecord.__dataclass_fields__
            return [RejectionRecord(**{name: getattr(row, name) for name in names}) for row in session.scalars(query)]

    def _materials_under(self, ids: Sequence[str]) -> list[MaterialRecord]:
        with self.session() as session:
            owners = resolve_owners(session, self.campaign_pk(session), ids)
            records = _read(session, {pk for pk, _ in owners.values()})
        return [records[owners[any_id][0]] for any_id in ids]


class _Addition:
    """One batch on its way in: what is known already, and the rows to write.

    Everything is decided through the table of sources, where each id and each hash a material ever had is a row.
    """

    def __init__(self, session: Session, campaign_pk: int):
        self.session = session
        self.campaign_pk = campaign_pk
        self.pks: dict[str, int] = {}
        self.hash_of_id: dict[str, tuple[str, str]] = {}  # record id -> owner, content hash
        self.owner_of_hash: dict[str, str] = {}
        self.known_sources: set[tuple[str, str]] = set()  # record id, origin
        self.known_properties: set[tuple[str, str]] = set()  # owner, name
        self.sources: list[tuple[str, SourceRecord]] = []
        self.properties: list[tuple[str, str, PropertyValue]] = []

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
        self._insert_materials(new)
        self._insert_details()
        return report

    def link(self, owner: tuple[int, str], source: SourceRecord, properties: dict[str, PropertyValue]) -> None:
        """Add one source, and its properties, to an existing material."""
        pk, material_id = owner
        self._look_up([source.record_id], [str(source.content_hash)])
        clash = self._clash(material_id, [source])
        other = self.owner_of_hash.get(str(source.content_hash), material_id)
        if other != material_id:
            clash = f"that crystal is material {other!r} already"
        if clash:
            raise InvalidRecordError(f"{source.record_id!r} cannot be linked to {material_id!r}: {clash}")
        self.pks[material_id] = pk
        self._load_properties([pk])
        self._take(material_id, [source], properties)
        self._insert_details()

    def _look_up(self, ids: Iterable[str], hashes: Iterable[str]) -> None:
        """Load the sources that share an id or a hash with the batch, and their materials' property names."""
        query = select(Source.record_id, Source.origin, Source.content_hash, Material.id, Material.material_id).join(
            Material, Source.material_pk == Material.id
        )
        query = query.where(Source.campaign_id == self.campaign_pk)
        for column, values in ((Source.record_id, ids), (Source.content_hash, hashes)):
            for part in chunks(dict.fromkeys(values)):
                for record_id, origin, content_hash, pk, owner in self.session.execute(query.where(column.in_(part))):
                    self.pks[owner] = pk
                    self.hash_of_id[record_id] = (owner, content_hash)
                    self.owner_of_hash[content_hash] = owner
                    self.known_sources.add((record_id, origin))
        self._load_properties(self.pks.values())

    def _load_properties(self, pks: Iterable[int]) -> None:
        query = select(Material.material_id, MaterialProperty.name).join(Material)
        for part in chunks(pks):
            rows = self.session.execute(query.where(MaterialProperty.material_pk.in_(part)))
            self.known_properties.update((owner, name) for owner, name in rows)

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

    def _insert_materials(self, records: Sequence[MaterialRecord]) -> None:
        if not records:
            return
        columns = (*MaterialKey._fields, "structure")
        rows = [{name: getattr(record, name) for name in columns} for record in records]
        statement = insert(Material).returning(Material.id, sort_by_parameter_order=True)
        pks = self.session.scalars(statement, [row | {"campaign_id": self.campaign_pk} for row in rows])
        self.pks.update(zip((record.material_id for record in records), pks, strict=True))

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


def _with_hash(source: SourceRecord, content_hash: str) -> SourceRecord:
    return source if source.content_hash is not None else replace(source, content_hash=content_hash)


def _read(session: Session, pks: Collection[int]) -> dict[int, MaterialRecord]:
    """Read whole materials by row, in order of insertion, from plain columns: faster than mapped objects."""
    fields: dict[int, dict[str, Any]] = {}
    properties: dict[int, dict[str, PropertyValue]] = defaultdict(dict)
    sources: dict[int, list[SourceRecord]] = defaultdict(list)
    for part in chunks(sorted(pks)):
        query = select(Material.id, *KEY_COLUMNS, Material.structure).where(Material.id.in_(part))
        for pk, *key, structure in session.execute(query.order_by(Material.id)):
            fields[pk] = dict(zip(MaterialKey._fields, key, strict=True)) | {"structure": structure}
        query = select(MaterialProperty.material_pk, MaterialProperty.name, MaterialProperty.value).where(
            MaterialProperty.material_pk.in_(part)
        )
        for pk, name, value in session.execute(query.order_by(MaterialProperty.id)):
            properties[pk][name] = value
        query = select(Source.material_pk, *SOURCE_COLUMNS).where(Source.material_pk.in_(part))
        for pk, *columns in session.execute(query.order_by(Source.id)):
            sources[pk].append(SourceRecord(*columns))
    return {
        pk: MaterialRecord(**columns, properties=properties[pk], sources=tuple(sources[pk]))
        for pk, columns in fields.items()
    }
