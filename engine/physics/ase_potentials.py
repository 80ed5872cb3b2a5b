"""Any ASE calculator as a potential: ``package.module:Callable``, checked before anything is calculated with it.

A calculator must pass four tests on known compounds that it covers, MgO and NaCl or else one element: lattice constant
and bulk modulus, forces equal to the derivative of the energy, a stress equal to the derivative of the energy by strain
(and so of the right unit and sign), and a smooth force. Potentials that predict forces
directly, or whose energy jumps, give wrong anharmonic force constants however small their errors are (kappa_SRME near
its worst, Pota et al., arXiv:2408.00755).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import packages_distributions, version
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import PotentialError
from engine.materials.crystal import Crystal
from engine.materials.elements import ATOMIC_NUMBERS
from engine.physics.potential import KNOWN_COMPOUNDS, KNOWN_ELEMENTS, Potential, check_compound

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

_SPEC = re.compile(
    r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+):(?P<name>[A-Za-z_]\w*)(?:\[(?P<elements>[A-Za-z, ]+)\])?"
    r"(?:\?(?P<options>\{.*\}))?$",
    re.DOTALL,
)
_ADVICE = (
    "use another calculator, or name the elements that it is made for, as in package.module:Callable[Ar], where it "
    "takes others without a word"
)
FORCE_TOLERANCE = (0.02, 0.005)
"""Of a force against the derivative of the energy: relative, and in eV/Angstrom."""
STRESS_TOLERANCE = (0.05, 0.0006)
"""Of the pressure against the derivative of the energy: relative, and in eV/Angstrom^3 (0.1 GPa)."""
ROUGHNESS = 0.02
"""Largest difference of a directional force between neighbouring points of a path from a smooth curve, eV/Angstrom."""


def is_callable_spec(spec: str) -> bool:
    """Whether a potential's name is that of a Python callable, ``package.module:Callable`` with options or without."""
    return _SPEC.match(spec) is not None


def with_options(spec: str, options: Mapping[str, object]) -> str:
    """A potential's name with keyword arguments of its callable, as JSON behind a question mark.

    Raises
    ------
    PotentialError
        If the name is not that of a Python callable, or has options already.
    """
    if not options:
        return spec
    if not is_callable_spec(spec) or "?" in spec:
        raise PotentialError(
            f"options {', '.join(options)} are for a potential named package.module:Callable, not for {spec}; leave "
            "them out"
        )
    return f"{spec}?{json.dumps(options, sort_keys=True)}"


class AsePotential(Potential):
    """An ASE calculator that a Python callable makes.

    ``elements`` are those named in brackets behind the callable, or all there are: which of them the calculator covers
    shows when it is asked then, and a crystal beyond them is a failure with the calculator's own words.
    """

    def __init__(self, spec: str):
        """``spec`` is ``package.module:Callable``, perhaps with elements and keyword arguments.

        As in ``ase.calculators.lj:LennardJones[Ar]?{"sigma": 3.4, "epsilon": 0.0104, "rc": 12.0}``.

        Raises
        ------
        PotentialError
            If there is no such callable, or it makes no ASE calculator.
        """
        match = _SPEC.match(spec)
        if match is None:
            raise PotentialError(f"{spec!r} is not package.module:Callable; give the callable that makes a calculator")
        module, name = match["module"], match["name"]
        self.name = spec
        self._options = _options(spec, match["options"])
        self._make = _imported(module, name)
        package = module.partition(".")[0]
        distribution = next(iter(packages_distributions().get(package, [])), "")
        self.package = distribution or package
        self.version = version(distribution) if distribution else "unknown"
        content = [f"{module}:{name}", match["elements"], self._options, self.package, self.version]
        self.sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.elements = _elements(spec, match["elements"])
        self.calculator()

    def calculator(self) -> Calculator:
        """Make a new ASE calculator."""
        from ase.calculators.calculator import BaseCalculator

        try:
            made = self._make(**self._options)
        except Exception as error:  # a foreign callable may raise anything
            raise PotentialError(
                f"{self.name} raised {type(error).__name__}: {error}; check its options and weights"
            ) from error
        if not isinstance(made, BaseCalculator):
            raise PotentialError(
                f"{self.name} makes a {type(made).__name__}, not an ASE calculator; name one that does"
            )
        return made

    def describe(self) -> dict[str, str]:
        """Name, hash of name, options and version, and the package, for a record."""
        return {"name": self.name, "sha256": self.sha256, "package": self.package, "version": self.version}


