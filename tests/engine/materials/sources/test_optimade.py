"""OPTIMADE providers: addresses and names, pages along links, disorder, lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.exceptions import SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Material
from engine.materials.loading import process
from engine.materials.sources.optimade import PROVIDERS, Optimade
from engine.materials.sources.registry import open_source
from engine.materials.sources.source import Page
from tests.engine.materials.sources import services
from tests.engine.materials.sources.services import Entry, Reply, Service


@pytest.fixture
def service(crystals: list[Entry]) -> Iterator[Service]:
    """Give a provider with 53 entries."""
    with services.optimade(crystals).running() as running:
        yield running


def pages(text: str, start: str | None = None) -> list[Page]:
    return list(open_source(f"optimade:{text}", lambda _: None).pages(start))


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/structures", "{}/structures/"])
def test_pages_of_a_filter(service: Service, crystals: list[Entry], form: str) -> None:
    """Any form of the address; crystals as they were sent, with the provider's own plain values."""
    found = pages(form.format(service.url) + "?filter=nelements=2&page_limit=12")
    expected = [e for e in crystals if len(e[1].composition) == 2]
    assert {page.total for page in found} == {len(expected)}
    assert {page.version for page in found} == {"OPTIMADE 1.1.0, server 1.2.0"}
    materials = [m for page in found for m in process(page.records)]
    assert [m.id for m in materials if isinstance(m, Material)] == [e[0] for e in expected]
    assert isinstance(materials[0], Material)
    assert materials[0].source == f"{service.url}/v1"
    assert np.isclose(materials[0].crystal.density, expected[0][1].density)
    assert not any(page.notes for page in found)
    assert "_exmpl_band_gap" in service.requests[1]
    assert "_exmpl_forces" not in service.requests[1]
    again = pages(form.format(service.url) + "?filter=nelements=2&page_limit=12", start=found[0].next)
    assert [p.records for p in again] == [p.records for p in found[1:]]


def test_names_of_providers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "alexandria", service.url)
    (page, *_) = pages("alexandria:nelements=3")
    assert page.records
    source = Optimade('alexandria:elements HAS "Si" AND nelements=2', print)
    assert (source.origin, source.query) == (f"{service.url}/v1", 'elements HAS "Si" AND nelements=2')
    with pytest.raises(SourceError, match=r"'alexandra'.*'alexandria'\?"):
        open_source("optimade:alexandra:nelements=2", print)
    with pytest.raises(SourceError, match="password"):
        open_source("optimade:https://me:secret@example.org/v1", print)


def test_a_provider_that_wants_small_pages(crystals: list[Entry]) -> None:
    """A page of our size is refused: the provider's own size is taken."""
    with services.optimade(crystals, largest=25).running() as small:
        found = pages(small.url)
    assert [len(page.records) for page in found] == [20, 20, 13]


def test_no_provider_and_no_filter(service: Service) -> None:
    with pytest.raises(SourceError, match=f"{service.url}/other/v1"):
        pages(f"{service.url}/other")
    with pytest.raises(SourceError, match="400 Bad Request, Unable to parse filter"):
        pages(f"{service.url}?filter=nelements IS 2")


def test_ids_of_digits_get_the_provider(crystals: list[Entry]) -> None:
    """Others count too."""
    with services.optimade([("4061139", *crystals[0][1:])], prefix="oqmd").running() as oqmd:
        (page,) = pages(oqmd.url)
    (material,) = process(page.records)
    assert isinstance(material, Material)
    assert material.id == "oqmd-4061139"


@pytest.mark.parametrize("missing", [None, "", "absent"])
def test_entries_without_an_id(service: Service, missing: str | None) -> None:
    """They get their immutable one, or are refused; never one id for all."""

    def forget(_: int, reply: Reply) -> Reply:
        if isinstance(reply.body["data"], list):
            for n, entry in enumerate(reply.body["data"]):
                entry["id"] = missing
                if missing == "absent":
                    del entry["id"]
                if n % 2:
                    entry["attributes"]["immutable_id"] = f"5f{n:022d}"
        return reply

    service.fault = forget
    (page, *_) = pages(f"{service.url}?page_limit=6")
    outcomes = process(page.records)
    assert [o.id for o in outcomes if isinstance(o, Material)] == [f"5f{n:022d}" for n in (1, 3, 5)]
    refused = [o for o in outcomes if isinstance(o, Rejection)]
    assert [r.reason for r in refused] == [RejectionReason.MISSING_FIELD] * 3
    assert all("id" in r.message for r in refused)


def test_properties_get_our_names(crystals: list[Entry]) -> None:
    entry = (*crystals[0][:2], {"band_gap_eV": 6.4})
    with services.optimade([entry], prefix="alexandria").running() as provider:
        (page,) = pages(provider.url)
    (material,) = process(page.records)
    assert isinstance(material, Material)
    assert material.properties == {"alexandria_band_gap": 6.4, "band_gap_eV": 6.4}


