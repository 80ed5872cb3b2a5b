"""Output of commands: rows as a table, JSON or CSV on standard output, everything else on standard error.

``csv``, ``json`` and Rich are imported by the functions that need them: help needs neither of the first two.
"""

from __future__ import annotations

import math
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.status import Status

Row = Mapping[str, object]
"""One line of a report: values by column."""


class Format(StrEnum):
    """Format of a command's report."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def emit(
    rows: Sequence[Row], format: Format, title: str = "", columns: Sequence[str] | None = None, empty: str = "none"
) -> None:
    """Print rows; ``columns`` selects those of a table; JSON and CSV always have all.

    ``empty`` is printed in place of a table without rows.
    """
    if format is Format.JSON:
        import json

        sys.stdout.write(json.dumps([dict(row) for row in rows], indent=1) + "\n")
    elif format is Format.CSV:
        import csv

        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else list(columns or ()), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    else:
        _table(rows, title, columns or (list(rows[0]) if rows else []), empty)


def emit_one(record: Row, format: Format) -> None:
    """Print one record: a JSON object, one CSV row, or a table of names and values."""
    if format is Format.JSON:
        import json

        sys.stdout.write(json.dumps(dict(record), indent=1) + "\n")
    elif format is Format.CSV:
        emit([record], format)
    else:
        _table([{"": k, "value": v} for k, v in record.items()], "", ["", "value"], "none")


def show(value: object) -> str:
    """A value as text: three significant digits, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{show(v)} {k}" for k, v in value.items()) or "-"
    return str(value)


class Count(str):
    """A progress line that the next count of its kind replaces (``512 of 3406 crystals embedded``)."""

    __slots__ = ()


class Progress:
    """Progress of long work on standard error: lines, and counts as one live line on a terminal, else one per second.

    Only counts that another of their kind follows are dropped; kinds are distinguished by their words.
    """

    def __init__(self, quiet: bool = False):
        from rich.console import Console

        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._quiet = quiet
        self._status: Status | None = None
        self._held: Count | None = None
        self._printed_at = -math.inf

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._print_held()
        if self._status:
            self._status.stop()

    def say(self, text: str) -> None:
        """Report one line of progress."""
        if self._quiet:
            return
        if self._held is None or not isinstance(text, Count) or _words(text) != _words(self._held):
            self._print_held()
        if self._status:
            from rich.text import Text

            self._status.update(Text(text))
        if not isinstance(text, Count):
            self._print(text)
        elif self._status or time.monotonic() - self._printed_at < 1.0:
            self._held = text
        else:
            self._held = None
            self._print(text)
            self._printed_at = time.monotonic()

    def ask(self, lines: Sequence[str], question: str) -> bool:
        """Print lines and ask a question on a terminal; without one the answer is no, and nothing is printed."""
        if not sys.stdin.isatty():
            return False
        import typer

        self._print_held()
        if self._status:
            self._status.stop()
        for line in lines:
            message(line)
        answer = typer.confirm(question, err=True)
        if self._status:
            self._status.start()
        return answer

    def _print_held(self) -> None:
        if self._held is not None:
            self._print(self._held)
            self._held = None

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def message(text: str) -> None:
    """Print a line for the user on standard error."""
    sys.stderr.write(text + "\n")


@contextmanager
def messages_for_warnings() -> Iterator[None]:
    """Warnings of renamed settings become plain lines; others are shown as usual in Python."""
    from campaigns.exceptions import RenamedSettingWarning

    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show_one(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RenamedSettingWarning):
                sys.stderr.write(f"warning: {message}\n")
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", RenamedSettingWarning)
        warnings.showwarning = show_one
        yield


def _words(text: str) -> str:
    return re.sub(r"\d+", "", text)


def _cell(value: object) -> object:
    if not isinstance(value, dict | list | tuple):
        return value
    import json

    return json.dumps(value)


def _table(rows: Sequence[Row], title: str, columns: Sequence[str], empty: str) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        sys.stdout.write(f"{empty}\n")
        return
    # without markup, which would read text in brackets as a style
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        numeric = rows and all(isinstance(r.get(name), int | float | None) for r in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(show(row.get(name)) for name in columns))
    console.print(table)
