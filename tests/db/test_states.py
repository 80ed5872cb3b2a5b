from __future__ import annotations

import pytest

from db.states import CAMPAIGN_MOVES, QUEUE_MOVES, CampaignState, FailureReason, QueueState, RoundState, round_moves


@pytest.mark.parametrize("enum", [QueueState, RoundState, CampaignState, FailureReason])
def test_every_value_has_a_sentence(enum):
    for state in enum:
        assert state.meaning.endswith(".")
        assert enum(state.value) is state
        assert str(state) == state.value


def test_finished_states_lead_nowhere():
    assert {state for state in QueueState if state.is_finished} == {
        QueueState.DONE,
        QueueState.FAILED,
        QueueState.WITHDRAWN,
    }
    assert RoundState.JUDGED.is_finished
    assert round_moves(RoundState.JUDGED) == []
    assert CampaignState.STOPPED.is_finished


def test_every_state_has_its_moves():
    assert set(QUEUE_MOVES) == set(QueueState)
    assert set(CAMPAIGN_MOVES) == set(CampaignState)


def test_a_proposed_entry_gets_its_label_only_through_approval():
    assert QUEUE_MOVES[QueueState.PROPOSED] == {QueueState.APPROVED, QueueState.WITHDRAWN}


@pytest.mark.parametrize("state", RoundState)
def test_rounds_move_forward_and_are_judged_only_once_queued(state):
    assert all(to.step > state.step for to in round_moves(state))
    assert (RoundState.JUDGED in round_moves(state)) == (state is RoundState.QUEUED)
