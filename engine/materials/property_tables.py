"""CSV files of properties by id, such as GNoME's summary, found row by row; memory holds 16 bytes a row."""

from __future__ import annotations

import csv
import hashlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from engine.materials.crystal import PropertyValue
from engine.materials.formats import RawRecord
from engine.materials.json_records import with_our_names

ID_COLUMNS = ("materialid", "material_id", "id", "mat_id", "jid")
"""Names of the column of ids, in lower case; the first that a file has."""


class PropertyTables:
    """Tables open for reading; a context manager that closes them.

    ``files`` are those of the given paths that are tables: CSV with a column of ids.
    """

    def __init__(self, paths: Iterable[Path]):
        self._open = ExitStack()
        self._tables: dict[Path, _Table] = {}
        for path in paths:
            if path.suffix.lower() == ".csv" and path not in self._tables and (table := _Table.open(path)):
                self._open.callback(table.close)
                self._tables[path] = table

    @property
    def files(self) -> set[Path]:
        """Give the files that are tables."""
        return set(self._tables)

    def joined(self, record: RawRecord) -> RawRecord:
        """Give the record with what the tables know under its id."""
        properties: dict[str, PropertyValue] = {}
        for table in self._tables.values():
            properties = table.row(record.id) | properties
        return replace(record, properties=with_our_names(properties)) if properties else record

    def __enter__(self) -> PropertyTables:
        """Give the tables."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._open.close()


class _Table:
    """One file: the place of every row, by a hash of its id; a row is read when it is asked for."""

    def __init__(self, stream: IO[bytes], header: list[str], column: int):
        self._stream, self._header, self._column = stream, header, column
        keys, places = array("Q"), array("q")
        place = stream.tell()
        for line in stream:
            if cells := _cells(line):
                keys.append(_key(cells[column]) if column < len(cells) else 0)
                places.append(place)
            place += len(line)
        order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
        self._keys = np.array(keys, dtype=np.uint64)[order]
        self._places = np.array(places, dtype=np.int64)[order]

    @classmethod
    def open(cls, path: Path) -> _Table | None:
        """Index a file; None where it has no column of ids."""
        stream = path.open("rb")
        header = [name.strip() for name in _cells(stream.readline())]
        lower = [name.lower() for name in header]
        column = next((lower.index(name) for name in ID_COLUMNS if name in lower), None)
        if column is None:
            stream.close()
            return None
        return cls(stream, header, column)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def row(self, record_id: str) -> dict[str, PropertyValue]:
        """Give the values of an id; none where it has no row."""
        for cells in self._rows_like(record_id):
            if len(cells) == len(self._header) and cells[self._column] == record_id:
                named = zip(self._header, cells, strict=True)
                return {k: _value(v) for n, (k, v) in enumerate(named) if k and v and n != self._column and v[0] != "["}
        return {}

    def _rows_like(self, record_id: str) -> Iterator[list[str]]:
        key = np.uint64(_key(record_id))
        first, last = np.searchsorted(self._keys, [key, key + np.uint64(1)])
        for place in self._places[first:last]:
            self._stream.seek(int(place))
            yield _cells(self._stream.readline())


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8-sig", errors="replace")]), [])


def _key(record_id: str) -> int:
    """63 bits, so that one may be added."""
    return int.from_bytes(hashlib.blake2b(record_id.encode(), digest_size=8).digest()) >> 1


def _value(text: str) -> PropertyValue:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text
