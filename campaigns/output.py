"""What commands print: rows as a table, JSON or CSV on standard output, everything else on standard error."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    """How a command reports."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def emit(rows: Sequence[dict[str, Any]], format: Format, title: str = "", columns: Sequence[str] | None = None) -> None:
    """Print rows; ``columns`` narrows a table to what fits a screen, JSON and CSV always hold everything."""
    if format is Format.JSON:
        sys.stdout.write(json.dumps(list(rows), indent=1) + "\n")
    elif format is Format.CSV:
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else list(columns or ()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _table(rows, title, columns or (list(rows[0]) if rows else []))


def emit_one(record: dict[str, Any], format: Format, title: str = "") -> None:
    """Print one record: a JSON object, one CSV row, or a table of names and values."""
    if format is Format.JSON:
        sys.stdout.write(json.dumps(record, indent=1) + "\n")
    elif format is Format.CSV:
        emit([{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in record.items()}], format)
    else:
        _table([{"": k, "value": v} for k, v in record.items()], title, ["", "value"])


def show(value: Any) -> str:
    """A value for people: three significant digits, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{show(v)} {k}" for k, v in value.items()) or "-"
    return str(value)


class Progress:
    """Long work, said on standard error: one live line on a terminal, plain lines elsewhere, at most one a second."""

    def __init__(self, quiet: bool = False):
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._status: Any = None
        self._last = 0.0

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def say(self, text: str) -> None:
        """Say where the work stands; counts that change quickly are thinned out."""
        import time

        if self._quiet:
            return
        counting = text.split(": ")[-1][:1].isdigit()
        now = time.monotonic()
        if self._status:
            self._status.update(text)
            if counting:
                return
        elif counting and now - self._last < 1.0:
            return
        self._last = now
        self._console.print(text, markup=False, soft_wrap=True)


def message(text: str) -> None:
    """A line for the person, on standard error."""
    sys.stderr.write(text + "\n")


def _table(rows: Sequence[dict[str, Any]], title: str, columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        numeric = rows and all(isinstance(r.get(name), int | float | None) for r in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(show(row.get(name)) for name in columns))
    console.print(table)
