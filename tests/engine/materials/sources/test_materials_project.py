"""The Materials Project through the real mp-api, against a local server that answers as the real one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from engine.exceptions import SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Material
from engine.materials.loading import process
from engine.materials.sources import materials_project
from engine.materials.sources.registry import open_source
from engine.materials.sources.source import Page
from tests.engine.materials.sources import services
from tests.engine.materials.sources.services import KEY, Entry, Reply, Service

pytest.importorskip("mp_api.client")


@pytest.fixture
def service(crystals: list[Entry], monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Give a Materials Project with 53 entries, and a key to it."""
    with services.materials_project(crystals).running() as running:
        monkeypatch.setenv("MP_API_KEY", KEY)
        monkeypatch.setenv("MP_API_ENDPOINT", running.url)
        yield running


def pages(query: str, start: str | None = None) -> list[Page]:
    return list(open_source(f"mp:{query}", lambda _: None).pages(start))


def searches(service: Service) -> list[dict[str, str]]:
    found = [parse_qs(urlsplit(r).query) for r in service.requests if r.startswith("/materials/summary")]
    return [{k: v[0] for k, v in parameters.items()} for parameters in found]


def test_pages_of_a_query(service: Service, crystals: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page once, in a fixed order, and from the middle; structures and properties as they were sent."""
    monkeypatch.setattr(materials_project, "PAGE", 20)
    found = pages("is_stable=true,nelements=2-4,nsites=-6")
    expected = [e for e in crystals if 2 <= len(e[1].composition) <= 4 and len(e[1]) <= 6]
    assert [page.total for page in found] == [len(expected)] * len(found)
    assert {page.version for page in found} == {"2025.09.25"}
    assert found[-1].next is None
    assert [page.next for page in found[:-1]] == [str(n) for n in range(2, len(found) + 1)]
    materials = [m for page in found for m in process(page.records)]
    assert [m.id for m in materials if isinstance(m, Material)] == [e[0] for e in expected]
    first = materials[0]
    assert isinstance(first, Material)
    assert first.source == "Materials Project"
    assert first.properties["energy_above_hull_eV"] == 0.0
    assert first.properties["theoretical"] is False
    assert np.isclose(first.crystal.volume / len(first.crystal), expected[0][1].volume / len(expected[0][1]))
    (search, *_) = searches(service)
    wanted = {"nelements_min": "2", "nelements_max": "4", "nsites_max": "6", "is_stable": "True", "deprecated": "False"}
    assert search.items() >= (wanted | {"_page": "1", "_per_page": "20", "_sort_fields": "material_id"}).items()
    again = pages("is_stable=true,nelements=2-4,nsites=-6", start="2")
    assert [p.records for p in again] == [p.records for p in found[1:]]


def test_ids(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches; an id that is not there is refused by name."""
    monkeypatch.setattr(materials_project, "IDS", 2)
    first, second = pages("mp-103,mp-101,mp-99999,mp-102,mp-101")
    assert [r.id for r in first.records if not isinstance(r, Rejection)] == ["mp-101", "mp-103"]
    *_, missing = second.records
    assert isinstance(missing, Rejection)
    assert (missing.record_id, missing.reason) == ("mp-99999", RejectionReason.NOT_FOUND)
    assert [s["material_ids"] for s in searches(service)] == ["mp-103,mp-101", "mp-99999,mp-102"]


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ("band_gap=0.1-", {"band_gap_min": "0.1"}),
        ("band_gap=-3", {"band_gap_max": "3.0"}),
        (
            "formation_energy=-2.5--1e-1",
            {"formation_energy_per_atom_min": "-2.5", "formation_energy_per_atom_max": "-0.1"},
        ),
        ("formation_energy_per_atom=--1", {"formation_energy_per_atom_max": "-1.0"}),
        ("nsites=2", {"nsites_min": "2", "nsites_max": "2"}),
        ("elements=Si,O,theoretical=false", {"elements": "Si,O", "theoretical": "False"}),
        ("chemsys=Si-O", {"chemsys": "Si-O"}),
        ("spacegroup_number=225", {"spacegroup_number": "225"}),
        ("magnetic_ordering=FM", {"ordering": "FM"}),
        ("", {"deprecated": "False"}),
    ],
)
def test_query_words(service: Service, words: str, parameters: dict[str, str]) -> None:
    """Each reaches the server under the name it has there."""
    service.answer = _empty(service.answer)
    pages(words)
    (search,) = searches(service)
    assert search.items() >= parameters.items()


