"""Settings of thermal conductivities from phonons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.physics.relaxation import RelaxationSettings


@dataclass(frozen=True)
class PhononSettings:
    """Settings of the calculation."""

    temperature: float = 300.0
    """Kelvin."""
    min_length: float = 7.5
    """Distance in Angstrom between opposite faces of the supercell: 2 x 2 x 2 conventional cells of most cubic ones."""
    displacements: Literal["random", "systematic"] = "random"
    """``random`` with symfc takes a tenth of the supercells; ``systematic`` are phono3py's pairs."""
    distance: float = 0.01
    """Length of a displacement, Angstrom. Random ones of 0.03 include fourth order: silicon 10 % low, 8 % scatter."""
    seed: int = 0
    """Seed of the random displacements; it changes kappa by 1 to 3 %."""
    pair_cutoff: float | None = None
    """Third-order force constants of atoms farther apart, in Angstrom, are zero; None keeps all of the supercell."""
    max_supercells: int = 2_000
    """Largest number of supercells; more are refused before the first force calculation."""
    max_memory: float = 4.0
    """Largest memory in GB for fitting third-order force constants to random displacements; a cutoff reduces it."""
    first_mesh: float = 25.0
    """Length in Angstrom whose inverse is the first mesh's spacing of q-points: 9 x 9 x 9 for silicon."""
    mesh_growth: float = 1.3
    """Factor by which that length grows."""
    last_mesh: float = 42.5
    """Length of the last mesh, 15 x 15 x 15 for silicon; kappa of that mesh is used, and marked if it still changed."""
    mesh_tolerance: float = 0.1
    """Relative change of kappa from one mesh to the next that counts as converged; a finer mesh costs five times."""
    wigner: bool = True
    """Whether to add the coherence term."""
    isotopes: bool = False
    """Whether to add scattering by the natural mixture of isotopes."""
    imaginary_tolerance: float = 0.1
    """THz; imaginary frequencies up to this are attributed to interpolation and float32 forces."""
    floor: float = 0.05
    """W/(m K); lower values are refused as an error of the potential: no crystal conducts less at room temperature."""
    relaxation: RelaxationSettings = field(default_factory=RelaxationSettings)
    second_attempts: tuple[Literal["larger_supercell", "lower_symmetry"], ...] = ("larger_supercell", "lower_symmetry")
    """What is tried where modes are imaginary: second-order force constants of a larger supercell; the structure of
    lower symmetry and energy that the mode leads to. An empty list tries nothing."""
    supercell_growth: float = 1.3
    """Factor by which the shortest distance between opposite faces grows in that larger supercell, at least."""
    largest_supercell: int = 400
    """Most atoms of that larger supercell; it is not tried beyond."""

    def __post_init__(self) -> None:
        """Refuse settings that no calculation can have."""
        positive = (
            "temperature", "min_length", "distance", "first_mesh", "last_mesh", "mesh_tolerance"
        )  # fmt: skip
        for name in positive:
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, received {getattr(self, name)}")
        for name in ("mesh_growth", "supercell_growth"):
            if not 1 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 1, received {getattr(self, name)}")
        if self.last_mesh < self.first_mesh:
            raise ValueError(f"last_mesh {self.last_mesh} is below first_mesh {self.first_mesh}; give both in Angstrom")
        if unknown := set(self.second_attempts) - {"larger_supercell", "lower_symmetry"}:
            raise ValueError(
                f"second_attempts has {', '.join(sorted(unknown))}; there are larger_supercell and lower_symmetry"
            )
        if self.displacements not in ("random", "systematic"):
            raise ValueError(f"displacements must be 'random' or 'systematic', received {self.displacements!r}")
