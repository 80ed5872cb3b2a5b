"""A campaign of alloys of copper and gold, and references of the same elements."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.materials.crystal import Crystal
from tests.campaigns.helpers import done, write_lines
from tests.engine.physics.alloys import SPEC, bcc, fcc, l10, l12
from tests.engine.physics.salts import rocksalt


def row(id_: str, crystal: Crystal, **properties: Any) -> dict[str, Any]:
    """Record of a crystal."""
    return {
        "id": id_,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": properties,
    }


@pytest.fixture(scope="session")
def relaxed_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Give a campaign of four metals, one with an energy above the hull, and a salt the potential does not know.

    All relaxed, with phonons; and the report on that.
    """
    tmp_path = tmp_path_factory.mktemp("stability")
    pool = [
        row("Cu3Au", l12("Au", "Cu", 3.75)),
        row("CuAu3", l12("Cu", "Au", 3.98), energy_above_hull_eV=0.004),
        row("bcc-Cu", bcc("Cu", 2.88)),
        row("NiAu", l10("Ni", "Au", 3.8)),
        row("NaCl", rocksalt("NaCl")),
    ]
    directory = tmp_path / "c"
    done("init", directory, "--cold")
    done("ingest", directory, write_lines(tmp_path / "pool.jsonl", pool))
    arguments = ("relax", directory, "--potential", SPEC, "--phonons", "--workers", 2, "--quiet", "--format", "json")
    return directory, done(*arguments).json


@pytest.fixture
def campaign(relaxed_once: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """Give a copy of that campaign."""
    return Path(shutil.copytree(relaxed_once[0], tmp_path / "c"))


@pytest.fixture
def references(tmp_path: Path) -> Path:
    """Give copper and gold, an alloy that is also a candidate, and one of other elements."""
    rows = [
        row("Cu", fcc("Cu", 3.61)),
        row("Au", fcc("Au", 4.08)),
        row("Cu3Au", l12("Au", "Cu", 3.75)),
        row("AgPd", l10("Ag", "Pd", 4.0)),
    ]
    return write_lines(tmp_path / "references.jsonl", rows)
