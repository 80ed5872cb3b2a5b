"""Rows stored on disk by key: append-only Arrow shards, one row for each key.

A shard is written under a temporary name and renamed, so that a killed process leaves a complete shard or none; its
name ends in the SHA-256 of its bytes, so that two processes never write to one file and damage can be found. Opening
reads the keys alone; rows are memory-mapped on request. A key takes 24 bytes of memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from engine.exceptions import ShardError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HASH_LENGTH = 32
_HASH = re.compile(f"[0-9a-fA-F]{{{_HASH_LENGTH}}}")
_SUFFIX = ".arrow"
_Part = tuple[pa.Table, "NDArray[np.int64]", slice]
_Index = tuple["NDArray[np.uint64]", "NDArray[np.uint64]", "NDArray[np.int64]"]
"""First and second half of the digest of each key, and its row."""


class ShardStore:
    """A folder of Arrow shards with a string ``key`` column and a fixed set of further columns.

    The shards are opened at the first access.

    Parameters
    ----------
    folder
        Made if missing. One folder holds one kind of row; put what the rows depend on (graph version, backbone hash)
        into its name.
    schema
        Arrow schema without the key.

    Raises
    ------
    ShardError
        If a shard cannot be read or holds other columns.
    """

    _known: _Index
    _new: list[_Index]
    """Keys of shards that are not among the known ones yet."""
    _opened: set[str]
    _tables: list[pa.Table]
    _starts: list[int]
    _looked: bool

    def __init__(self, folder: Path | str, schema: pa.Schema):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.schema = pa.schema([pa.field("key", pa.string()), *schema])
        self._lock = threading.RLock()
        self._forget()

    def __contains__(self, key: str) -> bool:
        return bool(self._rows([key])[0] >= 0)

    def __len__(self) -> int:
        return len(self._index[2])

    def __getstate__(self) -> dict[str, object]:
        """Pickle without open shards, which another process opens itself."""
        return {"folder": self.folder, "schema": self.schema}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._lock = threading.RLock()
        self._forget()

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that no shard holds, each once, in order."""
        keys = list(keys)
        absent = np.flatnonzero(self._rows(keys) < 0)
        return list(dict.fromkeys(keys[i] for i in absent.tolist()))

    def holds(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether a shard holds each of the keys, N."""
        return self._rows(keys) >= 0

    def refresh(self) -> None:
        """Open shards that another process has added."""
        with self._lock:
            for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
                if path.name not in self._opened:
                    self._open(path)

    def discard_broken(self) -> list[str]:
        """Delete the shards whose bytes are not those that were written, and name them; their rows are missing then.

        Each shard is read once in a process.
        """
        broken = [path for path in sorted(self.folder.glob(f"*{_SUFFIX}")) if not _is_sound(path, *_state(path))]
        for path in broken:
            path.unlink()
        if broken:
            self._forget()
        return [path.name for path in broken]

    def append(self, keys: Sequence[str], columns: dict[str, Any]) -> None:
        """Add one shard; for a key that exists already the first row is kept."""
        if not keys:
            return
        table = pa.table({"key": pa.array(keys, pa.string()), **columns}, schema=self.schema)
        descriptor, name = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as sink:
                with ipc.new_file(sink, self.schema) as writer:
                    writer.write_table(table)
                sink.flush()
                os.fsync(sink.fileno())
            path = self.folder / f"{len(self._shards()):06d}-{_sha256(partial)[:_HASH_LENGTH]}{_SUFFIX}"
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        with self._lock:
            if path.name not in self._opened:
                self._open(path)

    def read(self, keys: Sequence[str]) -> pa.Table:
        """Rows of ``keys`` in their order; an absent key raises ``KeyError``."""
        if not len(keys):
            return self.schema.empty_table()
        order, parts = self._located(keys)
        tables = [table.take(rows) for table, rows, _ in parts]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(tables).take(back)

    def read_vectors(self, name: str, keys: Sequence[str]) -> NDArray[Any]:
        """Column of vectors of one length d as N x d, straight from the memory map; absent keys raise ``KeyError``."""
        column = self.schema.field(name).type
        out = np.empty((len(keys), column.list_size), dtype=column.value_type.to_pandas_dtype())
        if not len(keys):
            return out
        order, parts = self._located(keys)
        in_order = bool((order[1:] > order[:-1]).all())
        for table, rows, place in parts:
            vectors = _vectors(table.column(name))
            first, last = int(rows[0]), int(rows[-1]) + 1
            found = vectors[first:last] if last - first == len(rows) and (np.diff(rows) == 1).all() else vectors[rows]
            out[place if in_order else order[place]] = found
        return out

    def _located(self, keys: Sequence[str]) -> tuple[NDArray[np.int64], list[_Part]]:
        """Order of the keys on disk; then for each shard with some of them their rows and positions in the order."""
        rows = self._rows(keys)
        if (absent := np.flatnonzero(rows < 0)).size:
            raise KeyError(keys[int(absent[0])])
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        found, firsts = np.unique(shards, return_index=True)
        ends = [*firsts[1:].tolist(), len(rows)]
        return order, [
            (self._tables[shard], rows[a:b] - self._starts[shard], slice(a, b))
            for shard, a, b in zip(found.tolist(), firsts.tolist(), ends, strict=True)
        ]

    def _rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Row of each key over all shards, -1 where there is none."""
        high, low, rows = self._index
        if not len(rows) or not len(keys):
            return np.full(len(keys), -1, dtype=np.int64)
        wanted_high, wanted_low = _digests(keys)
        ascending = np.argsort(wanted_high)  # which are found in half the time
        place = np.empty(len(keys), dtype=np.int64)
        place[ascending] = np.minimum(np.searchsorted(high, wanted_high[ascending]), len(rows) - 1)
        same_high, same_low = high[place] == wanted_high, low[place] == wanted_low
        for i in np.flatnonzero(same_high & ~same_low).tolist():  # keys that agree in their first half
            while place[i] + 1 < len(rows) and high[place[i] + 1] == wanted_high[i] and not same_low[i]:
                place[i] += 1
                same_low[i] = low[place[i]] == wanted_low[i]
        return np.where(same_high & same_low, rows[place], -1)

    @property
    def _index(self) -> _Index:
        """All keys in order, the first row of each."""
        with self._lock:  # threads that read at the same time see all of it, or wait
            self._shards()
            if self._new:
                high, low, rows = (np.concatenate(parts) for parts in zip(self._known, *self._new, strict=True))
                order = np.lexsort((rows, low, high))
                high, low, rows = high[order], low[order], rows[order]
                first = np.ones(len(rows), dtype=bool)
                first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
                self._known, self._new = (high[first], low[first], rows[first]), []
            return self._known

    def _shards(self) -> list[pa.Table]:
        """All shards, opened."""
        with self._lock:
            if not self._looked:
                self.refresh()
                self._looked = True
            return self._tables

    def _forget(self) -> None:
        nothing = np.empty(0, dtype=np.uint64)
        self._known, self._new = (nothing, nothing, np.empty(0, dtype=np.int64)), []
        self._opened, self._tables, self._starts = set(), [], [0]
        self._looked = False

    def _open(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                table = ipc.open_file(source).read_all()
                keys = table.column("key").to_pylist() if "key" in table.schema.names else []
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ShardError(
                f"{path} cannot be read ({error}); delete this file: its rows are computed again at the next run"
            ) from error
        if not table.schema.equals(self.schema):
            raise ShardError(
                f"{path} holds columns {_described(table.schema)}, expected {_described(self.schema)}; "
                "it was written by another version: delete the folder, its rows are computed again at the next run"
            )
        start = self._starts[-1]
        self._new.append((*_digests(keys), np.arange(start, start + len(keys))))
        self._opened.add(path.name)
        self._tables.append(table)
        self._starts.append(start + len(table))


def _digests(keys: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Two halves of 128 bits for each key: those of a content hash are its digits, those of other text its BLAKE2b."""
    try:
        digits = bytes.fromhex("".join(keys)) if set(map(len, keys)) == {_HASH_LENGTH} else b""
    except ValueError:
        digits = b""
    if 2 * len(digits) != _HASH_LENGTH * len(keys):
        digits = b"".join(map(_digest, keys))
    pairs = np.frombuffer(digits, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def _digest(key: str) -> bytes:
    if _HASH.fullmatch(key):
        return bytes.fromhex(key)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_HASH_LENGTH // 2).digest()


def _vectors(column: pa.ChunkedArray) -> NDArray[Any]:
    """N x d of a column of vectors, without a copy."""
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    flat = values.flatten()
    width = values.type.list_size
    if pa.types.is_float16(flat.type):
        return np.frombuffer(flat.buffers()[1], np.float16)[flat.offset : flat.offset + len(flat)].reshape(-1, width)
    return np.asarray(flat.to_numpy()).reshape(-1, width)


@cache
def _is_sound(path: Path, size: int, changed: int) -> bool:
    """Whether the bytes of a shard match the hash in its name; checked again if size or time of the file change."""
    return _sha256(path).startswith(path.stem.rpartition("-")[2])


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in schema)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
