"""Potentials by name, from MatGL weights, published numbers or any ASE calculator, checked when loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import PotentialError, UnknownElementError
from engine.materials.crystal import Crystal
from engine.physics.ase_potentials import GivenCalculator, check_potential, load_ase_potential
from engine.physics.calculator_specs import PYTHON, families, is_calculator_spec, with_device, with_python
from engine.physics.devices import require_devices
from engine.physics.potential import KNOWN_COMPOUNDS, Potential, check_compound
from engine.pretrained import WEIGHTS, find_model, read_model

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

CLASSICAL = ("lennard-jones:Ne|Ar|Kr|Xe", "tersoff:Si", "rigid-ion:NaCl|MgO|... (or rigid-ion for all its salts)")
"""Names of classical potentials."""

GPU_BATCH = 16
"""Supercells of one crystal whose forces a GPU calculates at once; fewer where they do not fit."""
MADE_BEFORE_MATGL_3 = frozenset(
    {
        "d2dfa51a65d23a47fd935eb0628177d2a1088584562091ef3350ce3a002fce6a",  # TensorNet-MatPES-PBE-v2025.1-PES
        "b1f87297bac09ada6f0e2f41d362d784f894ff0f1f031478187c55ec661b71ba",  # TensorNet-MatPES-r2SCAN-v2025.1-PES
    }
)
"""SHA-256 of ``state.pt`` of TensorNet potentials whose embedding sums messages at the other end of an edge."""

_OLD_WEIGHTS = (
    "its weights were probably made before MatGL 3, which reversed the direction of messages, or are not of a "
    "potential: get the current weights"
)


def load_potential(
    spec: str | Path | Calculator | Callable[[], Calculator],
    python: str | Path = "",
    name: str = "",
    device: str = "",
) -> Potential:
    """Load a potential and check it.

    Parameters
    ----------
    spec
        Folder of a MatGL potential; MatGL name, with ``matgl:`` or without (fetched from its hub); classical potential
        ``lennard-jones:Ar`` (Ne, Kr, Xe), ``tersoff:Si``, ``rigid-ion:NaCl`` (MgO and the other alkali halides of
        rocksalt type; ``rigid-ion`` alone stands for each of them, by the formula of the crystal); ``family:model`` or
        ``package.module:Callable`` of an ASE calculator (see :mod:`engine.physics.calculator_specs`); or, in a
        notebook, an ASE calculator or a function that makes one.
    python
        Python of another environment, in which an ASE calculator named by ``spec`` runs.
    name
        Name of a calculator that is given itself, for records.
    device
        ``cpu`` or ``cuda``, on which a MatGL potential or an ASE calculator named by ``spec`` runs; where it runs by
        default if not given.

    Raises
    ------
    PotentialError
        If there is no such potential or device, or the potential is wrong on a known compound (by name and number).
    """
    if not isinstance(spec, str | Path):
        if str(python):
            raise PotentialError(f"{PYTHON} = {str(python)!r} is for a potential by its name; leave it out")
        if device:
            raise PotentialError(f"device {device!r} is for a potential by its name; make the calculator on it")
        given = GivenCalculator(spec, name)
        check_potential(given)
        return given
    text = with_python(str(spec), python)
    kind, _, rest = text.partition(":")
    if kind in ("lennard-jones", "tersoff", "rigid-ion"):
        if device not in ("", "cpu"):
            raise PotentialError(f"{text} runs on a CPU, not on {device!r}; leave out the device")
        return _classical(kind, rest)
    if kind == "matgl" and "?" not in rest:
        return _load_matgl(rest, device)
    if is_calculator_spec(text):
        return load_ase_potential(with_device(text, device))
    return _load_matgl(_as_matgl_name(text), device)


def _classical(kind: str, rest: str) -> Potential:
    if kind == "lennard-jones":
        return LennardJonesPotential(rest)
    return TersoffPotential(rest) if kind == "tersoff" else RigidIonPotential(rest)


def _as_matgl_name(text: str) -> str:
    """The name, unless it is one of a calculator that lacks a part."""
    if text in families():
        raise PotentialError(f"{text} is a family of potentials; name one of its models, {text}:MODEL")
    if "?" in text:
        raise PotentialError(
            f'the options of {text} are no JSON object behind a question mark; give them as in NAME?{{"device": "cpu"}}'
        )
    return text


class LennardJonesPotential(Potential):
    """One rare gas; valid for its fcc crystal."""

    def __init__(self, symbol: str):
        """``symbol`` is Ne, Ar, Kr or Xe."""
        from engine.physics.classical import LENNARD_JONES

        _require_known("lennard-jones", symbol, LENNARD_JONES)
        self.name = f"lennard-jones:{symbol}"
        self.sha256 = _sha256_of(asdict(LENNARD_JONES[symbol]))
        self.elements = frozenset({symbol})

    def calculator(self) -> Calculator:
        """Make a new ASE calculator."""
        from engine.physics.classical import lennard_jones

        return lennard_jones(*self.elements)


class TersoffPotential(Potential):
    """Silicon; valid for its diamond structure."""

    def __init__(self, symbol: str):
        """``symbol`` is Si."""
        from engine.physics.classical import TERSOFF_SILICON

        _require_known("tersoff", symbol, {"Si"})
        self.name = f"tersoff:{symbol}"
        self.sha256 = _sha256_of(TERSOFF_SILICON)
        self.elements = frozenset({symbol})

    def calculator(self) -> Calculator:
        """Make a new ASE calculator."""
        from engine.physics.classical import tersoff_silicon

        return tersoff_silicon()


class RigidIonPotential(Potential):
    """Point charges with short-range pair terms, fitted to each salt; valid for the rocksalt structure."""

    def __init__(self, formula: str = ""):
        """Potential of one salt by its ``formula``, or of all, chosen by the crystal."""
        from engine.physics.classical import RIGID_IONS

        if formula:
            _require_known("rigid-ion", formula, RIGID_IONS)
        self.name = f"rigid-ion:{formula}" if formula else "rigid-ion"
        self._models = {formula: RIGID_IONS[formula]} if formula else RIGID_IONS
        numbers = {
            name: {"charges": model.charges, "pairs": {"-".join(k): asdict(t) for k, t in model.pairs.items()}}
            for name, model in self._models.items()
        }
        self.sha256 = _sha256_of(numbers)
        self.elements = frozenset(symbol for model in self._models.values() for symbol in model.charges)

    def calculator(self) -> Calculator:
        """Make a new ASE calculator, which chooses the salt by the composition it is given."""
        from engine.physics.classical import RigidIonCalculator

        return RigidIonCalculator(self._models)

    def check_elements(self, crystal: Crystal) -> None:
        """Raise :class:`UnknownElementError` unless the crystal is one of the salts."""
        if crystal.formula not in self._models:
            raise UnknownElementError(
                f"{crystal.formula}: potential {self.name} knows {', '.join(self._models)} only; "
                "choose another potential"
            )


@dataclass(frozen=True, eq=False)
class MatGLPotential(Potential):
    """A graph neural network; single precision, one thread."""

    name: str
    sha256: str
    """SHA-256 of ``state.pt``."""
    module: Any
    """The ``matgl.apps.pes.Potential``."""
    batch: int = 1
    """Supercells whose forces are calculated at once; more than one is slower on a CPU."""

    @property
    def elements(self) -> frozenset[str]:  # type: ignore[override]
        """Symbols of the elements it covers."""
        return frozenset(self.module.model.element_types)

    def describe(self) -> dict[str, str]:
        """Name and hash, and the device where it is not the CPU."""
        device = str(self.module.data_mean.device.type)
        return super().describe() | ({} if device == "cpu" else {"device": device})

    def calculator(self) -> Calculator:
        """Make a new ASE calculator of the shared network."""
        from engine.physics.matgl_calculator import MatGLCalculator

        return MatGLCalculator(self.module, self.batch)

    def energies(self, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Energies of N cells in eV, shape ``N``, in double precision and without gradients.

        One at a time: a batch is no faster on one core, and slower above a few hundred edges.
        """
        import torch

        found = []
        with torch.no_grad():
            for crystal in crystals:
                graph, lattice, state = self._converter.get_graph(crystal.to_atoms())
                found.append(float(self._energy_only(graph, lattice, torch.tensor(state))[0]))
        return np.array(found)

    @cached_property
    def _energy_only(self) -> Any:
        """The same network in double precision: a Grueneisen parameter is a third derivative of the energy."""
        import copy

        module = copy.deepcopy(self.module).double()
        module.calc_forces = module.calc_stresses = False
        return module

    @cached_property
    def _converter(self) -> Any:
        from matgl.ext.ase import Atoms2Graph

        return Atoms2Graph(self.module.model.element_types, self.module.model.cutoff)


