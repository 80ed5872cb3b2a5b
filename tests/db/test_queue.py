from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, event

from db.exceptions import IllegalMoveError, StaleQueueError, UnknownMaterialError, UnknownRecordError
from db.records import QueueEntryRecord, StateChange
from db.states import QUEUE_MOVES, UNFINISHED, QueueState, RoundState

WAYS = {
    QueueState.PROPOSED: [],
    QueueState.APPROVED: [QueueState.APPROVED],
    QueueState.EXPORTED: [QueueState.APPROVED, QueueState.EXPORTED],
    QueueState.RUNNING: [QueueState.APPROVED, QueueState.RUNNING],
    QueueState.DONE: [QueueState.APPROVED, QueueState.RUNNING, QueueState.DONE],
    QueueState.FAILED: [QueueState.APPROVED, QueueState.FAILED],
    QueueState.WITHDRAWN: [QueueState.WITHDRAWN],
    QueueState.DEFERRED: [QueueState.DEFERRED],
}


@pytest.fixture
def ids(store, pool):
    """Ids of three proposed entries."""
    store.start_round({})
    store.finish_step(1, RoundState.QUEUED, queue=[QueueEntryRecord(i, f"m{i}") for i in (1, 2, 3)])
    return [entry.id for entry in store.queue()]


def test_entries_come_back_as_they_went_in(store, pool):
    entry = QueueEntryRecord(
        1, "m5", 0.8, 0.4, 1.5, -0.1, 0.2, 0.71, 1200.0, "predicted 0.8 (0.4-1.5)", "dft", {"family": "NaCl"}
    )
    store.start_round({})
    store.finish_step(1, RoundState.QUEUED, queue=[entry])
    (found,) = store.queue()
    assert found == replace(entry, id=found.id, round=1, history=found.history)
    assert found.history == (StateChange(None, QueueState.PROPOSED, found.history[0].at, "kappascout"),)


def test_moves_are_kept_with_author_time_and_note(store, ids):
    store.move(ids, QueueState.APPROVED, "Ada", "cheap enough")
    store.move(ids[:1], QueueState.RUNNING, "replay")
    (first, second, _) = store.queue()
    assert [(change.from_state, change.to_state, change.author, change.note) for change in first.history] == [
        (None, QueueState.PROPOSED, "kappascout", ""),
        (QueueState.PROPOSED, QueueState.APPROVED, "Ada", "cheap enough"),
        (QueueState.APPROVED, QueueState.RUNNING, "replay", ""),
    ]
    assert (first.state, second.state) == (QueueState.RUNNING, QueueState.APPROVED)
    assert store.queue_counts()[QueueState.APPROVED] == 2
    assert [entry.id for entry in store.queue([QueueState.RUNNING])] == ids[:1]
    assert store.queue([QueueState.RUNNING], round=2) == []


@pytest.mark.parametrize("start", QueueState)
def test_every_illegal_move_is_refused(store, ids, start):
    for state in WAYS[start]:
        store.move(ids[:1], state, "test")
    for to in set(QueueState) - QUEUE_MOVES[start]:
        with pytest.raises(IllegalMoveError, match=rf"queue entry {ids[0]} \(m1\) .*{start} to {to}"):
            store.move(ids[:1], to, "test")
        assert store.queue()[0].state is start


def test_every_legal_move_is_made(store, pool):
    moves = [(start, to) for start in QueueState for to in sorted(QUEUE_MOVES[start])]
    for start, to in moves:
        number = store.start_round({}).number
        store.finish_step(number, RoundState.QUEUED, queue=[QueueEntryRecord(1, "m1")])
        (entry,) = store.queue(round=number)
        for state in [*WAYS[start], to]:
            store.move([entry.id], state, "test")
        assert store.queue(round=number)[0].state is to
        if not to.is_finished:
            store.move([entry.id], QueueState.WITHDRAWN, "test")


def test_moves_are_all_or_none_and_say_what_is_legal(store, ids):
    store.move(ids[1:2], QueueState.WITHDRAWN, "test")
    with pytest.raises(IllegalMoveError, match="withdrawn to approved; from withdrawn it may go to proposed") as caught:
        store.move(ids, QueueState.APPROVED, "test")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(IllegalMoveError, match="approved, withdrawn, deferred"):
        store.move(ids, QueueState.EXPORTED, "test")
    assert [entry.state for entry in store.queue()] == ["proposed", "withdrawn", "proposed"]


