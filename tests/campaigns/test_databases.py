"""Ingest from databases: provenance of every row, going on after an interruption, versions, one message a fault."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from engine.materials.crystal import Crystal
from engine.materials.reference import reference_crystals
from engine.materials.sources import aflow, optimade
from tests.campaigns.helpers import done, kappascout, refused
from tests.engine.materials.sources import services
from tests.engine.materials.sources.services import KEY, Entry, Reply, Service

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(scope="session")
def crystals() -> list[Entry]:
    """Give the reference crystals under numbered ids."""
    return [(f"mp-{n}", crystal, {}) for n, crystal in enumerate(reference_crystals().values(), start=100)]


@pytest.fixture
def provider(crystals: list[Entry]) -> Iterator[Service]:
    """Give an OPTIMADE provider of 80 crystals."""
    with services.optimade(crystals[:80]).running() as running:
        yield running


def report(directory: Path, *arguments: object) -> dict[str, Any]:
    result: dict[str, Any] = done("ingest", directory, *arguments, "--format", "json").json
    return result


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {name: found[name] for name in ("read", "added", "duplicate", "unchanged", "rejected") if found[name]}


@dataclass
class Death:
    """A fault: from data request ``at`` on, the server answers half and then nothing."""

    at: int

    def __call__(self, n: int, reply: Reply) -> Reply:
        if n < self.at:
            return reply
        return Reply(reply.body, cut=True) if n == self.at else Reply(hang_up=True)


def test_a_server_that_dies_in_the_middle_of_page_37(
    empty: Path, crystals: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before is kept; the next ingest asks for page 37 first, and ends as if nothing had happened."""
    monkeypatch.setattr(optimade, "PAGE", 2)
    with services.optimade(crystals[:80]).running() as service:
        source = f"optimade:{service.url}"
        service.fault = Death(at=38)
        message = refused("ingest", empty, source)
        assert f"error: {source}, page 37: OPTIMADE provider 127.0.0.1" in message
        assert "2 times; check the network and the address" in message
        assert done("status", empty, "--format", "json").json["materials"] == 72
        service.fault = lambda _, reply: reply
        service.requests.clear()
        told = done("ingest", empty, source, "--format", "json")
        assert f"{source}: continuing at page 37; 72 records were read before" in told.err
        assert counts(told.json) == {"read": 8, "added": 8}
        assert "page_offset=72" in service.requests[0]
        assert told.json["notes"] == []
        assert counts(report(empty, source)) == {"read": 80, "unchanged": 80}
        assert not list((empty / "artifacts" / "sources").iterdir())


