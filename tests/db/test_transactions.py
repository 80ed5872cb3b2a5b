"""Several verbs as one transaction: all of them are kept, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from db.exceptions import LabelError
from db.records import LabelRecord, MaterialRecord
from db.store import Store


def label(material_id: str, value: float = 1.0) -> LabelRecord:
    """Give a label of a material."""
    return LabelRecord(material_id, "kappa_300K", value, "W/(m K)", "dft")


def test_verbs_read_what_those_before_them_wrote(store: Store, make_material: Callable[..., MaterialRecord]) -> None:
    with store.transaction():
        store.add_materials([make_material("a")])
        store.add_labels([label("a")])
        store.add_labels([label("a", 2.0)])
        assert [(found.value, found.is_current) for found in store.labels(current_only=False)] == [
            (1.0, False),
            (2.0, True),
        ]
    assert [found.value for found in store.labels()] == [2.0]


def test_an_error_takes_back_all(store: Store, pool: list[str], make_material: Callable[..., MaterialRecord]) -> None:
    def fail_after_writing() -> None:
        with store.transaction():
            store.add_materials([make_material("new")])
            store.add_labels([label(pool[0])])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_writing()
    assert store.counts()["materials"] == len(pool)
    assert store.labels() == []
    store.add_labels([label(pool[0])])
    assert len(store.labels()) == 1


def test_one_within_another_is_the_same(store: Store, pool: list[str]) -> None:
    def fail_after_the_inner_one() -> None:
        with store.transaction():
            with store.transaction():
                store.add_labels([label(pool[0])])
            store.add_labels([label(pool[1])])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_the_inner_one()
    assert store.labels() == []


def test_a_refusal_that_is_handled_lets_the_rest_through(store: Store, pool: list[str]) -> None:
    with store.transaction():
        store.add_labels([label(pool[0])])
        with pytest.raises(LabelError):
            store.add_labels([label(pool[1], -1.0)])
    assert [found.material_id for found in store.labels()] == [pool[0]]


def test_nobody_else_sees_the_middle(store: Store, store_url: str, pool: list[str], tmp_path: Path) -> None:
    with Store.open(store_url) as other:
        with store.transaction():
            store.add_labels([label(pool[0])])
            assert other.labels() == []
        assert len(other.labels()) == 1
