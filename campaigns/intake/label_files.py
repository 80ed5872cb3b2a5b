"""Labels from files of CSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.exceptions import LabelFileError
from campaigns.property_names import Property
from db.exceptions import LabelProblem
from db.records import Json, LabelRecord

REQUIRED = ("id", "property", "value", "unit", "fidelity")
OPTIONAL = ("temperature", "uncertainty", "method", "source", "cost")
"""Columns of a file of labels; ``cost`` is in core-hours."""
TEMPERATURE_TOLERANCE = 0.01
"""Tolerance in kelvin of the temperature in a property's name: room temperature is accepted as 300 K."""
_FORMATS = "CSV with the columns id, property, value, unit, fidelity, or JSON lines with those keys"


@dataclass
class LabelFile:
    """Contents of a file of labels: the labels, and the rows that are refused."""

    labels: list[LabelRecord] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Place of each label (``labels.csv line 7``)."""
    problems: list[LabelProblem] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """Place of each row, label or not."""


def read_labels(path: Path) -> LabelFile:
    """Read the labels of a file; further columns are stored as provenance.

    Raises
    ------
    LabelFileError
        If the file cannot be read or a column is missing. Bad rows are listed in what is returned.
    """
    content = LabelFile()
    for line, row in _rows(path):
        place = f"{path} line {line}"
        content.order.append(place)
        try:
            content.labels.append(_label(row))
            content.places.append(place)
        except ValueError as error:
            content.problems.append(LabelProblem(place, str(row.get("id") or ""), row.get("value"), str(error)))
    if not content.order:
        raise LabelFileError(f"{path} holds no labels; give {_FORMATS}")
    return content


def _rows(path: Path) -> Iterator[tuple[int, Json]]:
    if not path.is_file():
        raise LabelFileError(f"{path} does not exist or is not a file; give {_FORMATS}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
        raise LabelFileError(f"{path} is not UTF-8 text ({problem}); give {_FORMATS}") from error
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        yield from _json_rows(path, text)
    else:
        yield from _csv_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Json]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        missing = [name for name in REQUIRED if name not in columns]
        if missing:
            raise LabelFileError(
                f"{path} lacks the columns {', '.join(missing)} (found: {', '.join(columns) or 'nothing'}); "
                f"give {_FORMATS}"
            )
        if twice := [name for name, n in Counter(columns).items() if n > 1 and name]:
            raise LabelFileError(f"{path} has the column {', '.join(twice)} twice; keep the correct one")
        reader.fieldnames = columns
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise LabelFileError(f"{path} is not CSV near line {reader.line_num}: {error}; give {_FORMATS}") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Json]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_once)
        except ValueError as error:
            raise LabelFileError(f"{path} line {line} is not valid JSON ({error}); give one object a line") from error
        if not isinstance(row, dict):
            raise LabelFileError(f"{path} line {line} is a {type(row).__name__}; give one object a line")
        yield line, row


def _label(row: dict[Any, Any]) -> LabelRecord:
    if None in row:
        raise ValueError(f"{len(row[None])} fields too many; put text that holds commas in double quotes")
    text = {name: str(row[name]).strip() for name in REQUIRED if row.get(name) is not None}
    empty = [name for name in REQUIRED if not text.get(name)]
    if empty:
        raise ValueError(f"no {', '.join(empty)}; every label needs {', '.join(REQUIRED)}")
    value = _number(row, "value")
    assert value is not None
    temperature = _number(row, "temperature")
    _check_temperature(text["property"], temperature)
    return LabelRecord(
        material_id=text["id"],
        property=text["property"],
        value=value,
        unit=text["unit"],
        fidelity=text["fidelity"],
        temperature=temperature,
        uncertainty=_number(row, "uncertainty"),
        cost=_number(row, "cost"),
        method=str(row.get("method") or ""),
        source=str(row.get("source") or ""),
        provenance={k: v for k, v in row.items() if k not in (*REQUIRED, *OPTIONAL) and v not in (None, "")},
        record_id=text["id"],
    )


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Turn the pairs of a JSON object into a dictionary; the same key twice is an error, since one would be lost."""
    if twice := [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]:
        raise ValueError(f"the key {twice[0]!r} occurs twice; keep the correct one")
    return dict(pairs)


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""Pattern of a number in a file; Python's ``float`` accepts ``1_0`` and digits of other scripts too."""


def _number(row: Json, name: str) -> float | None:
    given = row.get(name)
    if given is None or given == "":
        return None
    try:
        is_none = isinstance(given, bool) or (isinstance(given, str) and not _NUMBER.fullmatch(given))
        value = math.nan if is_none else float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {given!r}, not a finite number; correct it, or leave the row out")
    return value


def _check_temperature(property_: str, temperature: float | None) -> None:
    """Compare with the temperature in a property's name (``kappa_300K``)."""
    named = Property(property_).temperature
    if named is None or temperature is None:
        return
    if abs(temperature - named) > TEMPERATURE_TOLERANCE * named:
        raise ValueError(
            f"temperature is {temperature:g} K, but {property_} is the value at {named:g} K; correct it, or name the "
            f"property {Property(property_).at(temperature)}"
        )
