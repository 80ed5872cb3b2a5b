"""An OPTIMADE provider, page by page along ``links.next``.

Andersen et al., Sci. Data 8, 217 (2021), https://doi.org/10.1038/s41597-021-00974-z; the specification is at
https://github.com/Materials-Consortia/OPTIMADE. Base addresses are those of the public list of providers and of the
indices it links to, https://providers.optimade.org, as pymatgen.ext.optimade has them too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from engine.exceptions import RefusedRequestError, SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Format, RawRecord
from engine.materials.optimade_entry import FIELDS
from engine.materials.sources.kinds import OPTIMADE
from engine.materials.sources.server import Server
from engine.materials.sources.source import DatabaseSource, Page, Say, address, not_an_object

PROVIDERS = {
    "alexandria": "https://alexandria.icams.rub.de/pbe",
    "alexandria-pbesol": "https://alexandria.icams.rub.de/pbesol",
    "cmr": "https://cmr-optimade.fysik.dtu.dk",
    "cod": "https://www.crystallography.net/cod/optimade",
    "gnome": "https://optimade-gnome.odbx.science",
    "jarvis": "https://jarvis.nist.gov/optimade/jarvisdft",
    "mc2d": "https://aiida.materialscloud.org/mc2d/optimade",
    "mc3d": "https://aiida.materialscloud.org/mc3d/optimade",
    "mp": "https://optimade.materialsproject.org",
    "mpds": "https://api.mpds.io",
    "nomad": "https://nomad-lab.eu/prod/rae/optimade",
    "odbx": "https://optimade.odbx.science",
    "oqmd": "https://oqmd.org/optimade",
    "tcod": "https://www.crystallography.net/tcod/optimade",
    "twodmatpedia": "http://optimade.2dmatpedia.org",
}
"""``mc3d`` and ``mc2d`` are Materials Cloud's; ``gnome`` is the open database of xtals' copy of GNoME."""
PAGE = 100
"""Records of a page where the provider allows it; else the provider's number."""
EMPTY_PAGES = 10
"""Consecutive empty pages with a link to a next one, after which reading is an error."""


class Optimade(DatabaseSource):
    """``https://HOST/PATH?filter=FILTER``, or ``NAME:FILTER`` with one of :data:`PROVIDERS`; no filter: all."""

    kind = OPTIMADE

    def __init__(self, text: str, say: Say):
        name, base, self._parameters = _parse(text)
        self.origin = base
        self.query = self._parameters.get("filter", "")
        self._server = Server(f"OPTIMADE provider {name}", say)

    def pages(self, start: str | None = None) -> Iterator[Page]:
        """Every page; ``start`` is its address, as the page before gave it."""
        try:
            yield from self._linked(start)
        finally:
            self._server.close()

    def _linked(self, start: str | None) -> Iterator[Page]:
        url = start or self._first(self._fields())
        seen: set[str] = set()
        empty = 0
        while True:
            answer = self._first_page(url) if not start and not seen else self._server.get(url)
            entries, meta = _content(answer, url)
            seen.add(url)
            empty = 0 if entries else empty + 1
            following = _next(answer, url)
            if following in seen or empty > EMPTY_PAGES:
                raise SourceError(
                    f"{self._server.name} leads in a circle: {url} continues at {following}; report it there"
                )
            total = meta.get("data_returned")
            total = total if isinstance(total, int) else None
            prefix = str((meta.get("provider") or {}).get("prefix") or urlsplit(self.origin).netloc)
            records = [self._record(entry, prefix) for entry in entries]
            more = following is None and meta.get("more_data_available") is True
            notes = (f"{self._server.name} announces more records, and gives no link to them",) if more else ()
            yield Page(records, following, total, _version(answer, meta), notes=notes)
            if following is None:
                return
            url = following

    def _fields(self) -> list[str]:
        """Fields to request: those of structures, and all plain values specific to this provider."""
        url = f"{self.origin}/info/structures"
        try:
            answer = self._server.get(url)
        except RefusedRequestError as error:
            raise SourceError(
                f"there is no OPTIMADE provider of structures at {self.origin} ({error}); give the base address, the "
                f"part before /structures, or one of: {', '.join(PROVIDERS)}"
            ) from error
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise SourceError(f"{url} does not answer as an OPTIMADE provider does; check the address")
        own = {k: v for k, v in (data.get("properties") or {}).items() if k.startswith("_") and isinstance(v, dict)}
        return [*FIELDS, *(name for name, about in own.items() if _plain(about))]

    def _first(self, fields: list[str]) -> str:
        parameters = {"response_fields": ",".join(fields), "page_limit": str(PAGE)} | self._parameters
        return f"{self.origin}/structures?{urlencode(parameters)}"

    def _first_page(self, url: str) -> Any:
        """Request pages of this program's size, or the provider's if it refuses that (specification, "page_limit")."""
        try:
            return self._server.get(url)
        except RefusedRequestError as error:
            if error.status not in (400, 403) or "page_limit" in self._parameters:
                raise
            parts = urlsplit(url)
            rest = [(k, v) for k, v in parse_qsl(parts.query) if k != "page_limit"]
            return self._server.get(urlunsplit(parts._replace(query=urlencode(rest))))

    def _record(self, entry: object, prefix: str) -> RawRecord | Rejection:
        """Entries keep their id, or the immutable one; digits alone get the provider's prefix."""
        if not isinstance(entry, dict):
            return not_an_object(entry, self.origin, self.origin)
        attributes = entry.get("attributes")
        given = entry.get("id") or (attributes.get("immutable_id") if isinstance(attributes, dict) else None)
        id_ = str(given).strip() if isinstance(given, str | int) else ""
        if not id_:
            message = "the entry has neither an id nor an immutable_id"
            return Rejection(
                self.origin, self.origin, RejectionReason.MISSING_FIELD, message, "report it to the database"
            )
        if not re.search("[A-Za-z]", id_):
            id_ = f"{prefix}-{id_}"
        return RawRecord(id_, Format.JSON, entry | {"id": id_}, self.origin)


