"""Forces in batches: the same as one by one, and fewer at once where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from numpy.typing import NDArray

from engine.physics.batches import ForcesInBatches, forces_of_all
from engine.physics.outcome import Calculated, CalculationError, Failed
from engine.physics.phonon_settings import PhononSettings
from engine.physics.phonons import calculate_kappa
from engine.physics.potential import Potential
from engine.physics.potentials import LennardJonesPotential, MatGLPotential, load_potential
from engine.physics.relaxation import Guarded
from tests.engine.physics.salts import fcc, rocksalt

QUICK = PhononSettings(temperature=40, first_mesh=18, last_mesh=18)


class SmallDevice(Calculator, ForcesInBatches):
    """Lennard-Jones argon on a device that holds a few cells."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(self, holds: int, batch: int = 8):
        super().__init__()
        self.inner, self.holds, self.batch = LennardJonesPotential("Ar").calculator(), holds, batch
        self.sizes: list[int] = []

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(self.atoms, properties)
        self.results = dict(self.inner.results)

    def forces_of(self, cells: Sequence[Atoms]) -> list[NDArray[np.float64]]:
        """Refuse more cells than the device holds."""
        self.sizes.append(len(cells))
        if len(cells) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [self.inner.get_property("forces", cell) for cell in cells]


class OnSmallDevice(Potential):
    """The same as a potential."""

    name, sha256, elements = "small", "0" * 64, frozenset({"Ar"})

    def __init__(self, holds: int):
        self.made: list[SmallDevice] = []
        self.holds = holds

    def calculator(self) -> Calculator:
        self.made.append(SmallDevice(self.holds))
        return self.made[-1]


def displaced(atoms: Atoms, repeats: int, count: int) -> list[Atoms]:
    rng = np.random.default_rng(0)
    cells = [atoms.repeat(repeats) for _ in range(count)]
    for cell in cells:
        cell.positions += rng.normal(scale=0.01, size=cell.positions.shape)
    return cells


@pytest.mark.parametrize(
    ("holds", "sizes", "halved"),
    [(8, [8, 2], None), (4, [8, 4, 4, 2], 4), (3, [8, 4, 2, 2, 2, 2, 2], 2), (1, [8, 4, 2] + 10 * [1], 1)],
)
def test_batches_are_halved_until_they_fit(holds: int, sizes: list[int], halved: int | None) -> None:
    cells = displaced(fcc("Ar", 5.3).to_atoms(), 2, 10)
    device = SmallDevice(holds)
    found = forces_of_all(cells, Guarded(device))
    assert device.sizes == sizes
    assert found.halved_to == halved
    for cell, forces in zip(cells, found.forces, strict=True):
        cell.calc = LennardJonesPotential("Ar").calculator()
        np.testing.assert_allclose(forces, cell.get_forces(), atol=1e-12)


def test_one_cell_that_does_not_fit_is_a_failure() -> None:
    outcome = calculate_kappa(fcc("Ar", 5.3), OnSmallDevice(0), QUICK)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "calculator_error"
    assert "out of memory with one supercell of 32 atoms" in outcome.message


def test_kappa_is_the_same_and_says_that_batches_were_halved() -> None:
    one, other = (calculate_kappa(fcc("Ar", 5.3), p, QUICK) for p in (LennardJonesPotential("Ar"), OnSmallDevice(2)))
    assert isinstance(one, Calculated)
    assert isinstance(other, Calculated)
    assert other.kappa == pytest.approx(one.kappa, rel=1e-3)
    assert other.provenance["force_batch_halved_to"] == 2
    assert "force_batch_halved_to" not in one.provenance


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(lambda: 1 / 0, "calculator_error"), (lambda: [np.full((8, 3), np.nan)] * 2, "bad_output")],
)
def test_errors_have_their_reason(spoil: Callable[[], Any], reason: str) -> None:
    class Spoiled(SmallDevice):
        def forces_of(self, cells: Sequence[Atoms]) -> Any:
            return spoil()

    with pytest.raises(CalculationError) as caught:
        forces_of_all(displaced(fcc("Ar", 5.3).to_atoms(), 2, 2), Guarded(Spoiled(8)))
    assert caught.value.reason == reason


def test_a_calculator_without_batches_is_called_one_by_one() -> None:
    cells = displaced(fcc("Ar", 5.3).to_atoms(), 2, 3)
    found = forces_of_all(cells, LennardJones(sigma=3.4, epsilon=0.01))
    assert len(found.forces) == 3
    assert found.halved_to is None


def test_matgl_gives_the_same_forces_in_a_batch(shared: Callable[[str], Path]) -> None:
    potential = load_potential(shared("pretrained/TensorNet-MatPES-r2SCAN-v2025.1-PES"), device="cpu")
    assert isinstance(potential, MatGLPotential)
    assert potential.batch == 1, "slower on a CPU"
    assert potential.describe() == {"name": potential.name, "sha256": potential.sha256}
    cells = displaced(rocksalt("MgO").to_atoms(), 2, 3) + displaced(rocksalt("NaCl").to_atoms(), 1, 2)
    one_by_one = forces_of_all(cells, potential.calculator()).forces
    together = forces_of_all(cells, replace(potential, batch=5).calculator()).forces
    for one, other in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
        assert np.abs(one).max() > 1e-3
