"""Version of a store's tables: read, checked when opened, upgraded by Alembic's migrations.

Alembic is imported only where a migration runs, so that opening a store is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Connection, inspect, text

from db.connection import describe, make_engine, structures_folder, wrapped_errors
from db.exceptions import NotAStoreError, StoreFromNewerVersionError, StoreNotFoundError, StoreOutdatedError
from db.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 6_075_077  # an arbitrary number: two processes never create or migrate the tables at the same time


def read_version(url: URL, connection: Connection) -> str | None:
    """Revision of the store behind ``connection``, None where the database is empty."""
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    version = None
    if "alembic_version" in tables and "material" in tables:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version is None:
        raise NotAStoreError(
            f"{describe(url)} is a database, but not a kappascout store (it has the tables "
            f"{', '.join(sorted(tables)[:5])}); name another"
        )
    return str(version)


def check_version(url: URL, version: str | None) -> None:
    """Raise unless ``version`` is the one this program reads and writes."""
    where = describe(url)
    if version is None:
        raise StoreNotFoundError(f"{where} is empty, not a store; make one with `kappascout init DIR`")
    if version < SCHEMA_VERSION:
        raise StoreOutdatedError(
            f"the store {where} has version {version}, this program needs {SCHEMA_VERSION}; "
            f"copy it, then run `kappascout db upgrade {_directory(url)}`"
        )
    if version > SCHEMA_VERSION:
        raise StoreFromNewerVersionError(
            f"the store {where} has version {version}, newer than {SCHEMA_VERSION}, the newest this program knows; "
            "upgrade the program with `pip install --upgrade kappascout`"
        )


def upgrade(
    url: URL, timeout: float, to: str = SCHEMA_VERSION, structures: Path | None = None
) -> tuple[str | None, str]:
    """Bring a store, or an empty database, to a version, this program's, in one transaction; return (from, to).

    ``structures`` is their folder, as :meth:`db.store.Store.open` takes it.
    """
    from alembic import command

    # a migration that rebuilds a table on SQLite drops the old one, which foreign keys would turn into deletions
    engine = make_engine(url, timeout, foreign_keys=False)
    try:
        with wrapped_errors(url, timeout), engine.execution_options(writes=True).begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite has a single writer anyway
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            before = read_version(url, connection)
            if before is not None and before > SCHEMA_VERSION:
                check_version(url, before)
            command.upgrade(alembic_config(connection, structures or structures_folder(url)), to)
    finally:
        engine.dispose()
    return before, to


def alembic_config(connection: Connection, structures: Path | None = None) -> Config:
    """Alembic's configuration for the migrations, run over ``connection`` and inside its transaction.

    ``structures`` is the folder of the structures, which one of the migrations moves out of the tables.
    """
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["structures"] = structures
    return config


def _directory(url: URL) -> str:
    return str(Path(url.database or ".").parent) if url.get_backend_name() == "sqlite" else "DIR"