def _parse(text: str) -> tuple[str, str, dict[str, str]]:
    """Name of the provider, versioned base address, and parameters of the query."""
    if re.match(r"https?://", text):
        parts = urlsplit(address(text))
        path = parts.path.rstrip("/").removesuffix("/structures").rstrip("/")
        base = urlunsplit(parts._replace(path=path, query="", fragment=""))
        return parts.netloc, _versioned(base), dict(parse_qsl(parts.query))
    name, _, words = text.partition(":")
    if name not in PROVIDERS:
        near = get_close_matches(name, PROVIDERS, n=1, cutoff=0.0)[0]
        raise SourceError(
            f"no OPTIMADE provider {name!r} is known, did you mean {near!r}? Known are {', '.join(PROVIDERS)}; any "
            "other is reached by its address, optimade:https://HOST/PATH?filter=..."
        )
    return name, _versioned(PROVIDERS[name]), {"filter": words.strip()} if words.strip() else {}


def _versioned(base: str) -> str:
    return base if re.search(r"/v\d+(\.\d+)*$", base) else f"{base}/v1"


def _plain(about: dict[str, object]) -> bool:
    kind = about.get("x-optimade-type") or about.get("type")
    return kind in ("float", "integer", "boolean", "string")


def _content(answer: Any, url: str) -> tuple[list[Any], dict[str, Any]]:
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise SourceError(f"{url} does not answer with a list of structures; check the address and the filter")
    meta = answer.get("meta")
    return data, meta if isinstance(meta, dict) else {}


def _next(answer: dict[str, Any], url: str) -> str | None:
    """Address of the next page, as a text or under ``href``, perhaps without a host."""
    link = (answer.get("links") or {}).get("next")
    link = link.get("href") if isinstance(link, dict) else link
    return urljoin(url, link) if isinstance(link, str) and link else None


def _version(answer: dict[str, Any], meta: dict[str, Any]) -> str | None:
    """Version of the data where the provider gives one (specification 1.2, or its own field), else of the API."""
    base = (answer.get("links") or {}).get("base_url")
    places = [meta, base.get("meta") if isinstance(base, dict) else None]
    own = (v for place in places if isinstance(place, dict) for k, v in place.items() if k.endswith("_db_version"))
    database = meta.get("database")
    version = (database.get("version") if isinstance(database, dict) else None) or next(own, None)
    if version:
        return str(version)
    implementation = meta.get("implementation")
    server = implementation.get("version") if isinstance(implementation, dict) else None
    words = [f"OPTIMADE {meta['api_version']}"] if meta.get("api_version") else []
    return ", ".join([*words, f"server {server}"] if server else words) or None
