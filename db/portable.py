"""A campaign's rows as plain JSON values, read from one database and written to another.

Tables are read from the database, not from the models of this program, so that the rows of an older
version can be loaded into tables of their own version and then be upgraded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import (
    JSON,
    URL,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session

from db import schema
from db.connection import (
    LOCK_TIMEOUT,
    StoreConnection,
    chunks,
    make_engine,
    structures_folder,
    to_url,
    wrapped_errors,
)
from db.exceptions import InvalidRecordError, StoreFromNewerVersionError
from db.records import Json
from db.tables import SCHEMA_VERSION

BATCH = 1000  # rows in memory together
Rows = Iterable[tuple[str, Iterable[Json]]]
"""Tables by name, each after those its rows refer to, and their rows; read each to its end before the next."""


class Portable(StoreConnection):
    """Export of a campaign from a store."""

    def dump(self) -> Iterator[tuple[str, Iterator[Json]]]:
        """Every table with its rows of the campaign, in one consistent snapshot; memory holds a batch."""
        with self.session() as session:
            pk = self.campaign_pk(session)
            for table in _tables(session.connection()):
                yield table.name, _rows(session, table, pk)


def load_campaign(
    url_or_path: str | Path,
    tables: Rows,
    version: str = SCHEMA_VERSION,
    timeout: float = LOCK_TIMEOUT,
    structures: Path | None = None,
) -> dict[str, int]:
    """Write the result of :meth:`Portable.dump` into a store, created if missing; all or nothing.

    Rows keep their order; in a store with other campaigns they are renumbered. They refer to the file of each
    structure; the files of the folder of structures are copied separately.

    Parameters
    ----------
    url_or_path
        As in :meth:`db.store.Store.open`.
    tables
        Rows by table.
    version
        Schema version of the store they come from; rows of an older one are upgraded.
    timeout
        Seconds to wait for another process that holds the store.
    structures
        As in :meth:`db.store.Store.open`; structures that an older version kept in its rows are written there.

    Returns
    -------
    Rows written by table.

    Raises
    ------
    InvalidRecordError
        If the store has a campaign of that name already, or these are not the rows of one campaign.
    StoreFromNewerVersionError
        If they come from a newer version of the program.
    """
    url = to_url(url_or_path)
    if version == SCHEMA_VERSION:
        return _load(url, tables, version, timeout)
    if version > SCHEMA_VERSION:
        raise StoreFromNewerVersionError(
            f"the rows come from a store of version {version}, newer than {SCHEMA_VERSION}, the newest this program "
            "knows; upgrade the program with `pip install --upgrade kappascout`"
        )
    with tempfile.TemporaryDirectory(prefix="kappascout-upgrade-") as folder:
        between = to_url(Path(folder) / "store.sqlite")
        _load(between, tables, version, timeout)
        schema.upgrade(between, timeout, structures=structures or structures_folder(url))
        upgraded = Portable(between, timeout)
        try:
            return _load(url, upgraded.dump(), SCHEMA_VERSION, timeout)
        finally:
            upgraded.close()


def _load(url: URL, tables: Rows, version: str, timeout: float) -> dict[str, int]:
    engine = make_engine(url, timeout)
    try:
        with wrapped_errors(url, timeout), engine.connect() as connection:
            present = schema.read_version(url, connection)
        if present is None:
            schema.upgrade(url, timeout, version)
        else:
            schema.check_version(url, present)
        with wrapped_errors(url, timeout), engine.execution_options(writes=True).begin() as connection:
            return _Loading(connection).load(tables)
    finally:
        engine.dispose()


class _Loading:
    """Rows to write; their numbers are shifted past those in use."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.tables = {table.name: table for table in _tables(connection)}
        if connection.dialect.name == "postgresql":  # no other process may use the numbers meanwhile
            connection.execute(text(f"LOCK TABLE {', '.join(self.tables)} IN SHARE ROW EXCLUSIVE MODE"))
        self.taken = {
            name: connection.scalar(select(func.coalesce(func.max(table.c.id), 0)))
            for name, table in self.tables.items()
        }

    def load(self, tables: Rows) -> dict[str, int]:
        """Write every table."""
        written = {}
        for name, rows in tables:
            if name not in self.tables:
                raise InvalidRecordError(f"rows of an unknown table, {name!r}; they are not of this store's version")
            written[name] = self._load_table(self.tables[name], rows)
        if written.keys() != self.tables.keys() or written["campaign"] != 1:
            raise InvalidRecordError(
                f"these are not the rows of one campaign: {written.get('campaign', 0)} campaigns, and no table "
                f"{', '.join(sorted(self.tables.keys() - written.keys())) or 'missing'}"
            )
        if self.connection.dialect.name == "postgresql":  # further rows are numbered from here
            for name, table in self.tables.items():
                last = select(func.max(table.c.id)).scalar_subquery()
                self.connection.execute(select(func.setval(func.pg_get_serial_sequence(name, "id"), last)))
        return written

    def _load_table(self, table: Table, rows: Iterable[Json]) -> int:
        written = 0
        # a row may refer to a later one of its table: such references are written once all rows are there
        own = [column.name for column in table.c if _target(column) == table.name]
        references: dict[str, list[Json]] = {name: [] for name in own}
        for part in chunks(rows, BATCH):
            moved = [self._moved(table, row) for row in part]
            if table.name == "campaign":
                self._refuse_taken(table, [row["name"] for row in moved])
            for row in moved:
                for name in own:
                    if row[name] is not None:
                        references[name].append({"row": row["id"], "other": row[name]})
                        row[name] = None
            self.connection.execute(insert(table), moved)
            written += len(moved)
        for name, pairs in references.items():
            statement = update(table).where(table.c.id == bindparam("row")).values({name: bindparam("other")})
            for part in chunks(pairs, BATCH):
                self.connection.execute(statement, part)
        return written

    def _moved(self, table: Table, row: Json) -> Json:
        if row.keys() != set(table.c.keys()):
            raise InvalidRecordError(
                f"a row of {table.name} has the columns {', '.join(row)}; expected {', '.join(table.c.keys())}"
            )
        homes = {"id": table.name} | {column.name: home for column in table.c if (home := _target(column))}
        return row | {name: row[name] + self.taken[home] for name, home in homes.items() if row[name] is not None}

    def _refuse_taken(self, table: Table, names: list[str]) -> None:
        if taken := self.connection.scalars(select(table.c.name).where(table.c.name.in_(names))).all():
            raise InvalidRecordError(f"the store has a campaign {taken[0]!r} already; choose another store")


