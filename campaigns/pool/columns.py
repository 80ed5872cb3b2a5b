"""Columns of many materials, compact in memory, read like a sequence of :class:`MaterialKey`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints, overload

import numpy as np
import pyarrow as pa
from pyarrow import compute

from db.records import MaterialKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_ROWS = 65_536
"""Rows that are worked on together, which bounds the memory."""
_SCHEMA = pa.schema(
    [(name, pa.int32() if kind is int else pa.string()) for name, kind in get_type_hints(MaterialKey).items()]
)


class MaterialColumns(Sequence[MaterialKey]):
    """N materials as columns, about 150 bytes each."""

    def __init__(self, table: pa.Table):
        self._table = table

    @classmethod
    def of(cls, parts: Iterable[Sequence[Sequence[Any]]]) -> MaterialColumns:
        """Collect materials part by part, each part one sequence for each field."""
        tables = [
            pa.table([pa.array(values, kind) for values, kind in zip(part, _SCHEMA.types, strict=True)], schema=_SCHEMA)
            for part in parts
        ]
        return cls(pa.concat_tables(tables) if tables else _SCHEMA.empty_table())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, row: int) -> MaterialKey: ...
    @overload
    def __getitem__(self, row: slice) -> MaterialColumns: ...
    def __getitem__(self, row: int | slice) -> MaterialKey | MaterialColumns:
        """One material, or a slice of consecutive ones."""
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if step != 1:
                raise ValueError(f"rows {row} are not consecutive; use take")
            return MaterialColumns(self._table.slice(start, max(0, stop - start)))
        return MaterialKey(*(column[int(row)].as_py() for column in self._table.columns))

    def __iter__(self) -> Iterator[MaterialKey]:
        for batch in self._table.to_batches(max_chunksize=BLOCK_ROWS):
            yield from map(MaterialKey, *(column.to_pylist() for column in batch.columns))

    def take(self, rows: NDArray[np.int64]) -> MaterialColumns:
        """Materials at these rows, in their order."""
        return MaterialColumns(self._table.take(pa.array(rows)))

    def column(self, name: str) -> pa.ChunkedArray:
        """One field of all materials."""
        return self._table.column(name)

    def texts(self, name: str) -> list[str]:
        """One field of all materials as strings."""
        texts: list[str] = self.column(name).to_pylist()
        return texts

    def numbers(self, name: str) -> NDArray[np.int64]:
        """One field of all materials as whole numbers, N."""
        return np.asarray(self.column(name).to_numpy(), dtype=np.int64)

    def distinct(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """Distinct values of one field, and which of them each material has (N)."""
        encoded: Any = self.column(name).combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), dtype=np.int64)

    def find(self, name: str, values: Iterable[str]) -> NDArray[np.int64]:
        """Rows whose field is one of ``values``, ascending."""
        wanted = pa.array(sorted(values), pa.string())
        return np.flatnonzero(compute.is_in(self.column(name), value_set=wanted).to_numpy()).astype(np.int64)
