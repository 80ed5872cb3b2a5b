"""What counts as queried, and what is set aside for entries that may still be approved."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaigns.budget import asked, batch_within_budget, core_hours_left, spent
from campaigns.campaign import Campaign
from db.records import QueueEntryRecord
from db.states import QueueState, RoundState
from tests.campaigns.helpers import configure


@pytest.fixture
def queued(dft: Path) -> Path:
    """Give a campaign with a budget of 8 labels and 100 core-hours, and four proposed entries of 20."""
    configure(dft, {"campaign": {"budget_core_hours": 100.0}})
    with Campaign.open(dft) as campaign:
        settings = campaign.configuration.model_dump(mode="json")
        campaign.store.start_round({"settings": settings})
        keys = campaign.store.material_index()[20:24]
        entries = [
            QueueEntryRecord(rank, key.material_id, expected_cost=20.0, fidelity="dft")
            for rank, key in enumerate(keys, start=1)
        ]
        campaign.store.finish_step(1, RoundState.QUEUED, queue=entries)
    return dft


def test_proposed_entries_cost_nothing_and_are_set_aside(queued: Path) -> None:
    with Campaign.open(queued) as campaign:
        work = campaign.workspace
        ids = [e.material_id for e in campaign.queue_entries()]
        assert (asked(work), batch_within_budget(work), core_hours_left(work), spent(work)) == (0, 4, 20.0, "")
        campaign.move(ids[:1], QueueState.WITHDRAWN)
        assert (asked(work), batch_within_budget(work), core_hours_left(work)) == (0, 4, 40.0)
        campaign.move(ids[1:], QueueState.APPROVED)
        assert (asked(work), batch_within_budget(work), core_hours_left(work)) == (3, 4, 40.0)


@pytest.mark.parametrize(
    ("budget", "approved", "said"),
    [
        ({"budget": 4}, 0, "the budget of 4 labels leaves room for the proposed entries alone; `kappascout queue"),
        ({"budget": 4}, 4, "the budget of 4 labels is spent; raise it in campaign.toml"),
        ({"budget_core_hours": 80.0}, 0, "80 core-hours leaves room for the proposed entries alone; `kappascout"),
        ({"budget_core_hours": 80.0}, 4, "the budget of 80 core-hours is spent; raise it in campaign.toml"),
        ({"budget": 9}, 4, ""),
    ],
)
def test_a_spent_budget_and_one_that_proposals_fill(queued: Path, budget: dict, approved: int, said: str) -> None:
    configure(queued, {"campaign": budget})
    with Campaign.open(queued) as campaign:
        ids = [e.material_id for e in campaign.queue_entries()]
        if approved:
            campaign.move(ids[:approved], QueueState.APPROVED)
        found = spent(campaign.workspace)
    assert said in found
    assert bool(said) == bool(found)
