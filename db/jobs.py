"""Jobs of queueing systems that work on queue entries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import bindparam, insert, select, update

from db.connection import StoreConnection, chunks
from db.exceptions import UnknownRecordError
from db.records import JobRecord, utc_now
from db.states import JobState
from db.tables import Job, QueueEntry

_GIVEN = (
    "name", "stage", "attempt", "tasks", "queue", "folder", "resources", "job_id", "state", "submitted_at",
    "started_at", "ended_at", "missing_since", "nodes", "exit_code", "core_hours", "reason", "message",
)  # fmt: skip
_CHANGING = (
    "job_id", "state", "submitted_at", "started_at", "ended_at", "missing_since", "nodes", "exit_code", "core_hours",
    "reason", "message",
)  # fmt: skip


class Jobs(StoreConnection):
    """Methods for jobs."""

    def add_jobs(self, records: Iterable[JobRecord]) -> list[JobRecord]:
        """Write jobs, all or none, and return them with their ids.

        Raises
        ------
        UnknownRecordError
            If a queue entry is not one of the campaign.
        """
        given = list(records)
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            entries = {record.entry_id for record in given}
            known: set[int] = set()
            for part in chunks(sorted(entries)):
                query = select(QueueEntry.id).where(QueueEntry.campaign_id == campaign_pk, QueueEntry.id.in_(part))
                known |= set(session.scalars(query))
            if unknown := sorted(entries - known):
                raise UnknownRecordError(f"no queue entries {', '.join(map(str, unknown))}; list them by `queue list`")
            now = utc_now()
            rows = [
                {name: getattr(record, name) for name in _GIVEN}
                | {"campaign_id": campaign_pk, "entry_pk": record.entry_id, "written_at": now}
                for record in given
            ]
            if rows:
                session.connection().execute(insert(Job), rows)
            names = [record.name for record in given]
        found = {record.name: record for record in self.jobs(names=names)}
        return [found[name] for name in names]

    def jobs(
        self,
        states: Collection[JobState] | None = None,
        entry_ids: Collection[int] | None = None,
        names: Collection[str] | None = None,
    ) -> list[JobRecord]:
        """Jobs in the order they were written, filtered by what is given."""
        with self.session() as session:
            query = _JOBS.where(Job.campaign_id == self.campaign_pk(session))
            if states is not None:
                query = query.where(Job.state.in_(list(states)))
            parts = [query]
            if entry_ids is not None:
                parts = [query.where(Job.entry_pk.in_(part)) for part in chunks(sorted(entry_ids))]
            if names is not None:
                parts = [part.where(Job.name.in_(some)) for part in parts for some in chunks(names)]
            rows = [row for part in parts for row in session.connection().execute(part).mappings()]
        return sorted((JobRecord(**row) for row in rows), key=lambda job: job.id or 0)

    def update_jobs(self, records: Sequence[JobRecord]) -> None:
        """Write what has changed of jobs: id, state, times, nodes, exit code, core-hours and message."""
        if not records:
            return
        with self.session(write=True) as session:
            campaign_pk = self.lock_campaign(session)
            statement = update(Job).where(Job.id == bindparam("row"), Job.campaign_id == campaign_pk)
            statement = statement.values({name: bindparam(f"new_{name}") for name in _CHANGING})
            rows = [{f"new_{name}": getattr(r, name) for name in _CHANGING} | {"row": r.id} for r in records]
            session.connection().execute(statement, rows)


_JOBS = select(
    Job.id, Job.entry_pk.label("entry_id"), Job.written_at, *(getattr(Job, name) for name in _GIVEN)
).order_by(Job.id)
