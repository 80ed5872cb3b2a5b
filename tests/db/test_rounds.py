from __future__ import annotations

import pytest

from db.exceptions import (
    IllegalMoveError,
    InvalidRecordError,
    StaleQueueError,
    UnknownMaterialError,
    UnknownRecordError,
)
from db.records import ArtifactRecord, ModelRecord, QueueEntryRecord
from db.states import RoundState, round_moves


def entries(*ids):
    return [QueueEntryRecord(rank, material_id) for rank, material_id in enumerate(ids, start=1)]


def test_a_round_from_start_to_judgement(store, pool):
    assert store.start_round({"pool": "abc"}).state is RoundState.STARTED
    store.finish_step(1, RoundState.EMBEDDED)
    trained = store.finish_step(
        1, RoundState.TRAINED, model=ModelRecord("model-1"), metrics_before={"mae": 0.1, "r2": None}
    )
    assert trained.model_id == "model-1"
    artifact = ArtifactRecord("artifacts/predictions.parquet", "a" * 64, 10)
    assert store.finish_step(1, RoundState.SCORED, predictions=artifact).predictions == artifact
    store.finish_step(1, RoundState.RANKED)
    store.finish_step(1, RoundState.QUEUED, queue=entries("m3", "m1"))
    judged = store.set_judgement(1, {"mae": 0.2})
    assert store.rounds() == [store.round(1)] == [judged]
    assert (judged.metrics_before, judged.metrics_after) == ({"mae": 0.1, "r2": None}, {"mae": 0.2})
    assert (judged.manifest, judged.model_id, judged.predictions) == ({"pool": "abc"}, "model-1", artifact)
    assert list(judged.steps) == list(RoundState)
    assert judged.finished_at == judged.steps["judged"]
    assert [entry.material_id for entry in store.queue(round=1)] == ["m3", "m1"]


def test_a_judgement_may_be_renewed_when_more_labels_arrive(store, pool):
    store.start_round({})
    with pytest.raises(IllegalMoveError, match="started to judged"):
        store.set_judgement(1, {})
    store.finish_step(1, RoundState.QUEUED)
    first = store.set_judgement(1, {"labels": 1})
    second = store.set_judgement(1, {"labels": 2})
    assert second.metrics_after == {"labels": 2}
    assert second.finished_at == first.finished_at


def test_only_legal_moves_are_made(store):
    store.start_round({})
    for start in RoundState:
        if start is not RoundState.STARTED:
            assert store.finish_step(1, start).state is start
        for to in set(RoundState) - set(round_moves(start)):
            with pytest.raises(IllegalMoveError, match=f"round 1 .*{start} to {to}"):
                store.finish_step(1, to)
            assert store.round(1).state is start


def test_a_first_batch_without_a_model_skips_its_steps(store):
    store.start_round({})
    assert store.finish_step(1, RoundState.RANKED).state is RoundState.RANKED


def test_one_round_at_a_time(store):
    store.start_round({})
    with pytest.raises(IllegalMoveError, match=r"round 1 .*started"):
        store.start_round({})
    store.finish_step(1, RoundState.QUEUED)
    assert store.start_round({}).number == 2


def test_a_step_is_all_or_nothing(store, pool):
    store.start_round({})
    with pytest.raises(UnknownMaterialError):
        store.finish_step(1, RoundState.QUEUED, model=ModelRecord("model-1"), queue=entries("m1", "nobody"))
    assert store.round(1).state is RoundState.STARTED
    assert store.models() == []
    assert store.queue() == []


def test_a_round_may_take_a_model_written_before(store):
    store.add_model(ModelRecord("shared"))
    store.start_round({})
    assert store.finish_step(1, RoundState.TRAINED, model_id="shared").model_id == "shared"


def test_the_queue_of_a_round_is_written_once(store, pool):
    store.start_round({})
    store.finish_step(1, RoundState.QUEUED, queue=entries("m1", "m2"))
    with pytest.raises(IllegalMoveError, match=r"round 1 .*queued to queued"):
        store.finish_step(1, RoundState.QUEUED, queue=entries("m1", "m3"))
    assert [entry.material_id for entry in store.queue()] == ["m1", "m2"]


def test_what_is_awaited_is_not_queued_again(store, pool):
    store.start_round({})
    store.finish_step(1, RoundState.QUEUED, queue=entries("m1", "m2"))
    store.start_round({})
    with pytest.raises(StaleQueueError, match=r"'m2' \(round 1\)"):
        store.finish_step(2, RoundState.QUEUED, queue=entries("m2", "m3"))
    assert store.round(2).state is RoundState.STARTED


def test_bad_requests(store):
    with pytest.raises(UnknownRecordError, match="round 5"):
        store.round(5)
    with pytest.raises(InvalidRecordError, match="manifest, x"):
        store.start_round({"x": float("nan")})
    assert store.rounds() == []
