"""Crystals to measure with: the data for development where they are, else what the package generates."""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MEGNET = DATA.parent / "pretrained" / "MEGNet-MP-2018.6.1-Eform"
KAPPA = "kappa_agl_300K_W_mK"


def pool_files(folder: Path) -> list[Path]:
    """Name files of some thousand crystals; written under ``folder`` if they have to be generated."""
    found = DATA / "aflow_agl.jsonl.gz"
    return [found] if found.is_file() else [_generated(folder / "generated.jsonl")]


def large_pool_files(folder: Path) -> list[Path]:
    """Name all files of crystals there are."""
    return [*pool_files(folder), *sorted(DATA.glob("tl_*.jsonl.gz"))]


def _generated(path: Path) -> Path:
    from engine.materials.candidates import generate_candidates
    from engine.materials.reference import reference_crystals

    crystals = {**reference_crystals(), **{c.id: c.crystal for c in generate_candidates()}}
    with path.open("w") as lines:
        for id_, crystal in crystals.items():
            record = {
                "id": id_,
                "lattice": crystal.lattice.tolist(),
                "species": crystal.symbols,
                "frac_coords": crystal.frac_coords.tolist(),
                "properties": {KAPPA: 1000 / crystal.volume},
            }
            lines.write(json.dumps(record) + "\n")
    return path
