"""Tables with a crystal in every row: CSV with a column of CIF or JSON, and Parquet."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import IO

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.containers import damaged
from engine.materials.crystal import PropertyValue
from engine.materials.formats import Format, RawRecord
from engine.materials.json_documents import sifted
from engine.materials.json_records import CRYSTAL_FIELDS, is_crystal_text
from engine.materials.names import nth
from engine.materials.parsing import ID_KEYS

LONGEST_CELL = 1 << 22
"""Most bytes of one row of a CSV; no crystal's text is longer."""
ID_COLUMNS = ("materialid", *ID_KEYS)
"""Names of the column of ids, in lower case; the first that a file has counts."""
ROWS = 256
"""Rows of a Parquet file in memory at once."""
_TEXT_COLUMNS = {*ID_COLUMNS, *CRYSTAL_FIELDS, "formula", "pretty_formula", "formula_pretty", "reduced_formula"}
csv.field_size_limit(LONGEST_CELL)


def csv_rows(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """One record for each row, cells by their columns' names; one refusal where no column holds crystals."""
    lines = whole_rows(content)
    header = Header.read(next(lines, b""))
    waiting: list[RawRecord | Rejection] = []
    found = False
    for n, line in enumerate(lines, start=1):
        row = _csv_row(header, line, nth(stem, n), f"{source}[{n - 1}]")
        if row is None:
            continue
        waiting.append(row)
        found = found or (isinstance(row, RawRecord) and header.holds_crystal(row.payload))
        if found:
            yield from waiting
            waiting = []
        elif len(waiting) >= ROWS:
            deque(lines, maxlen=0)  # damage of a table of properties is reported where it occurs
            break
    if not found:
        columns = ", ".join(header.names)[:300] or "none"
        yield Rejection(
            source,
            stem,
            RejectionReason.MISSING_FIELD,
            f"no column of the table holds crystals (it has {columns})",
            f"name the column of CIF or JSON text `cif` or `structure`; a table of properties needs a column of ids "
            f"({', '.join(ID_COLUMNS)}) and must be a separate file beside the crystals, not in an archive",
        )


def parquet_rows(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """One record for each row: a crystal's columns as in a JSON record, every other column a property."""
    yield from sifted(_parquet_rows(content, stem, source), stem, source)


class Header:
    """First row of a CSV: the columns' names, and the delimiter."""

    def __init__(self, names: list[str], delimiter: str):
        self.names = names
        self.delimiter = delimiter
        lower = [name.lower() for name in names]
        self.id_column = next((lower.index(name) for name in ID_COLUMNS if name in lower), None)
        self._crystals = [name for name in names if name.lower() in CRYSTAL_FIELDS]

    @classmethod
    def read(cls, line: bytes) -> Header:
        """Read the first row; columns are separated by commas, semicolons or tabs."""
        text = line.decode("utf-8", errors="replace")
        delimiter = next((mark for mark in ",;\t" if mark in text), ",")
        return cls([name.strip() for name in cells(line, delimiter)], delimiter)

    def holds_crystal(self, row: object) -> bool:
        """Whether a row, by columns' names, has a crystal in one of the columns named for crystals."""
        return isinstance(row, dict) and any(is_crystal_text(row.get(name.lower())) for name in self._crystals)

    @property
    def may_hold_crystals(self) -> bool:
        """Whether a column has the name of one of crystals."""
        return bool(self._crystals)


def row_of(header: Header, found: list[str]) -> dict[str, object]:
    """The cells of a row by their columns' names; ids, formulas and crystals stay text."""
    row: dict[str, object] = {}
    for column, cell in zip(header.names, found, strict=False):
        lower = column.lower()
        if column and cell:
            row[lower if lower in _TEXT_COLUMNS else column] = cell if lower in _TEXT_COLUMNS else _typed(cell)
    return row


def whole_rows(stream: IO[bytes]) -> Iterator[bytes]:
    """Rows of a CSV, whose quoted cells may have several lines; a quote without an end applies to its line alone."""
    ahead: deque[bytes] = deque()
    while line := (ahead.popleft() if ahead else stream.readline(LONGEST_CELL)):
        lines, size = [line], len(line)
        is_open = line.count(b'"') % 2 == 1
        while is_open and size < LONGEST_CELL:
            more = ahead.popleft() if ahead else stream.readline(LONGEST_CELL)
            if not more:
                break
            lines.append(more)
            size += len(more)
            is_open = more.count(b'"') % 2 == 0
        if is_open:
            ahead.extendleft(reversed(lines[1:]))
            lines = lines[:1]
        yield b"".join(lines)


def cells(row: bytes, delimiter: str = ",") -> list[str]:
    """Cells of a row; none if it is not CSV."""
    text = io.StringIO(row.decode("utf-8-sig", errors="replace"), newline="")
    try:
        return next(csv.reader(text, delimiter=delimiter), [])
    except csv.Error:
        return []


def value(text: str) -> PropertyValue:
    """Value of a cell: a truth value, a number or text."""
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if "_" not in text else text  # Python reads 1_000 as a number
    except ValueError:
        return text


def _csv_row(header: Header, line: bytes, name: str, source: str) -> RawRecord | Rejection | None:
    found = cells(line, header.delimiter)
    if not any(found):
        return None
    if len(found) != len(header.names):
        message = f"the row has {len(found)} cells, and the table {len(header.names)} columns"
        remedy = "quote cells that hold commas or several lines"
        return Rejection(source, name, RejectionReason.UNREADABLE, message, remedy)
    return RawRecord(name, Format.JSON, row_of(header, found), source)


def _typed(cell: str) -> PropertyValue | list[str]:
    """The value of a cell; a list in Python's or JSON's notation is not a property."""
    return [cell] if cell[0] in "[{" else value(cell)


def _parquet_rows(content: IO[bytes], stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = content if content.seekable() else io.BytesIO(content.read())
    n = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=ROWS):
            for row in batch.to_pylist():
                n += 1
                yield RawRecord(nth(stem, n), Format.JSON, row, f"{source}[{n - 1}]")
    except (pa.ArrowException, OSError) as error:
        yield damaged(source, nth(stem, n + 1), error)
