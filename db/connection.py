"""One connection to the store: the engine for each database, the session context, errors in the store's own words."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
from db.structures import Shards
from db.tables import Campaign

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

LOCK_TIMEOUT = 30.0
"""Seconds to wait for another process that holds the store, or for a server that does not answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to reach a server; each is twice the one before
SECRETS = ("password", "sslpassword")
"""What a URL's query may hold that is never shown."""
STRUCTURES = Path("artifacts", "structures")
"""Where the structures are, beside ``campaign.toml``."""
dump_json = partial(json.dumps, allow_nan=False, separators=(",", ":"))
IN_CHUNK = 900  # values of one IN (...): older SQLite takes 999 parameters
Parameter = str | int | None  # of a PostgreSQL connection, as psycopg takes them
Item = TypeVar("Item")
Filled = TypeVar("Filled", str, tuple[str, ...], str | None, str | tuple[str, ...])
URL_HELP = "write it like postgresql+psycopg://user@host/database"
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
        ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505", "40"),
        StoreChangedError,
        "another process changed the store {where} at the same time ({cause}); nothing was written, run again",
    ),
    (
        ("08", "28", "3D", "57"),
        StoreUnreachableError,
        "the store {where} does not answer ({cause}); nothing of this step was kept: "
        "check the server and the URL, then run again",
    ),
)
"""Codes of SQLite and SQLSTATEs of PostgreSQL, by what they mean to the user."""


class StoreConnection:
    """The engine, the campaign that is worked on, and the one way to a session."""

    def __init__(self, url: URL, timeout: float, campaign: str | None = None, structures: Path | None = None):
        self.url = url
        self.timeout = timeout
        self.shards = Shards(structures or structures_folder(url))
        self._campaign_name = campaign
        self._campaign_pk: int | None = None
        self._joined: Session | None = None
        engine = make_engine(url, timeout)
        self._writer = engine.execution_options(writes=True)
        # a verb that reads sees one moment of the store, however many queries it takes; SQLite knows nothing else
        self._engine = engine if _is_sqlite(url) else engine.execution_options(isolation_level="REPEATABLE READ")

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
            self.lock_campaign(session)  # before anything else, so that two transactions never wait for each other
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

    def lock_campaign(self, session: Session) -> int:
        """Row of the campaign that is worked on, held until the transaction ends.

        Whoever writes materials, labels, models or rounds takes it first, so that each decides on what the one before
        has written, and ids follow the order in which rows become visible. Moves of queue entries do not need it. An
        SQLite writer holds the whole file already.
        """
        pk = self.campaign_pk(session)
        session.execute(select(Campaign.id).where(Campaign.id == pk).with_for_update(key_share=True))
        return pk

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def to_url(url_or_path: str | Path) -> URL:
    """Read a database URL; anything without ``://`` is the path of an SQLite file.

    ``${NAME}`` in any part of a URL stands for the environment variable of that name, so that a password need not be
    written down.

    Raises
    ------
    StoreUnreachableError
        If the URL cannot be read, names neither SQLite nor PostgreSQL, or a variable that is not set.
    """
    if not isinstance(url_or_path, str) or "://" not in url_or_path:
        return URL.create("sqlite", database=str(url_or_path))
    try:
        url = make_url(url_or_path)
    except ArgumentError as error:
        raise StoreUnreachableError(f"the store's URL cannot be read; {URL_HELP}") from error
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in {"sqlite", "postgresql+psycopg"}:
        raise StoreUnreachableError(f"a store cannot be kept in {url.drivername!r}; {URL_HELP}")
    parts = {name: _filled(getattr(url, name)) for name in ("username", "password", "host", "database")}
    return url.set(**parts, query={key: _filled(value) for key, value in url.query.items()})


def describe(url: URL) -> str:
    """Path of an SQLite store, URL without password of any other."""
    if _is_sqlite(url):
        return str(url.database)
    return url.difference_update_query(SECRETS).render_as_string(hide_password=True)


def structures_folder(url: URL) -> Path | None:
    """Folder of the structures of an SQLite store that was opened without one; a store on a server has none."""
    return Path(str(url.database)).parent / STRUCTURES if _is_sqlite(url) else None