def load_ase_potential(spec: str) -> AsePotential:
    """Make a potential of a Python callable, and test it.

    Raises
    ------
    PotentialError
        If it cannot be made, covers none of the known compounds, or is wrong on one (by name and number).
    """
    potential = AsePotential(spec)
    wrong: list[str] = []
    right: list[str] = []
    for known in (*KNOWN_COMPOUNDS, *KNOWN_ELEMENTS):
        is_compound = known in KNOWN_COMPOUNDS
        if right and not is_compound:  # of the elements one is enough: classical potentials fit each differently well
            break
        crystal = known.crystal
        if not set(crystal.symbols) <= potential.elements:
            continue
        try:
            _evaluated(potential, crystal)
        except Exception as error:  # a calculator that does not cover an element may raise anything
            wrong.append(f"{known.formula}: {type(error).__name__}: {error}")
            continue
        try:
            check_compound(potential, known, _ADVICE)
        except PotentialError as error:
            if is_compound:
                raise
            wrong.append(str(error))
            continue
        check_derivatives(potential, crystal)
        right.append(known.formula)
    if not right:
        names = ", ".join(known.formula for known in (*KNOWN_COMPOUNDS, *KNOWN_ELEMENTS))
        raise PotentialError(
            f"potential {spec} is right on none of {names}, so that it cannot be tested "
            f"({wrong[-1] if wrong else 'it covers none of them'}); use a calculator that covers one of them"
        )
    return potential


def check_derivatives(potential: Potential, crystal: Crystal) -> None:
    """Compare forces and stress of a distorted crystal with differences of its energy.

    Raises
    ------
    PotentialError
        If they are not the derivatives of the energy, or the force along a path is not smooth, with the numbers.
    """
    rng = np.random.default_rng(0)
    atoms = crystal.to_atoms() * (2, 1, 1)
    atoms.calc = potential.calculator()
    start = atoms.get_positions() + 0.05 * rng.normal(size=(len(atoms), 3))
    direction = rng.normal(size=start.shape)
    direction /= np.linalg.norm(direction)
    advice = "its anharmonic force constants would be wrong: use a potential whose forces are gradients of its energy"
    step, places = 0.01, np.arange(-6, 7)
    energies, forces = np.array([_along(atoms, start + x * step * direction, direction) for x in places]).T
    expected = -(energies[2:] - energies[:-2]) / (2 * step)
    off = float(np.abs(forces[1:-1] - expected).max())
    allowed = FORCE_TOLERANCE[0] * float(np.abs(expected).max()) + FORCE_TOLERANCE[1]
    if off > allowed:
        raise PotentialError(
            f"potential {potential.name} gives {crystal.formula} forces that differ from the derivative of the energy "
            f"by {off:.3f} eV/Angstrom ({allowed:.3f} is accepted); {advice}"
        )
    smooth = np.polynomial.Polynomial.fit(places, forces, 4)(places)
    if (rough := float(np.abs(forces - smooth).max())) > ROUGHNESS:
        raise PotentialError(
            f"potential {potential.name} gives {crystal.formula} a force that jumps by {rough:.3f} eV/Angstrom on a "
            f"path of {12 * step:.2f} Angstrom ({ROUGHNESS} is accepted); {advice}"
        )
    _check_stress(potential, crystal)


def _check_stress(potential: Potential, crystal: Crystal) -> None:
    """The pressure of a stretched cell against the derivative of the energy by volume: unit and sign."""
    strain, step = 0.02, 0.002
    cells = [crystal.to_atoms() for _ in range(3)]
    for cell, x in zip(cells, (strain - step, strain, strain + step), strict=True):
        cell.set_cell(crystal.lattice * (1 + x), scale_atoms=True)
        cell.calc = potential.calculator()
    low, middle, high = cells
    slope = (high.get_potential_energy() - low.get_potential_energy()) / (high.get_volume() - low.get_volume())
    pressure = float(np.mean(middle.get_stress(voigt=True)[:3]))
    allowed = STRESS_TOLERANCE[0] * abs(slope) + STRESS_TOLERANCE[1]
    if abs(pressure - slope) > allowed:
        raise PotentialError(
            f"potential {potential.name} gives {crystal.formula}, stretched by {strain:.0%}, a stress of "
            f"{pressure:.4g} eV/Angstrom^3 where the derivative of its energy is {slope:.4g}; check its unit and sign"
        )


def _along(atoms: Atoms, positions: NDArray[np.float64], direction: NDArray[np.float64]) -> tuple[float, float]:
    """Energy (eV) and force along a direction (eV/Angstrom) at positions."""
    atoms.set_positions(positions)
    return float(atoms.get_potential_energy()), float((atoms.get_forces() * direction).sum())


def _evaluated(potential: Potential, crystal: Crystal) -> None:
    """Ask for energy, forces and stress of a crystal, whatever the calculator raises."""
    atoms = crystal.to_atoms()
    atoms.calc = potential.calculator()
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_stress()


def _elements(spec: str, text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset(ATOMIC_NUMBERS)
    named = {symbol.strip() for symbol in text.split(",")}
    if unknown := sorted(named - set(ATOMIC_NUMBERS)):
        raise PotentialError(f"{', '.join(unknown)} in {spec} is no element; name elements, as in [Cu,Au]")
    return frozenset(named)


def _options(spec: str, text: str | None) -> dict[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise PotentialError(
            f"the options of {spec} are not JSON ({error}); give an object of keyword arguments"
        ) from error
    return dict(found)


def _imported(module: str, name: str) -> Callable[..., object]:
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ImportError as error:
        raise PotentialError(
            f"module {module} cannot be imported ({error}); install its package in this environment"
        ) from error
    if not callable(found):
        raise PotentialError(f"module {module} has no callable {name}; check the name")
    return found
