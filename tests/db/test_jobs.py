"""Jobs of queueing systems in the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from db.exceptions import StoreError, UnknownRecordError
from db.records import JobRecord, QueueEntryRecord
from db.states import JobState, RoundState
from db.store import Store

JOB = JobRecord(0, "a", "kappa", 1, queue="slurm", folder="001")


@pytest.fixture
def entry_id(store: Store, pool: list[str]) -> int:
    """Give the id of a queue entry."""
    store.start_round({})
    store.finish_step(1, RoundState.QUEUED, queue=[QueueEntryRecord(1, pool[0], fidelity="dft")])
    (entry,) = store.queue()
    assert entry.id is not None
    return entry.id


def test_jobs_come_back_as_they_were_written(store: Store, entry_id: int) -> None:
    job = JobRecord(entry_id, "a", "forces", 1, tasks=16, queue="slurm", folder="001", resources={"time": "1:00"})
    (added,) = store.add_jobs([job])
    assert replace(added, id=None, written_at="") == job
    changed = replace(added, job_id="17", state=JobState.FAILED, exit_code=3, core_hours=1.5, nodes="n1", message="why")
    store.update_jobs([changed])
    assert store.jobs() == [changed]
    assert store.jobs([JobState.FAILED]) == store.jobs(entry_ids=[entry_id]) == store.jobs(names=["a"]) == [changed]
    assert store.jobs([JobState.RUNNING]) == store.jobs(entry_ids=[entry_id + 1]) == store.jobs(names=["b"]) == []
    assert store.counts()["jobs"] == 1


def test_names_are_unique_and_entries_known(store: Store, entry_id: int) -> None:
    store.add_jobs([replace(JOB, entry_id=entry_id)])
    with pytest.raises(StoreError):
        store.add_jobs([replace(JOB, entry_id=entry_id, name="b"), replace(JOB, entry_id=entry_id, attempt=2)])
    with pytest.raises(UnknownRecordError):
        store.add_jobs([replace(JOB, entry_id=entry_id + 1, name="c")])
    assert [job.name for job in store.jobs()] == ["a"], "all or none"
