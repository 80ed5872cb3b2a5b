"""The Materials Project through its own client, mp-api, page by page.

Query fields are those of ``MPRester.materials.summary.search`` in the installed mp-api, read from its signature;
https://docs.materialsproject.org/downloading-data/using-the-api/querying-data.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Protocol

from engine.exceptions import RefusedRequestError, SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Format, RawRecord
from engine.materials.sources.kinds import MATERIALS_PROJECT
from engine.materials.sources.server import Server
from engine.materials.sources.source import DatabaseSource, Page, Say, address, not_an_object

NAME = "Materials Project"
ENDPOINT = "https://api.materialsproject.org"
KEY_PAGE = "https://next-gen.materialsproject.org/api"
PAGE = 1000
"""Records of a page, the largest that mp-api itself requests."""
IDS = 100
"""Ids of a page."""

PROPERTIES = {
    "band_gap": "band_gap_eV",
    "energy_above_hull": "energy_above_hull_eV",
    "formation_energy_per_atom": "formation_energy_eV",
    "theoretical": "theoretical",
    "is_stable": "is_stable",
}
"""Fields of a summary document to names of this program; energies are per atom."""


class _Summary(Protocol):
    """The part of mp-api's client of the summaries that is used here."""

    def search(self, **criteria: object) -> list[object]:
        """Documents that meet the criteria."""
        ...


class MaterialsProject(DatabaseSource):
    """``is_stable=true,nelements=2-4,band_gap=0.1-``, or a list of ids ``mp-149,mp-22862``; empty: all.

    A range is ``A-B``, ``A-`` (at least), ``-B`` (at most) or ``A`` (exactly). The key is read from ``MP_API_KEY``
    only and used only in requests; ``MP_API_ENDPOINT`` may name another server, as in mp-api.
    """

    kind = MATERIALS_PROJECT
    origin = NAME

    def __init__(self, query: str, say: Say):
        self.query = query
        self._key = _key()
        self._endpoint = address(os.environ.get("MP_API_ENDPOINT") or ENDPOINT).rstrip("/")
        self._ids, self._criteria = _parse(query)
        self._server = Server(NAME, say)

    def pages(self, start: str | None = None) -> Iterator[Page]:
        """Every page; ``start`` is its number, from 1."""
        try:
            version = str(self._server.get(f"{self._endpoint}/heartbeat").get("db_version") or "") or None
            summary = self._summary()
            number = int(start or 1)
            yield from self._by_id(summary, number, version) if self._ids else self._found(summary, number, version)
        except RefusedRequestError as error:
            if error.status in (401, 403):
                raise SourceError(
                    f"the {NAME} does not accept the key in MP_API_KEY ({error.status}); get a valid one at "
                    f"{KEY_PAGE} and set MP_API_KEY"
                ) from None
            raise
        finally:
            self._server.close()

    def _summary(self) -> _Summary:
        """mp-api's client of the summaries, with the session of this program, without models and S3."""
        from mp_api.client import MPRester
        from requests import RequestException

        try:
            rester = MPRester(
                api_key=self._key,
                endpoint=self._endpoint,
                session=self._server.session,
                use_document_model=False,
                mute_progress_bars=True,
            )
        except (RequestException, ValueError) as error:
            raise SourceError(f"the {NAME} at {self._endpoint} does not answer as mp-api expects: {error}") from error
        return rester.materials.summary

    def _found(self, summary: _Summary, number: int, version: str | None) -> Iterator[Page]:
        while True:
            documents = self._search(summary, **self._criteria, _page=number, chunk_size=PAGE)
            total = self._server.document.get("meta", {}).get("total_doc")
            last = len(documents) < PAGE
            number += 1
            yield Page(self._records(documents), None if last else str(number), total, version)
            if last:
                return

    def _by_id(self, summary: _Summary, number: int, version: str | None) -> Iterator[Page]:
        for first in range((number - 1) * IDS, len(self._ids), IDS):
            ids = self._ids[first : first + IDS]
            documents = self._search(summary, material_ids=ids, chunk_size=IDS)
            found = {_canonical(str(d.get("material_id"))) for d in documents if isinstance(d, dict)}
            missing = [_not_found(id_) for id_ in ids if _canonical(id_) not in found]
            number += 1
            following = str(number) if first + IDS < len(self._ids) else None
            yield Page([*self._records(documents), *missing], following, len(self._ids), version)

    def _search(self, summary: _Summary, **criteria: object) -> list[object]:
        """One page through mp-api, which drops what exceeds the announced number: that is refused here."""
        from mp_api.client import MPRestError

        fields = ["material_id", "structure", *PROPERTIES]
        try:
            documents: list[object] = summary.search(
                **criteria, num_chunks=1, all_fields=False, fields=fields, _sort_fields="material_id"
            )
        except MPRestError as error:
            raise SourceError(f"mp-api refuses mp:{self.query}: {str(error).splitlines()[0]}") from error
        sent = self._server.document.get("data")
        if not isinstance(sent, list) or len(sent) > len(documents):
            raise SourceError(
                f"the {NAME} sent {len(sent) if isinstance(sent, list) else 'no'} entries and announced "
                f"{len(documents)}; the answer is not reliable: ingest again later"
            )
        return documents

    def _records(self, documents: list[object]) -> list[RawRecord | Rejection]:
        records: list[RawRecord | Rejection] = []
        for document in documents:
            if not isinstance(document, dict):
                records.append(not_an_object(document, NAME, NAME))
                continue
            properties = {ours: document[theirs] for theirs, ours in PROPERTIES.items() if theirs in document}
            id_ = str(document.get("material_id"))
            payload = {"id": id_, "structure": document.get("structure"), "properties": properties}
            records.append(RawRecord(id_, Format.JSON, payload, NAME))
        return records


