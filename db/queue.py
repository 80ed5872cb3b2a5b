"""Queue entries and their moves, each stored with time and author."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import RowMapping, func, insert, select, update
from sqlalchemy.orm import Session

from db.connection import StoreConnection, chunks
from db.exceptions import IllegalMoveError, StaleQueueError, UnknownRecordError
from db.owners import resolve_owners
from db.records import PREDICTED_FIELDS, Prediction, QueueEntryRecord, StateChange, utc_now
from db.states import QUEUE_MOVES, UNFINISHED, QueueState
from db.tables import Material, QueueChange, QueueEntry, Round

AUTHOR = "kappascout"
"""Author of the proposal of an entry."""
PLAIN_FIELDS = (
    "rank", *PREDICTED_FIELDS, "acquisition_value", "expected_cost", "reason", "fidelity", "details",
)  # fmt: skip


class Queue(StoreConnection):
    """Methods for the queue."""

    def queue(
        self,
        states: Collection[QueueState] | None = None,
        round: int | None = None,
        material_ids: Collection[str] | None = None,
    ) -> list[QueueEntryRecord]:
        """Entries by round and rank, filtered by what is given; ``material_ids`` are any ids of the materials.

        With ``material_ids`` only their entries are read, for a queue of any length.

        Raises
        ------
        UnknownMaterialError
            If no material is known under one of ``material_ids``.
        """
        with self.session() as session:
            campaign_pk = self.campaign_pk(session)
            query = _ENTRIES
            if states is not None:
                query = query.where(QueueEntry.state.in_(list(states)))
            if round is not None:
                query = query.where(Round.number == round)
            if material_ids is None:
                parts = [query.where(QueueEntry.campaign_id == campaign_pk)]
            else:
                owners = resolve_owners(session, campaign_pk, material_ids).values()
                # without the campaign, whose index SQLite would use: it holds the whole queue
                parts = [query.where(QueueEntry.material_pk.in_(p)) for p in chunks(sorted({pk for pk, _ in owners}))]
            rows = [row for part in parts for row in session.connection().execute(part).mappings()]
            history = _histories(session, [row["id"] for row in rows])
            records = [_entry_record(row, history[row["id"]]) for row in rows]
        return sorted(records, key=lambda entry: (entry.round or 0, entry.rank))

    def predictions(self, material_ids: Collection[str]) -> list[Prediction]:
        """Predictions of rounds for the materials under these ids when they were queued, by round and rank."""
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
        """Number of entries in each state."""
        with self.session() as session:
            query = select(QueueEntry.state, func.count()).where(QueueEntry.campaign_id == self.campaign_pk(session))
            found = dict(session.execute(query.group_by(QueueEntry.state)).all())
        return {state: found.get(state, 0) for state in QueueState}

    def move(self, entry_ids: Iterable[int], to: QueueState, author: str, note: str = "") -> None:
        """Move entries to a state, all or none; the error lists illegal moves with the legal ones."""
        wanted = list(dict.fromkeys(entry_ids))
        with self.session(write=True) as session:
            rows = self._entries_to_move(session, wanted)
            if refused := [row for row in rows if to not in QUEUE_MOVES[row.state]]:
                raise IllegalMoveError("\n".join(_refusal(row, to) for row in refused))
            if not to.is_finished:
                _refuse_second_queries(session, [row for row in rows if row.state.is_finished])
            _make_moves(session, rows, to, author, note)

    def _entries_to_move(self, session: Session, ids: Sequence[int]) -> list[_ToMove]:
        """Id, state, material and fidelity of these entries, locked until the transaction ends."""
        columns = (QueueEntry.id, QueueEntry.state, Material.material_id, QueueEntry.material_pk, QueueEntry.fidelity)
        query = select(*columns).join(QueueEntry.material)
        query = query.where(QueueEntry.campaign_id + 0 == self.campaign_pk(session)).with_for_update(of=QueueEntry)
        rows: list[_ToMove] = []
        for part in chunks(ids):
            found = session.connection().execute(query.where(QueueEntry.id.in_(part)).order_by(QueueEntry.id))
            rows += (_ToMove(*row) for row in found)
        if unknown := sorted(set(ids) - {row.id for row in rows}):
            raise UnknownRecordError(
                f"no queue entries {', '.join(map(str, unknown))}; `kappascout queue list DIR` lists them"
            )
        return rows


class _ToMove(NamedTuple):
    """An entry before its move."""

    id: int
    state: QueueState
    material_id: str
    material_pk: int
    fidelity: str


def _refuse_second_queries(session: Session, rows: Sequence[_ToMove]) -> None:
    """Refuse to retry or reopen an entry whose label is pending in another entry."""
    taken: dict[tuple[int, str], int] = {}
    query = select(QueueEntry.material_pk, QueueEntry.fidelity, QueueEntry.id)
    query = query.where(QueueEntry.state.in_(UNFINISHED))
    for part in chunks(row.material_pk for row in rows):
        found = session.connection().execute(query.where(QueueEntry.material_pk.in_(part)))
        taken |= {(pk, fidelity): id_ for pk, fidelity, id_ in found}
    problems = []
    for row in rows:
        other = taken.setdefault((row.material_pk, row.fidelity), row.id)
        if other != row.id:
            problems.append(f"queue entry {row.id} ({row.material_id}): its label is pending in queue entry {other}")
    if problems:
        raise StaleQueueError(f"{'; '.join(problems)}; withdraw or defer that entry first, or leave this one as it is")


def _make_moves(session: Session, rows: Sequence[_ToMove], to: QueueState, author: str, note: str) -> None:
    if not rows:
        return
    about = {"to_state": to, "at": utc_now(), "author": author, "note": note}
    connection = session.connection()
    connection.execute(insert(QueueChange), [{"entry_pk": row.id, "from_state": row.state} | about for row in rows])
    for part in chunks(row.id for row in rows):
        connection.execute(update(QueueEntry).where(QueueEntry.id.in_(part)).values(state=to))


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
    """Refuse to query a label twice: a material with a pending label is not queued again at that fidelity."""
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


def _refusal(row: _ToMove, to: QueueState) -> str:
    legal = ", ".join(state for state in QueueState if state in QUEUE_MOVES[row.state])
    return f"queue entry {row.id} ({row.material_id}) cannot go from {row.state} to {to}; " + (
        f"from {row.state} it may go to {legal}" if legal else f"{row.state} is final"
    )


def _histories(session: Session, entry_pks: Sequence[int]) -> dict[int, list[StateChange]]:
    """Moves of these entries by their rows, first to last."""
    columns = (getattr(QueueChange, name) for name in StateChange.__dataclass_fields__)
    query = select(QueueChange.entry_pk, *columns).order_by(QueueChange.id)
    found: dict[int, list[StateChange]] = defaultdict(list)
    for part in chunks(entry_pks):
        for pk, *change in session.connection().execute(query.where(QueueChange.entry_pk.in_(part))):
            found[pk].append(StateChange(*change))
    return found


def _entry_record(row: RowMapping, history: Sequence[StateChange]) -> QueueEntryRecord:
    return QueueEntryRecord(**row, history=tuple(history))


# plain columns: mapped objects of a long queue would stay in the session and slow down the rest of a transaction
_ENTRIES = (
    select(
        *(getattr(QueueEntry, name) for name in ("id", "state", *PLAIN_FIELDS)),
        Material.material_id,
        Round.number.label("round"),
    )
    .join(QueueEntry.round)
    .join(QueueEntry.material)
)
