from __future__ import annotations

from dataclasses import replace

import pytest

from db.exceptions import InvalidRecordError, UnknownRecordError
from db.records import MemberRecord, ModelRecord

MODEL = ModelRecord(
    "round-1",
    stage={"strategy": "frozen", "targets": ["kappa_300K"]},
    backbone_hash="b" * 64,
    data_hash="d" * 64,
    settings={"heads": ["gp", "mlp"]},
    seeds=(1, 2),
    code_version="0.1.0",
    metrics={"mae": 0.1, "r2": None},
    members=(
        MemberRecord(0, 1, "artifacts/a.safetensors", "a" * 64, {"mae": 0.11}),
        MemberRecord(1, 2**62, "artifacts/b.safetensors", "b" * 64),
    ),
)


def test_models_come_back_as_they_went_in(store):
    store.add_model(MODEL)
    found = store.model("round-1")
    assert found == replace(MODEL, created_at=found.created_at)
    assert found.created_at
    assert store.models() == [found]


def test_the_same_again_changes_nothing_and_another_is_refused(store):
    store.add_model(MODEL)
    store.add_model(replace(MODEL, settings={"heads": ("gp", "mlp")}))
    assert len(store.models()) == 1
    with pytest.raises(InvalidRecordError, match="data_hash, members"):
        store.add_model(replace(MODEL, data_hash="e" * 64, members=()))


def test_lineage_runs_from_the_root(store):
    store.add_model(replace(MODEL, model_id="base"))
    store.add_model(replace(MODEL, model_id="middle", parent_id="base"))
    store.add_model(replace(MODEL, model_id="leaf", parent_id="middle"))
    assert [model.model_id for model in store.lineage("leaf")] == ["base", "middle", "leaf"]
    assert [model.parent_id for model in store.lineage("leaf")] == [None, "base", "middle"]


def test_unknown_models_are_named(store):
    store.add_model(MODEL)
    with pytest.raises(UnknownRecordError, match=r"'x'.*round-1"):
        store.lineage("x")
    with pytest.raises(UnknownRecordError, match="'x'"):
        store.add_model(replace(MODEL, model_id="child", parent_id="x"))
    assert len(store.models()) == 1
