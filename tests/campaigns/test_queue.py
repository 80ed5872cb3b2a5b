"""Moves of queue entries that ended or are left out: retry, reopen, defer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import CampaignError
from campaigns.pool.pool import queued_ids
from campaigns.queue import Failed, retries
from campaigns.status import status
from db.exceptions import StaleQueueError
from db.records import QueueEntryRecord
from db.states import FailureReason, QueueState, RoundState
from tests.campaigns.helpers import done, kappascout, queue, reference_records, refused, write_lines


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    """Campaign whose first round queued three of six crystals, all approved."""
    directory = tmp_path / "c"
    done("init", directory, "--cold")
    records = [record | {"properties": {}} for record in reference_records(6)]
    done("ingest", directory, write_lines(tmp_path / "pool.jsonl", records))
    with Campaign.open(directory) as campaign:
        propose(campaign, *(record["id"] for record in records[:3]))
        campaign.move([], QueueState.APPROVED)
        yield campaign


def propose(campaign: Campaign, *ids: str, state: RoundState = RoundState.QUEUED) -> None:
    """Begin a round that queues these materials."""
    settings = campaign.configuration.model_dump(mode="json")
    number = campaign.store.start_round({"settings": settings, "labels": 0}).number
    entries = [QueueEntryRecord(i, id_, fidelity="dft") for i, id_ in enumerate(ids, start=1)]
    campaign.store.finish_step(number, state, queue=entries)


def ids_of(campaign: Campaign) -> list[str]:
    return [entry.material_id for entry in campaign.queue_entries(round=1)]


def states(campaign: Campaign) -> list[str]:
    return [str(entry.state) for entry in campaign.queue_entries()]


def test_a_machine_failure_is_retried_up_to_the_limit(campaign: Campaign) -> None:
    """It counts once as queried; each try is kept, with author, time and note."""
    first, *_ = ids_of(campaign)
    limit = campaign.configuration.labeler.max_retries
    for attempt in range(limit + 1):
        campaign.fail([first], FailureReason.TIMED_OUT, "24 h")
        assert campaign.queue()["remedy"][0] == ("queue retry" if attempt < limit else "queue retry --force")
        if attempt < limit:
            (entry,) = campaign.retry([first], "longer")
            assert retries(entry) == attempt
    with pytest.raises(CampaignError, match=rf"{first} was retried {limit} times.*max_retries = {limit}"):
        campaign.retry([first])
    assert states(campaign)[0] == "failed"
    assert campaign.retry(None) == []
    campaign.retry([first], force=True)
    (entry, *_) = campaign.queue_entries()
    assert (entry.state, retries(entry), campaign.asked()) == (QueueState.APPROVED, limit + 1, 3)
    assert [c.note for c in entry.history if c.from_state is QueueState.FAILED] == ["longer"] * limit + ["retry"]
    assert campaign.store.failures() == []
    assert len(campaign.store.failures(current_only=False)) == limit + 1
    void = campaign.store.failures(current_only=False)[0]
    assert (void.voided_note, bool(void.voided_by), bool(void.voided_at)) == ("longer", True, True)


def test_failures_of_crystals_are_reopened_and_not_retried(campaign: Campaign) -> None:
    first, second, third = ids_of(campaign)
    campaign.fail([first], FailureReason.IMAGINARY_MODES, "-2 THz")
    campaign.fail([second], FailureReason.OUT_OF_MEMORY)
    with pytest.raises(CampaignError, match=rf"{first} failed by itself \(imaginary_modes: -2 THz\).*queue reopen"):
        campaign.retry([second, first])
    with pytest.raises(CampaignError, match=rf"{second} failed by the machine \(out_of_memory\).*queue retry"):
        campaign.reopen([first, second])
    with pytest.raises(CampaignError, match=f"{third} is approved"):
        campaign.reopen([third])
    with pytest.raises(CampaignError, match=f"{third} is approved, not failed"):
        campaign.retry([third])
    assert states(campaign) == ["failed", "failed", "approved"]
    assert len(campaign.store.failures()) == 2
    campaign.reopen([first], "wrong pseudopotential")
    assert states(campaign) == ["proposed", "failed", "approved"]
    assert [failure.material_id for failure in campaign.store.failures()] == [second]
    assert [entry.material_id for entry in campaign.retry(None)] == [second]
    assert states(campaign) == ["proposed", "approved", "approved"]


def test_a_withdrawal_is_undone(campaign: Campaign) -> None:
    first, second, _ = ids_of(campaign)
    campaign.move([first, second], QueueState.WITHDRAWN, "too heavy")
    assert campaign.asked() == 1
    campaign.reopen([first], "not so heavy")
    campaign.reopen([second], approve=True)
    assert states(campaign) == ["proposed", "approved", "approved"]
    assert campaign.asked() == 2, "one that is proposed again is not queried yet"
    entry, other, _ = campaign.queue_entries()
    assert [(c.to_state, c.note) for c in entry.history][-2:] == [
        ("withdrawn", "too heavy"),
        ("proposed", "not so heavy"),
    ]
    assert [c.to_state for c in other.history][-2:] == ["proposed", "approved"]


def test_a_deferred_material_is_a_candidate_of_the_next_round(campaign: Campaign) -> None:
    """It costs no budget; its old entry stays as it is once another round queued it."""
    first, second, third = ids_of(campaign)
    campaign.move([third], QueueState.EXPORTED)
    with pytest.raises(CampaignError, match=f"{third} is exported"):
        campaign.defer([first, third])
    assert campaign.defer([]) == []
    assert states(campaign) == ["approved", "approved", "exported"]
    campaign.defer([first, second], "no time")
    assert states(campaign) == ["deferred", "deferred", "exported"]
    assert campaign.asked() == 1
    assert queued_ids(campaign.store, "dft") == ({third}, set())
    campaign.reopen([second])
    assert queued_ids(campaign.store, "dft") == ({second, third}, set())
    propose(campaign, first)
    with pytest.raises(CampaignError, match=f"{first} is proposed"):
        campaign.reopen([first])
    with pytest.raises(StaleQueueError):
        campaign.store.move([campaign.queue_entries()[0].id or 0], QueueState.PROPOSED, "test")


def test_nothing_that_a_begun_round_may_choose_is_reopened(campaign: Campaign) -> None:
    first, second, _ = ids_of(campaign)
    campaign.defer([first])
    campaign.move([second], QueueState.WITHDRAWN)
    campaign.store.start_round({"settings": campaign.configuration.model_dump(mode="json")})
    with pytest.raises(CampaignError, match=f"{first} is a candidate of round 2, which has begun"):
        campaign.reopen([first])
    campaign.reopen([second])
    assert states(campaign)[:2] == ["deferred", "proposed"]


def test_a_label_that_came_all_the_same_finishes_what_the_machine_failed(campaign: Campaign) -> None:
    first, second, *_ = ids_of(campaign)
    campaign.fail([first], FailureReason.NODE_FAILED)
    campaign.fail([second], FailureReason.IMAGINARY_MODES)
    campaign.record(first, 3.0)
    campaign.record(second, 3.0)
    assert states(campaign)[:2] == ["done", "failed"], "of the crystal's failure a person decides"


def test_a_round_is_evaluated_again_when_a_retried_entry_has_its_label(campaign: Campaign) -> None:
    first, second, third = ids_of(campaign)
    campaign.fail([first], FailureReason.DISK_FULL)
    campaign.fail([second], FailureReason.NOT_CONVERGED)
    campaign.defer([third])

    def figures() -> list[object]:
        found = campaign.store.round(1).metrics_after or {}
        return [found.get(name) for name in ("rows", "failed", "failed_by_machine", "deferred")]

    assert figures() == [None] * 4
    campaign.run(rounds=1, wait=True)
    assert figures() == [0, 2, 1, 1]
    campaign.retry([first])
    campaign.record(first, 3.0)
    finished = campaign.store.round(1).finished_at
    campaign.run(rounds=1, wait=True)
    assert figures() == [1, 1, 0, 1]
    assert campaign.store.round(1).finished_at == finished


def test_commands(campaign: Campaign) -> None:
    """What they print and refuse; failures are counted by kind, with what may be done about each."""
    directory = campaign.directory
    first, second, third = ids_of(campaign)
    done("queue", "fail", directory, first, "--reason", "vanished", "--note", "no trace")
    done("queue", "fail", directory, second, "--reason", "below_floor")
    rows = {row["id"]: row for row in queue(directory, "failed")}
    assert {id_: (row["failed_by"], row["failure"], row["remedy"]) for id_, row in rows.items()} == {
        first: ("machine", "vanished: no trace", "queue retry"),
        second: ("crystal", "below_floor", "queue reopen"),
    }
    table = done("queue", "list", directory, "--state", "failed").out
    assert "queue reopen" in table
    assert status(campaign.workspace)["failed_by"] == {"crystal": 1, "machine": 1}
    assert done("status", directory, "--format", "json").json["failed_by"] == {"crystal": 1, "machine": 1}
    for arguments in ((), (first, "--all")):
        assert kappascout("queue", "retry", directory, *arguments).code == 2
    assert "failed by itself" in refused("queue", "retry", directory, second)
    assert "1 entries approved again" in done("queue", "retry", directory, "--all", "--note", "again").err
    assert "1 entries proposed again" in done("queue", "reopen", directory, second).err
    assert "2 entries deferred" in done("queue", "defer", directory, second, third, "--note", "next time").err
    assert "is not in the queue" in refused("queue", "defer", directory, reference_records(6)[5]["id"])
    assert [row["state"] for row in queue(directory)] == ["approved", "deferred", "deferred"]
    assert "failed_by" not in status(campaign.workspace)


def test_an_entry_that_failed_without_a_record_is_of_its_crystal(campaign: Campaign) -> None:
    first, *_ = ids_of(campaign)
    (entry, *_) = campaign.queue_entries()
    campaign.store.move([entry.id or 0], QueueState.FAILED, "test", "by hand")
    failures = Failed.of(campaign.workspace)
    (entry, *_) = campaign.queue_entries()
    assert (failures.kind(entry), failures.words(entry)) == ("crystal", "by hand")
    campaign.reopen([first])
