"""Forces of many supercells: several at once where the calculator can, fewer where a device runs out of memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.physics.outcome import CalculationError
from engine.physics.relaxation import Guarded

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray


class ForcesInBatches(ABC):
    """A calculator that takes several cells at once."""

    batch: int = 1
    """Most cells at once; 1 where batches are no faster."""

    @abstractmethod
    def forces_of(self, cells: Sequence[Atoms]) -> list[NDArray[np.float64]]:
        """Forces of each cell (n x 3, eV/Angstrom).

        Raises
        ------
        torch.OutOfMemoryError
            If they do not fit on the device together.
        """


class Forces(NamedTuple):
    """Forces of some cells."""

    forces: list[NDArray[np.float64]]
    """n x 3 for each cell, eV/Angstrom."""
    halved_to: int | None = None
    """Cells at once, where the calculator's own number did not fit into memory."""


def forces_of_all(cells: Sequence[Atoms], calculator: Calculator) -> Forces:
    """Forces of every cell, in batches if the calculator is one of :class:`ForcesInBatches`.

    Raises
    ------
    CalculationError
        ``calculator_error`` if one cell alone does not fit into memory or the potential raises; ``bad_output`` if
        forces are not finite. Errors of a calculator without batches are its own.
    """
    inner = calculator.inner if isinstance(calculator, Guarded) else calculator
    if isinstance(inner, ForcesInBatches) and inner.batch > 1:
        return _in_batches(cells, inner)
    found = []
    for cell in cells:
        cell.calc = calculator
        found.append(cell.get_forces())
    return Forces(found)


def _in_batches(cells: Sequence[Atoms], calculator: ForcesInBatches) -> Forces:
    import torch

    size, halved = calculator.batch, False
    found: list[NDArray[np.float64]] = []
    while len(found) < len(cells):
        try:
            found += calculator.forces_of(cells[len(found) : len(found) + size])
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise CalculationError(
                    "calculator_error",
                    f"the device is out of memory with one supercell of {len(cells[len(found)])} atoms; a shorter "
                    "supercell (min_length), or a device with more",
                ) from error
            size, halved = size // 2, True
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        except Exception as error:
            message = f"the potential raised {type(error).__name__}: {error}"
            raise CalculationError("calculator_error", message) from error
    if not all(np.isfinite(forces).all() for forces in found):
        raise CalculationError("bad_output", "the potential gave forces that are not finite")
    return Forces(found, size if halved else None)
