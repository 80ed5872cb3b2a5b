"""ASE calculators that print, die, hang or lack something, and need nothing but ASE and numpy."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

ARGON = {"sigma": 3.4, "epsilon": 0.0104, "rc": 10.0, "smooth": True}
HOME = "tests.engine.physics.awkward"


class Argon(LennardJones):
    """Lennard-Jones argon."""

    def __init__(self, **options):
        super().__init__(**{**ARGON, **options})


class Instant(Calculator):
    """Nothing, at once."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


class Printing(Argon):
    """Prints in Python and below it, before and after everything."""

    def __init__(self, **options):
        print("Printing is made")
        super().__init__(**options)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        print("a line", flush=True)
        os.write(1, b"a line from C\n")
        super().calculate(atoms, properties, system_changes)


class Dying(Argon):
    """Dies of atoms farther apart than 8 Angstrom; with a folder for notes, only once."""

    def __init__(self, notes="", **options):
        super().__init__(**options)
        self.once = notes and f"{notes}/once"

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if (atoms.get_volume() / len(atoms)) ** (1 / 3) > 8:
            again = bool(self.once) and Path(self.once).exists()
            if self.once:
                Path(self.once).touch()
            if not again:
                sys.stderr.write("no atom in reach\n")
                os.kill(os.getpid(), signal.SIGKILL)
        super().calculate(atoms, properties, system_changes)


class Hanging(Argon):
    """Sleeps over atoms farther apart than 8 Angstrom; writes its process into a folder for notes first."""

    def __init__(self, notes, **options):
        super().__init__(**options)
        self.pid = f"{notes}/pid"

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if (atoms.get_volume() / len(atoms)) ** (1 / 3) > 8:
            Path(self.pid).write_text(str(os.getpid()))
            time.sleep(600)
        super().calculate(atoms, properties, system_changes)


class NoNumbers(Argon):
    """Energies that are not numbers."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = float("nan")


class NoStress(Argon):
    """Energies and forces alone."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        del self.results["stress"]


class WrongShape(Argon):
    """Forces of one atom."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = self.results["forces"][0]


class DirectForces(Argon):
    """Forces that are not the gradient of the energy."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = self.results["forces"] + 0.1 * np.sin(7 * self.atoms.positions)


class Leaving(Argon):
    """Ends its process when it is made."""

    def __init__(self, **options):
        super().__init__(**options)
        sys.stderr.write("no licence\n")
        sys.exit(3)