def _empty(answer: Any) -> Any:
    nothing = {"data": [], "meta": {"total_doc": 0}}
    return lambda path, *rest: Reply(nothing) if path.startswith("/materials/summary") else answer(path, *rest)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bandgap=1-", "no query field 'bandgap', did you mean 'band_gap'\\? It has: band_gap, chemsys"),
        ("is_stable=yes", "is_stable=yes must be true or false"),
        ("nsites=two", "nsites=two is not a range of numbers; write A-B"),
        ("nsites=1.5-2", "nsites=1.5-2 is not a range of numbers"),
        ("band_gap=3-1", "band_gap=3-1 is empty: 3 is above 1"),
        ("mp-abc", "'mp-abc' is neither an id"),
        ("Si", "'Si' is neither an id \\(mp-149\\) nor FIELD=VALUE"),
        ("mp-149,is_stable=true", "mixes ids and fields"),
        ("nsites=1,nsites=2", "has nsites twice"),
        ("magnetic_ordering=up", "must be one of FM, AFM"),
        ("spacegroup_number=Fm-3m", "must be a whole number"),
    ],
)
def test_queries_that_cannot_be_understood(service: Service, words: str, message: str) -> None:
    """Said before anything is asked."""
    with pytest.raises(SourceError, match=message):
        open_source(f"mp:{words}", print)
    assert not service.requests


def test_keys(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, one of the wrong length, and one that the server refuses; none is ever shown."""
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(SourceError, match="MP_API_KEY"):
        open_source("mp:mp-149", print)
    monkeypatch.setenv("MP_API_KEY", "short-secret")
    with pytest.raises(SourceError, match="MP_API_KEY") as refused:
        open_source("mp:mp-149", print)
    assert "short-secret" not in str(refused.value)
    wrong = "f" * 32
    monkeypatch.setenv("MP_API_KEY", wrong)
    with pytest.raises(SourceError, match=r"MP_API_KEY \(401\)") as refused:
        pages("mp-149")
    assert wrong not in str(refused.value)
    assert refused.value.__suppress_context__


def test_faults_in_the_middle(service: Service, crystals: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate limit, a cut body and broken JSON are asked again, through mp-api too."""
    monkeypatch.setattr(materials_project, "PAGE", 12)
    faults = {
        5: Reply({}, 429, {"Retry-After": "0"}),
        7: Reply({"data": []}, cut=True),
        9: Reply(b'{"data": [{"material'),
    }
    service.fault = faults.get  # type: ignore[assignment]
    records = [r for page in pages("") for r in page.records]
    assert len(records) == len(crystals)
    assert len(searches(service)) == 5 + len(faults)


def test_a_server_that_contradicts_itself(service: Service) -> None:
    """mp-api drops what exceeds the announced number, which must not pass in silence."""

    def fewer(_: int, reply: Reply) -> Reply:
        if isinstance(reply.body, dict) and "meta" in reply.body:
            reply.body["meta"]["total_doc"] = 3
        return reply

    service.fault = fewer
    with pytest.raises(SourceError, match=r"53 entries .* 3;"):
        pages("")


def test_an_entry_that_is_no_record(service: Service) -> None:
    def broken(_: int, reply: Reply) -> Reply:
        if isinstance(reply.body, dict) and reply.body.get("data"):
            reply.body["data"][:2] = ["?", {"material_id": "mp-1", "structure": None}]
        return reply

    service.fault = broken
    (page,) = pages("")
    first, second, third, *_ = process(page.records)
    assert isinstance(first, Rejection)
    assert first.reason is RejectionReason.UNREADABLE
    assert isinstance(second, Rejection)
    assert (second.record_id, second.reason) == ("mp-1", RejectionReason.MISSING_FIELD)
    assert isinstance(third, Material)
