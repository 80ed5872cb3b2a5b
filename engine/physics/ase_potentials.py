"""Any ASE calculator as a potential, here or in another environment, checked before anything is calculated with it.

A calculator must pass four tests on known compounds that it covers, MgO and NaCl or else one element: lattice constant
and bulk modulus, forces equal to the derivative of the energy, a stress equal to the derivative of the energy by strain
(and so of the right unit and sign), and a smooth force. Potentials that predict forces
directly, or whose energy jumps, give wrong anharmonic force constants however small their errors are (kappa_SRME near
its worst, Pota et al., arXiv:2408.00755).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes

from engine.exceptions import PotentialError
from engine.materials.crystal import Crystal
from engine.materials.elements import ATOMIC_NUMBERS
from engine.physics.calculator_server import Evaluator, RecipeError, facts_of, make_calculator
from engine.physics.calculator_specs import PYTHON, read_spec
from engine.physics.other_environment import OtherEnvironment
from engine.physics.potential import KNOWN_COMPOUNDS, KNOWN_ELEMENTS, Potential, check_compound

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

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


class AsePotential(Potential):
    """An ASE calculator by its name, in this environment or another.

    ``elements`` are those named in brackets, or all there are: which of them the calculator covers shows when it is
    asked then, and a crystal beyond them is a failure with the calculator's own words.
    """

    def __init__(self, spec: str):
        """``spec`` is a name as of :mod:`engine.physics.calculator_specs`.

        As in ``ase.calculators.lj:LennardJones[Ar]?{"sigma": 3.4, "epsilon": 0.0104, "rc": 12.0}``.

        Raises
        ------
        PotentialError
            If there is no such callable or family, it makes no ASE calculator, or the other environment cannot be used.
        """
        self._spec = read_spec(spec)
        self.name = self._spec.name
        self.elements = self._spec.covered()
        self._other: OtherEnvironment | None = None
        self._shared: Evaluator | None = None
        self._describing: Evaluator | None = None
        try:
            facts = self._started()
        except RecipeError as error:
            raise PotentialError(self._advised(error)) from error
        self.package, self.version = str(facts["package"]), str(facts["version"])
        self._weights = str(facts["weights_sha256"])
        self._versions: dict[str, str] = facts.get("versions", {})
        self.sha256 = hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    @property
    def core_seconds_elsewhere(self) -> float:
        """Processor time of the other environment's processes so far, seconds."""
        return self._other.core_seconds if self._other else 0.0

    def calculator(self) -> Calculator:
        """Make a new ASE calculator; those of a family or another environment share one network."""
        if self._other is not None:
            return Forwarding(self._other.evaluate)
        if self._shared is not None:
            return Forwarding(partial(_evaluated_here, self._shared))
        try:
            with redirect_stdout(sys.stderr):
                return make_calculator(self._spec.recipe)
        except RecipeError as error:
            raise PotentialError(self._advised(error)) from error

    def descriptors(self, atoms: Atoms) -> tuple[NDArray[np.float64], list[int]]:
        """Descriptors of n atoms (n x d), and atomic numbers that the potential knows; none if it does not tell.

        Raises
        ------
        Exception
            Whatever the calculator raises; ValueError if it has none.
        """
        if self._other is not None:
            return self._other.describe(atoms)
        place = self._spec.recipe["descriptors"]
        with redirect_stdout(sys.stderr):
            if self._describing is None:
                self._describing = self._shared or Evaluator(make_calculator(self._spec.recipe))
            given = (atoms.numbers.tolist(), atoms.pbc.tolist(), atoms.cell.array, atoms.positions)
            return self._describing.describe(place, *given), self._describing.elements(place.get("elements"))

    def describe(self) -> dict[str, str]:
        """Name, hash of name, options, version and weights, and the package, for a record.

        With what else is known: hash of the weights, options, device and precision of a family, versions of Python and
        libraries of another environment.
        """
        described = {"name": self.name, "sha256": self.sha256, "package": self.package, "version": self.version}
        if self._weights:
            described["weights_sha256"] = self._weights
        if family := self._spec.family:
            options = {**self._spec.recipe["loader_options"], **self._spec.recipe["options"]}
            described["options"] = json.dumps(options, sort_keys=True)
            described["device"] = str(options.get(family.device, "chosen by the library"))
            described["precision"] = str(options.get(family.precision, family.precision))
        if self._versions:
            described["environment"] = ", ".join(f"{name} {version}" for name, version in self._versions.items())
        return described

    def allow(self, seconds: float) -> None:
        """Seconds for one answer of another environment, after which its process is killed."""
        if self._other is not None:
            self._other.limit = seconds

    def _started(self) -> dict[str, Any]:
        """Make the calculator; what is known of it then."""
        recipe = self._spec.recipe
        if self._spec.python:
            self._other = OtherEnvironment(self._spec.python, recipe)
            return self._other.facts
        with redirect_stdout(sys.stderr):  # libraries print
            made = make_calculator(recipe)
        if self._spec.family is not None:
            self._shared = Evaluator(made)
        return facts_of(recipe)

    def _content(self) -> list[object]:
        """What decides the numbers; with weights only where they are known, so that older records stay valid."""
        recipe, family = self._spec.recipe, self._spec.family
        options = recipe["options"]
        if family is not None:
            options = [recipe["model"], recipe["loader"], recipe["loader_options"], options]
        content = [recipe["calculator"][0], self._spec.elements, options, self.package, self.version]
        return [*content, self._weights] if self._weights else content

    def _advised(self, error: RecipeError) -> str:
        """The message with a way out."""
        spec, family = self._spec, self._spec.family
        package = family.package if family else "its package"
        if error.kind == "missing" and spec.python:
            return f"{error} in {spec.python}; install {package} there: {spec.python} -m pip install {package}"
        if error.kind == "missing" and family:
            return (
                f"{error}: {self.name} needs the package {package}; install it here, or in an environment of its own "
                f"whose Python {PYTHON} names (--potential-python of the command line)"
            )
        if error.kind == "missing":
            return f"{error}; install {package} in this environment"
        if error.kind == "no_callable":
            return f"{error}; check the name"
        if error.kind == "no_calculator":
            return f"{self.name} {error}; name one that does"
        return f"{self.name} {error}; check its model, options and weights"


