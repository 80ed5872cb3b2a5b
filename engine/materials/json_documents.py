"""JSON files to records, in constant memory.

A file is a record, a list, ``{id: record}``, a table as pandas writes it, a database's answer or ASE's JSON; or lines.
Records without a crystal in a file with others are refused singly; a file without any is refused once.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator, Iterator
from itertools import chain
from typing import IO, Any

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.containers import damaged
from engine.materials.formats import Format, RawRecord
from engine.materials.json_records import CRYSTAL_FIELDS, REMEDY, holds_crystal, is_crystal_text, layout_seen
from engine.materials.json_text import JsonStream, UnreadableValueError
from engine.materials.names import nth

LISTS = ("entries", "data", "structures", "results", "materials", "records", "docs", "response")
"""Members of an object that hold its records; the first is Alexandria's, the second that of OPTIMADE and of pandas."""
WAITING = 100
"""Records without a crystal that are kept until the first with one."""
PENDING = 64
"""Members of an object after which it can only be ``{id: record}``."""
LONGEST_LINE = 1 << 28
"""Largest size in bytes."""
_NOT_ROWS = ("ids", "nextid")  # of ASE's JSON database
_NONE = object()
_Row = RawRecord | Rejection


def json_lines(content: IO[bytes], stem: str, source: str) -> Iterator[_Row]:
    """One record for each line."""
    yield from sifted(_lines(content, stem, source), stem, source)


def json_document(content: IO[bytes], stem: str, source: str) -> Iterator[_Row]:
    """Every record of a document, or of several consecutive ones, in a stream."""
    yield from sifted(_documents(content, stem, source), stem, source)


def sifted(rows: Iterator[_Row], stem: str, source: str) -> Iterator[_Row]:
    """Records with a crystal; where none has one in a known layout, one refusal that describes the content."""
    waiting: list[RawRecord] = []
    strange = 0
    for row in rows:
        if isinstance(row, Rejection):
            yield row
        elif _is_about_the_file(row):
            continue
        elif not _is_record(row):
            strange += 1
            if len(waiting) < WAITING:
                waiting.append(row)
        else:
            yield from waiting
            if strange > len(waiting):
                yield _without_crystal(waiting[-1], f"{strange - len(waiting)} more records before", stem, source)
            yield row
            yield from rows
            return
    if strange == 1:
        yield from waiting
    elif waiting:
        yield _without_crystal(waiting[0], f"none of its {strange} records", stem, source)


def _content(row: RawRecord) -> object:
    """Content of a record, or the error of one that is not JSON."""
    try:
        return row.payload if isinstance(row.payload, dict) else json.loads(row.payload)
    except (ValueError, RecursionError) as error:
        return error


def _is_record(row: RawRecord) -> bool:
    return holds_crystal(_content(row))


def _is_about_the_file(row: RawRecord) -> bool:
    """Whether these are the first lines of OPTIMADE's JSON lines."""
    content = _content(row)
    return isinstance(content, dict) and ("x-optimade" in content or content.get("type") == "info")


def _without_crystal(row: RawRecord, which: str, stem: str, source: str) -> Rejection:
    content = _content(row)
    if isinstance(content, Exception):
        reason, seen = RejectionReason.UNREADABLE, "no JSON"
    else:
        reason, seen = RejectionReason.MISSING_FIELD, layout_seen(content)
    message = f"{which} holds a crystal in a layout that is known; the first is {seen}"
    return Rejection(source, stem, reason, message, REMEDY)


# --- lines --------------------------------------------------------------------------------------------------------


def _lines(content: IO[bytes], stem: str, source: str) -> Iterator[_Row]:
    n = 0
    while line := content.readline(LONGEST_LINE):
        n += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            yield damaged(f"{source}:{n}", nth(stem, n), ValueError(f"a line of more than {LONGEST_LINE} bytes"))
            return
        if line.strip():
            yield RawRecord(nth(stem, n), Format.JSON, line, f"{source}:{n}")


# --- documents ----------------------------------------------------------------------------------------------------


def _documents(content: IO[bytes], stem: str, source: str) -> Iterator[_Row]:
    """The records of a file, numbered; damage ends it."""
    n = 0
    try:
        with io.TextIOWrapper(content, encoding="utf-8", errors="replace") as stream:
            text = JsonStream(stream)
            documents = 0
            while start := text.peek():
                documents += 1
                where = source if documents == 1 else f"{source}({documents})"
                for row in _document(text, start, stem, where, n):
                    n += 1
                    yield row
    except ValueError as error:
        yield damaged(source, nth(stem, n + 1), error)


def _document(text: JsonStream, start: str, stem: str, source: str, n: int) -> Iterator[_Row]:
    if start == "[":
        yield from _listed(text, stem, source, n)
    elif start == "{":
        yield from _object(text, stem, source, n)
    else:
        yield _raw(nth(stem, n + 1), text.value(), source)


def _raw(name: str, value: object, source: str) -> RawRecord:
    """A record: an object or the text of a crystal; anything else is refused by the parser."""
    if is_crystal_text(value):
        value = {"structure": value}
    return RawRecord(name, Format.JSON, value if isinstance(value, dict) else json.dumps(value).encode(), source)


def _listed(text: JsonStream, stem: str, source: str, n: int) -> Iterator[_Row]:
    """Items of a list; ``n`` records of the file came before."""
    for place, _ in enumerate(text.places()):
        name, where = nth(stem, n + place + 1), f"{source}[{place}]"
        try:
            yield _raw(name, text.value(), where)
        except UnreadableValueError as error:
            yield _unreadable(where, name, error)


def _unreadable(source: str, name: str, error: Exception) -> Rejection:
    remedy = "write the record again from its source; the others of the file were read"
    return Rejection(source, name, RejectionReason.UNREADABLE, str(error), remedy)


