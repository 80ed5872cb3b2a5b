"""AFLOW: AFLUX summons, both forms of its answers, AGL and AEL values."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from engine.exceptions import SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal, Material
from engine.materials.loading import process
from engine.materials.sources import aflow
from engine.materials.sources.registry import open_source
from engine.materials.sources.source import Page
from tests.engine.materials.sources import services
from tests.engine.materials.sources.services import Entry, Reply, Service


@pytest.fixture(scope="session")
def entries(shared: Callable[[str], Path]) -> list[Entry]:
    """Give 60 crystals of AFLOW with their values."""
    with gzip.open(shared("data/aflow_agl.jsonl.gz"), "rt") as lines:
        rows = [json.loads(line) for _, line in zip(range(60), lines, strict=False)]
    return [
        (r["id"], Crystal.from_symbols(r["lattice"], r["species"], r["frac_coords"]), r["properties"]) for r in rows
    ]


@pytest.fixture(params=["list", "counted"])
def service(entries: list[Entry], request: pytest.FixtureRequest) -> Iterator[Service]:
    """Give AFLUX with 60 entries, in each of the forms of its answers."""
    with services.aflux(entries, counted=request.param == "counted").running() as running:
        yield running


def pages(service: Service, query: str, start: str | None = None) -> list[Page]:
    return list(open_source(f"aflow:{service.url}/API/aflux/?{query}", lambda _: None).pages(start))


def test_pages_of_a_query(service: Service, entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page once; crystals and values as AFLOW has them; each row has its own version."""
    monkeypatch.setattr(aflow, "PAGE", 16)
    found = pages(service, "nspecies(3)")
    expected = [e for e in entries if len(e[1].composition) == 3]
    assert [len(p.records) for p in found] == [16] * (len(expected) // 16) + [len(expected) % 16]
    assert {p.total for p in found} <= {None, len(expected)}
    materials = [m for page in found for m in process(page.records)]
    assert len(materials) == len(expected)
    for material, (_, crystal, properties) in zip(materials, expected, strict=True):
        assert isinstance(material, Material)
        assert material.formula == crystal.formula
        assert np.isclose(material.crystal.density, crystal.density, rtol=1e-5)
        assert material.properties["kappa_agl_300K_W_mK"] == properties["kappa_agl_300K_W_mK"]
        assert material.id.startswith("aflow:")
    assert set(found[0].row_versions.values()) == {"aflowlib 20210114_09:00:00_GMT-5"}
    summons = unquote(service.requests[0])
    assert summons.startswith("/API/aflux/?auid(*),nspecies(3),geometry(*),species(*),composition(*)")
    assert summons.endswith("agl_thermal_conductivity_300K,$paging(1,16),$format(json)")
    again = pages(service, "nspecies(3)", start="2")
    assert [p.records for p in again] == [p.records for p in found[1:]]


def test_keywords_are_asked_for_once(service: Service) -> None:
    pages(service, "species(Ag,S),nspecies(3),agl_thermal_conductivity_300K(1*)")
    summons = unquote(service.requests[0])
    assert summons.count("species(") == 2
    assert summons.count("agl_thermal_conductivity_300K") == 1


def test_the_real_address() -> None:
    source = open_source("aflow:species(Na,Cl),nspecies(2)", print)
    assert (source.origin, source.query) == ("AFLOW", "species(Na,Cl),nspecies(2)")
    url = source._url(1)  # type: ignore[attr-defined]
    assert url.startswith("https://aflow.org/API/aflux/?auid(*),species(Na,Cl),nspecies(2),geometry(*),composition(*),")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("species(Na),$paging(0)", r"paging\(...\)"),
        ("species(Na,Cl", "brackets that do not close"),
        ("nspecies=2", r"AFLUX, which writes nspecies\(2\) for nspecies=2"),
        ("https://example.org/API/aflux", "has no query behind the address"),
    ],
)
def test_queries_that_cannot_be_understood(query: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(f"aflow:{query}", print)


def test_a_query_that_the_server_does_not_understand(service: Service) -> None:
    with pytest.raises(SourceError, match=r"AFLOW .*: Unknown keyword nonsense"):
        pages(service, "nonsense(1)")
    service.answer = lambda *_: Reply({"error": "no"})
    with pytest.raises(SourceError, match=r"AFLOW .*: no"):
        pages(service, "species(Na)")


def test_values_as_text(entries: list[Entry]) -> None:
    """As older answers have them."""

    def as_text(*_: Any) -> Reply:
        row = services.aflow_entry(entries[0])
        for key in ("geometry", "composition", "species"):
            row[key] = ",".join(map(str, row[key]))
        row["positions_fractional"] = ";".join(",".join(map(str, site)) for site in row["positions_fractional"])
        return Reply([row | {"agl_thermal_conductivity_300K": "6.30231", "Egap": ""}])

    with Service(as_text).running() as service:
        (page,) = pages(service, "species(Ac)")
    (material,) = process(page.records)
    assert isinstance(material, Material)
    assert material.formula == entries[0][1].formula
    assert material.properties["kappa_agl_300K_W_mK"] == 6.30231
    assert "band_gap_eV" not in material.properties


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"geometry": None}, RejectionReason.MISSING_FIELD, "the entry has no geometry"),
        ({"geometry": [4.0, 4.0, 4.0]}, RejectionReason.UNREADABLE, "geometry has 3 numbers, not 6"),
        ({"composition": [1]}, RejectionReason.UNREADABLE, "2 species but 1 counts"),
        ({"composition": [2, 2]}, RejectionReason.UNREADABLE, "4 species, lattice of shape"),
        ({"positions_fractional": [["a", 0, 0]]}, RejectionReason.UNREADABLE, "could not convert string to float"),
    ],
)
def test_entries_that_are_refused(
    entries: list[Entry], change: dict[str, Any], reason: RejectionReason, words: str
) -> None:
    rows = [services.aflow_entry(entries[0]) | change, services.aflow_entry(entries[1])]
    with Service(lambda *_: Reply(rows)).running() as service:
        (page,) = pages(service, "species(Ac)")
    bad, good = process(page.records)
    assert isinstance(good, Material)
    assert isinstance(bad, Rejection)
    assert bad.reason is reason
    assert words in bad.message


def test_a_page_that_comes_again(entries: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aflow, "PAGE", 2)
    rows = [services.aflow_entry(e) for e in entries[:2]]
    with (
        Service(lambda *_: Reply(rows)).running() as service,
        pytest.raises(SourceError, match="page 1 again as page 2"),
    ):
        pages(service, "nspecies(2)")
