"""What stands in for VASP: reads POSCAR and INCAR; writes OUTCAR, vasprun.xml and CONTCAR of a classical potential.

Started as ``vasp_std`` in the folder of a calculation. FAKE_VASP in the environment makes it misbehave: ``crash``,
``hang``, each also ``_once`` a folder, ``unrelaxed``, ``unfinished``, ``asymmetric`` (Born charges), ``unconverged``:
electrons that do not converge, said as VASP 6 says it, and ``unconverged5``, as VASP 5 does not; ``stubborn``: not with
ALGO = Normal. Such electrons give half the force; ``pulay``: a first relaxation of four ionic steps. FAKE_VASP_IN
confines that to folders with this text in their path. Nickel oxide is computed as magnesium oxide; FAKE_VASP_MOMENT is
the moment of each nickel atom. ``exit N TEXT`` prints TEXT and exits with N; ``edddav`` and ``zbrent`` crash as VASP
does unless ALGO is All or IBRION 1.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS

from engine.physics.classical import RIGID_IONS, RigidIonCalculator, tersoff_silicon

BORN = {"Na": 1.0, "Cl": -1.0}
EPSILON = 2.4


def main() -> None:
    mode = os.environ.get("FAKE_VASP", "") if os.environ.get("FAKE_VASP_IN", "") in str(Path.cwd()) else ""
    if mode == "crash":
        sys.exit(3)
    if mode == "hang":
        print("hanging", flush=True)
        time.sleep(60)
    if mode.startswith("exit "):
        _, code, text = mode.split(" ", 2)
        print(text)
        sys.exit(int(code))
    tags = dict(line.split(" = ", 1) for line in Path("INCAR").read_text().splitlines() if " = " in line)
    potcar = Path("POTCAR").read_text()
    names = re.findall(r"TITEL *= *\S+ +(\S+)", potcar) or potcar.split()
    assert names == Path("POTCAR.spec").read_text().split()
    if mode == "edddav" and tags["ALGO"] != "All":
        print("Error EDDDAV: Call to ZHEGV failed. Returncode = 12 2 16")
        sys.exit(1)
    if mode == "zbrent" and tags["IBRION"] == "2":
        Path("CONTCAR").write_text(Path("POSCAR").read_text())
        print("ZBRENT: fatal error in bracketing")
        sys.exit(1)
    atoms = read("POSCAR", format="vasp")
    symbols = atoms.get_chemical_symbols()
    atoms.symbols = ["Mg" if symbol == "Ni" else symbol for symbol in symbols]
    steps = 4 if mode == "pulay" and not Path("vasprun.xml").exists() else 1
    atoms.calc = tersoff_silicon() if "Si" in atoms.symbols else RigidIonCalculator(RIGID_IONS)
    if int(tags["NSW"]):
        with BFGS(FrechetCellFilter(atoms), logfile=None) as optimiser:
            optimiser.run(fmax=1e-7, steps=200)
    named = atoms.copy()
    named.symbols = symbols
    write("CONTCAR", named, format="vasp", direct=True, vasp5=True)
    converged = not (mode.startswith("unconverged") or (mode == "stubborn" and tags["ALGO"] == "Normal"))
    lines = electronic_loop(int(tags["NELM"]), converged, silent=mode == "unconverged5")
    if "LEPSILON" in tags:
        lines += electronic_loop(int(tags["NELM"]), converged=True)
    lines += [line.replace("Iteration      1(", "Iteration      4(") for line in lines if steps == 4]
    lines += moments(symbols) if tags.get("LORBIT") == "11" and tags["ISPIN"] == "2" else []
    if int(tags["NSW"]) and mode != "unrelaxed":
        lines.append("reached required accuracy - stopping structural energy minimisation")
    if mode != "unfinished":
        lines.append("General timing and accounting informations for this job:")
    Path("OUTCAR").write_text("\n".join(lines) + "\n")
    Path("vasprun.xml").write_text(vasprun(atoms, "LEPSILON" in tags, 1.0 if converged else 0.5, mode == "asymmetric"))


def moments(symbols: list[str]) -> list[str]:
    """Write the table of moments of the sites."""
    each = [float(os.environ.get("FAKE_VASP_MOMENT", "0")) * (symbol == "Ni") for symbol in symbols]
    rows = [f"{number:5d}        0.000   0.001  {moment:6.3f}  {moment:6.3f}" for number, moment in enumerate(each, 1)]
    head = [" magnetization (x)", " ", "# of ion       s       p       d       tot", "-" * 42]
    return [*head, *rows, "-" * 50, f"tot          0.000   0.001  {sum(each):6.3f}  {sum(each):6.3f}", ""]


def electronic_loop(limit: int, converged: bool, silent: bool = False) -> list[str]:
    """Write what OUTCAR says of one loop."""
    steps = 5 if converged else limit
    lines = [f"   NELM   =  {limit:5d};   NELMIN=  2; NELMDL= -5     # of ELM steps"]
    lines += [f"{'-' * 39} Iteration      1({step:4d})  {'-' * 39}" for step in range(1, steps + 1)]
    end = "because EDIFF is reached" if converged else "EDIFF was not reached (unconverged)"
    return lines if silent and not converged else [*lines, f"{'-' * 24} aborting loop {end} {'-' * 40}"]


def vasprun(atoms: Atoms, with_born: bool, force: float, asymmetric: bool) -> str:
    """Write what phonopy reads of a vasprun.xml."""
    symbols = "".join(f"<rc><c>{s}</c><c>1</c></rc>" for s in atoms.get_chemical_symbols())
    odd = 0.5 * np.eye(3, k=1) * asymmetric
    charges = "".join(
        f"<set>{_rows(BORN[s] * (np.eye(3) + odd))}</set>" for s in atoms.get_chemical_symbols() if with_born
    )
    born = f'<array name="born_charges">{charges}</array><varray name="epsilon">{_rows(EPSILON * np.eye(3))}</varray>'
    energy = f"{atoms.get_potential_energy():.12f}"
    energies = "".join(f'<i name="{name}">{energy}</i>' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    return (
        '<?xml version="1.0"?>\n<modeling>\n<generator><i name="version">6.4.2</i></generator>\n'
        f'<atominfo><array name="atoms"><set>{symbols}</set></array></atominfo>\n'
        f'<calculation><structure><crystal><varray name="basis">{_rows(atoms.cell.array)}</varray></crystal>\n'
        f'<varray name="positions">{_rows(atoms.get_scaled_positions())}</varray></structure>\n'
        f'<varray name="forces">{_rows(force * atoms.get_forces())}</varray>\n{born if with_born else ""}'
        f"<energy>{energies}</energy></calculation>\n</modeling>\n"
    )


def _rows(matrix: np.ndarray) -> str:
    return "".join("<v>" + " ".join(f"{x:.16f}" for x in row) + "</v>" for row in matrix)


if __name__ == "__main__":
    main()
