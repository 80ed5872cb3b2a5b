"""Energies above the convex hull of reference phases, by pymatgen's phase diagrams.

A hull is as good as its references: a phase that is missing among them makes others look stable. All energies must
come from one method; those of a potential and of first principles do not share a zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.materials.elements import quiet_noble_gases

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram


@dataclass(frozen=True)
class Phase:
    """Composition and energy of one crystal."""

    composition: Mapping[str, float]
    """Atoms of each element, in any multiple."""
    energy: float
    """eV per atom."""

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of its elements."""
        return frozenset(self.composition)


class Hull:
    """Reference phases, and the hulls of the chemical systems that are asked for."""

    def __init__(self, references: Iterable[Phase]):
        """All phases that compete, of any elements."""
        quiet_noble_gases()
        self._by_elements: dict[frozenset[str], list[Phase]] = defaultdict(list)
        for phase in references:
            self._by_elements[phase.elements].append(phase)
        self._diagrams: dict[frozenset[str], PhaseDiagram] = {}

    def without_reference(self, elements: Iterable[str]) -> list[str]:
        """Elements that have no reference as a pure phase, so that systems with them have no hull."""
        return sorted(symbol for symbol in elements if frozenset({symbol}) not in self._by_elements)

    def competing(self, elements: Iterable[str]) -> list[Phase]:
        """References made of these elements only."""
        wanted = frozenset(elements)
        return [phase for own, phases in self._by_elements.items() if own <= wanted for phase in phases]

    def energies_above(self, phases: Sequence[Phase]) -> list[float]:
        """Energy of each phase above the hull of the references in eV per atom; negative below it.

        Raises
        ------
        ValueError
            If an element has no reference; see :meth:`without_reference`.
        """
        from pymatgen.analysis.phase_diagram import PDEntry
        from pymatgen.core import Composition

        found = []
        for phase in phases:
            if missing := self.without_reference(phase.elements):
                raise ValueError(f"there is no reference of {', '.join(missing)}; add the pure phase")
            composition = Composition(dict(phase.composition))
            entry = PDEntry(composition, phase.energy * composition.num_atoms)
            hull = self._diagram(phase.elements).get_hull_energy_per_atom(composition)
            found.append(float(entry.energy_per_atom - hull))
        return found

    def _diagram(self, elements: frozenset[str]) -> PhaseDiagram:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition

        if elements not in self._diagrams:
            entries = []
            for phase in self.competing(elements):
                composition = Composition(dict(phase.composition))
                entries.append(PDEntry(composition, phase.energy * composition.num_atoms))
            self._diagrams[elements] = PhaseDiagram(entries)
        return self._diagrams[elements]
