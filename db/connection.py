"""One connection to the store: the engine for each database, the session context, errors in the store's own words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError, StatementError
from sqlalchemy.orm import Session

from db.exceptions import (
    NoCampaignError,
    NotAStoreError,
    StoreChangedError,
    StoreError,
    StoreLockedError,
    StoreNotWritableError,
    StoreUnreachableError,
)
from db.tables import Campaign

LOCK_TIMEOUT = 30.0
dump_json = partial(json.dumps, allow_nan=False, separators=(",", ":"))
IN_CHUNK = 900  # values of one IN (...): older SQLite takes 999 parameters
Item = TypeVar("Item")
CAUSES: tuple[tuple[tuple[str, ...], type[StoreError], str], ...] = (
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03"),
        StoreLockedError,
        "another process has held the store {where} for more than {timeout:g} s; wait for it to end, or end it",
    ),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "42501", "25006"),
        StoreNotWritableError,
        "the store {where} cannot be written ({cause}); check the permissions of the file and of its folder",
    ),
    (
        ("SQLITE_FULL", "SQLITE_IOERR", "53100"),
        StoreNotWritableError,
        "the store {where} could not be written ({cause}); nothing of this step was kept: "
        "check the disk for space and errors, then run again",
    ),
    (
        ("SQLITE_NOTADB", "SQLITE_CORRUPT"),
        NotAStoreError,
        "{where} is not a store, or is damaged ({cause}); restore it from a copy",
    ),
    (
        ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505"),
        StoreChangedError,
        "another process changed the store {where} at the same time ({cause}); nothing was written, run again",
    ),
    (
        ("08", "28", "3D", "57"),
        StoreUnreachableError,
        "the store {where} does not answer: {cause}; check the server and the URL",
    ),
)
"""Codes of SQLite and SQLSTATEs of PostgreSQL, by what they mean to the user."""


class StoreConnection:
    """The engine, the campaign that is worked on, and the one way to a session."""

    def __init__(self, url: URL, timeout: float, campaign: str | None = None):
        self.url = url
        self.timeout = timeout
        self._campaign_name = campaign
        self._campaign_pk: int | None = None
        self._joined: Session | None = None
        self._engine = make_engine(url, timeout)
        self._writer = self._engine.execution_options(writes=True)

    @property
    def where(self) -> str:
        """The store as it is called in messages; a password is hidden."""
        return describe(self.url)

    @contextmanager
    def session(self, write: bool = False) -> Iterator[Session]:
        """Run one transaction: committed at the end, rolled back on any error, errors wrapped, always closed."""
        if self._joined is not None:
            self._joined.flush()
            self._joined.expire_all()  # what an earlier verb wrote is read again
            yield self._joined
            return
        engine = self._writer if write else self._engine
        with wrapped_errors(self.url, self.timeout), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one transaction of the verbs inside: all of them are kept, or none."""
        outer = self._joined
        with self.session(write=True) as session:
            self._joined = session
            try:
                yield
            finally:
                self._joined = outer

    def campaign_pk(self, session: Session) -> int:
        """Row of the campaign that is worked on: the one named at open, or the only one."""
        if self._campaign_pk is None:
            found = dict(session.execute(select(Campaign.name, Campaign.id).order_by(Campaign.id)).all())
            names = [self._campaign_name] if self._campaign_name is not None else list(found)
            if len(names) != 1 or names[0] not in found:
                raise NoCampaignError(_no_campaign(self.where, self._campaign_name, list(found)))
            self._campaign_pk = found[names[0]]
        return self._campaign_pk

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def to_url(url_or_path: str | Path) -> URL:
    """Read a database URL; anything without ``://`` is the path of an SQLite file."""
    if isinstance(url_or_path, str) and "://" in url_or_path:
        try:
            return make_url(url_or_path)
        except ArgumentError as error:
            raise StoreUnreachableError(
                "the store's URL cannot be read; write it like postgresql+psycopg://user@host/database"
            ) from error
    return URL.create("sqlite", database=str(url_or_path))


def describe(url: URL) -> str:
    """Path of an SQLite store, URL without password of any other."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def make_engine(url: URL, timeout: float, foreign_keys: bool = True) -> Engine:
    """Make an engine whose transactions are ours to begin and which waits ``timeout`` seconds for a lock."""
    sqlite = url.get_backend_name() == "sqlite"
    try:
        engine = create_engine(url, connect_args={"timeout": timeout} if sqlite else {}, json_serializer=dump_json)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreUnreachableError(
            f"no driver for {describe(url)}: {error}; install it with `pip install kappascout[postgres]` "
            "and write the URL as postgresql+psycopg://user@host/database"
        ) from error
    if sqlite:
        event.listen(engine, "connect", lambda dbapi, _: _prepare_sqlite(dbapi, foreign_keys))
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", lambda dbapi, _: _prepare_postgresql(dbapi, timeout))
    return engine


@contextmanager
def wrapped_errors(url: URL, timeout: float) -> Iterator[None]:
    """Turn what SQLAlchemy raises into the store's errors."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _translate(error, describe(url), timeout) from error


def chunks(items: Iterable[Item], size: int = IN_CHUNK) -> Iterator[list[Item]]:
    """Cut into lists of at most ``size`` items, in order."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _prepare_sqlite(dbapi: Any, foreign_keys: bool) -> None:
    # Python's sqlite3 otherwise begins transactions late and commits before some statements
    dbapi.isolation_level = None
    dbapi.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    # the rollback journal, not WAL: it works on network file systems, and the closed store is one file to copy
    dbapi.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    """Begin; a writer takes its lock at once, so that it never has to give up half-way because another was first."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(dbapi: Any, timeout: float) -> None:
    with dbapi.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {int(timeout * 1000)}")
    dbapi.commit()


def _translate(error: SQLAlchemyError, where: str, timeout: float) -> StoreError:
    cause = error.orig if isinstance(error, StatementError) else error
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
    if not code and isinstance(error, OperationalError):
        code = "08"  # psycopg gives no code where the server could not be reached at all
    for codes, kind, message in CAUSES:
        if code.startswith(codes):
            return kind(message.format(where=where, cause=str(cause).strip(), timeout=timeout))
    return StoreError(f"the store {where} refused: {cause}")


def _no_campaign(where: str, wanted: str | None, names: list[str]) -> str:
    if not names:
        return f"the store {where} holds no campaign; make one with `kappascout init DIR`"
    if wanted is None:
        return f"the store {where} holds {len(names)} campaigns ({', '.join(names)}); name one when opening it"
    return f"the store {where} has no campaign {wanted!r}; it has {', '.join(names)}"
