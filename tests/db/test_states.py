from __future__ import annotations

import pytest

from db.states import (
    CAMPAIGN_MOVES,
    QUEUE_MOVES,
    UNFINISHED,
    CampaignState,
    FailureKind,
    FailureReason,
    QueueState,
    RoundState,
    round_moves,
)


@pytest.mark.parametrize("enum", [QueueState, RoundState, CampaignState, FailureKind, FailureReason])
def test_every_value_has_a_sentence(enum):
    for state in enum:
        assert state.meaning.endswith(".")
        assert enum(state.value) is state
        assert str(state) == state.value


def test_finished_states():
    """What ended may be retried or reopened, except what is done; from an open state no move leads back."""
    finished = {state for state in QueueState if state.is_finished}
    assert finished == {QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN, QueueState.DEFERRED}
    assert set(UNFINISHED) == set(QueueState) - finished
    again = {state: QUEUE_MOVES[state] for state in finished}
    assert again == {
        QueueState.DONE: set(),
        QueueState.FAILED: {QueueState.APPROVED, QueueState.PROPOSED},
        QueueState.WITHDRAWN: {QueueState.PROPOSED},
        QueueState.DEFERRED: {QueueState.PROPOSED},
    }
    assert {state for state, to in QUEUE_MOVES.items() if QueueState.DEFERRED in to} == {
        QueueState.PROPOSED,
        QueueState.APPROVED,
    }
    assert RoundState.JUDGED.is_finished
    assert round_moves(RoundState.JUDGED) == []
    assert CampaignState.STOPPED.is_finished


def test_every_state_has_its_moves():
    assert set(QUEUE_MOVES) == set(QueueState)
    assert set(CAMPAIGN_MOVES) == set(CampaignState)


def test_a_proposed_entry_gets_its_label_only_through_approval():
    assert QUEUE_MOVES[QueueState.PROPOSED] == {QueueState.APPROVED, QueueState.WITHDRAWN, QueueState.DEFERRED}


def test_every_failure_is_due_to_crystal_or_machine():
    assert {reason for reason in FailureReason if reason.kind is FailureKind.CRYSTAL} == {
        "imaginary_modes",
        "not_converged",
        "symmetry_broken",
        "below_floor",
        "too_large",
        "too_long",
        "crashed",
        "rejected",
    }
    assert {reason for reason in FailureReason if reason.kind is FailureKind.MACHINE} == {
        "timed_out",
        "calculator_error",
        "bad_output",
        "node_failed",
        "out_of_memory",
        "disk_full",
        "missing_setup",
        "vanished",
        "cancelled",
    }


@pytest.mark.parametrize("state", RoundState)
def test_rounds_move_forward_and_are_judged_only_once_queued(state):
    assert all(to.step > state.step for to in round_moves(state))
    assert (RoundState.JUDGED in round_moves(state)) == (state is RoundState.QUEUED)
