"""Potentials of any library as backbones: mean and standard deviation over the atoms of their descriptors.

The potential is named as everywhere (:mod:`engine.physics.calculator_specs`) and may run in another Python environment.
It is started when something has to be embedded, and must then be what it was when the backbone was made: its columns
would be others with another version or other weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import BackboneError, PotentialError, UnknownElementError
from engine.learning.backbones.backbone import CARD
from engine.learning.backbones.column_statistics import ColumnStatistics
from engine.learning.features.bonding import BONDING_STATISTICS, CUTOFF
from engine.learning.features.composition import COMPOSITION_STATISTICS
from engine.learning.features.statistics import STATISTICS, crystal_statistics
from engine.physics.ase_potentials import AsePotential
from engine.physics.calculator_specs import read_spec, with_python
from engine.physics.descriptors import known_crystals, load_described, mean_and_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.learning.backbones.backbone import Backbone
    from engine.materials.crystal import Crystal

POTENTIAL = "potential.json"
"""File that says which potential gives the columns, and how; its SHA-256 is the backbone's."""
BLOCK = 64
"""Crystals after which embeddings are kept: one takes a tenth of a second to ten seconds."""
_IDENTITY = ("name", "potential", "descriptors", "columns", "size", "elements")
_COLUMNS = "mean and standard deviation over atoms"
_CHECKED = 8
"""Columns of the mean and of the spread that are compared on known crystals."""
_CHECK_TOLERANCE = 1e-3  # of the largest one; float32 noise is 1e-6, another device's 1e-4
_SHOWN = 24
"""Characters of what changed that a message has."""
_ENVIRONMENT = "environment"
"""Versions of Python and libraries beneath the potential: kept, and free to change."""