def test_entries_of_some_materials(store, ids):
    """Under any id; an unknown one is named, and no id means none."""
    store.move(ids[:1], QueueState.WITHDRAWN, "test")
    store.start_round({})
    store.finish_step(
        2, RoundState.QUEUED, queue=[QueueEntryRecord(1, "m3", fidelity="agl"), QueueEntryRecord(2, "m1")]
    )
    found = store.queue(material_ids=["m3", "m1", "m3"])
    assert [(e.round, e.rank, e.material_id) for e in found] == [(1, 1, "m1"), (1, 3, "m3"), (2, 1, "m3"), (2, 2, "m1")]
    assert found == [entry for entry in store.queue() if entry.material_id != "m2"]
    assert [entry.round for entry in store.queue(UNFINISHED, material_ids=["m1"])] == [2]
    assert store.queue(round=2, material_ids=["m2"]) == []
    assert store.queue(material_ids=[]) == []
    with pytest.raises(UnknownMaterialError) as caught:
        store.queue(material_ids=["m1", "who"])
    assert "who" in str(caught.value)


def test_moving_one_entry_reads_one(store, ids):
    """However long the queue is: no statement of a move gives or changes more than that entry."""
    seen = []

    def count(connection, cursor, statement, parameters, context, executemany):
        if "queue_entry" in statement:
            seen.append((statement.split()[0], parameters))

    event.listen(Engine, "after_cursor_execute", count)
    try:
        store.move(ids[:1], QueueState.APPROVED, "test")
    finally:
        event.remove(Engine, "after_cursor_execute", count)
    assert [verb for verb, _ in seen] == ["SELECT", "UPDATE"]
    assert all(ids[0] in tuple(p.values() if isinstance(p, dict) else p) for _, p in seen)


def test_unknown_entries_are_named(store, ids):
    with pytest.raises(UnknownRecordError, match="998, 999"):
        store.move([*ids, 998, 999], QueueState.APPROVED, "test")
    assert store.queue_counts()[QueueState.PROPOSED] == 3


def test_a_failed_material_may_be_queued_again(store, ids):
    store.move(ids, QueueState.APPROVED, "test")
    store.move(ids, QueueState.FAILED, "test")
    store.start_round({})
    store.finish_step(2, RoundState.QUEUED, queue=[QueueEntryRecord(1, "m1")])
    assert [entry.round for entry in store.queue()] == [1, 1, 1, 2]


@pytest.mark.parametrize("ended", [QueueState.FAILED, QueueState.WITHDRAWN, QueueState.DEFERRED])
def test_an_entry_is_not_opened_beside_another_of_its_label(store, ids, ended):
    """Neither while another is pending, nor two at once; another fidelity is another label."""
    for state in WAYS[ended]:
        store.move(ids, state, "test")
    store.start_round({})
    queue = [QueueEntryRecord(1, "m1"), QueueEntryRecord(2, "m2", fidelity="agl")]
    store.finish_step(2, RoundState.QUEUED, queue=queue)
    first, second = (entry.id for entry in store.queue(round=2))
    with pytest.raises(StaleQueueError, match=rf"queue entry {ids[0]} \(m1\).* queue entry {first};"):
        store.move(ids, QueueState.PROPOSED, "test")
    assert {entry.state for entry in store.queue(round=1)} == {ended}
    store.move([first], QueueState.DEFERRED, "test")
    with pytest.raises(StaleQueueError, match="m1"):
        store.move([ids[0], first], QueueState.PROPOSED, "test")
    store.move([*ids[1:], first], QueueState.PROPOSED, "test")
    assert second is not None
    assert [entry.state for entry in store.queue()] == [ended, *["proposed"] * 4]


def test_any_sequence_of_moves_obeys_the_table(store, ids):
    class Moves(RuleBasedStateMachine):
        """One fresh entry a run, moved at random beside a plain model of its state."""

        def __init__(self):
            super().__init__()
            for entry in store.queue():
                if not entry.state.is_finished:
                    store.move([entry.id], QueueState.WITHDRAWN, "test")
            number = store.start_round({}).number
            store.finish_step(number, RoundState.QUEUED, queue=[QueueEntryRecord(1, "m1")])
            self.entry = store.queue(round=number)[0].id
            self.round = number
            self.path = [QueueState.PROPOSED]

        @rule(to=st.sampled_from(QueueState))
        @precondition(lambda self: len(self.path) < 6)
        def move(self, to):
            try:
                store.move([self.entry], to, "test")
            except IllegalMoveError:
                assert to not in QUEUE_MOVES[self.path[-1]]
            else:
                assert to in QUEUE_MOVES[self.path[-1]]
                self.path.append(to)

        def teardown(self):
            (entry,) = store.queue(round=self.round)
            assert entry.state is self.path[-1]
            assert [change.to_state for change in entry.history] == self.path

    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    run_state_machine_as_test(
        Moves, settings=settings(max_examples=10, stateful_step_count=8, deadline=None, suppress_health_check=checks)
    )