class GivenCalculator(Potential):
    """An ASE calculator that a program made, or a function that makes one; for notebooks, not for records to build on.

    Its hash is of class, package, version, parameters and ``name``; weights that differ only inside need other names.
    """

    def __init__(self, given: Calculator | Callable[[], Calculator], name: str = ""):
        """``given`` is a calculator, or a function without arguments that makes one.

        Raises
        ------
        PotentialError
            If it is neither.
        """
        self._given = given
        made = self.calculator()
        kind = type(made)
        facts = facts_of({"calculator": [f"{kind.__module__}:{kind.__qualname__}"]})
        self.name = name or f"{kind.__module__}:{kind.__qualname__}"
        self.package, self.version = facts["package"], facts["version"]
        self.elements = frozenset(ATOMIC_NUMBERS)
        content = [self.name, str(made.parameters), self.package, self.version]
        self.sha256 = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def calculator(self) -> Calculator:
        """The calculator, or a new one of the function."""
        given = self._given
        made = given() if callable(given) and not isinstance(given, BaseCalculator) else given
        if not isinstance(made, BaseCalculator):
            raise PotentialError(f"{made!r} is not an ASE calculator; give one, or a function that makes one")
        return made

    def describe(self) -> dict[str, str]:
        """Name, hash and package, for a record."""
        return {"name": self.name, "sha256": self.sha256, "package": self.package, "version": self.version}


class Forwarding(Calculator):
    """An ASE calculator whose numbers another one gives, for one crystal and property after the other."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(self, evaluate: Callable[[Atoms, str], dict[str, Any]]):
        """``evaluate`` returns a property of a crystal, and what was calculated with it."""
        super().__init__()
        self._evaluate = evaluate

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Ask for what is not known yet: energy (eV), forces (eV/Angstrom), stress (eV/Angstrom^3, Voigt)."""
        super().calculate(atoms, properties, system_changes)
        for name in properties or ["energy"]:
            if name not in self.results:
                self.results.update(self._evaluate(self.atoms, name))


def load_ase_potential(spec: str) -> AsePotential:
    """Make a potential by the name of a calculator, and test it.

    Raises
    ------
    PotentialError
        If it cannot be made, covers none of the known compounds, or is wrong on one (by name and number).
    """
    potential = AsePotential(spec)
    check_potential(potential)
    potential.allow(np.inf)  # of a calculation the time limit of its crystal counts
    return potential


def check_potential(potential: Potential) -> None:
    """Test a potential on the known compounds that it covers: :func:`check_compound` and :func:`check_derivatives`.

    Raises
    ------
    PotentialError
        If it covers none of them, or is wrong on one (by name and number).
    """
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
            f"potential {potential.name} is right on none of {names}, so that it cannot be tested "
            f"({wrong[-1] if wrong else 'it covers none of them'}); use a calculator that covers one of them"
        )


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


def _evaluated_here(evaluator: Evaluator, atoms: Atoms, wanted: str) -> dict[str, Any]:
    with redirect_stdout(sys.stderr):
        return evaluator.evaluate(wanted, atoms.numbers, atoms.pbc, atoms.cell.array, atoms.positions)
