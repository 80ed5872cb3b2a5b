"""A hundred thousand labels: energies of substituted crystals by a potential, with their embeddings, kept in a folder.

No published table that may be shipped has so many, and invented values would say nothing about errors. The energy per
atom of a crystal by TensorNet-MatPES-PBE is a label like any other; of each is taken what a linear fit to the
composition explains, which leaves a formation energy (eV/atom). Crystals: real ones of AFLOW with other elements and
strain, see :func:`tests.benchmarks.crystals.write_substituted`, up to :data:`MAX_SITES` sites.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks import crystals as files
from tests.benchmarks.crystals import write_substituted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.materials.crystal import Crystal

POTENTIAL = "TensorNet-MatPES-PBE-v2025.1-PES"
CRYSTALS = 200_000
"""Made, of which :data:`MAX_SITES` leaves 107,000: 45 minutes of a core."""
MAX_SITES = 8
CHUNK = 2_000
"""Crystals that are labelled and embedded together; an interrupted run goes on behind the last whole chunk."""
_ELEMENTS = 95


def featuriser(folder: Path) -> AnyFeaturiser:
    """Embeddings in ``folder`` by the backbones that ``kappascout train`` reads by default."""
    from engine.learning.backbones.backbone import SIDE_BY_SIDE
    from engine.learning.backbones.stack import make_featuriser
    from engine.learning.ensemble.storage import load_starts

    return make_featuriser(load_starts(SIDE_BY_SIDE), folder / "features", keep_graphs=False)


def labelled(folder: Path, crystals: int = CRYSTALS) -> tuple[list[str], NDArray[np.float64]]:
    """Keys of the crystals (N) and their formation energies in eV/atom (N), labelled and embedded where they are not.

    ``crystals`` are made, a multiple of :data:`CHUNK`; those of a smaller number are the first of a larger one.
    Crystals whose energy is farther from the median than ten times the median deviation are left out: atoms on top of
    each other, of which a potential knows nothing.
    """
    parts = list(_chunks(folder, crystals))
    keys = [key for part in parts for key in part["keys"].tolist()]
    energy, fractions = (np.concatenate([part[name] for part in parts]) for name in ("energy", "fractions"))
    away = np.abs(energy - np.median(energy))
    usual = away < 10 * np.median(away)
    for _ in range(2):
        elements = np.linalg.lstsq(fractions[usual], energy[usual], rcond=None)[0]
        rest = energy - fractions @ elements
        away = np.abs(rest - np.median(rest[usual]))
        usual = away < 10 * np.median(away[usual])
    return [key for key, kept in zip(keys, usual.tolist(), strict=True) if kept], rest[usual]


def _chunks(folder: Path, crystals: int) -> Iterator[dict[str, NDArray[np.generic]]]:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"made-{crystals}.jsonl"
    if not source.is_file():
        write_substituted(source.with_suffix(".part"), crystals).rename(source)
    potential, embedder = None, featuriser(folder)
    with source.open() as lines:
        for number in range(crystals // CHUNK):
            rows = list(islice(lines, CHUNK))
            path = folder / f"energies-{number:04d}.npz"
            if not path.is_file():
                if potential is None:
                    from engine.physics.potentials import load_potential

                    potential = load_potential(files.DATA.parent / "pretrained" / POTENTIAL)
                named = dict(_crystals(rows, embedder.backbone.elements & potential.elements))
                made = list(named.values())
                energies = potential.energies(made) / [len(crystal) for crystal in made]
                embedder.add(named)
                part = path.with_suffix(".part.npz")
                np.savez(part, keys=list(named), energy=energies, fractions=_fractions(made))
                part.rename(path)
                sys.stderr.write(f"labelled {number + 1} of {crystals // CHUNK} chunks\n")
            with np.load(path) as stored:
                yield dict(stored)


def _crystals(lines: list[str], elements: frozenset[str]) -> Iterator[tuple[str, Crystal]]:
    from engine.materials.crystal import Crystal

    for line in lines:
        row = json.loads(line)
        if len(row["species"]) <= MAX_SITES and set(row["species"]) <= elements:
            key = hashlib.sha256(line.encode()).hexdigest()[:32]
            yield key, Crystal.from_symbols(row["lattice"], row["species"], row["frac_coords"])


def _fractions(crystals: list[Crystal]) -> NDArray[np.float64]:
    """Share of each element in each crystal, N x Z."""
    counts = [np.bincount(crystal.numbers, minlength=_ELEMENTS) / len(crystal) for crystal in crystals]
    return np.array(counts)
