"""The store: opening, versions, and the campaign."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL, func, select

from db import schema
from db.connection import LOCK_TIMEOUT, StoreConnection, to_url
from db.exceptions import (
    IllegalMoveError,
    InvalidRecordError,
    NotAStoreError,
    StoreNotFoundError,
    StoreNotWritableError,
)
from db.failures import Failures
from db.jobs import Jobs
from db.labels import CURRENT, Labels
from db.materials import Materials
from db.models import Models
from db.portable import Portable
from db.queue import Queue
from db.records import CampaignRecord, utc_now
from db.rounds import Rounds
from db.states import CAMPAIGN_MOVES, CampaignState
from db.tables import Campaign, Failure, Job, Label, Material, Model, QueueEntry, Rejection, Round, Source

COUNTED: dict[str, type[Material | Source | Rejection | Label | Failure | Model | Round | QueueEntry | Job]] = {
    "materials": Material,
    "sources": Source,
    "rejections": Rejection,
    "labels": Label,
    "failures": Failure,
    "models": Model,
    "rounds": Round,
    "queue_entries": QueueEntry,
    "jobs": Job,
}


class Store(Materials, Labels, Failures, Models, Rounds, Queue, Jobs, Portable, StoreConnection):
    """Materials, labels, models, rounds, queue and jobs of a campaign.

    Each method is one transaction. :meth:`open` opens one; use it as a context manager, or :meth:`close` it.
    """

    @classmethod
    def open(
        cls,
        url_or_path: str | Path,
        create: bool = False,
        campaign: str | None = None,
        timeout: float = LOCK_TIMEOUT,
        structures: Path | None = None,
    ) -> Self:
        """Open a store, and check its version.

        Parameters
        ----------
        url_or_path
            Path of an SQLite file, or a database URL (``postgresql+psycopg://user@host/database``).
        create
            Create the tables where the file is missing or the database empty. An existing store is not changed.
        campaign
            Name of the campaign to work on; not needed where the store holds one.
        timeout
            Seconds to wait for another process that holds the store.
        structures
            Folder of the crystals' structures; ``artifacts/structures`` beside an SQLite file if not given. A store on
            a server needs one as soon as a structure is read or written.
        """
        url = to_url(url_or_path)
        if url.get_backend_name() == "sqlite":
            _check_file(url, create)
        store = cls(url, timeout, campaign, structures)
        try:
            if create and _read_version(store) is None:
                schema.upgrade(url, timeout)
            schema.check_version(url, _read_version(store))
        except BaseException:
            store.close()
            raise
        return store

    @staticmethod
    def upgrade(
        url_or_path: str | Path, timeout: float = LOCK_TIMEOUT, structures: Path | None = None
    ) -> tuple[str, str]:
        """Bring an older store to this program's version; return the version before and after.

        ``structures`` as in :meth:`open`; structures that an older version kept in the tables are written there.
        """
        url = to_url(url_or_path)
        if url.get_backend_name() == "sqlite":
            _check_file(url, create=False)
        store = StoreConnection(url, timeout)
        try:
            before = _read_version(store)
        finally:
            store.close()
        if before is None:
            schema.check_version(url, before)
        before, after = schema.upgrade(url, timeout, structures=structures)
        return str(before), after

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create_campaign(self, record: CampaignRecord) -> CampaignRecord:
        """Write a campaign, and use it from now on."""
        with self.session(write=True) as session:
            if session.scalar(select(Campaign.id).where(Campaign.name == record.name)) is not None:
                raise InvalidRecordError(f"the store {self.where} has a campaign {record.name!r} already; name another")
            row = Campaign(**vars(record) | {"created_at": utc_now()})
            session.add(row)
            session.flush()
            pk = row.id
        self._campaign_pk = pk
        return self.campaign()

    def campaigns(self) -> list[CampaignRecord]:
        """All campaigns of the store, oldest first."""
        with self.session() as session:
            return [_campaign_record(row) for row in session.scalars(select(Campaign).order_by(Campaign.id))]

    def campaign(self) -> CampaignRecord:
        """Record of the campaign in use."""
        with self.session() as session:
            return _campaign_record(session.get_one(Campaign, self.campaign_pk(session)))

    def set_campaign_state(self, state: CampaignState) -> CampaignRecord:
        """Move the campaign to a state; the state it is in changes nothing."""
        with self.session(write=True) as session:
            row = session.get_one(Campaign, self.lock_campaign(session))
            if state is not row.state and state not in CAMPAIGN_MOVES[row.state]:
                legal = ", ".join(sorted(CAMPAIGN_MOVES[row.state]))
                raise IllegalMoveError(
                    f"campaign {row.name!r} cannot go from {row.state} to {state}; it may go to {legal}"
                )
            row.state = state
            return _campaign_record(row)

    def counts(self) -> dict[str, int]:
        """Number of rows of the campaign by table; labels are the current ones."""
        with self.session() as session:
            campaign_pk = self.campaign_pk(session)
            found = {}
            for noun, table in COUNTED.items():
                query = select(func.count()).select_from(table).where(table.campaign_id == campaign_pk)
                if table is Label:
                    query = query.where(*CURRENT)
                found[noun] = session.scalar(query) or 0
        return found


def _check_file(url: URL, create: bool) -> None:
    """Refuse a place where no SQLite file can be."""
    if url.database in {None, "", ":memory:"}:
        raise NotAStoreError("a store is a file or a database on a server, not memory; name a path or a URL")
    path = Path(str(url.database))
    if path.is_dir():
        raise NotAStoreError(f"{path} is a folder; name the store's file in it")
    if not create and not path.exists():
        raise StoreNotFoundError(f"there is no store at {path}; make one with `kappascout init {path.parent}`")
    if not path.parent.is_dir():
        raise StoreNotWritableError(f"the folder {path.parent} does not exist; make it first")


def _read_version(store: StoreConnection) -> str | None:
    with store.session() as session:
        return schema.read_version(store.url, session.connection())


def _campaign_record(row: Campaign) -> CampaignRecord:
    return CampaignRecord(**{name: getattr(row, name) for name in CampaignRecord.__dataclass_fields__})
