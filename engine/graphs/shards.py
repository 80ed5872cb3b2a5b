"""Rows kept on disk by content: append-only Arrow shards, one row a key.

A shard is written beside its final name and renamed, so that a killed process leaves either a whole shard or none; its
name ends in the SHA-256 of its bytes, so that two processes never write to one file. Opening reads the keys alone; rows
are memory-mapped when asked for.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from engine.exceptions import ShardError


class ShardStore:
    """A folder of Arrow shards with a string ``key`` column and a fixed set of further columns.

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

    def __init__(self, folder: Path | str, schema: pa.Schema):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.schema = pa.schema([pa.field("key", pa.string()), *schema])
        self._opened: set[str] = set()
        self._tables: list[pa.Table] = []
        self._starts = [0]
        self._row_of: dict[str, int] = {}
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._row_of

    def __len__(self) -> int:
        return len(self._row_of)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that no shard holds, each once, in order."""
        return [k for k in dict.fromkeys(keys) if k not in self._row_of]

    def refresh(self) -> None:
        """Look for shards that another process has added."""
        for path in sorted(self.folder.glob("*.arrow")):
            if path.name not in self._opened:
                self._open(path)

    def append(self, keys: Sequence[str], columns: dict[str, Any]) -> None:
        """Add one shard; of a key that is there already the first row stays."""
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
            path = self.folder / f"{len(self._tables):06d}-{_sha256(partial)[:32]}.arrow"
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self._open(path)

    def read(self, keys: Sequence[str]) -> pa.Table:
        """Rows of ``keys`` in their order; an absent key raises ``KeyError``."""
        rows = np.array([self._row_of[key] for key in keys], dtype=np.int64)
        if not len(rows):
            return self.schema.empty_table()
        order = np.argsort(rows, kind="stable")
        shards = np.searchsorted(self._starts, rows[order], side="right") - 1
        found, firsts = np.unique(shards, return_index=True)
        parts = [
            self._tables[shard].take(rows[part] - self._starts[shard])
            for shard, part in zip(found.tolist(), np.split(order, firsts[1:]), strict=True)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(back)

    def _open(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                table = ipc.open_file(source).read_all()
                keys = table.column("key").to_pylist() if "key" in table.schema.names else []
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ShardError(
                f"{path} cannot be read ({error}); delete this file: its rows are made again at the next run"
            ) from error
        if not table.schema.equals(self.schema):
            raise ShardError(
                f"{path} holds columns {_described(table.schema)}, expected {_described(self.schema)}; "
                "it was written by another version: delete the folder, its rows are made again at the next run"
            )
        for row, key in enumerate(keys, start=self._starts[-1]):
            self._row_of.setdefault(key, row)
        self._opened.add(path.name)
        self._tables.append(table)
        self._starts.append(self._starts[-1] + len(table))


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in schema)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