def _object(text: JsonStream, stem: str, source: str, n: int) -> Iterator[_Row]:
    """The records of an object: those of its list or table, one for each member, or itself."""
    members: dict[str, object] = {}
    streamed = False
    keys = text.keys()
    for key in keys:
        try:
            if key in LISTS and text.peek() == "[":
                rest = yield from _list_of(text, members, stem, f"{source}.{key}", n)
                streamed = streamed or rest is None
                if rest is not None:
                    members[key] = rest
            else:
                members[key] = text.value()
        except UnreadableValueError as error:
            yield _unreadable(f"{source}.{key}", f"{stem}-{key}", error)
        if len(members) > PENDING and not holds_crystal(members) and _records_in(members) > PENDING // 2:
            yield from _mapped(members, stem, source)
            for name in keys:
                yield from _mapped({name: _value_or_none(text)}, stem, source)
            return
    if not streamed:
        yield from _whole(members, stem, source, n)


def _list_of(
    text: JsonStream, members: dict[str, object], stem: str, source: str, n: int
) -> Generator[_Row, None, list[object] | None]:
    """The records of a list within an object, as they stream; a list of anything else is returned."""
    places = text.places()
    if next(places, _NONE) is _NONE:
        return None
    first = text.value()
    columns = members.get("columns")
    if isinstance(first, list) and isinstance(columns, list) and "index" in members:
        yield from _table(columns, members["index"], chain([first], _values(text, places)), stem, source)
        return None
    if not isinstance(first, dict) and not is_crystal_text(first):
        return [first, *_values(text, places)]
    key = _key_column(members)
    for place, item in enumerate(chain([first], _values(text, places))):
        name = nth(stem, n + place + 1)
        if key and isinstance(item, dict) and key in item:
            name = _named(item.pop(key), stem)
        if isinstance(item, UnreadableValueError):
            yield _unreadable(f"{source}[{place}]", name, item)
        else:
            yield _raw(name, item, f"{source}[{place}]")
    return None


def _values(text: JsonStream, places: Iterator[None]) -> Iterator[object]:
    """Items of a list; one that Python cannot parse is returned as its error."""
    for _ in places:
        try:
            yield text.value()
        except UnreadableValueError as error:
            yield error


def _value_or_none(text: JsonStream) -> object:
    try:
        return text.value()
    except UnreadableValueError:
        return None


def _key_column(members: dict[str, object]) -> str:
    """Name of the column of keys in a table as pandas writes it with ``orient="table"``."""
    schema = members.get("schema")
    keys = schema.get("primaryKey") if isinstance(schema, dict) else None
    return str(keys[0]) if isinstance(keys, list) and len(keys) == 1 else ""


def _whole(members: dict[str, Any], stem: str, source: str, n: int) -> Iterator[_Row]:
    """The records of an object that is in memory."""
    columns, rows = members.get("columns"), members.get("data")
    column = next(
        (name for name, value in members.items() if name.lower() in CRYSTAL_FIELDS and _is_column(value)), None
    )
    inner = next((name for name in LISTS if isinstance(members.get(name), dict)), None)
    if holds_crystal(members):
        yield _raw(nth(stem, n + 1), members, source)
    elif isinstance(columns, list) and isinstance(rows, list):
        yield from _table(columns, members.get("index"), iter(rows), stem, source)
    elif column is not None:
        parts = {name: value for name, value in members.items() if isinstance(value, dict)}
        for key in members[column]:
            row = {name: value[key] for name, value in parts.items() if key in value}
            yield _raw(_named(key, stem), row, f"{source}[{key}]")
    elif inner is not None:
        yield from _whole(members[inner], stem, f"{source}.{inner}", n)
    elif _records_in(members):
        yield from _mapped(members, stem, source)
    else:
        yield _raw(nth(stem, n + 1), members, source)


def _is_column(value: object) -> bool:
    return isinstance(value, dict) and not holds_crystal(value) and _records_in(value) > 0


def _records_in(members: dict[str, object]) -> int:
    return sum(holds_crystal(value) or is_crystal_text(value) for value in members.values())


def _mapped(members: dict[str, object], stem: str, source: str) -> Iterator[_Row]:
    """The records of ``{id: record}``; numbers and texts among them describe the file."""
    rows = {k: v for k, v in members.items() if k not in _NOT_ROWS and (not _is_word(v) or is_crystal_text(v))}
    for key, value in rows.items():
        name = stem if len(rows) == 1 and key == "1" else _named(key, stem)
        yield _raw(name, value, f"{source}.{key}")


def _is_word(value: object) -> bool:
    return isinstance(value, str | int | float)


def _table(columns: list[object], index: object, rows: Iterator[object], stem: str, source: str) -> Iterator[_Row]:
    """The records of a table as pandas writes it with ``orient="split"``, as matbench has it."""
    names = ["_".join(map(str, c)) if isinstance(c, list) else str(c) for c in columns]
    keys = index if isinstance(index, list) else []
    for n, row in enumerate(rows):
        name = _named(keys[n], stem) if n < len(keys) else nth(stem, n + 1)
        if isinstance(row, list) and len(row) == len(names):
            yield _raw(name, dict(zip(names, row, strict=True)), f"{source}[{n}]")
        else:
            error = row if isinstance(row, Exception) else ValueError(f"the row has not the {len(names)} columns")
            yield _unreadable(f"{source}[{n}]", name, error)


def _named(key: object, stem: str) -> str:
    """Id from a key: itself, or appended to the file's id where it is a number."""
    words = "-".join(map(str, key)) if isinstance(key, list) else str(key)
    return words if re.search("[A-Za-z]", words) else f"{stem}-{words}"
