"""Rows kept on disk by content: append-only Arrow shards, one row a key.

A shard is written beside its final name and renamed, so that a killed process leaves either a whole shard or none; a
shard's name holds the SHA-256 of its bytes. Opening reads the keys alone; rows are memory-mapped when asked for.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
    """

    def __init__(self, folder: Path | str, schema: pa.Schema):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.schema = pa.schema([pa.field("key", pa.string()), *schema])
        self._tables: dict[Path, pa.Table] = {}
        self._where: dict[str, tuple[Path, int]] = {}
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of ``keys`` that no shard holds, each once, in order."""
        return [k for k in dict.fromkeys(keys) if k not in self._where]

    def refresh(self) -> None:
        """Look for shards that another process has added."""
        for path in sorted(self.folder.glob("*.arrow")):
            if path not in self._tables:
                self._open(path)

    def append(self, keys: Sequence[str], columns: dict[str, Any]) -> None:
        """Add one shard. Keys already present are written again only if the caller passes them; the first stays."""
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
        by_shard: dict[Path, tuple[list[int], list[int]]] = {}
        for position, key in enumerate(keys):
            path, row = self._where[key]
            rows, positions = by_shard.setdefault(path, ([], []))
            rows.append(row)
            positions.append(position)
        parts = [self._tables[path].take(rows) for path, (rows, _) in by_shard.items()]
        if not parts:
            return self.schema.empty_table()
        order = np.empty(len(keys), dtype=np.int64)
        order[np.concatenate([positions for _, positions in by_shard.values()])] = np.arange(len(keys))
        return pa.concat_tables(parts).take(order)

    def verify(self) -> Iterator[tuple[Path, bool]]:
        """Each shard with whether its bytes still match the hash in its name."""
        for path in sorted(self._tables):
            yield path, _sha256(path)[:32] == path.stem.split("-")[1]

    def _open(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                table = ipc.open_file(source).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(
                f"{path} cannot be read ({error}); delete this file: its rows are made again at the next run"
            ) from error
        if not table.schema.equals(self.schema):
            raise ShardError(
                f"{path} holds columns {table.schema.names}, expected {self.schema.names}; "
                "it was written by another version: delete the folder, its rows are made again at the next run"
            )
        self._tables[path] = table
        for row, key in enumerate(table.column("key").to_pylist()):
            self._where.setdefault(key, (path, row))


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
