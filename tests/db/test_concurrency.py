"""Several processes on one campaign: nobody is given what another has, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from db.exceptions import StoreLockedError
from db.records import LabelRecord, QueueEntryRecord
from db.states import CampaignState, QueueState, RoundState
from db.store import Store

MOVES = """
import sys
from db.exceptions import IllegalMoveError
from db.states import QueueState
from db.store import Store
with Store.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for entry in store.queue():
        try:
            store.move([entry.id], QueueState.RUNNING, sys.argv[2])
        except IllegalMoveError:
            pass
"""
CORRECTS = """
import sys
from db.records import LabelRecord
from db.store import Store
with Store.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(20):
        value = float(sys.argv[2]) + i / 100
        store.add_labels([LabelRecord(f"m{k}", "kappa_300K", value, "W/(m K)", "dft") for k in range(5)])
"""
INGESTS = """
import sys
from pathlib import Path
from db.records import MaterialRecord
from db.store import Store
with Store.open(sys.argv[1], structures=Path(sys.argv[3])) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(20):
        structure = {"lattice": [[i, 0, 0], [0, i, 0], [0, 0, i]], "numbers": [11], "frac_coords": [[0, 0, 0]]}
        fields = ("NaCl", "Cl-Na", 225, 2, "bucket", structure)
        store.add_materials([MaterialRecord(f"{sys.argv[2]}{i}{k}", f"hash {i} {k}", *fields) for k in range(5)])
"""
CREATES = """
import sys
from db.store import Store
print("ready", flush=True)
sys.stdin.readline()
Store.open(sys.argv[1], create=True).close()
"""


def together(script: str, store_url: str, *more: object, names: tuple[str, ...] = ("1", "2")) -> list[str]:
    """Run a script in as many processes as there are names, all let go at once; what each printed."""
    command = [sys.executable, "-c", script, store_url]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, name, *map(str, more)], **pipes) for name in names]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(len(processes)) as threads:
        outcomes = list(threads.map(lambda process: process.communicate("go\n"), processes))
    assert [process.returncode for process in processes] == [0] * len(names), [err for _, err in outcomes]
    return [out for out, _ in outcomes]


def approve(store, pool):
    store.start_round({})
    store.finish_step(
        1, RoundState.QUEUED, queue=[QueueEntryRecord(i, material_id) for i, material_id in enumerate(pool, start=1)]
    )
    store.move((entry.id for entry in store.queue()), QueueState.APPROVED, "test")


def test_two_workers_on_one_queue(store, store_url, pool):
    """Each entry is moved by one of them, and by one only."""
    approve(store, pool)
    together(MOVES, store_url)
    for entry in store.queue():
        assert [change.to_state for change in entry.history] == ["proposed", "approved", "running"]
        assert entry.history[-1].author in {"1", "2"}


def test_two_corrections_at_once_leave_one_label(store, store_url, pool):
    together(CORRECTS, store_url)
    assert len(store.labels()) == 5
    history = store.labels(current_only=False)
    assert len(history) == 200
    replaced = [label.superseded_by for label in history if not label.is_current]
    assert len(set(replaced)) == len(replaced) == 195
    assert all(one.superseded_by > one.id for one in history if not one.is_current)


def test_two_ingests_of_the_same_crystals(store, store_url, structures):
    together(INGESTS, store_url, structures)
    assert [m.structure["lattice"][0][0] for m in store.materials()] == [i for i in range(20) for _ in range(5)]
    assert (store.counts()["materials"], store.counts()["sources"]) == (100, 200)


def test_two_processes_make_one_store(store_url):
    together(CREATES, store_url)
    with Store.open(store_url) as store:
        assert store.campaigns() == []


def test_a_move_waits_for_no_other_entry(postgresql_url, make_campaign, make_material):
    """Neither for another's move nor for an import that is under way, both not committed yet."""
    with make_campaign(postgresql_url) as store, Store.open(postgresql_url, timeout=0.5) as other:
        approve(store, store.add_materials(make_material(f"m{i}") for i in range(4)).added)
        ids = [entry.id for entry in store.queue()]
        with store.transaction():
            store.move(ids[:2], QueueState.RUNNING, "first")
            store.add_labels([LabelRecord("m1", "kappa_300K", 1.0, "W/(m K)", "dft")])
            other.move(ids[2:], QueueState.RUNNING, "second")
            with pytest.raises(StoreLockedError):
                other.move(ids[1:2], QueueState.DONE, "second")
            other.move(ids[3:], QueueState.DONE, "second")
            assert other.labels() == []
        assert len(other.labels()) == 1
        assert [entry.state for entry in store.queue()] == ["running", "running", "running", "done"]


def test_reading_sees_one_moment(store, store_url, pool):
    with Store.open(store_url, timeout=0.2) as other, store.session() as session:
        before = store.counts()
        assert session.connection().exec_driver_sql("SELECT count(*) FROM material").scalar() == 10
        if store_url.startswith("postgresql"):  # on SQLite the writer waits for readers
            other.set_campaign_state(CampaignState.STOPPED)
            seen = session.connection().exec_driver_sql("SELECT state FROM campaign").scalar()
            assert seen == "active"
    assert store.counts() == before