@dataclass(frozen=True, eq=False)
class PotentialBackbone:
    """A potential that gives columns: of an embedding N x d float32, the statistics, then mean and spread."""

    spec: str
    """Name of the potential with its options, without the Python."""
    python: str
    """Python of the environment in which it runs, empty for this one."""
    card: Mapping[str, Any] = field(repr=False)
    """Which potential it is and where its descriptors are, elements, expected columns on known crystals."""

    @classmethod
    def made(cls, spec: str) -> PotentialBackbone:
        """Start a potential by its name, with a Python or without, and test it.

        Raises
        ------
        PotentialError
            If it cannot be used; see :func:`engine.physics.descriptors.load_described`.
        """
        read = read_spec(spec)
        potential, elements, examples = load_described(spec)
        card = {
            "name": read.name,
            "potential": potential.describe(),
            "descriptors": read.recipe["descriptors"],
            "columns": _COLUMNS,
            "size": len(next(iter(examples.values()))) // 2,
            "elements": sorted(elements),
            "training_data": "unknown",
            "checks": {formula: _checked(values) for formula, values in examples.items()},
        }
        backbone = cls(read.name, read.python, card)
        vars(backbone)["_potential"] = potential
        return backbone

    @classmethod
    def of_folder(cls, folder: Path) -> PotentialBackbone:
        """Read what :meth:`save` wrote; the potential is started when something is embedded.

        Raises
        ------
        BackboneError
            If the files do not belong together.
        """
        try:
            card = json.loads((folder / CARD).read_text())
            backbone = cls(card["spec"], card["python"], card)
            stored = hashlib.sha256((folder / POTENTIAL).read_bytes()).hexdigest()
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(
                f"{folder} is not the folder of a potential as a backbone ({error}); restore it or train again"
            ) from error
        if not stored == backbone.sha256 == card["sha256"]:
            raise BackboneError(
                f"{folder / POTENTIAL} has SHA-256 {stored[:12]}..., its card describes {backbone.sha256[:12]}...; "
                "the files were changed: restore them or train again"
            )
        return backbone

    def in_python(self, python: str) -> PotentialBackbone:
        """The same potential in another environment."""
        return replace(self, python=python)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the potential, which another process starts itself."""
        return {"spec": self.spec, "python": self.python, "card": self.card}

    @property
    def name(self) -> str:
        """Name of the potential."""
        return str(self.card["name"])

    @cached_property
    def sha256(self) -> str:
        """Of :data:`POTENTIAL` as :meth:`save` writes it."""
        return hashlib.sha256(self._identity()).hexdigest()

    @property
    def parts(self) -> tuple[PotentialBackbone, ...]:
        """Itself."""
        return (self,)

    @property
    def trained(self) -> tuple[Backbone, ...]:
        """None: its network is its library's."""
        return ()

    @property
    def is_potential(self) -> bool:
        """It is one."""
        return True

    @property
    def cutoff(self) -> float:
        """Neighbour cutoff of the graphs that its statistics are made from, in Angstrom."""
        return CUTOFF

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements that the potential tells it knows, or that its name has in brackets; else all."""
        return frozenset(self.card["elements"])

    @property
    def groups(self) -> dict[str, slice]:
        """Column groups of an embedding: composition, bonding, readout (the mean) and spread."""
        first, start, size = len(COMPOSITION_STATISTICS), len(STATISTICS), int(self.card["size"])
        return {
            "composition": slice(0, first),
            "bonding": slice(first, first + len(BONDING_STATISTICS)),
            "readout": slice(start, start + size),
            "spread": slice(start + size, start + 2 * size),
        }

    @property
    def embedding_size(self) -> int:
        """Columns of an embedding."""
        return self.groups["spread"].stop

    @property
    def column_statistics(self) -> ColumnStatistics:
        """Not known: the crystals that it was trained on are its library's."""
        return ColumnStatistics.unknown(self.embedding_size)

    @property
    def block(self) -> int:
        """Crystals after which embeddings are kept."""
        return BLOCK

    @property
    def vouched(self) -> str:
        """Name of the file of :meth:`save` whose SHA-256 is :attr:`sha256`."""
        return POTENTIAL

    def check_elements(self, crystal: Crystal) -> None:
        """Raise :class:`UnknownElementError` if the potential does not know an element of ``crystal``."""
        if unknown := sorted(set(crystal.symbols) - self.elements):
            raise UnknownElementError(
                f"{crystal.formula}: backbone {self.name} does not know {', '.join(unknown)}; "
                "exclude these elements or choose another backbone"
            )

    def embed_crystals(self, crystals: Iterable[Crystal]) -> NDArray[np.float32]:
        """N x d embeddings without any cache."""
        crystals = list(crystals)
        for crystal in crystals:
            self.check_elements(crystal)
        return self.embed_with_graphs(crystals)[0]

    def embed_with_graphs(self, crystals: Sequence[Crystal]) -> tuple[NDArray[np.float32], list[CrystalGraph]]:
        """N x d embeddings, crystal by crystal, and no graphs.

        Raises
        ------
        BackboneError
            If the potential is not what it was, or fails on a crystal, which is named by formula.
        """
        columns = [self._described(crystal) for crystal in crystals]
        made = np.array(columns, dtype=np.float32).reshape(len(crystals), 2 * int(self.card["size"]))
        return np.concatenate([crystal_statistics(crystals), made], axis=1), []

    def save(self, folder: Path | str) -> Path:
        """Write which potential it is, and the card, under ``folder``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / POTENTIAL).write_bytes(self._identity())
        card = {**self.card, "spec": self.spec, "python": self.python, "sha256": self.sha256}
        partial = folder / f".{CARD}"  # written last and whole: it vouches for the rest
        partial.write_text(json.dumps(card, indent=1) + "\n")
        partial.replace(folder / CARD)
        return folder

    def _identity(self) -> bytes:
        """What decides the columns, as JSON: neither the place of the Python nor what lies beneath the potential."""
        known = {key: self.card[key] for key in _IDENTITY}
        known["potential"] = {key: v for key, v in known["potential"].items() if key != _ENVIRONMENT}
        return (json.dumps(known, indent=1, sort_keys=True) + "\n").encode()

    def _described(self, crystal: Crystal) -> NDArray[np.float64]:
        """Mean and spread (2d) of the descriptors of a crystal."""
        potential = self._potential
        try:
            found = mean_and_spread(potential.descriptors(crystal.to_atoms())[0])
            if len(found) != 2 * self.card["size"]:
                raise ValueError(f"{len(found) // 2} descriptors of an atom instead of {self.card['size']}")
        except Exception as error:  # a foreign calculator may raise anything
            raise BackboneError(
                f"{crystal.formula} ({len(crystal)} atoms): backbone {self.name} gives no embedding "
                f"({type(error).__name__}: {error}); leave the crystal out, name the elements that the potential is "
                "made for in brackets, as in family:model[Na,Cl], or choose another backbone"
            ) from error
        return found

    @cached_property
    def _potential(self) -> AsePotential:
        """The potential, started and compared with the card."""
        potential = AsePotential(with_python(self.spec, self.python))
        before, now = self.card["potential"], potential.describe()
        names = sorted((before.keys() | now.keys()) - {_ENVIRONMENT, "sha256"})
        changed = [
            f"{name} was {before.get(name, 'unknown')[:_SHOWN]}, is {now.get(name, 'unknown')[:_SHOWN]}"
            for name in names
            if before.get(name) != now.get(name)
        ]
        where = self.python or "this environment"
        if changed or before["sha256"] != now["sha256"]:
            raise BackboneError(
                f"backbone {self.name} is not what it was: {', '.join(changed) or 'how it is made has changed'} (in "
                f"{where}); its columns would be others: use an environment with the potential as it was, or train "
                "again"
            )
        crystals = known_crystals()
        for formula, expected in self.card["checks"].items():
            found = _checked(mean_and_spread(potential.descriptors(crystals[formula].to_atoms())[0]))
            off = np.abs(np.subtract(found, expected)).max()
            if off > _CHECK_TOLERANCE * np.abs(expected).max():
                raise BackboneError(
                    f"backbone {self.name} gives columns for {formula} that differ by {off:.2g} from those that its "
                    f"card has, although package and version are the same (in {where}; it was "
                    f"{before.get(_ENVIRONMENT, 'here')}, it is {now.get(_ENVIRONMENT, 'here')}); use an environment "
                    "as it was, or train again"
                )
        return potential


def load_potential_backbone(spec: str) -> PotentialBackbone:
    """Potential by its name, ``family:model`` or ``package.module:Callable``, as a backbone.

    Raises
    ------
    BackboneError
        If it cannot be used as one.
    """
    try:
        return PotentialBackbone.made(spec)
    except PotentialError as error:
        raise BackboneError(str(error)) from error


def _checked(columns: NDArray[np.float64]) -> list[float]:
    """The first columns of mean and spread (2d)."""
    half = len(columns) // 2
    return [float(f"{value:.7g}") for value in (*columns[:half][:_CHECKED], *columns[half:][:_CHECKED])]
