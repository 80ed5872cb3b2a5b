"""Other processes: killed in the middle of a transaction, or holding the store."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from db.exceptions import StoreLockedError
from db.records import QueueEntryRecord
from db.states import QueueState, RoundState
from db.store import Store

KILLED = """
import os, signal, sys
from db.store import Store
from db.tables import Base
store = Store.open(sys.argv[1])
with store.session(write=True) as session:
    connection = session.connection()
    connection.exec_driver_sql("PRAGMA cache_size = 1") if connection.dialect.name == "sqlite" else None
    for table in ("queue_change", "queue_entry", "source", "material_property"):
        connection.exec_driver_sql(f"DELETE FROM {table}")
    connection.exec_driver_sql("UPDATE material SET formula = 'gone', shard_row = 7")
    connection.exec_driver_sql("UPDATE round SET state = 'judged'")
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDS = """
import sys
from db.store import Store
store = Store.open(sys.argv[1])
with store.session(write=True) as session:
    session.connection().exec_driver_sql("UPDATE campaign SET seed = 11")
    print("holding", flush=True)
    sys.stdin.readline()
"""


def snapshot(store):
    return list(store.materials()), store.queue(), store.rounds(), store.campaign()


def test_a_killed_process_leaves_the_store_as_before(store, store_url, structures, pool):
    store.start_round({"pool": "abc"})
    store.finish_step(1, RoundState.QUEUED, queue=[QueueEntryRecord(1, "m1"), QueueEntryRecord(2, "m2")])
    before = snapshot(store)
    store.close()
    process = subprocess.run([sys.executable, "-c", KILLED, store_url], check=False)
    assert process.returncode == -9
    if store_url.startswith("sqlite"):
        journal = Path(store_url.removeprefix("sqlite:///") + "-journal")
        assert journal.stat().st_size > 0, "the killed process had not begun to change the file"
    with Store.open(store_url, structures=structures) as again:
        assert snapshot(again) == before
        again.move([again.queue()[0].id], QueueState.APPROVED, "test")
        assert again.queue()[0].state is QueueState.APPROVED


@pytest.fixture
def holder(store_url, store):
    """Another process in the middle of writing the campaign."""
    arguments = [sys.executable, "-c", HOLDS, store_url]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "holding\n"
        yield process


def release(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def set_seed(store, seed):
    with store.session(write=True) as session:
        session.connection().exec_driver_sql(f"UPDATE campaign SET seed = {seed}")


def test_a_locked_store_is_waited_for_and_then_says_so(store_url, holder):
    with Store.open(store_url, timeout=0.3) as store:
        assert store.campaign().seed == 7
        start = time.monotonic()
        with pytest.raises(StoreLockedError, match=r"for more than 0\.3 s"):
            set_seed(store, 12)
        assert time.monotonic() - start >= 0.3
        release(holder)
        assert holder.wait() == 0
        assert store.campaign().seed == 11
        set_seed(store, 12)
        assert store.campaign().seed == 12


def test_a_lock_given_up_in_time_is_not_noticed(store_url, holder):
    with Store.open(store_url, timeout=30.0) as store:
        threading.Timer(0.3, release, [holder]).start()
        set_seed(store, 12)
        assert store.campaign().seed == 12


def test_a_killed_creation_leaves_no_half_store(store_url):
    script = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from db.store import Store
def kill(connection, cursor, statement, *rest):
    if "CREATE TABLE queue_entry" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
event.listen(Engine, "before_cursor_execute", kill)
Store.open(sys.argv[1], create=True)
"""
    assert subprocess.run([sys.executable, "-c", script, store_url], check=False).returncode == -9
    with Store.open(store_url, create=True) as store:
        assert store.campaigns() == []
