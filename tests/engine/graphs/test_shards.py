"""Shards round-trip, survive kills and second writers, and name what is broken."""

from __future__ import annotations

import hashlib
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
    assert len(ours) == 0
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
    with pytest.raises(ShardError, match="arrow") as error:
        len(ShardStore(tmp_path, SCHEMA))
    assert path.name in str(error.value)


def test_another_kind_of_shard_is_named(tmp_path):
    append(ShardStore(tmp_path, SCHEMA), {"a": ([1.0], 1)})
    with pytest.raises(ShardError, match=r"expected key \(string\), embedding \(float\).*another version"):
        len(ShardStore(tmp_path, pa.schema({"embedding": pa.float32()})))


def test_a_hundred_thousand_keys_are_looked_up_at_once(tmp_path):
    store = ShardStore(tmp_path, pa.schema({"number": pa.int64()}))
    for part in range(10):
        numbers = np.arange(part, 100_000, 10)
        store.append([str(n) for n in numbers], {"number": numbers})
    order = np.random.default_rng(0).permutation(100_000)
    found = store.read([str(n) for n in order]).column("number").to_numpy()
    np.testing.assert_array_equal(found, order)


def test_a_shard_whose_bytes_have_changed_is_named_and_its_rows_are_missing(tmp_path):
    store = ShardStore(tmp_path, SCHEMA)
    append(store, {f"k{i}": ([0.5] * 50, i) for i in range(50)})
    append(store, {"other": ([2.0], 7)})
    path = min(tmp_path.glob("*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    again = ShardStore(tmp_path, SCHEMA)
    assert again.discard_broken() == [path.name]
    assert again.missing(["k3", "other"]) == ["k3"]
    assert again.discard_broken() == []
    append(again, {"k3": ([1.5], 3)})
    assert read(again, ["other", "k3"]) == [([2.0], 7), ([1.5], 3)]


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_vectors_come_in_the_order_asked_for(tmp_path, kind):
    store = ShardStore(tmp_path, pa.schema({"v": pa.list_(getattr(pa, kind)(), 3)}))
    assert store.read_vectors("v", []).shape == (0, 3)
    values = np.arange(90, dtype=kind).reshape(30, 3)
    keys = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(30)]
    for part in (slice(0, 12), slice(12, 30)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(values[part].ravel()), 3)
        store.append(keys[part], {"v": column})
    again = ShardStore(tmp_path, store.schema.remove(0))
    random = np.random.default_rng(1)
    for rows in (np.arange(30), np.arange(3, 8), random.permutation(30), random.integers(0, 30, 50), np.array([29, 0])):
        found = again.read_vectors("v", [keys[i] for i in rows])
        np.testing.assert_array_equal(found, values[rows])
        assert found.dtype == kind
    assert again.holds([keys[3], "0" * 32, "no hash"]).tolist() == [True, False, False]
    with pytest.raises(KeyError, match="0000"):
        again.read_vectors("v", [keys[0], "0" * 32])


def test_keys_that_agree_in_their_first_half(tmp_path):
    def key(number: int) -> str:
        return "f" * 16 + f"{number:016x}"

    store = ShardStore(tmp_path, pa.schema({"number": pa.int64()}))
    store.append([key(i) for i in (5, 1, 9, 3)], {"number": [5, 1, 9, 3]})
    found = store.read([key(i) for i in (9, 5, 3, 1)])
    assert found.column("number").to_pylist() == [9, 5, 3, 1]
    assert store.missing([key(i) for i in (0, 3, 4, 10)]) == [key(i) for i in (0, 4, 10)]
