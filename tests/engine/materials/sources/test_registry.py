"""A database is one class: `ingest`, its help and its messages know it by the prefix of its registration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from campaigns.campaign import Campaign
from engine.exceptions import SourceError
from engine.materials.formats import Format, RawRecord
from engine.materials.reference import reference_crystals
from engine.materials.sources.kinds import KINDS, SourceKind, described
from engine.materials.sources.registry import SOURCES, open_source, register
from engine.materials.sources.source import DatabaseSource, Page
from tests.campaigns.helpers import done, refused


@pytest.fixture
def own() -> Iterator[type[DatabaseSource]]:
    """Register a database of two crystals, each a page, with a label."""

    @register
    class Own(DatabaseSource):
        kind = SourceKind("own", "our group", ("own:2024",), labels=("k=kappa_300K@experiment",))
        origin = "our group"

        def pages(self, start: str | None = None) -> Iterator[Page]:
            for number, (id_, crystal) in enumerate(list(reference_crystals().items())[:2], start=1):
                record = {"id": id_, "structure": crystal.to_dict(), "properties": {"k": 1.0 + number}}
                yield Page([RawRecord(id_, Format.JSON, record, self.origin)], "2" if number == 1 else None)

    yield Own
    del KINDS["own"], SOURCES["own"]


def test_a_new_database_is_ingested_with_provenance_and_labels(own: type[DatabaseSource], tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold")
    report = done("ingest", tmp_path / "c", "own:2024", "--format", "json").json
    assert (report["added"], report["labels"], report["rejected"]) == (2, 2, 0)
    with Campaign.open(tmp_path / "c") as campaign:
        sources = [source for material in campaign.store.materials() for source in material.sources]
    assert {(source.origin, source.query) for source in sources} == {("our group", "2024")}
    assert "own:2024" in described()
    assert "own: (our group)" in refused("ingest", tmp_path / "c", "owm:2024")


def test_a_prefix_is_registered_once(own: type[DatabaseSource]) -> None:
    with pytest.raises(SourceError, match="'own' is registered already"):
        register(own)
    own.kind = SourceKind("builtin", "mine", ("builtin:mine",))
    with pytest.raises(SourceError, match="'builtin' is registered already"):
        register(own)


@pytest.mark.parametrize("prefix", KINDS)
def test_every_prefix_opens_its_class(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    query = {"mp": "mp-149", "optimade": "cod:nelements=2", "aflow": "species(Na)"}[prefix]
    assert open_source(f"{prefix}:{query}", print).kind is KINDS[prefix]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("foo:bar", "prefix 'foo'; give a file, a folder, builtin:reference"),
        ("optimde:cod:", "did you mean 'optimade'?"),
        ("MP:mp-149", "did you mean 'mp'?"),
        ("buitin:reference", "did you mean 'builtin'?"),
        ("builtin:refrence", "did you mean 'builtin:reference'? there are builtin:reference and builtin:candidates"),
        ("https://cod.org/optimade", "prefix 'https'"),
    ],
)
def test_a_mistyped_source_is_refused_before_anything_is_read(source: str, words: str, tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold")
    assert words in refused("ingest", tmp_path / "c", "builtin:reference", source)
    assert done("status", tmp_path / "c", "--format", "json").json["materials"] == 0
