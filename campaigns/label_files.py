"""Labels from CSV and JSON lines, as people and scripts write them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from campaigns.exceptions import LabelFileError
from db.records import LabelRecord

REQUIRED = ("id", "property", "value", "unit", "fidelity")
OPTIONAL = ("temperature", "uncertainty", "method", "source")
_FORMATS = "CSV with the columns id, property, value, unit, fidelity, or JSON lines with those keys"


def read_labels(path: Path) -> tuple[list[LabelRecord], list[str]]:
    """Labels of a file and where each stood (``labels.csv line 7``).

    Columns beyond the known ones are kept as provenance.

    Raises
    ------
    LabelFileError
        If the file cannot be read, a column is missing, or with every row whose value is no number.
    """
    labels, locations, problems = [], [], []
    for line, row in _rows(path):
        where = f"{path.name} line {line}"
        try:
            labels.append(_label(row))
            locations.append(where)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        shown = "\n".join(problems[:20]) + (f"\n... and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise LabelFileError(f"{len(problems)} bad rows, nothing was imported:\n{shown}")
    return labels, locations


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise LabelFileError(f"{path} does not exist or is no file; give {_FORMATS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelFileError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); give {_FORMATS}") from error
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        yield from _json_rows(path, text)
        return
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in REQUIRED if name not in (reader.fieldnames or [])]
    if missing:
        found = ", ".join(reader.fieldnames or ["nothing"])
        raise LabelFileError(f"{path} lacks the columns {', '.join(missing)} (found: {found}); give {_FORMATS}")
    for row in reader:
        yield reader.line_num, row


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise LabelFileError(f"{path.name} line {line} is no JSON ({error}); give one object a line") from error
        if not isinstance(row, dict):
            raise LabelFileError(f"{path.name} line {line} is a {type(row).__name__}; give one object a line")
        yield line, row


def _label(row: dict[str, Any]) -> LabelRecord:
    empty = [name for name in REQUIRED if row.get(name) in (None, "")]
    if empty:
        raise ValueError(f"no {', '.join(empty)}; every label needs {', '.join(REQUIRED)}")
    if None in row:
        raise ValueError(f"{len(row[None])} fields too many; put text that holds commas in double quotes")  # type: ignore[call-overload]
    extra = {k: v for k, v in row.items() if k not in (*REQUIRED, *OPTIONAL) and v not in (None, "")}
    return LabelRecord(
        material_id=str(row["id"]),
        property=str(row["property"]),
        value=_number(row, "value"),
        unit=str(row["unit"]),
        fidelity=str(row["fidelity"]),
        temperature=_number(row, "temperature") if row.get("temperature") not in (None, "") else None,
        uncertainty=_number(row, "uncertainty") if row.get("uncertainty") not in (None, "") else None,
        method=str(row.get("method") or ""),
        source=str(row.get("source") or ""),
        provenance=extra,
        record_id=str(row["id"]),
    )


def _number(row: dict[str, Any], name: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {row[name]!r}, which is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {row[name]!r}; a label is a finite number")
    return value
