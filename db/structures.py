"""Structures of materials in compressed Parquet files, the shards; the tables hold the place of each.

A shard is written under a temporary name, synchronised and renamed before any row refers to it, and its name is
the SHA-256 of its bytes: a killed process leaves at worst an unused shard, and damage is detected when it is
read. A structure is a dictionary of ``lattice`` (3 x 3), ``numbers`` (n) and ``frac_coords`` (n x 3), stored
bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from db.exceptions import BrokenShardError, StoreError, StoreNotWritableError
from db.records import Json

if TYPE_CHECKING:
    import pyarrow as pa

FULL = 4096
"""Structures of a shard; with ten sites each they take about a megabyte in memory."""
CACHE_BYTES = 64 << 20
SUFFIX = ".parquet"


class Shards:
    """The shards of one folder.

    Parameters
    ----------
    folder
        Created with the first shard. None for a store that was opened without one: anything that needs a
        structure then raises an error.
    """

    def __init__(self, folder: Path | None):
        self._given = folder
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._sound: set[str] = set()

    @property
    def folder(self) -> Path:
        """Folder of the shards."""
        if self._given is None:
            raise StoreError(
                "structures are stored in files beside campaign.toml, and this store was opened without their folder; "
                "open it with `structures=DIR/artifacts/structures`"
            )
        return self._given

    def path(self, sha256: str) -> Path:
        """File of a shard."""
        return self.folder / f"{sha256}{SUFFIX}"

    def write(self, structures: Sequence[Json]) -> str:
        """Write a shard, or repair the one that should hold these structures; returns its SHA-256."""
        import pyarrow as pa

        lattice = [[x for row in s["lattice"] for x in row] for s in structures]
        coords = [[x for row in s["frac_coords"] for x in row] for s in structures]
        columns = [lattice, [s["numbers"] for s in structures], coords]
        arrays = [_lists(rows, kind.value_type) for rows, kind in zip(columns, _schema().types, strict=True)]
        return self._keep(pa.table(arrays, schema=_schema()))

    def read(self, sha256: str, rows: Sequence[int]) -> list[Json]:
        """Structures at ``rows`` of a shard.

        Raises
        ------
        BrokenShardError
            If it is missing, or its bytes are not those that were written.
        """
        import pyarrow as pa

        part = self._table(sha256).take(_array(rows, pa.int64()))
        lattices, numbers, coords = (column.to_pylist() for column in part.columns)
        return [
            {"lattice": _triples(cell), "numbers": species, "frac_coords": _triples(sites)}
            for cell, species, sites in zip(lattices, numbers, coords, strict=True)
        ]

    def is_sound(self, sha256: str) -> bool:
        """Whether a shard has the bytes that were written; each is read once."""
        if sha256 not in self._sound:
            try:
                self._bytes(sha256)
            except BrokenShardError:
                return False
        return True

    def merge(self, shards: Iterable[str]) -> str:
        """Write one shard of the rows of several, in order; returns its SHA-256."""
        import pyarrow as pa

        return self._keep(pa.concat_tables([self._table(sha256) for sha256 in shards]).combine_chunks())

    def sweep(self, used: Collection[str]) -> None:
        """Delete the shards without references."""
        if self.folder.is_dir():
            for path in self.folder.glob(f"*{SUFFIX}"):
                if path.name.removesuffix(SUFFIX) not in used:
                    path.unlink(missing_ok=True)

    def _keep(self, table: pa.Table) -> str:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=FULL)
        content = sink.getvalue()
        sha256 = hashlib.sha256(content).hexdigest()
        if not (self.path(sha256).exists() and self.is_sound(sha256)):
            self._write(content, self.path(sha256))
        self._sound.add(sha256)
        return sha256

    def _write(self, content: pa.Buffer, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=SUFFIX)
            partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.chmod(0o644)
                partial.replace(path)
                _sync_folder(path.parent)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StoreNotWritableError(
                f"structures could not be written to {path.parent} ({error.strerror}); nothing of this step was kept: "
                "check the disk for space and the folder's permissions, then run again"
            ) from error

    def _table(self, sha256: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if sha256 in self._tables:
            self._tables.move_to_end(sha256)
            return self._tables[sha256]
        table = pq.ParquetFile(pa.BufferReader(self._bytes(sha256))).read()
        self._tables[sha256] = table
        while len(self._tables) > 1 and sum(t.nbytes for t in self._tables.values()) > CACHE_BYTES:
            self._tables.popitem(last=False)
        return table

    def _bytes(self, sha256: str) -> bytes:
        path = self.path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise BrokenShardError(path, "is missing") from error
        except OSError as error:
            raise BrokenShardError(path, f"cannot be read ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BrokenShardError(path, "is damaged: its bytes are not those that were written")
        self._sound.add(sha256)
        return content


def _lists(rows: Sequence[Sequence[float]], kind: pa.DataType) -> pa.ListArray:
    """A column of lists; made of buffers, because pyarrow loads pandas to make one of Python's lists."""
    import pyarrow as pa

    ends = _array([0, *accumulate(map(len, rows))], pa.int32())
    return pa.ListArray.from_arrays(ends, _array([x for row in rows for x in row], kind))


def _array(numbers: Sequence[float], kind: pa.DataType) -> pa.Array:
    """Numbers as an array of pyarrow, without pandas."""
    import pyarrow as pa

    values = array(_CODES[str(kind)], numbers)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


_CODES = {"double": "d", "int16": "h", "int32": "i", "int64": "q"}
"""Code of :mod:`array` for each type of pyarrow; both are of fixed size on all platforms that pyarrow supports."""


def _triples(flat: list[float]) -> list[list[float]]:
    return [flat[i : i + 3] for i in range(0, len(flat), 3)]


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = pa.list_(pa.float64())
    return pa.schema({"lattice": numbers, "numbers": pa.list_(pa.int16()), "frac_coords": numbers})


def _sync_folder(folder: Path) -> None:
    """Synchronise a rename to disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
