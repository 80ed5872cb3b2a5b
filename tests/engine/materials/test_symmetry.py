"""Operations in the cell as it is given, and tensors that have them."""

from __future__ import annotations

import numpy as np
import pytest

from engine.materials.crystal import Crystal
from engine.materials.symmetry import keeps_operations, operations, point_group, symmetrised

TENSOR = np.array([[1.0, 0.7, 0.5], [0.7, 2.0, 0.3], [0.5, 0.3, 4.0]])


def caesium_chloride(*edges: float, shift: float = 0.0) -> Crystal:
    return Crystal.from_symbols(np.diag(edges), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + shift]])


def turned(crystal: Crystal) -> Crystal:
    """About an axis of no symmetry, by an angle of none."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    rotation = np.eye(3) + np.sin(0.7) * cross + (1 - np.cos(0.7)) * cross @ cross
    return Crystal(crystal.lattice @ rotation, crystal.numbers, crystal.frac_coords)


CUBIC, TETRAGONAL = caesium_chloride(4.1, 4.1, 4.1), caesium_chloride(4.1, 4.1, 4.3)


@pytest.mark.parametrize(
    ("crystal", "order", "distinct"),
    [
        (CUBIC, 48, 1),
        (TETRAGONAL, 16, 2),
        (caesium_chloride(4.1, 4.3, 4.6), 8, 3),
        (caesium_chloride(4.1, 4.1, 4.3, shift=0.05), 8, 2),
        (Crystal.from_symbols(np.eye(3) * 4 + np.triu(np.full((3, 3), 0.3), 1), ["Cs"], [[0, 0, 0]]), 2, 3),
    ],
)
@pytest.mark.parametrize("turn", [False, True])
def test_point_groups_and_their_tensors(crystal: Crystal, order: int, distinct: int, turn: bool) -> None:
    group = point_group(turned(crystal) if turn else crystal)
    assert len(group) == order
    assert np.allclose(group @ group.transpose(0, 2, 1), np.eye(3), atol=1e-6)
    values = np.linalg.eigvalsh(symmetrised(TENSOR, group))
    assert 1 + int((np.diff(values) > 1e-6).sum()) == distinct
    assert np.isclose(values.sum(), 7.0)


def test_no_symmetry_is_the_identity() -> None:
    crystal = Crystal.from_symbols(
        np.diag([4.0, 4.5, 5.0]), ["Cs", "Cl", "Br"], [[0, 0, 0], [0.3, 0.2, 0.4], [0.6, 0.7, 0.1]]
    )
    rotations, translations = operations(crystal)
    assert (rotations == np.eye(3)).all()
    assert len(translations) == 1


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (TETRAGONAL, CUBIC, True),
        (TETRAGONAL, caesium_chloride(4.1, 4.1, 4.5), True),
        (CUBIC, TETRAGONAL, False),
        (TETRAGONAL, caesium_chloride(4.1, 4.3, 4.1), False),
        (TETRAGONAL, caesium_chloride(4.1, 4.1, 4.3, shift=0.05), False),
        (caesium_chloride(4.1, 4.1, 4.3, shift=0.05), TETRAGONAL, True),
    ],
)
def test_what_relaxation_keeps(before: Crystal, after: Crystal, kept: bool) -> None:
    assert keeps_operations(before, after) is kept
