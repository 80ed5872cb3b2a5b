"""A killed run goes on as if it had never stopped: killed before and after everything that it writes.

Every kill is a real SIGKILL of a child process, forked from this one because importing torch takes seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.files import write_whole
from campaigns.round import steps
from db.store import Store
from tests.campaigns.helpers import configure, done, queue

WRITES = (
    "start_round", "finish_step", "set_judgement", "move", "add_labels", "add_failures", "set_campaign_state",
)  # fmt: skip
"""Verbs of the store that a run calls; each is a transaction, or part of one."""
SMALL = {
    "campaign": {"batch": 3, "budget": 6},
    "model": {"members": 2},
    "acquisition": {"function": "thompson", "draws": 64},  # a rule that draws at random
}


def test_killed_before_and_after_every_write(replay: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """One campaign, killed once at every point of its run, ends as one that was never killed."""
    configure(replay, SMALL)
    whole = Path(shutil.copytree(replay, tmp_path / "whole"))
    points: list[str] = []
    _run(whole, points.append)
    killed: list[str] = []
    while (point := _kill_once(replay, killed)) is not None:
        killed.append(point)
        assert len(killed) <= len(points), f"killed more often than there are points: {killed[len(points) :]}"
    # a point within the same transaction as an earlier one may not come again
    assert {p for p in points if "finish_step" in p or "start_round" in p or "judgement" in p} <= set(killed)
    assert len(killed) > 40
    assert _outcome(replay) == _outcome(whole)
    entries = queue(replay)
    assert len({e["id"] for e in entries}) == 6


def test_killed_once(replay: Path, tmp_path: Path) -> None:
    """A single kill, then an ordinary run."""
    configure(replay, SMALL)
    whole = Path(shutil.copytree(replay, tmp_path / "whole"))
    done("run", whole)
    assert _kill_once(replay, [], "before finish_step 1 ranked") is not None
    assert "round 1: continuing after its last finished step, scored" in done("run", replay).err
    assert _outcome(replay) == _outcome(whole)


def _kill_once(directory: Path, passed: list[str], wanted: str = "") -> str | None:
    """Run in a child that kills itself at the first point not ``passed``; that point, or None if it came through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:

        def at(point: str) -> None:
            if point not in passed and point.startswith(wanted):
                os.write(writer, point.encode())
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            _run(directory, at)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        point = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == (signal.SIGKILL if point else 0), f"the child ended with status {status}"
    return point or None


def _run(directory: Path, at: Callable[[str], None]) -> None:
    """Run in this process, calling ``at`` before and after each write."""
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(Store, name, _told(getattr(Store, name), name, at))
        patch.setattr(steps, "write_whole", _told(write_whole, "batch.json", at))
        done("run", directory)


def _told(function: Callable[..., Any], name: str, at: Callable[[str], None]) -> Callable[..., Any]:
    def told(*args: Any, **kwargs: Any) -> Any:
        words = " ".join(str(a) for a in args[1:] if isinstance(a, str | int))
        rounds = len(args[0].rounds()) if isinstance(args[0], Store) else ""
        at(f"before {name} {words} ({rounds} rounds)")
        result = function(*args, **kwargs)
        at(f"after {name} {words} ({rounds} rounds)")
        return result

    return told


def _outcome(directory: Path) -> dict[str, Any]:
    """All that a user sees of a finished campaign, but times."""

    def listed(*command: str) -> list[dict[str, Any]]:
        rows = done(*command, directory, "--format", "json").json
        return [{key: value for key, value in row.items() if key != "created_at"} for row in rows]

    return {
        "queue": queue(directory),
        "labels": listed("label", "list"),
        "rounds": listed("rounds"),
        "models": listed("models", "list"),
        "status": done("status", directory, "--format", "json").json,
    }
