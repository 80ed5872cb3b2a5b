"""Shards round-trip, survive kills and second writers, and name what is broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.exceptions import ShardError
from engine.graphs.shards import ShardStore
from tests.conftest import REPOSITORY

SCHEMA = pa.schema({"values": pa.list_(pa.float32()), "number": pa.int64()})
ROWS = st.dictionaries(st.text(max_size=8), st.tuples(st.lists(st.floats(width=32, allow_nan=False)), st.integers(0)))


def append(store: ShardStore, rows: dict) -> None:
    columns = {"values": [r[0] for r in rows.values()], "number": [r[1] % 2**60 for r in rows.values()]}
    store.append(list(rows), columns)


def read(store: ShardStore, keys: list[str]) -> list[tuple]:
    table = store.read(keys)
    return list(zip(table.column("values").to_pylist(), table.column("number").to_pylist(), strict=True))


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, max_size=4), st.randoms())
def test_rows_come_back_in_the_order_asked_for(parts, random):
    first: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        store = ShardStore(folder, SCHEMA)
        for part in parts:
            append(store, part)
            first = part | first  # the first row of a key stays
        keys = [*first, *list(first)[:2]]
        random.shuffle(keys)
        expected = [(first[k][0], first[k][1] % 2**60) for k in keys]
        assert read(store, keys) == expected
        again = ShardStore(folder, SCHEMA)
        assert read(again, keys) == expected
        assert len(again) == len(first)


def test_missing_and_absent_keys(tmp_path):
    store = ShardStore(tmp_path, SCHEMA)
    append(store, {"a": ([1.0], 1), "b": ([], 2)})
    assert store.missing(["c", "a", "c", "d"]) == ["c", "d"]
    assert "a" in store
    assert "c" not in store
    with pytest.raises(KeyError, match="c"):
        store.read(["a", "c"])
    assert store.read([]).num_rows == 0
    append(store, {})
    assert len(list(tmp_path.glob("*.arrow"))) == 1


def test_a_shard_of_another_process_is_found_on_refresh(tmp_path):
    ours, theirs = ShardStore(tmp_path, SCHEMA), ShardStore(tmp_path, SCHEMA)
    append(theirs, {"a": ([1.0], 1)})
    append(ours, {"b": ([2.0], 2)})  # both are shard 0 of their writer
    assert "a" not in ours
    ours.refresh()
    assert read(ours, ["a", "b"]) == [([1.0], 1), ([2.0], 2)]
    assert read(ShardStore(tmp_path, SCHEMA), ["b", "a"]) == [([2.0], 2), ([1.0], 1)]


WRITER = """
import sys
import pyarrow as pa
from engine.graphs.shards import ShardStore

store = ShardStore(sys.argv[1], pa.schema({"values": pa.list_(pa.float32()), "number": pa.int64()}))
name, rounds = sys.argv[2], int(sys.argv[3])
for i in range(rounds):
    store.append([f"{name}-{i}-{j}" for j in range(20)], {"values": [[float(i)] * 500] * 20, "number": [i] * 20})
    print(i, flush=True)
"""


def writer(folder, name: str, rounds: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(rounds)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_whole_shards_only(tmp_path):
    with writer(tmp_path, "w", 100_000) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        done = 5 + len(process.stdout.readlines())
    store = ShardStore(tmp_path, SCHEMA)
    assert len(store) % 20 == 0
    assert 20 * done <= len(store) <= 20 * (done + 1)
    assert read(store, ["w-3-7"]) == [([3.0] * 500, 3)]
    append(store, {"after": ([1.0], 1)})
    assert read(ShardStore(tmp_path, SCHEMA), ["after"]) == [([1.0], 1)]


def test_two_processes_append_side_by_side(tmp_path):
    with writer(tmp_path, "a", 15) as a, writer(tmp_path, "b", 15) as b:
        a.communicate(), b.communicate()
    assert a.returncode == b.returncode == 0
    store = ShardStore(tmp_path, SCHEMA)
    assert len(store) == 600
    assert read(store, ["b-14-0", "a-2-19"]) == [([14.0] * 500, 14), ([2.0] * 500, 2)]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_a_broken_shard_is_named_with_the_remedy(tmp_path, damage):
    store = ShardStore(tmp_path, SCHEMA)
    append(store, {f"k{i}": ([0.5] * 50, i) for i in range(50)})
    (path,) = tmp_path.glob("*.arrow")
    content = path.read_bytes()
    path.unlink()  # the store still maps the old bytes
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "garbage": b"\x00" * 500}[damage])
    with pytest.raises(ShardError, match="delete this file") as error:
        ShardStore(tmp_path, SCHEMA)
    assert path.name in str(error.value)


def test_another_kind_of_shard_is_named(tmp_path):
    append(ShardStore(tmp_path, SCHEMA), {"a": ([1.0], 1)})
    with pytest.raises(ShardError, match=r"expected key \(string\), embedding \(float\).*another version"):
        ShardStore(tmp_path, pa.schema({"embedding": pa.float32()}))


def test_a_hundred_thousand_keys_are_looked_up_at_once(tmp_path):
    store = ShardStore(tmp_path, pa.schema({"number": pa.int64()}))
    for part in range(10):
        numbers = np.arange(part, 100_000, 10)
        store.append([str(n) for n in numbers], {"number": numbers})
    order = np.random.default_rng(0).permutation(100_000)
    found = store.read([str(n) for n in order]).column("number").to_numpy()
    np.testing.assert_array_equal(found, order)
