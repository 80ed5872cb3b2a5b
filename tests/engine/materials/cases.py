"""Crystals that the tests of this folder share."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.materials.crystal import Crystal, Material
from engine.materials.identity import identify

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def shared(name: str) -> Path:
    """Give a file of the shared data, or skip the test."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return path


def rocksalt(a: float = 4.212, cation: str = "Mg", anion: str = "O") -> Crystal:
    """Give the primitive cell, ``a`` in Angstrom."""
    return Crystal.from_symbols(a / 2 * (1 - np.eye(3)), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def zincblende(a: float = 4.35) -> Crystal:
    """Give cubic SiC."""
    return Crystal.from_symbols(a / 2 * (1 - np.eye(3)), ["Si", "C"], [[0, 0, 0], [0.25, 0.25, 0.25]])


def silicon_carbide(stacking: str) -> Crystal:
    """Give a polytype of SiC from its stacking of layers, e.g. ``ABCB`` for 4H."""
    place = {"A": (0, 0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}
    n = len(stacking)
    sites = [((*place[s], k / n), (*place[s], (k + 0.75) / n)) for k, s in enumerate(stacking)]
    lattice = [[3.08, 0, 0], [-1.54, 1.54 * 3**0.5, 0], [0, 0, 2.51 * n]]
    return Crystal.from_symbols(lattice, ["Si", "C"] * n, list(itertools.chain(*sites)))


def rutile() -> Crystal:
    """Give TiO2."""
    u, w = 0.305, 0.195
    coords = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0], [0.5 - u, 0.5 + u, 0.5], [0.5 + u, 0.5 - u, 0.5]]
    assert abs(u + w - 0.5) < 1e-9
    return Crystal.from_symbols(np.diag([4.594, 4.594, 2.959]), ["Ti", "Ti", "O", "O", "O", "O"], coords)


def material(crystal: Crystal, name: str = "m") -> Material:
    """Give the material of a crystal."""
    return identify(name, crystal)


def another_setting(crystal: Crystal, rng: np.random.Generator, noise: float = 0.0, max_cells: int = 4) -> Crystal:
    """Give the same crystal in a random supercell, rotated, with another origin and site order, and noise in A."""
    while True:
        matrix = rng.integers(-1, 3, (3, 3))
        cells = abs(round(np.linalg.det(matrix)))
        if 1 <= cells <= max_cells:
            break
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    cart, lattice, numbers = _repeated(crystal, matrix, cells)
    order = rng.permutation(len(numbers))
    lattice = (lattice @ rotation) + noise * rng.normal(size=(3, 3))
    cart = (cart + rng.normal(size=3)) @ rotation + noise * rng.normal(size=cart.shape)
    return Crystal(lattice, numbers[order], (cart @ np.linalg.inv(lattice) % 1.0)[order])


def _repeated(crystal: Crystal, matrix: np.ndarray, cells: int) -> tuple[Any, Any, Any]:
    steps = np.array(list(itertools.product(range(-6, 7), repeat=3)))
    inside = np.round(np.round(steps @ np.linalg.inv(matrix), 9) % 1.0, 6) % 1.0
    _, first = np.unique(inside, axis=0, return_index=True)
    assert len(first) == cells
    shifts = steps[first] @ crystal.lattice
    cart = (crystal.frac_coords @ crystal.lattice)[:, None] + shifts[None]
    return cart.reshape(-1, 3), matrix @ crystal.lattice, np.repeat(crystal.numbers, cells)