def make_engine(url: URL, timeout: float, foreign_keys: bool = True) -> Engine:
    """Make an engine whose transactions are ours to begin and which waits ``timeout`` seconds for a lock or server."""
    try:
        if _is_sqlite(url):
            engine = create_engine(url, connect_args={"timeout": timeout}, json_serializer=dump_json)
        else:
            # never a plan made for any values: for long lists of ids it compares each row with each id
            given: dict[str, object] = {"prepare_threshold": None}
            if "connect_timeout" not in url.query:
                given["connect_timeout"] = max(2, math.ceil(timeout))
            # pre-ping: a connection that a restarted server has dropped is made anew
            engine = create_engine(url, connect_args=given, json_serializer=dump_json, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreUnreachableError(
            f"no driver for {describe(url)}: {error}; install it with `pip install kappascout[postgres]`"
        ) from error
    if _is_sqlite(url):
        event.listen(engine, "connect", lambda dbapi, _: _prepare_sqlite(dbapi, foreign_keys))
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "do_connect", partial(_reach_postgresql, timeout))
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


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _filled(text: Filled) -> Filled:
    """Put environment variables in place of ``${NAME}``."""
    if isinstance(text, tuple):
        return tuple(map(_filled, text))
    return text if text is None else re.sub(r"\$\{(\w+)\}", _variable, text)


def _variable(match: re.Match[str]) -> str:
    name = match[1]
    if name not in os.environ:
        raise StoreUnreachableError(f"the store's URL names the environment variable {name}, which is not set; set it")
    return os.environ[name]


def _prepare_sqlite(dbapi: DBAPIConnection, foreign_keys: bool) -> None:
    # Python's sqlite3 otherwise begins transactions late and commits before some statements
    dbapi.isolation_level = None
    dbapi.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    # the rollback journal, not WAL: it works on network file systems, and the closed store is one file to copy
    dbapi.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    """Begin; a writer takes its lock at once, so that it never has to give up half-way because another was first."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _reach_postgresql(
    timeout: float,
    dialect: Dialect,
    record: ConnectionPoolEntry,
    arguments: Iterable[Parameter],
    parameters: Mapping[str, Parameter],
) -> DBAPIConnection:
    """Connect; a server that does not answer, or is only starting, is tried again until the time is up."""
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    while True:
        try:
            return dialect.connect(*arguments, **parameters)
        except dialect.loaded_dbapi.OperationalError:
            left = deadline - time.monotonic()
            if left <= 0 or _answers(parameters):
                raise
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _answers(parameters: Mapping[str, Parameter]) -> bool:
    """Whether a PostgreSQL server takes connections at all, whatever it says to this user."""
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import PGconn, Ping

    plain = {name: value for name, value in parameters.items() if name not in {"context", "prepare_threshold"}}
    return Ping(PGconn.ping(make_conninfo("", **plain).encode())) not in {Ping.REJECT, Ping.NO_RESPONSE}


def _prepare_postgresql(dbapi: DBAPIConnection, timeout: float) -> None:
    with closing(dbapi.cursor()) as cursor:
        cursor.execute(f"SET lock_timeout = {int(timeout * 1000)}")
    dbapi.commit()


def _translate(error: SQLAlchemyError, where: str, timeout: float) -> StoreError:
    cause = error.orig if isinstance(error, StatementError) else error
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
    if not code and isinstance(error, OperationalError):
        code = "08"  # psycopg gives no code where the server could not be reached at all
    for codes, kind, message in CAUSES:
        if code.startswith(codes):
            return kind(message.format(where=where, cause=" ".join(str(cause).split()), timeout=timeout))
    return StoreError(f"the store {where} refused: {cause}")


def _no_campaign(where: str, wanted: str | None, names: list[str]) -> str:
    if not names:
        return f"the store {where} holds no campaign; make one with `kappascout init DIR`"
    if wanted is None:
        return f"the store {where} holds {len(names)} campaigns ({', '.join(names)}); name one when opening it"
    return f"the store {where} has no campaign {wanted!r}; it has {', '.join(names)}"
