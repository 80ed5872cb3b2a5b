"""What can go wrong around an ingest: one clear message each, nothing half-written, and the next one goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.intake.reading import fetched_ahead
from db.exceptions import StoreUnreachableError
from engine.materials.reference import reference_crystals
from engine.materials.sources import optimade
from engine.materials.sources.source import Page
from tests.campaigns.helpers import configure, done, kappascout, refused
from tests.engine.materials.sources import services
from tests.engine.materials.sources.services import Entry, Reply, Service

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(scope="session")
def crystals() -> list[Entry]:
    """Give forty reference crystals under numbered ids."""
    return [(f"mp-{n}", crystal, {}) for n, crystal in enumerate(list(reference_crystals().values())[:40], start=100)]


@pytest.fixture
def provider(crystals: list[Entry], monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Give an OPTIMADE provider of them, ten a page."""
    monkeypatch.setattr(optimade, "PAGE", 10)
    with services.optimade(crystals).running() as running:
        yield running


def materials(directory: Path) -> int:
    """Count what is in the store."""
    found: int = done("status", directory, "--format", "json").json["materials"]
    return found


def files(directory: Path) -> list[str]:
    """Names of the shards of structures, hidden leftovers with them."""
    return sorted(path.name for path in (directory / "artifacts" / "structures").iterdir())


# -- databases ---------------------------------------------------------------------------------------------------------


def test_a_wrong_key(empty: Path, crystals: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mp_api.client")
    secret = "f" * 32
    monkeypatch.setenv("MP_API_KEY", secret)
    with services.materials_project(crystals).running() as service:
        monkeypatch.setenv("MP_API_ENDPOINT", service.url)
        outcome = kappascout("ingest", empty, "mp:is_stable=true", "--quiet")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith("error: mp:is_stable=true, page 1: ")
    assert "key" in outcome.err
    assert secret not in outcome.err
    assert materials(empty) == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Reply(b'{"data": ['), "the answer is not JSON"),
        (Reply({"data": "nothing"}), "does not answer with a list of structures"),
        (Reply({}, 500), "answered 500"),
        (Reply({}, 429, {"Retry-After": "9999"}), "takes no more requests from you for now"),
    ],
)
def test_a_bad_page_in_the_middle(empty: Path, provider: Service, fault: Reply, words: str) -> None:
    """The pages before it are kept whole although they were processed while it was fetched; it is asked for next."""
    source = f"optimade:{provider.url}"
    provider.fault = lambda _, reply: fault if "page_offset=20" in provider.requests[-1] else reply
    outcome = kappascout("ingest", empty, source, "--quiet")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert f"error: {source}, page 3: " in outcome.err
    assert words in outcome.err
    assert materials(empty) == 20
    provider.fault = lambda _, reply: reply
    report = done("ingest", empty, source, "--format", "json").json
    assert (report["read"], report["added"]) == (20, 20)
    assert materials(empty) == 40


def test_the_next_page_is_fetched_while_one_is_processed() -> None:
    """One, and no more."""
    asked: list[int] = []

    def pages() -> Iterator[Page]:
        for n in range(4):
            asked.append(n)
            yield Page([], None)

    seen = 0
    for page in fetched_ahead(pages()):
        seen += 1
        assert isinstance(page, Page)
        assert len(asked) <= seen + 1
    assert (seen, asked) == (4, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cartesian_site_positions": [[None, None, None]] * 2}, "missing_field"),
        ({"cartesian_site_positions": None}, "missing_field"),
        ({"lattice_vectors": None}, "missing_field"),
    ],
)
def test_structures_without_coordinates(empty: Path, provider: Service, change: dict[str, Any], reason: str) -> None:
    def spoil(_: int, reply: Reply) -> Reply:
        if isinstance(reply.body["data"], list):
            reply.body["data"][0]["attributes"].update(change)
        return reply

    provider.fault = spoil
    report = done("ingest", empty, f"optimade:{provider.url}", "--format", "json").json
    assert (report["added"], report["reasons"]) == (36, {reason: 4})


# -- the disk and the store --------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from campaigns.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
@pytest.mark.parametrize("kilobytes", [6, 150])
def test_a_full_disk(empty: Path, kilobytes: int) -> None:
    """No file can grow beyond a limit, as on a full disk: that of the structures, or the store itself."""
    before = (empty / "store.sqlite").stat().st_size
    command = [sys.executable, "-c", LIMITED, str(kilobytes << 10), "ingest", str(empty), "builtin:reference"]
    outcome = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (1, 1), outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert "check the disk for space" in outcome.stderr
    assert "nothing of this step was kept" in outcome.stderr
    assert (empty / "store.sqlite").stat().st_size == before
    assert materials(empty) == 0
    assert not [name for name in (files(empty) if kilobytes > 6 else []) if name.startswith(".")]
    report = done("ingest", empty, "builtin:reference", "--format", "json").json
    assert report["added"] == materials(empty) > 200


HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holding", flush=True)
sys.stdin.readline()
"""


def test_a_store_that_another_program_holds(empty: Path) -> None:
    configure(empty, {"store": {"timeout": 0.2}})
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(empty / "store.sqlite")], **pipes) as holder:
        assert holder.stdout.readline() == "holding\n"
        outcome = kappascout("ingest", empty, "builtin:reference", "--quiet")
        holder.communicate("go\n")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "error: another process has held the store" in outcome.err
    assert "for more than 0.2 s; wait for it to end, or end it" in outcome.err
    assert materials(empty) == 0


def test_a_store_that_does_not_answer(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL driver not installed (extra `postgres`)")
    monkeypatch.setenv("SECRET", "hunter2")
    configure(empty, {"store": {"timeout": 0.2, "url": "postgresql://me:${SECRET}@127.0.0.1:1/none"}})
    with pytest.raises(StoreUnreachableError):
        Campaign.open(empty)
    message = refused("ingest", empty, "builtin:reference", "--quiet")
    assert "the store postgresql+psycopg://me:***@127.0.0.1:1/none does not answer" in message
    assert "hunter2" not in message


def test_a_shard_that_is_gone(empty: Path, tmp_path: Path) -> None:
    """It is named with what to do, and that mends it."""
    done("ingest", empty, "builtin:reference")
    (name,) = files(empty)
    with Campaign.open(empty) as campaign:
        before = {m.material_id: m.structure for m in campaign.store.materials()}
    shard = empty / "artifacts" / "structures" / name
    shard.unlink()
    message = refused("run", empty, "--quiet")
    assert message.startswith(f"error: {shard} is missing, and with it the structures of some materials")
    assert "ingest the same sources again (its crystals came from builtin:reference)" in message
    report = done("ingest", empty, "builtin:reference", "--format", "json").json
    assert report["unchanged"] == report["read"]
    with Campaign.open(empty) as campaign:
        assert {m.material_id: m.structure for m in campaign.store.materials()} == before
