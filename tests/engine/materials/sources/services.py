"""Local servers that answer as the Materials Project, an OPTIMADE provider and AFLOW do, on real crystals."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from engine.materials.crystal import Crystal

KEY = "0123456789abcdef0123456789abcdef"
Entry = tuple[str, Crystal, dict[str, Any]]


@dataclass
class Reply:
    """What is sent back."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """The connection ends in the middle of the body."""
    hang_up: bool = False
    """The connection ends without an answer."""

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Service:
    """A server in a thread; ``fault`` may replace an answer, by the number of the data request (from 1)."""

    def __init__(self, answer: Callable[[str, dict[str, str], Any], Reply]):
        self.answer = answer
        self.fault: Callable[[int, Reply], Reply] = lambda _, reply: reply
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 0.5

            def do_GET(self) -> None:
                service._respond(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # waits for its threads at the end, so that no connection stays open
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        self.headers.append(dict(handler.headers))
        parts = urlsplit(handler.path)
        parameters = {k: v[0] for k, v in parse_qs(parts.query).items()}
        reply = self.fault(len(self.requests), self.answer(parts.path, parameters, handler))
        handler.close_connection = handler.close_connection or reply.cut or reply.hang_up
        if reply.hang_up:
            return
        content = reply.content
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if reply.cut else content)

    @contextmanager
    def running(self) -> Iterator[Service]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def materials_project(entries: list[Entry], version: str = "2025.09.25") -> Service:
    """Answer ``heartbeat`` and ``materials/summary`` as api.materialsproject.org does to mp-api 0.46."""

    def answer(path: str, parameters: dict[str, str], handler: Any) -> Reply:
        if path == "/heartbeat":
            beat = {"status": "OK", "version": "0.87.0", "db_version": service.version}
            return Reply(beat | {"access_controlled_batch_ids": []})
        if path.rstrip("/") != "/materials/summary":
            return Reply({"detail": "Not Found"}, 404)
        if handler.headers.get("x-api-key") != KEY:
            return Reply({"message": "Invalid authentication credentials"}, 401)
        found = [d for e in entries if _matches(d := _summary(e), parameters)]
        size = int(parameters.get("_per_page") or parameters["_limit"])
        start = (int(parameters["_page"]) - 1) * size if "_page" in parameters else int(parameters.get("_skip", 0))
        fields = parameters["_fields"].split(",")
        data = [{k: d[k] for k in fields} for d in found[start : start + size]]
        return Reply({"data": data, "meta": {"api_version": "0.87.0", "total_doc": len(found)}, "errors": None})

    service = Service(answer)
    service.version = version  # type: ignore[attr-defined]
    return service


def _summary(entry: Entry) -> dict[str, Any]:
    id_, crystal, properties = entry
    return {
        "material_id": id_,
        "structure": crystal.to_structure().as_dict(),
        "nelements": len(crystal.composition),
        "nsites": len(crystal),
        "deprecated": False,
        "band_gap": properties.get("band_gap_eV"),
        "energy_above_hull": 0.0,
        "formation_energy_per_atom": properties.get("formation_energy_eV"),
        "theoretical": False,
        "is_stable": True,
    }


def _matches(document: dict[str, Any], parameters: dict[str, str]) -> bool:
    if "material_ids" in parameters and document["material_id"] not in parameters["material_ids"].split(","):
        return False
    for name, text in parameters.items():
        base, _, end = name.rpartition("_")
        if end == "min" and not (document[base] is not None and document[base] >= float(text)):
            return False
        if end == "max" and not (document[base] is not None and document[base] <= float(text)):
            return False
        if name in ("is_stable", "theoretical", "deprecated") and str(document[name]).lower() != text.lower():
            return False
    return True


def optimade(entries: list[Entry], prefix: str = "exmpl", largest: int = 100) -> Service:
    """Answer as optimade-python-tools does: offsets in ``links.next``, 403 where a page is asked too large."""

    def answer(path: str, parameters: dict[str, str], _: Any) -> Reply:
        if path == "/v1/info/structures":
            own = {f"_{prefix}_band_gap": {"type": "float"}, f"_{prefix}_forces": {"type": "list"}}
            return Reply({"data": {"properties": {"nsites": {"type": "integer"}} | own}, "meta": meta(0)})
        if path != "/v1/structures":
            return Reply({"errors": [{"status": "404", "title": "Not Found", "detail": "no such endpoint"}]}, 404)
        limit = int(parameters.get("page_limit", 20))
        if limit > largest:
            return Reply({"errors": [{"detail": f"Max allowed page_limit is {largest}, you requested {limit}"}]}, 403)
        wanted = re.fullmatch(r"nelements=(\d+)", parameters.get("filter", ""))
        if parameters.get("filter") and not wanted:
            return Reply({"errors": [{"detail": "Unable to parse filter"}]}, 400)
        found = [e for e in entries if not wanted or len(e[1].composition) == int(wanted[1])]
        start = int(parameters.get("page_offset", 0))
        data = [optimade_entry(e, prefix) for e in found[start : start + limit]]
        following = start + limit if start + limit < len(found) else None
        kept = "&".join(f"{k}={v}" for k, v in parameters.items() if k in ("filter", "response_fields"))
        link = f"{service.url}/v1/structures?{kept}&page_limit={limit}&page_offset={following}" if following else None
        more = following is not None
        return Reply({"data": data, "links": {"next": link}, "meta": meta(len(found)) | {"more_data_available": more}})

    def meta(returned: int) -> dict[str, Any]:
        provider = {"name": "Example", "prefix": prefix, "description": ""}
        server = {"name": "optimade-python-tools", "version": "1.2.0"}
        return {"api_version": "1.1.0", "provider": provider, "implementation": server, "data_returned": returned}

    service = Service(answer)
    return service


def optimade_entry(entry: Entry, prefix: str = "exmpl") -> dict[str, Any]:
    """Give a crystal as an entry of ``/structures``."""
    id_, crystal, properties = entry
    kinds = [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in crystal.composition]
    attributes = {
        "lattice_vectors": crystal.lattice.tolist(),
        "cartesian_site_positions": (crystal.frac_coords @ crystal.lattice).tolist(),
        "species": kinds,
        "species_at_sites": crystal.symbols,
        "dimension_types": [1, 1, 1],
        "structure_features": [],
        f"_{prefix}_band_gap": properties.get("band_gap_eV"),
    }
    return {"id": id_, "type": "structures", "attributes": attributes}


def aflux(entries: list[Entry], counted: bool = False) -> Service:
    """Answer AFLUX summons of ``species``, ``nspecies`` and ``$paging``; as a list, or as ``3 of 912``."""

    def answer(path: str, _: dict[str, str], handler: Any) -> Reply:
        summons = unquote(urlsplit(handler.path).query)
        if path != "/API/aflux/":
            return Reply(b"<html>404</html>", 404)
        if "nonsense" in summons:
            return Reply(["Unknown keyword", "nonsense"])
        wanted = re.search(r"species\(([A-Za-z,]+)\)", summons)
        number = re.search(r"nspecies\((\d+)\)", summons)
        found = [
            e
            for e in entries
            if (not wanted or set(wanted[1].split(",")) <= set(e[1].composition))
            and (not number or len(e[1].composition) == int(number[1]))
        ]
        page, size = map(int, re.search(r"\$paging\((\d+),(\d+)\)", summons).groups())  # type: ignore[union-attr]
        first = (page - 1) * size
        rows = [aflow_entry(e) for e in found[first : first + size]]
        if not counted:
            return Reply(rows)
        return Reply({f"{first + n} of {len(found)}": row for n, row in enumerate(rows, start=1)})

    return Service(answer)


_AFLOW = {
    "agl_thermal_conductivity_300K": "kappa_agl_300K_W_mK",
    "agl_debye": "debye_temperature_K",
    "ael_bulk_modulus_vrh": "bulk_modulus_vrh_GPa",
    "Egap": "band_gap_eV",
}


def aflow_entry(entry: Entry) -> dict[str, Any]:
    """Give a crystal as a row of AFLUX: six cell parameters, and positions in the order of its species."""
    id_, crystal, properties = entry
    structure = crystal.to_structure().get_sorted_structure()
    species = list(dict.fromkeys(site.specie.symbol for site in structure))
    counts = [sum(site.specie.symbol == s for site in structure) for s in species]
    return {
        "auid": f"aflow:{abs(hash_of(id_)):016x}",
        "aurl": f"aflowlib.duke.edu:AFLOWDATA/ICSD_WEB/{id_}",
        "compound": "".join(f"{s}{n}" for s, n in zip(species, counts, strict=True)),
        "geometry": [*structure.lattice.abc, *structure.lattice.angles],
        "species": species,
        "composition": counts,
        "positions_fractional": structure.frac_coords.tolist(),
        "aflowlib_date": ["20200426_10:04:20_GMT-5", "20210114_09:00:00_GMT-5"],
        **{theirs: properties.get(ours) for theirs, ours in _AFLOW.items()},
    }


def hash_of(text: str) -> int:
    """Give 64 bits that are the same in every process."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
