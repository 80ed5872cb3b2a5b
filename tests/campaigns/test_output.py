"""What commands print: nothing but the report on standard output, and no line of progress lost."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns import output
from campaigns.output import Count, Format, Progress, emit, emit_one, show


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give progress a clock of ours."""
    clock = Clock()
    monkeypatch.setattr(output, "time", clock)
    return clock


def test_counts_come_once_a_second_and_the_last_always(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        for n in range(1, 36):
            clock.now += 0.125
            progress.say(Count(f"{n} of 35 crystals embedded"))
        progress.say("4 materials queued")
    captured = capsys.readouterr()
    assert captured.out == ""
    shown = [1, 9, 17, 25, 33, 35]
    assert captured.err.splitlines() == [*(f"{n} of 35 crystals embedded" for n in shown), "4 materials queued"]


def test_the_last_count_of_each_kind_is_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        for what in ("embedded", "scored"):
            for n in range(1, 4):
                progress.say(Count(f"{n} of 3 {what}"))
    assert capsys.readouterr().err.splitlines() == ["1 of 3 embedded", "3 of 3 embedded", "3 of 3 scored"]


LINES = st.lists(
    st.tuples(st.sampled_from(["round", "result", "seed"]), st.integers(0, 9), st.booleans(), st.floats(0, 2))
)


@given(LINES)
def test_no_line_is_lost_but_counts_that_others_follow(lines: list[tuple[str, int, bool, float]]) -> None:
    """Lines that differ only in digits are results too, unless they are counts."""
    with pytest.MonkeyPatch.context() as patch:
        clock, printed = Clock(), []
        patch.setattr(output, "time", clock)
        patch.setattr(Progress, "_print", lambda self, text: printed.append(text))
        with Progress() as progress:
            for word, n, counts, pause in lines:
                clock.now += pause
                progress.say(Count(f"{word} {n}") if counts else f"{word} {n}")
    said = [Count(f"{word} {n}") if counts else f"{word} {n}" for word, n, counts, _ in lines]
    assert [p for p in printed if not isinstance(p, Count)] == [s for s in said if not isinstance(s, Count)]
    assert _is_subsequence(printed, said)
    for line, follower in zip(said, [*said, "end"][1:], strict=True):
        if not isinstance(follower, Count) or follower[:3] != line[:3]:
            assert line in printed


def _is_subsequence(part: list[str], whole: list[str]) -> bool:
    left = iter(whole)
    return all(line in left for line in part)


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress.say("a line")
        progress.say(Count("1 of 2"))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts replace each other there, the last stays."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        for n in range(1, 4):
            progress.say(Count(f"{n} of 3 embedded"))
        progress.say("queued [0, 1]")
    assert "3 of 3 embedded\n" in screen.getvalue()
    assert "1 of 3 embedded\n" not in screen.getvalue()
    assert "queued [0, 1]\n" in screen.getvalue()


ROWS: list[dict[str, Any]] = [
    {"id": "a,b", "value": 0.123456, "n": 3, "ok": True, "nothing": None, "detail": {"k": [1, 2]}},
    {"id": "[bold]c", "value": 12345.6, "n": 4, "ok": False, "nothing": None, "detail": {}},
]


def test_rows_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    emit(ROWS, Format.JSON, columns=["id"])
    assert json.loads(capsys.readouterr().out) == ROWS
    emit(ROWS, Format.CSV, columns=["id"])
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["id"], float(first["value"]), first["nothing"]) == ("a,b", 0.123456, "")
    assert (json.loads(first["detail"]), second["id"]) == ({"k": [1, 2]}, "[bold]c")
    emit(ROWS, Format.TABLE, "things", ["id", "value", "ok", "nothing"])
    table = capsys.readouterr().out
    assert "things" in table
    assert "0.123" in table
    assert "[bold]c" in table
    assert "12346" in table
    assert "detail" not in table
    emit([], Format.CSV, columns=["id"])
    assert capsys.readouterr().out == "id\n"
    emit([], Format.TABLE, columns=["id"])
    assert capsys.readouterr().out == "none\n"
    emit([], Format.TABLE, columns=["id"], empty="nothing is queued")
    assert capsys.readouterr().out == "nothing is queued\n"
    emit([], Format.JSON)
    assert json.loads(capsys.readouterr().out) == []


def test_one_record_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    emit_one(ROWS[0], Format.JSON)
    assert json.loads(capsys.readouterr().out) == ROWS[0]
    emit_one(ROWS[0], Format.CSV)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["n"] == "3"
    emit_one(ROWS[0], Format.TABLE)
    assert "0.123" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (True, "yes"), (3, "3"), (0.5, "0.5"), (1234.6, "1235"), (-1e-7, "-1e-07"), ("x", "x"), ({}, "-"),
        ({"done": 4, "failed": 1}, "4 done, 1 failed"),
    ],
)  # fmt: skip
def test_values_for_people(value: Any, shown: str) -> None:
    assert show(value) == shown