def changed(**attributes: Any) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        entry["attributes"].update(attributes)

    return change


def _share(entry: dict[str, Any]) -> None:
    entry["attributes"]["species"][0].update(chemical_symbols=["Fe", "vacancy"], concentration=[0.9, 0.1])


def _attach(entry: dict[str, Any]) -> None:
    entry["attributes"]["species"][0].update(attached=["H"], nattached=[2])


def _forget(entry: dict[str, Any]) -> None:
    entry["attributes"]["cartesian_site_positions"][1] = [None, None, None]


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (_share, RejectionReason.DISORDERED, "a site is occupied by Fe 0.9, vacancy 0.1"),
        (_attach, RejectionReason.MISSING_FIELD, "H bound to a site"),
        (_forget, RejectionReason.MISSING_FIELD, "site 1 has no coordinates"),
        (changed(cartesian_site_positions=None), RejectionReason.MISSING_FIELD, "no cartesian_site_positions"),
        (changed(lattice_vectors=None), RejectionReason.MISSING_FIELD, "no lattice_vectors"),
        (changed(lattice_vectors=[[4.0, 0, 0], [0, 4.0, 0], [None] * 3]), RejectionReason.MISSING_FIELD, "the lattice"),
        (changed(dimension_types=[1, 1, 0]), RejectionReason.MISSING_FIELD, "repeats in 2 directions"),
        (changed(lattice_vectors=[[1, 0, 0], [2, 0, 0], [0, 0, 1]]), RejectionReason.ZERO_VOLUME, "lie in one plane"),
    ],
)
def test_structures_that_are_refused(
    service: Service, change: Callable[[dict[str, Any]], None], reason: RejectionReason, words: str
) -> None:
    """By reason, and the others on the page stay."""

    def spoil(_: int, reply: Reply) -> Reply:
        if isinstance(reply.body["data"], list):
            change(reply.body["data"][1])
        return reply

    service.fault = spoil
    (page, *_) = pages(service.url)
    good, bad, *_ = process(page.records)
    assert isinstance(good, Material)
    assert isinstance(bad, Rejection)
    assert (bad.reason, bad.record_id) == (reason, "mp-101")
    assert words in bad.message


def test_links_may_be_objects_and_relative(service: Service, crystals: list[Entry]) -> None:
    def other(_: int, reply: Reply) -> Reply:
        if link := reply.body.get("links", {}).get("next"):
            reply.body["links"]["next"] = {"href": link.removeprefix(service.url), "meta": {}}
        return reply

    service.fault = other
    assert sum(len(page.records) for page in pages(service.url)) == len(crystals)


def test_a_provider_that_leads_in_a_circle(service: Service) -> None:
    def circle(_: int, reply: Reply) -> Reply:
        if "links" in reply.body:
            reply.body["links"]["next"] = f"{service.url}/v1/structures?page_offset=20&page_limit=20"
        return reply

    service.fault = circle
    with pytest.raises(SourceError, match="circle"):
        pages(service.url)


def test_a_provider_of_empty_pages(service: Service) -> None:
    def empty(n: int, reply: Reply) -> Reply:
        return Reply({"data": [], "links": {"next": f"{service.url}/v1/structures?n={n}"}}) if n > 1 else reply

    service.fault = empty
    with pytest.raises(SourceError, match="circle"):
        pages(service.url)
    assert len(service.requests) == 12


def test_a_provider_that_promises_more(service: Service) -> None:
    def more(_: int, reply: Reply) -> Reply:
        reply.body["meta"]["more_data_available"] = True
        return reply

    service.fault = more
    assert "no link" in pages(service.url)[-1].notes[0]


@pytest.mark.parametrize("body", [[], {"data": {}}, {"data": None}, "text", 5])
def test_answers_that_are_no_list(service: Service, body: Any) -> None:
    service.fault = lambda n, reply: Reply(body) if n > 1 else reply
    with pytest.raises(SourceError, match=service.url):
        pages(service.url)
    service.requests.clear()
    service.fault = lambda n, reply: Reply(body)
    if body != {"data": {}}:
        with pytest.raises(SourceError, match=service.url):
            pages(service.url)


def test_versions_of_the_data(service: Service) -> None:
    """As specification 1.2 has it, or under a name of the provider's own."""

    def database(_: int, reply: Reply) -> Reply:
        reply.body["meta"]["database"] = {"id": "x", "version": "2026.1"}
        return reply

    def own(_: int, reply: Reply) -> Reply:
        reply.body["meta"]["_exmpl_db_version"] = "3.2.1"
        return reply

    service.fault = database
    assert pages(service.url)[0].version == "2026.1"
    service.fault = own
    assert pages(service.url)[0].version == "3.2.1"
