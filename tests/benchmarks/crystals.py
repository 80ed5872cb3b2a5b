"""Crystals to measure with: the data for development where they are, else what the package generates."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

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


def write_substituted(path: Path, count: int, seed: int = 0) -> Path:
    """Write ``count`` crystals as JSON lines: real ones with other elements and strain; memory holds the real ones.

    Elements are exchanged one for one, lengths follow the atomic radii. Half are strained alike in all directions,
    which keeps their symmetry, a quarter along c alone, and a quarter are the real positions displaced at random.
    """
    from engine.materials.elements import ATOMIC_NUMBERS, ATOMIC_RADIUS, SYMBOLS

    generator = np.random.default_rng(seed)
    real = [row for file in pool_files(path.parent) for row in _rows(file)]
    elements = [SYMBOLS[z] for z in range(3, 84) if np.isfinite(ATOMIC_RADIUS[z])]
    with path.open("w") as lines:
        for n in range(count):
            row = real[generator.integers(len(real))]
            old = list(dict.fromkeys(row["species"]))
            new = dict(zip(old, generator.choice(elements, len(old), replace=False).tolist(), strict=True))
            species = [new[s] for s in row["species"]]
            size = np.mean([ATOMIC_RADIUS[ATOMIC_NUMBERS[s]] for s in species])
            size /= np.mean([ATOMIC_RADIUS[ATOMIC_NUMBERS[s]] for s in row["species"]])
            lattice = np.array(row["lattice"]) * size * (1 + generator.uniform(-0.03, 0.05))
            coords = np.array(row["frac_coords"])
            if n % 4 == 1:
                lattice[2] *= 1 + generator.uniform(-0.03, 0.05)
            elif n % 4 == 3:
                coords = coords + generator.normal(0, 0.005, coords.shape)
            record = {
                "id": f"made-{n:07d}",
                "lattice": lattice.round(6).tolist(),
                "species": species,
                "frac_coords": coords.round(6).tolist(),
                "properties": {"energy_above_hull_eV": round(float(generator.exponential(0.1)), 4)},
            }
            lines.write(json.dumps(record) + "\n")
    return path


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


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
