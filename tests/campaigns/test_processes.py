"""What only processes show: two at once, no permission, stores of other versions."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.exchange import import_labels
from campaigns.labelers import labelers
from campaigns.labelers.labelers import Dft
from tests.campaigns.helpers import done, kappascout, label_rows, queue, refused, write_lines

NOBODY = 65534


@pytest.fixture
def open_to_all(replay: Path) -> Iterator[Path]:
    """Give a campaign that anybody may read and nobody but its owner write, where anybody can reach it."""
    with tempfile.TemporaryDirectory(prefix="kappascout-test-") as name:
        Path(name).chmod(0o755)
        yield Path(shutil.copytree(replay, Path(name) / "c"))


def test_a_second_process_says_so_and_stops(replay: Path, records: list[dict[str, Any]], pool_file: Path) -> None:
    """Whatever would change a campaign that another process works on; reading it is always possible."""
    labels = write_lines(replay / "labels.jsonl", label_rows(records[20:22]))
    commands = (
        ("run", replay),
        ("ingest", replay, pool_file),
        ("label", "import", replay, labels),
        ("queue", "approve", replay),
        ("queue", "export", replay, "--to", replay / "out"),
    )
    message = f"error: another process works on {replay}; wait until it has finished, then run the command again\n"
    with Campaign.open(replay) as campaign, campaign.locked():
        script = "import sys; from campaigns.cli import main; main(sys.argv[1:])"
        second = _python(script, "run", replay)
        assert (second.returncode, second.stdout, second.stderr) == (1, "", message)
        for command in commands:
            assert refused(*command) == message
        assert done("status", replay, "--format", "json").json["labels"] == 14
    done("run", replay, "--rounds", 1)


def test_the_lock_ends_with_its_process(replay: Path) -> None:
    script = (
        "import os, signal, sys; from campaigns.campaign import Campaign\n"
        "with Campaign.open(sys.argv[1]) as campaign, campaign.locked():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert _python(script, replay).returncode == -9
    done("run", replay, "--rounds", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_no_permission_to_write(open_to_all: Path) -> None:
    """Reading still works; what would change the campaign says what to do, and changes nothing."""
    for command in (("run", open_to_all), ("queue", "approve", open_to_all)):
        code, out, err = _as_nobody(*command)
        assert (code, out) == (1, ""), err
        assert err.startswith(f"error: no permission to write to {open_to_all}"), err
        assert "copy the campaign" in err
    code, _, err = _as_nobody("init", open_to_all / "new")
    assert code == 1
    assert f"cannot write to {open_to_all / 'new'} (Permission denied)" in err
    code, out, err = _as_nobody("status", open_to_all, "--format", "json")
    assert code == 0, err
    assert '"labels": 14' in out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_store_that_cannot_be_written(open_to_all: Path, records: list[dict[str, Any]]) -> None:
    """The folder may be ours and the store another's."""
    open_to_all.chmod(0o777)
    (open_to_all / ".lock").unlink()
    labels = write_lines(open_to_all / "labels.jsonl", label_rows(records[20:22]))
    code, _, err = _as_nobody("label", "import", open_to_all, labels)
    assert code == 1
    assert "cannot be written" in err
    assert "check the permissions of the file and of its folder" in err
    assert len(done("label", "list", open_to_all, "--format", "json").json) == 14


def test_a_store_from_a_newer_version(replay: Path) -> None:
    with sqlite3.connect(replay / "store.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (("run", replay), ("status", replay), ("db", "upgrade", replay)):
        message = refused(*command)
        assert "has version 9999, newer than" in message
        assert "pip install --upgrade kappascout" in message


def test_a_store_that_is_gone_or_another(replay: Path) -> None:
    assert "the store is up to date" in done("db", "upgrade", replay).err
    text = (replay / "campaign.toml").read_text()
    (replay / "campaign.toml").write_text(text.replace('name = "c"', 'name = "d"'))
    assert "has no campaign 'd'; it has c" in refused("status", replay)
    (replay / "campaign.toml").write_text(text)
    (replay / "store.sqlite").write_bytes(b"not a store at all, but long enough to be read as one")
    assert "is not a store, or is damaged" in refused("run", replay)
    (replay / "store.sqlite").unlink()
    assert "there is no store at" in refused("run", replay)
    (replay / "campaign.toml").unlink()
    assert "make a campaign with `kappascout init" in refused("run", replay)


def test_an_interrupted_import_leaves_nothing(dft: Path, records: list[dict[str, Any]], monkeypatch: Any) -> None:
    """Labels and the moves they cause are one transaction."""
    done("run", dft)
    wanted = [r for r in records if r["id"] in {e["id"] for e in queue(dft)}]
    labels = write_lines(dft / "labels.jsonl", label_rows(wanted))
    with monkeypatch.context() as patch:
        patch.setattr(import_labels, "finish_entries", lambda store, note: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kappascout("label", "import", dft, labels)
    assert len(done("label", "list", dft, "--format", "json").json) == 14
    done("label", "import", dft, labels)
    assert {e["state"] for e in queue(dft)} == {"done"}


def test_a_labeler_that_breaks_leaves_the_queue_as_it_was(replay: Path, monkeypatch: Any) -> None:
    """And the next run goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(labelers, "_move", lambda store, entries, to, note="": 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kappascout("run", replay)
    assert [e["state"] for e in queue(replay)] == ["proposed"] * 4
    done("run", replay)
    assert [e["state"] for e in queue(replay)] == ["done"] * 8
    assert Dft().hit_rate(1.0, "min") is None


def _python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _as_nobody(*arguments: object) -> tuple[int, str, str]:
    """Run a command as a user without rights, in a child of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            outcome = kappascout(*arguments)
            os.write(writer, f"{outcome.code}\0{outcome.out}\0{outcome.err}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        code, out, err = pipe.read().split("\0")
    os.waitpid(child, 0)
    return int(code), out, err