def _key() -> str:
    key = os.environ.get("MP_API_KEY", "").strip()
    if not key:
        raise SourceError(f"mp: needs a key of the {NAME}; get one at {KEY_PAGE} and set the variable MP_API_KEY")
    if len(key) != 32:
        raise SourceError(f"MP_API_KEY is not a key of the {NAME}, which has 32 characters; get one at {KEY_PAGE}")
    return key


# --- queries --------------------------------------------------------------------------------------------------------

_ID = re.compile(r"(mp|mvc)-(\d+|[a-z]{6,})")
_OWN = {"num_chunks", "chunk_size", "all_fields", "fields", "_page", "_sort_fields", "kwargs", "self", "material_ids"}
_ALIASES = {
    "nelements": "num_elements",
    "nsites": "num_sites",
    "formation_energy_per_atom": "formation_energy",
    "energy_per_atom": "total_energy",
}
"""Names in the documents to those of the search."""


def _parse(query: str) -> tuple[list[str], dict[str, object]]:
    """Ids, or criteria for the search; an item without ``=`` continues the list before it."""
    items = [item.strip() for item in query.split(",") if item.strip()]
    if items and "=" not in query:
        for item in items:
            if not _ID.fullmatch(item):
                raise SourceError(f"{item!r} is neither an id (mp-149) nor FIELD=VALUE, e.g. is_stable=true")
        return list(dict.fromkeys(items)), {}
    words: dict[str, list[str]] = {}
    name = ""
    for item in items:
        before, sign, value = item.partition("=")
        if sign:
            name = before.strip()
            if name in words:
                raise SourceError(f"mp:{query} has {name} twice; give it once")
            words[name] = [value.strip()]
        elif name:
            words[name].append(item)
        else:
            raise SourceError(f"mp:{query} mixes ids and fields; give one or the other")
    kinds = _search_fields()
    criteria = {}
    for name, values in words.items():
        known = _ALIASES.get(name, name)
        if known not in kinds:
            near = get_close_matches(name, [*kinds, *_ALIASES], n=1, cutoff=0.0)[0]
            raise SourceError(f"the {NAME} has no query field {name!r}, did you mean {near!r}? It has: {_all(kinds)}")
        criteria[known] = _value(name, values, kinds[known])
    return [], {"deprecated": False} | criteria


def _search_fields() -> dict[str, str]:
    """Names that the installed mp-api can search by, and their types as it writes them."""
    try:
        from mp_api.client.routes.materials.summary import SummaryRester
    except ImportError as error:
        raise SourceError("mp: needs mp-api; pip install 'kappascout[mp]'") from error
    parameters = inspect.signature(SummaryRester.search).parameters
    return {name: str(p.annotation) for name, p in parameters.items() if name not in _OWN}


def _value(name: str, values: list[str], kind: str) -> object:
    """Values of one field as mp-api's type."""
    if "tuple" in kind:
        return _range(name, ",".join(values), int if "int" in kind else float)
    if "bool" in kind:
        if values not in (["true"], ["false"]):
            raise SourceError(f"{name}={','.join(values)} must be true or false")
        return values == ["true"]
    if "Ordering" in kind:
        from pymatgen.analysis.magnetism import Ordering

        if values[0] not in Ordering.__members__ or len(values) > 1:
            raise SourceError(f"{name}={','.join(values)} must be one of {', '.join(Ordering.__members__)}")
        return Ordering[values[0]]
    if "int" in kind:
        if not all(v.isdigit() for v in values):
            raise SourceError(f"{name}={','.join(values)} must be a whole number, or several with commas")
        return [int(v) for v in values] if len(values) > 1 else int(values[0])
    return values if kind.startswith("list") or len(values) > 1 else values[0]


def _range(name: str, text: str, number: type) -> tuple[object, object]:
    """``A-B``, ``A-``, ``-B`` and ``A``, as lowest and highest; an open end is None."""
    problem = f"{name}={text} is not a range of numbers; write A-B, A- (at least), -B (at most) or A (exactly)"
    closed = re.fullmatch(rf"({_NUMBER})-({_NUMBER})", text)
    above, below = re.fullmatch(rf"({_NUMBER})-", text), re.fullmatch(rf"-({_NUMBER})", text)
    exact = re.fullmatch(_NUMBER, text)
    try:
        if below:
            return None, number(below[1])
        if closed:
            low, high = number(closed[1]), number(closed[2])
            if low > high:
                raise SourceError(f"{name}={text} is empty: {low:g} is above {high:g}")
            return low, high
        if above:
            return number(above[1]), None
        if exact:
            return number(text), number(text)
    except ValueError:
        raise SourceError(problem) from None
    raise SourceError(problem)


_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def _all(kinds: dict[str, str]) -> str:
    return ", ".join(sorted(kinds))


def _canonical(id_: str) -> str:
    """Normal form of an id, which the database writes in digits or letters."""
    from emmet.core.mpid import validate_identifier

    try:
        return str(validate_identifier(id_))
    except ValueError:
        return id_


def _not_found(id_: str) -> Rejection:
    return Rejection(
        NAME,
        id_,
        RejectionReason.NOT_FOUND,
        f"the {NAME} has no entry {id_}",
        "check the id; it may have been merged into another or withdrawn",
    )
