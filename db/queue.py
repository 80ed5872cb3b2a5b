"""Queue entries and their moves, each kept with time and author."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload, selectinload

from db.connection import StoreConnection, chunks
from db.exceptions import IllegalMoveError, StaleQueueError, UnknownRecordError
from db.owners import resolve_owners
from db.records import PREDICTED_FIELDS, Prediction, QueueEntryRecord, StateChange, utc_now
from db.states import QUEUE_MOVES, UNFINISHED, QueueState
from db.tables import QueueChange, QueueEntry, Round

AUTHOR = "kappascout"
"""Who has proposed an entry."""
PLAIN_FIELDS = (
    "rank", *PREDICTED_FIELDS, "acquisition_value", "expected_cost", "reason", "fidelity", "details",
)  # fmt: skip


class Queue(StoreConnection):
    """Verbs and finders of the queue."""

    def queue(self, states: Collection[QueueState] | None = None, round: int | None = None) -> list[QueueEntryRecord]:
        """Entries by round and rank, filtered by what is given."""
        with self.session() as session:
            query = _full_entries().where(QueueEntry.campaign_id == self.campaign_pk(session))
            if states is not None:
                query = query.where(QueueEntry.state.in_(list(states)))
            if round is not None:
                query = query.where(Round.number == round)
            return [_entry_record(row) for row in session.scalars(query.order_by(Round.number, QueueEntry.rank))]

    def predictions(self, material_ids: Collection[str]) -> list[Prediction]:
        """Find what rounds predicted of the materials under these ids when they queued them, by round and rank."""
        found: list[Prediction] = []
        with self.session() as session:
            campaign_pk = self.campaign_pk(session)
            owners = dict(resolve_owners(session, campaign_pk, material_ids).values())
            query = select(QueueEntry, Round.number).join(Round).order_by(Round.number, QueueEntry.rank)
            for part in chunks(sorted(owners)):
                for entry, number in session.execute(query.where(QueueEntry.material_pk.in_(part))):
                    names = ("learned_mean", "learned_std")
                    learned = entry.log10_mean, entry.log10_std
                    mean, std = learned if None not in learned else (entry.details.get(name) for name in names)
                    if mean is not None and std is not None:
                        about = owners[entry.material_pk], entry.fidelity, number
                        found.append(Prediction(*about, mean, std, entry.log10_mean is not None))
        return found

    def queue_counts(self) -> dict[QueueState, int]:
        """How many entries are in each state."""
        with self.session() as session:
            query = select(QueueEntry.state, func.count()).where(QueueEntry.campaign_id == self.campaign_pk(session))
            found = dict(session.execute(query.group_by(QueueEntry.state)).all())
        return {state: found.get(state, 0) for state in QueueState}

    def move(self, entry_ids: Iterable[int], to: QueueState, author: str, note: str = "") -> None:
        """Move entries to a state, all or none; every illegal move is named with those that are legal."""
        wanted = list(dict.fromkeys(entry_ids))
        with self.session(write=True) as session:
            rows = self._entries_to_move(session, wanted)
            if refused := [row for row in rows if to not in QUEUE_MOVES[row.state]]:
                raise IllegalMoveError("\n".join(_refusal(row, to) for row in refused))
            _make_moves(session, rows, to, author, note)

    def claim(self, count: int, author: str, note: str = "") -> list[QueueEntryRecord]:
        """Take up to ``count`` approved entries to work on, by round and rank; they are running from here on.

        Workers that claim at the same time get different entries, and on PostgreSQL none waits for another.
        """
        with self.session(write=True) as session:
            query = select(QueueEntry).join(QueueEntry.round).order_by(Round.number, QueueEntry.rank).limit(count)
            query = query.where(
                QueueEntry.campaign_id == self.campaign_pk(session), QueueEntry.state == QueueState.APPROVED
            )
            rows = session.scalars(query.with_for_update(of=QueueEntry, skip_locked=True)).all()
            _make_moves(session, rows, QueueState.RUNNING, author, note)
            session.flush()
            found: list[QueueEntryRecord] = []
            for part in chunks(row.id for row in rows):
                query = _full_entries().where(QueueEntry.id.in_(part)).order_by(Round.number, QueueEntry.rank)
                found += (_entry_record(row) for row in session.scalars(query))
            return found

    def _entries_to_move(self, session: Session, ids: Sequence[int]) -> list[QueueEntry]:
        campaign_pk = self.campaign_pk(session)
        query = select(QueueEntry).options(joinedload(QueueEntry.material)).where(QueueEntry.campaign_id == campaign_pk)
        rows: list[QueueEntry] = []
        for part in chunks(ids):
            query_part = query.where(QueueEntry.id.in_(part)).order_by(QueueEntry.id)
            rows += session.scalars(query_part.with_for_update(of=QueueEntry))
        if unknown := sorted(set(ids) - {row.id for row in rows}):
            raise UnknownRecordError(
                f"no queue entries {', '.join(map(str, unknown))}; `kappascout queue list DIR` lists them"
            )
        return rows


def _make_moves(session: Session, rows: Sequence[QueueEntry], to: QueueState, author: str, note: str) -> None:
    now = utc_now()
    for row in rows:
        change = QueueChange(from_state=row.state, to_state=to, at=now, author=author, note=note, entry_pk=row.id)
        session.add(change)
        row.state = to


def insert_entries(session: Session, campaign_pk: int, round_row: Round, entries: Sequence[QueueEntryRecord]) -> None:
    """Write a round's entries as proposed."""
    owners = resolve_owners(session, campaign_pk, (entry.material_id for entry in entries))
    wanted = [(owners[entry.material_id][0], entry) for entry in entries]
    _refuse_pending(session, campaign_pk, wanted)
    now = utc_now()
    for material_pk, entry in wanted:
        change = QueueChange(from_state=None, to_state=QueueState.PROPOSED, at=now, author=AUTHOR, note="")
        row = QueueEntry(
            **{name: getattr(entry, name) for name in PLAIN_FIELDS},
            campaign_id=campaign_pk,
            round_pk=round_row.id,
            material_pk=material_pk,
            state=QueueState.PROPOSED,
            changes=[change],
        )
        session.add(row)
    session.flush()


