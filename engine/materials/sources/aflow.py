"""AFLOW through its search language AFLUX.

Rose et al., Comput. Mater. Sci. 137, 362 (2017), https://arxiv.org/abs/1612.05130; keywords as in
https://aflow.org/API/aflux/?schema and the AFLOW School, https://github.com/aflow-org/aflow_school. A keyword with an
argument selects, a bare one is only returned; entries are sorted by the first keyword; ``$paging(page, size)`` counts
from 1, and page 0 would be the whole database at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from engine.exceptions import SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Format, RawRecord
from engine.materials.sources.kinds import AFLOW
from engine.materials.sources.server import Server
from engine.materials.sources.source import DatabaseSource, Page, Say, address, not_an_object

NAME = "AFLOW"
ENDPOINT = "https://aflow.org/API/aflux/?"
PAGE = 500

PROPERTIES = {
    "Egap": "band_gap_eV",
    "energy_atom": "energy_per_atom_eV",
    "enthalpy_formation_atom": "formation_energy_eV",
    "ael_bulk_modulus_vrh": "bulk_modulus_vrh_GPa",
    "ael_shear_modulus_vrh": "shear_modulus_vrh_GPa",
    "ael_poisson_ratio": "poisson_ratio",
    "agl_debye": "debye_temperature_K",
    "agl_gruneisen": "gruneisen_parameter",
    "agl_thermal_expansion_300K": "thermal_expansion_300K_1_K",
    "agl_thermal_conductivity_300K": "kappa_agl_300K_W_mK",
}
"""Keywords of AFLOW to names of this program; energies are per atom."""
_STRUCTURE = ("geometry", "species", "composition", "positions_fractional")
_MORE = ("compound", "aflowlib_date")


class Aflow(DatabaseSource):
    """``species(Na,Cl),nspecies(2)``, any matchbook of AFLUX; ``https://HOST/PATH/?MATCHBOOK``: another server."""

    kind = AFLOW
    origin = NAME

    def __init__(self, text: str, say: Say):
        self._endpoint, self.query = _parse(text)
        self._server = Server(NAME, say)

    def pages(self, start: str | None = None) -> Iterator[Page]:
        """Every page; ``start`` is its number, from 1."""
        try:
            yield from self._numbered(int(start or 1))
        finally:
            self._server.close()

    def _numbered(self, number: int) -> Iterator[Page]:
        before = None
        while True:
            rows, total = _rows(self._server.get(self._url(number)))
            first = rows[0].get("auid") if rows and isinstance(rows[0], dict) else None
            if first is not None and first == before:
                raise SourceError(f"{NAME} sent page {number - 1} again as page {number}; report it to aflow.org")
            before, last = first, len(rows) < PAGE
            number += 1
            versions = {str(r.get("auid")): _date(r["aflowlib_date"]) for r in rows if _has(r, "aflowlib_date")}
            records = [_record(row) for row in rows]
            yield Page(records, None if last else str(number), total, row_versions=versions)
            if last:
                return

    def _url(self, number: int) -> str:
        """Keywords to request: ``auid`` first, so that pages keep their order; without those of the query."""
        asked = set(re.findall(r"\$?(\w+)(?=\(|,|$)", self.query))
        wanted = [f"{name}(*)" for name in _STRUCTURE if name not in asked]
        wanted += [name for name in (*_MORE, *PROPERTIES) if name not in asked]
        query = [self.query] if self.query else []
        return f"{self._endpoint}{','.join(['auid(*)', *query, *wanted, f'$paging({number},{PAGE})', '$format(json)'])}"


def _parse(text: str) -> tuple[str, str]:
    """Address of the server, and the matchbook."""
    endpoint, query = ENDPOINT, text
    if re.match(r"https?://", text):
        endpoint, mark, query = address(text).partition("?")
        endpoint += "?"
        if not mark:
            raise SourceError(f"aflow:{text} has no query behind the address; write https://HOST/PATH/?species(Na,Cl)")
    query = query.strip().strip(",")
    if directive := re.search(r"\$?\b(paging|format|schema|help)\(", query):
        raise SourceError(f"aflow:{text} holds {directive[1]}(...), which is set by this program; leave it out")
    if query.count("(") != query.count(")"):
        raise SourceError(f"aflow:{text} has brackets that do not close; write e.g. aflow:species(Na,Cl),nspecies(2)")
    if "=" in query:
        raise SourceError(
            f"aflow:{text} is not AFLUX, which writes nspecies(2) for nspecies=2, and Egap(1*) for at least"
        )
    return endpoint, query


def _rows(answer: object) -> tuple[list[Any], int | None]:
    """Entries of a page, from a list or from an object with keys ``3 of 912``, which hold the total number."""
    if isinstance(answer, dict):
        counted = [re.fullmatch(r"\d+ of (\d+)", key) for key in answer]
        if answer and all(counted):
            return list(answer.values()), int(next(c[1] for c in counted if c))
        words = answer.get("error") or answer.get("message") or answer
        raise SourceError(f"{NAME} does not understand the query: {str(words)[:300]}")
    if isinstance(answer, list) and not any(isinstance(row, str) for row in answer):
        return answer, None
    words = " ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
    raise SourceError(f"{NAME} does not understand the query: {' '.join(words.split())[:300]}")


def _record(row: object) -> RawRecord | Rejection:
    if not isinstance(row, dict):
        return not_an_object(row, NAME, NAME)
    id_ = str(row.get("auid") or row.get("aurl") or NAME)
    missing = [name for name in _STRUCTURE if not _has(row, name)]
    if missing:
        message = f"the entry has no {', '.join(missing)}"
        return Rejection(NAME, id_, RejectionReason.MISSING_FIELD, message, "leave it out, or take its CIF from AFLOW")
    try:
        payload = {"id": id_, **_crystal(row), "properties": _properties(row)}
    except (TypeError, ValueError) as error:
        message = f"the entry's structure cannot be read: {error}"
        return Rejection(NAME, id_, RejectionReason.UNREADABLE, message, "leave it out, or take its CIF from AFLOW")
    return RawRecord(id_, Format.JSON, payload, NAME)


def _crystal(row: dict[str, Any]) -> dict[str, Any]:
    """Crystal of an entry; ``geometry`` is a, b, c (Angstrom) and three angles (degrees); sites by species."""
    from pymatgen.core import Lattice

    cell = [float(x) for x in _list(row["geometry"])]
    if len(cell) != 6:
        raise ValueError(f"geometry has {len(cell)} numbers, not 6")
    counts = [int(float(n)) for n in _list(row["composition"])]
    species = [str(s).strip() for s in _list(row["species"])]
    if len(species) != len(counts):
        raise ValueError(f"{len(species)} species but {len(counts)} counts")
    positions = row["positions_fractional"]
    sites = positions.split(";") if isinstance(positions, str) else positions
    return {
        "lattice": Lattice.from_parameters(*cell).matrix.tolist(),
        "species": [symbol for symbol, n in zip(species, counts, strict=True) for _ in range(n)],
        "frac_coords": [[float(x) for x in _list(site)] for site in sites],
    }


def _properties(row: dict[str, Any]) -> dict[str, float]:
    """Values as numbers, which older answers hold as text."""
    return {ours: float(row[theirs]) for theirs, ours in PROPERTIES.items() if _has(row, theirs)}


def _has(row: object, name: str) -> bool:
    return isinstance(row, dict) and row.get(name) not in (None, "", [])


def _list(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value)


def _date(value: object) -> str:
    """Date of the entry in AFLOW; of several dates the last."""
    return f"aflowlib {_list(value)[-1]}"
