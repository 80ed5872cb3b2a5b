"""CSV files of properties by id, such as GNoME's summary, with an index of 16 bytes for each row in memory."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from engine.materials.containers import DAMAGE, uncompressed
from engine.materials.crystal import PropertyValue
from engine.materials.formats import RawRecord
from engine.materials.json_records import with_our_names
from engine.materials.names import bare_name
from engine.materials.tables import ROWS, Header, cells, row_of, value, whole_rows
from engine.materials.text_streams import as_utf8, is_utf8


class PropertyTables:
    """Tables open for reading; a context manager that closes them.

    ``files`` are those of the given paths that are tables: CSV with a column of ids, and none of crystals.
    """

    def __init__(self, paths: Iterable[Path]):
        self._open = ExitStack()
        self._tables: dict[Path, _Table] = {}
        for path in paths:
            is_csv = bare_name(PurePosixPath(path)).endswith(".csv") and path not in self._tables
            if is_csv and (table := _Table.open(path)):
                self._open.callback(table.close)
                self._tables[path] = table

    @property
    def files(self) -> set[Path]:
        """The files that are tables."""
        return set(self._tables)

    def joined(self, record: RawRecord) -> RawRecord:
        """The record with the properties of the tables under its id."""
        properties: dict[str, PropertyValue] = {}
        for table in self._tables.values():
            properties = table.row(record.id) | properties
        return replace(record, properties=with_our_names(properties)) if properties else record

    def __enter__(self) -> PropertyTables:
        """The tables."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._open.close()


class _Table:
    """One file: the place of every row, by a hash of its id; rows are read on request."""

    def __init__(self, stream: IO[bytes], header: Header, column: int):
        self._stream, self._header, self._column = stream, header, column
        keys, places = array("Q"), array("q")
        place = stream.tell()
        for line in whole_rows(stream):
            if found := cells(line, header.delimiter):
                keys.append(_key(found[column]) if column < len(found) else 0)
                places.append(place)
            place += len(line)
        order = np.argsort(np.array(keys, dtype=np.uint64), kind="stable")
        self._keys = np.array(keys, dtype=np.uint64)[order]
        self._places = np.array(places, dtype=np.int64)[order]

    @classmethod
    def open(cls, path: Path) -> _Table | None:
        """Index a file; None if it has no column of ids, or has crystals, or cannot be read."""
        try:
            stream = _seekable(path)
        except DAMAGE:  # reported when it is read with the crystals
            return None
        line = stream.readline()
        header = Header.read(line)
        column, start = header.id_column, stream.tell()
        first = islice(whole_rows(stream), ROWS) if header.may_hold_crystals else ()
        if column is None or any(header.holds_crystal(row_of(header, cells(row, header.delimiter))) for row in first):
            stream.close()
            return None
        stream.seek(start)
        return cls(stream, header, column)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def row(self, record_id: str) -> dict[str, PropertyValue]:
        """The values of an id; none where it has no row."""
        for found in self._rows_like(record_id):
            if len(found) == len(self._header.names) and found[self._column] == record_id:
                named = zip(self._header.names, found, strict=True)
                return {k: value(v) for n, (k, v) in enumerate(named) if k and v and n != self._column and v[0] != "["}
        return {}

    def _rows_like(self, record_id: str) -> Iterator[list[str]]:
        key = np.uint64(_key(record_id))
        first, last = np.searchsorted(self._keys, [key, key + np.uint64(1)])
        for place in self._places[first:last]:
            self._stream.seek(int(place))
            yield cells(next(whole_rows(self._stream), b""), self._header.delimiter)


def _seekable(path: Path) -> IO[bytes]:
    """The text of a file in UTF-8: the file itself, or else a temporary one."""
    stream = path.open("rb")
    start = stream.read(1 << 16)
    stream.seek(0)
    if bare_name(PurePosixPath(path)) == path.name.lower() and is_utf8(start):
        return stream
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    with stream:
        try:
            shutil.copyfileobj(as_utf8(uncompressed(stream, path.name)), copy)
        except DAMAGE:
            copy.close()
            raise
    copy.seek(0)
    return copy


def _key(record_id: str) -> int:
    """Hash of 63 bits, so that one may be added."""
    digest = hashlib.blake2b(record_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