def _refuse_pending(session: Session, campaign_pk: int, entries: Sequence[tuple[int, QueueEntryRecord]]) -> None:
    """Never ask for a label twice: a material whose label is awaited is not queued again at that fidelity."""
    query = select(QueueEntry.material_pk, QueueEntry.fidelity, Round.number).join(Round)
    query = query.where(QueueEntry.campaign_id == campaign_pk, QueueEntry.state.in_(UNFINISHED))
    awaited = {(pk, fidelity): number for pk, fidelity, number in session.execute(query)}
    twice = [
        f"{entry.material_id!r} (round {awaited[pk, entry.fidelity]})"
        for pk, entry in entries
        if (pk, entry.fidelity) in awaited
    ]
    if twice:
        raise StaleQueueError(
            f"queued already and not finished: {', '.join(twice[:20])}; leave them out, or withdraw the old entries"
        )


def _refusal(row: QueueEntry, to: QueueState) -> str:
    legal = ", ".join(state for state in QueueState if state in QUEUE_MOVES[row.state])
    return f"queue entry {row.id} ({row.material.material_id}) cannot go from {row.state} to {to}; " + (
        f"from {row.state} it may go to {legal}" if legal else f"{row.state} is final"
    )


def _full_entries() -> Any:
    return (
        select(QueueEntry)
        .join(QueueEntry.round)
        .options(joinedload(QueueEntry.material), joinedload(QueueEntry.round), selectinload(QueueEntry.changes))
    )


def _entry_record(row: QueueEntry) -> QueueEntryRecord:
    names = StateChange.__dataclass_fields__
    return QueueEntryRecord(
        **{name: getattr(row, name) for name in PLAIN_FIELDS},
        material_id=row.material.material_id,
        id=row.id,
        round=row.round.number,
        state=row.state,
        history=tuple(StateChange(**{name: getattr(change, name) for name in names}) for change in row.changes),
    )