def _tables(connection: Connection) -> list[Table]:
    """Tables of a store as in the database, each after those it refers to."""
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name != "alembic_version")
    for table in metadata.sorted_tables:
        for column in table.c:
            if isinstance(column.type, JSON):
                column.type = JSON(none_as_null=True)
    return metadata.sorted_tables


def _rows(session: Session, table: Table, campaign_pk: int) -> Iterator[Json]:
    query = select(table).where(_belongs(table, campaign_pk)).order_by(table.c.id)
    for row in session.execute(query, execution_options={"yield_per": BATCH}).mappings():
        yield dict(row)


def _belongs(table: Table, campaign_pk: int) -> ColumnElement[bool]:
    """Whether a row belongs to the campaign: by its own column, or by the row it is part of."""
    if table.name == "campaign":
        return table.c.id == campaign_pk
    if "campaign_id" in table.c:
        return table.c.campaign_id == campaign_pk
    part_of = next(column for column in table.c if _target(column) not in {None, table.name})
    (key,) = part_of.foreign_keys
    whole = key.column.table
    return part_of.in_(select(whole.c.id).where(_belongs(whole, campaign_pk)))


def _target(column: Column[object]) -> str | None:
    """Name of the table that a column refers to."""
    return next((key.column.table.name for key in column.foreign_keys), None)