def test_a_place_that_is_gone_or_of_another_version(
    empty: Path, provider: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is read from its beginning, and says so."""
    monkeypatch.setattr(optimade, "PAGE", 20)
    source = f"optimade:{provider.url}"
    provider.fault = Death(at=4)
    refused("ingest", empty, source)
    provider.fault = lambda n, reply: Reply({"errors": [{"detail": "cursor expired"}]}, 410) if n == 1 else reply
    provider.requests.clear()
    told = done("ingest", empty, source, "--format", "json")
    assert "its page 3 " in told.err
    assert "cursor expired" in told.err
    assert counts(told.json) == {"read": 80, "added": 40, "unchanged": 40}
    provider.requests.clear()
    provider.fault = Death(at=4)
    refused("ingest", empty, source)

    def newer(_: int, reply: Reply) -> Reply:
        reply.body["meta"]["api_version"] = "1.2.0"
        return reply

    provider.fault = newer
    told = done("ingest", empty, source, "--format", "json")
    assert "the database was OPTIMADE 1.1.0, server 1.2.0 and is OPTIMADE 1.2.0, server 1.2.0 now; starting" in told.err
    assert counts(told.json) == {"read": 80, "unchanged": 80}


def test_a_damaged_cursor_is_named(empty: Path, provider: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimade, "PAGE", 20)
    provider.fault = Death(at=3)
    refused("ingest", empty, f"optimade:{provider.url}")
    (cursor,) = (empty / "artifacts" / "sources").iterdir()
    cursor.write_text("{")
    assert f"{cursor} is damaged; delete it" in refused("ingest", empty, f"optimade:{provider.url}")


def test_every_row_has_its_provenance(empty: Path, provider: Service) -> None:
    """Database, version, query, time and id; the terminal shows how far it is."""
    source = f"optimade:{provider.url}?filter=nelements=2"
    told = done("ingest", empty, source)
    assert f"{source}: page 1, " in told.err
    with Campaign.open(empty) as campaign:
        records = list(campaign.store.materials())
    assert records
    for record in records:
        (kept,) = record.sources
        assert (kept.origin, kept.query) == (f"{provider.url}/v1", "nelements=2")
        assert kept.database_version == "OPTIMADE 1.1.0, server 1.2.0"
        assert kept.retrieved_at.endswith("+00:00")
        assert kept.record_id == record.material_id


def test_a_provider_that_lies_about_counts(empty: Path, provider: Service) -> None:
    """The links are followed to their end, and the difference is told."""

    def more(_: int, reply: Reply) -> Reply:
        reply.body["meta"]["data_returned"] = 1000
        return reply

    provider.fault = more
    told = done("ingest", empty, f"optimade:{provider.url}", "--format", "json")
    assert counts(told.json) == {"read": 80, "added": 80}
    assert told.json["notes"] == [f"{provider.url}/v1 announced 1000 records and sent 80"]
    assert "note: " in told.err


def test_an_id_seen_before_with_other_coordinates(empty: Path, crystals: list[Entry]) -> None:
    """Another version, under an id of its own, linked by a note; of a slightly other one nothing changes.

    Asked again, nothing changes.
    """
    first, second, other = crystals[0][1], crystals[1][1], crystals[2][1]
    relaxed = Crystal(second.lattice * 1.01, second.numbers, second.frac_coords)
    with (
        services.optimade([("a", first, {}), ("b", second, {})]).running() as service,
        services.optimade([("a", other, {}), ("b", relaxed, {})]).running() as later_service,
    ):
        source = f"optimade:{service.url}"
        assert counts(report(empty, source)) == {"read": 2, "added": 2}
        service.answer = later_service.answer
        found = report(empty, source)
        assert counts(found) == {"read": 2, "added": 1, "unchanged": 1}
        new = dict(map(tuple, found["versions"]))
        assert set(new) == {"a"}
        assert new["a"].startswith("a@")
        told = done("ingest", empty, source)
        assert f"another version: a has another structure now, kept as {new['a']}" in told.err
        assert done("status", empty, "--format", "json").json["materials"] == 3
    with Campaign.open(empty) as campaign:
        assert campaign.store.material("a").formula == first.formula
        later = campaign.store.material(new["a"])
        assert later.formula == other.formula
        assert "another structure than the one known as a" in later.sources[0].note
        assert campaign.store.material("b").structure["lattice"] != relaxed.lattice.tolist()


def test_disorder_is_refused_by_reason(empty: Path, provider: Service) -> None:
    def spoil(_: int, reply: Reply) -> Reply:
        if isinstance(reply.body["data"], list):
            kinds = reply.body["data"][0]["attributes"]["species"]
            kinds[0].update(chemical_symbols=["Fe", "Ni"], concentration=[0.5, 0.5])
        return reply

    provider.fault = spoil
    found = report(empty, f"optimade:{provider.url}")
    assert found["reasons"] == {"disordered": 1}
    (rejection,) = found["rejections"]
    assert (rejection["source"], rejection["record_id"]) == (f"{provider.url}/v1", "mp-100")


def test_aflow_brings_its_labels(empty: Path, shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """AGL conductivities are labels of fidelity ``agl`` without being asked for; once."""
    monkeypatch.setattr(aflow, "PAGE", 10)
    with gzip.open(shared("data/aflow_agl.jsonl.gz"), "rt") as lines:
        rows = [json.loads(line) for _, line in zip(range(25), lines, strict=False)]
    entries = [
        (r["id"], Crystal.from_symbols(r["lattice"], r["species"], r["frac_coords"]), r["properties"]) for r in rows
    ]
    with services.aflux(entries).running() as service:
        source = f"aflow:{service.url}/API/aflux/?nspecies(2)"
        found = report(empty, source)
        expected = [p["kappa_agl_300K_W_mK"] for _, c, p in entries if len(c.composition) == 2]
        assert found["labels"] == found["added"] == len(expected)
        labels = done("label", "list", empty, "--format", "json").json
        assert sorted(label["value"] for label in labels) == pytest.approx(sorted(expected))
        assert {(v["property"], v["fidelity"], v["unit"]) for v in labels} == {("kappa_300K", "agl", "W/(m K)")}
        again = report(empty, source)
        assert (again["unchanged"], again["labels"]) == (len(expected), 0)
    with Campaign.open(empty) as campaign:
        (kept,) = next(iter(campaign.store.materials())).sources
    assert kept.database_version == "aflowlib 20210114_09:00:00_GMT-5"


def test_the_materials_project(empty: Path, crystals: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through mp-api; the key is in no file of the campaign and on no terminal."""
    pytest.importorskip("mp_api.client")
    monkeypatch.setenv("MP_API_KEY", KEY)
    with services.materials_project(crystals[:30]).running() as service:
        monkeypatch.setenv("MP_API_ENDPOINT", service.url)
        told = done("ingest", empty, "mp:is_stable=true,nelements=2-4", "--format", "json")
        expected = sum(2 <= len(crystal.composition) <= 4 for _, crystal, _ in crystals[:30])
        assert counts(told.json) == {"read": expected, "added": expected}
        found = report(empty, "mp:mp-101,mp-7")
        assert counts(found) == {"read": 2, "unchanged": 1, "rejected": 1}
        assert found["rejections"][0]["message"] == "the Materials Project has no entry mp-7"
        assert any(headers.get("x-api-key") == KEY for headers in service.headers)
    assert KEY not in told.err + told.out
    for path in empty.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
    with Campaign.open(empty) as campaign:
        (kept,) = campaign.store.material("mp-101").sources
    assert (kept.origin, kept.query) == ("Materials Project", "is_stable=true,nelements=2-4")
    assert kept.database_version == "2025.09.25"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mp:mp-149", "error: mp: needs a key of the Materials Project; get one at https://next-gen"),
        ("optimade:alexandra:nelements=2", "did you mean 'alexandria'?"),
        ("optimade:http://127.0.0.1:9", "page 1: OPTIMADE provider 127.0.0.1:9 at 127.0.0.1:9: no connection"),
        ("aflow:http://127.0.0.1:9/?species(Na)", "page 1: AFLOW at 127.0.0.1:9: no connection"),
        ("aflow:nspecies=2", "is not AFLUX"),
    ],
)
def test_one_message_each(empty: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MP_API_KEY", raising=False)
    outcome = kappascout("ingest", empty, source, "--quiet")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err


def test_a_quota_that_is_used_up(empty: Path, provider: Service) -> None:
    provider.fault = lambda n, reply: Reply({}, 429, {"Retry-After": "86400"}) if n > 1 else reply
    outcome = kappascout("ingest", empty, f"optimade:{provider.url}", "--quiet")
    assert outcome.code == 1
    assert "86400 s" in outcome.err


def test_a_query_is_understood_before_anything_is_read(empty: Path, provider: Service) -> None:
    """A file named before it is not read either."""
    refused("ingest", empty, "builtin:reference", "optimade:nowhere:")
    assert done("status", empty, "--format", "json").json["materials"] == 0
