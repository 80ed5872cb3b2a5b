"""The embedded reference: published lattice thermal conductivities at 300 K and the crystals they belong to.

``reference_kappa.csv`` holds facts only: formula in site order, prototype, conventional lattice parameters in
Angstrom, value, method and citation. Crystals are generated from it. First-principles values are those tabulated by
ParAIsite (arXiv:2411.18259); a crystal with a first-principles and a measured value keeps the computed lattice.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from engine.materials.crystal import Crystal
from engine.materials.prototypes import build, find

PROPERTY = "kappa_300K"
UNIT = "W/(m K)"
_FILE = "reference_kappa.csv"


@dataclass(frozen=True)
class ReferenceEntry:
    """One published value of one crystal."""

    id: str
    """Id of the crystal, not of the value: a measured and a computed value of one crystal share it."""
    formula: str
    """Formula in the site order of the prototype."""
    prototype: str
    a: float
    """Conventional lattice parameters in Angstrom."""
    b: float
    c: float
    x: float | None
    """Free internal coordinate, where the prototype has one."""
    value: float
    """Lattice thermal conductivity in W/(m K), the mean over directions where the source gives one."""
    unit: str
    fidelity: str
    """``dft`` or ``experiment``."""
    method: str
    citation: str
    temperature: float
    """Temperature in kelvin."""

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbols in site order."""
        return find(self.prototype).elements(self.formula)

    def crystal(self) -> Crystal:
        """Generate the crystal, in its primitive cell."""
        c = None if find(self.prototype).is_cubic else self.c
        return build(self.prototype, self.elements, self.a, c, self.x)

    def label(self) -> dict[str, Any]:
        """The value as a plain label record."""
        return {
            "id": self.id,
            "property": PROPERTY,
            "value": self.value,
            "unit": self.unit,
            "fidelity": self.fidelity,
            "temperature": self.temperature,
            "method": self.method,
            "source": self.citation,
        }


@lru_cache(maxsize=1)
def reference_table() -> tuple[ReferenceEntry, ...]:
    """All published values, in file order."""
    text = resources.files("engine.materials").joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(_entry(row) for row in csv.DictReader(text.splitlines()))


def reference_crystals() -> dict[str, Crystal]:
    """Crystals of the table by id, each once, in file order."""
    first: dict[str, ReferenceEntry] = {}
    for entry in reference_table():
        first.setdefault(entry.id, entry)
    return {id_: entry.crystal() for id_, entry in first.items()}


def reference_labels(fidelity: str | None = None) -> list[dict[str, Any]]:
    """Label records ``id, property, value, unit, fidelity, temperature, method, source``, of one fidelity or all."""
    return [entry.label() for entry in reference_table() if fidelity in (None, entry.fidelity)]


def _entry(row: dict[str, str]) -> ReferenceEntry:
    return ReferenceEntry(
        id=row["id"],
        formula=row["formula"],
        prototype=row["prototype"],
        a=float(row["a"]),
        b=float(row["b"]),
        c=float(row["c"]),
        x=float(row["x"]) if row["x"] else None,
        value=float(row["value"]),
        unit=row["unit"],
        fidelity=row["fidelity"],
        method=row["method"],
        citation=row["citation"],
        temperature=float(row["temperature"]),
    )