def check_compounds(potential: Potential) -> None:
    """Raise :class:`PotentialError` unless MgO and NaCl have the right lattice constant and bulk modulus.

    Crystals of one element are no test: a wrong direction of messages does not change them.
    """
    for known in KNOWN_COMPOUNDS:
        if unknown := set(known.crystal.symbols) - potential.elements:
            raise PotentialError(
                f"potential {potential.name} does not know {', '.join(sorted(unknown))}, so it cannot be checked "
                f"against {known.formula}; use a potential that covers "
                f"{' and '.join(each.formula for each in KNOWN_COMPOUNDS)}"
            )
        check_compound(potential, known, _OLD_WEIGHTS)


def _load_matgl(spec: str, device: str = "") -> MatGLPotential:
    import torch
    from matgl.apps.pes import Potential as MatGLModule

    require_devices([device] if device else [])
    folder = find_model(spec, "potential", ", ".join(CLASSICAL), PotentialError)
    sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    old = sha256 in MADE_BEFORE_MATGL_3
    torch.set_num_threads(1)  # threads of several processes compete; callers of load_potential use one process per core
    module = read_model(spec, folder, PotentialError, old=old)
    if not isinstance(module, MatGLModule):
        raise PotentialError(
            f"{spec} is a MatGL {type(module).__name__}, not a potential; choose one that gives forces"
        )
    if old:
        _turn_messages(module.model.tensor_embedding)
    if device:
        module = module.to(device)
    batch = 1 if device in ("", "cpu") else GPU_BATCH
    potential = MatGLPotential(Path(spec).name, sha256, module.eval().requires_grad_(False), batch)
    check_compounds(potential)
    return potential


def _turn_messages(embedding: Any) -> None:
    """Make a TensorNet embedding sum messages at the other end of an edge, as MatGL did before version 3; exact.

    Every edge i -> j with vector v has a partner j -> i with -v. Summing at j over the first is summing at i over the
    second, with the two atoms exchanged (columns of ``emb2``) and the vector reversed (the antisymmetric part, which
    ``distance_proj2`` scales, changes sign).
    """
    import torch

    units = embedding.units
    with torch.no_grad():
        weight = embedding.emb2.weight
        weight.copy_(torch.cat([weight[:, units:], weight[:, :units]], dim=1))
        embedding.distance_proj2.weight.neg_()
        embedding.distance_proj2.bias.neg_()


def _require_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise PotentialError(f"there is no {kind}:{name}; there are {', '.join(f'{kind}:{k}' for k in known)}")


def _sha256_of(numbers: object) -> str:
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()
