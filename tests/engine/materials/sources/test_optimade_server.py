"""The reference implementation of OPTIMADE, ``optimade[server]``, on 127.0.0.1: pages and filters as it has them.

It pins versions of its own and runs in an environment of its own: the interpreter that ``KAPPASCOUT_OPTIMADE_PYTHON``
names, or one that is made once in the user's cache.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Crystal, Material
from engine.materials.loading import process
from engine.materials.sources.registry import open_source
from engine.materials.sources.source import Page
from tests.engine.materials.sources.services import Entry, optimade_entry

pytestmark = pytest.mark.slow

INSTALLING = 300
"""Seconds for pip."""
STARTING = 60
"""Seconds for the server."""
SERVER = """
import json, sys
import uvicorn
from optimade.server.config import ServerConfig
from optimade.server.create_app import create_app
uvicorn.run(create_app(ServerConfig(**json.loads(sys.argv[2]))), host="127.0.0.1", port=int(sys.argv[1]))
"""


def works(python: Path) -> bool:
    return (
        python.exists()
        and not subprocess.run([python, "-c", "import optimade.server, uvicorn"], check=False).returncode
    )


@pytest.fixture(scope="module")
def python() -> Path:
    """Give an interpreter that has the server, or skip."""
    if named := os.environ.get("KAPPASCOUT_OPTIMADE_PYTHON"):
        assert works(Path(named)), f"KAPPASCOUT_OPTIMADE_PYTHON is {named}, which has no optimade[server]"
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kappascout-tests" / "optimade"
    found = cache / "bin" / "python"
    if works(found):
        return found
    try:
        subprocess.run([sys.executable, "-m", "venv", cache], check=True, capture_output=True, timeout=INSTALLING)
        pip = [found, "-m", "pip", "install", "--quiet", "optimade[server]"]
        subprocess.run(pip, check=True, capture_output=True, timeout=INSTALLING)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"optimade[server] cannot be installed into {cache}: {error}")
    return found


def entry(crystal: Entry) -> dict[str, Any]:
    """Give an entry with all fields that the specification wants."""
    found = optimade_entry(crystal)
    composition = crystal[1].composition
    elements = sorted(composition)
    counts = {s: composition[s] // np.gcd.reduce(list(composition.values())) for s in elements}
    found["attributes"] |= {
        "band_gap": crystal[2]["band_gap_eV"],
        "nsites": len(crystal[1]),
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": [composition[s] / len(crystal[1]) for s in elements],
        "chemical_formula_reduced": "".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in elements),
        "chemical_formula_descriptive": crystal[1].formula,
        "nperiodic_dimensions": 3,
        "last_modified": "2026-01-01T00:00:00Z",
    }
    del found["attributes"]["_exmpl_band_gap"]
    return found


@pytest.fixture(scope="module")
def server(python: Path, crystals: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a server of 53 crystals, and two that must be refused."""
    folder = tmp_path_factory.mktemp("optimade")
    entries = [entry((id_, crystal, {"band_gap_eV": float(n)})) for n, (id_, crystal, _) in enumerate(crystals)]
    implicit, short = (entry((id_, crystals[0][1], {"band_gap_eV": 0.0})) for id_ in ("implicit", "short"))
    implicit["attributes"]["structure_features"] = ["implicit_atoms"]
    short["attributes"]["chemical_formula_reduced"] = "H9Zr"
    lines = [{"x-optimade": {"meta": {"api_version": "1.2.0"}}}, *entries, implicit, short]
    (folder / "entries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    field = {"name": "band_gap", "type": "float", "description": "band gap", "unit": "eV"}
    settings = {
        "insert_test_data": False,
        "insert_from_jsonl": str(folder / "entries.jsonl"),
        "page_limit": 20,
        "page_limit_max": 20,
        "provider_fields": {"structures": [field]},
        "log_dir": str(folder),
    }
    (folder / "settings.json").write_text("{}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-c", SERVER, str(port), json.dumps(settings)]
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own["OPTIMADE_CONFIG_FILE"] = str(folder / "settings.json")
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=own) as running:
        try:
            yield wait_for(f"http://127.0.0.1:{port}", running, folder / "log")
        finally:
            running.terminate()


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and running.poll() is None:
        try:
            if requests.get(f"{url}/v1/info", timeout=5).ok:
                return url
        except requests.ConnectionError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


def pages(text: str) -> list[Page]:
    return list(open_source(f"optimade:{text}", lambda _: None).pages())


def test_every_page(server: str, crystals: list[Entry]) -> None:
    found = pages(server)
    assert [len(page.records) for page in found] == [20, 20, 15]
    assert {page.total for page in found} == {55}
    outcomes = [outcome for page in found for outcome in process(page.records)]
    materials = [o for o in outcomes if isinstance(o, Material)]
    assert [m.id for m in materials] == [id_ for id_, *_ in crystals]
    for n, (material, (_, crystal, _)) in enumerate(zip(materials, crystals, strict=True)):
        assert material.formula == crystal.formula
        assert np.isclose(material.crystal.volume / len(material.crystal), crystal.volume / len(crystal))
        assert material.properties == {"exmpl_band_gap": float(n)}
    refused = {o.record_id: o for o in outcomes if isinstance(o, Rejection)}
    assert {id_: r.reason for id_, r in refused.items()} == dict.fromkeys(
        ("implicit", "short"), RejectionReason.MISSING_FIELD
    )
    assert "implicit" in refused["implicit"].message
    assert "H9Zr" in refused["short"].message


@pytest.mark.parametrize(
    ("query", "keep"),
    [
        ("filter=nelements=2", lambda c: len(c.composition) == 2),
        ('filter=elements HAS "O" AND nelements>=2', lambda c: "O" in c.composition and len(c.composition) >= 2),
        ("filter=nsites<=2&page_limit=3", lambda c: len(c) <= 2),
    ],
)
def test_filters(server: str, crystals: list[Entry], query: str, keep: Any) -> None:
    found = pages(f"{server}?{query}")
    kept: list[tuple[str, Crystal]] = [(id_, crystal) for id_, crystal, _ in crystals if keep(crystal)]
    materials = [m for page in found for m in process(page.records) if isinstance(m, Material)]
    assert kept
    assert [(m.id, m.formula) for m in materials] == [(id_, crystal.formula) for id_, crystal in kept]
