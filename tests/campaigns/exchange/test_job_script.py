"""What the exported script makes of output that is no result: unconverged electrons, Born charges, symmetry."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from campaigns.exchange.crashes import Crash, known_crashes
from db.states import FailureReason
from tests.campaigns.exchange.conftest import NACL, SILICON, MakeQueue, imported, make_campaign, record, run
from tests.campaigns.helpers import done

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")

UNCONVERGED = ["unconverged", "unconverged5"]
"""As VASP 6 says it, and as VASP 5 does not."""


def conductivity(folder: Path) -> float:
    """Give what is labelled; there is one file."""
    (file,) = folder.glob("kappa-m*.hdf5")
    with h5py.File(file) as results:
        return float(np.mean(results["kappa"][0, :3]))


@pytest.fixture(scope="session")
def clean_kappa(tmp_path_factory: pytest.TempPathFactory, cluster: dict[str, str]) -> float:
    """Give silicon's conductivity where all electrons converge."""
    root = tmp_path_factory.mktemp("clean")
    done("queue", "export", make_campaign(root, SILICON), "--to", root / "out", "--format", "phono3py")
    (folder,) = (root / "out").glob("001-*")
    run(folder, cluster)
    return conductivity(folder)


@pytest.mark.parametrize("mode", UNCONVERGED)
def test_unconverged_forces_never_become_a_label(
    exported: tuple[Path, Path], cluster: dict[str, str], clean_kappa: float, mode: str
) -> None:
    """One supercell does not converge, with any ALGO; submitted again and by stages it fails again."""
    directory, folder = exported
    ill = cluster | {"FAKE_VASP": mode, "FAKE_VASP_IN": "disp-00001"}
    run(folder, ill, code=1)
    supercell = folder / "disp-00001"
    for number, algo in ((1, "ALGO = Normal"), (2, "ALGO = All")):
        assert (supercell / f"unconverged-{number}" / "OUTCAR").exists()
        assert algo in (supercell / f"unconverged-{number}" / "INCAR").read_text()
    for stages in ((), (), ("forces",), ("kappa",), ("forces", "kappa"), ("forces", "1")):
        run(folder, cluster, *stages, code=1)
        marker = json.loads((folder / "FAILED").read_text())
        assert (marker["reason"], "disp-00001" in marker["message"]) == ("not_converged", True), stages
        assert not (folder / "DONE").exists()
        assert not list(folder.glob("kappa*"))
    assert imported(directory, folder)["message"].startswith("not_converged: ")
    shutil.rmtree(supercell / "unconverged-2")
    run(folder, cluster)
    assert conductivity(folder) == pytest.approx(clean_kappa, rel=1e-6)


def test_another_algo_is_tried_once(exported: tuple[Path, Path], cluster: dict[str, str], clean_kappa: float) -> None:
    """In every stage that the first does not converge in; the exported inputs stay as they are."""
    directory, folder = exported
    before = {p.parent.name: p.read_bytes() for p in folder.glob("*/INCAR")}
    said = run(folder, cluster | {"FAKE_VASP": "stubborn"})
    assert "electrons not converged in relax, once more with another ALGO" in said
    assert {p.parent.name: p.read_bytes() for p in folder.glob("*/INCAR") if p.parent.name in before} == before
    outputs = [p.parent for p in folder.glob("*/OUTCAR")]
    assert len(outputs) > 2
    for output in outputs:
        assert [p.name for p in output.glob("unconverged-*")] == ["unconverged-1"]
        incar = (output / "again" / "INCAR").read_text().splitlines()
        assert incar[1:3] == ["ALGO = All", "NELM = 300"]
        assert [line for line in incar[3:] if line.startswith(("ALGO", "NELM ="))] == []
    assert "ALGO = All" in (folder / "disp-00001" / "INCAR").read_text()
    assert conductivity(folder) == pytest.approx(clean_kappa, rel=1e-6)
    assert imported(directory, folder)["state"] == "done"


def test_output_of_an_earlier_run_is_asked_too(
    exported: tuple[Path, Path], cluster: dict[str, str], clean_kappa: float
) -> None:
    """What is there already, e.g. by hand: the stage kappa alone refuses it, forces computes it again."""
    _, folder = exported
    run(folder, cluster)
    supercell = folder / "disp-00002"
    subprocess.run(["vasp_std"], cwd=supercell, env=cluster | {"FAKE_VASP": "unconverged5"}, check=True)
    assert "not converged in disp-00002" in run(folder, cluster, "kappa", code=1)
    assert not (folder / "DONE").exists()
    run(folder, cluster)
    assert (supercell / "unconverged-1" / "OUTCAR").exists()
    assert conductivity(folder) == pytest.approx(clean_kappa, rel=1e-6)
    subprocess.run(["vasp_std"], cwd=folder / "relax", env=cluster | {"FAKE_VASP": "unconverged"}, check=True)
    for stage in ("relax", "kappa"):
        assert "POSCAR-relaxed comes from relax/OUTCAR" in run(folder, cluster, stage, code=1)
    assert json.loads((folder / "FAILED").read_text())["reason"] == "not_converged"


def test_a_second_attempt_that_was_stopped_goes_on(
    exported: tuple[Path, Path], cluster: dict[str, str], clean_kappa: float
) -> None:
    _, folder = exported
    run(folder, cluster, "relax", "displace")
    run(folder, cluster | {"FAKE_VASP": "unconverged", "FAKE_VASP_IN": "disp-00001"}, "forces", code=1)
    (folder / "disp-00001" / "unconverged-2").rename(folder / "disp-00001" / "again" / "rest")
    run(folder, cluster | {"FAKE_VASP": "unfinished", "FAKE_VASP_IN": "again"}, "forces", code=1)
    assert json.loads((folder / "FAILED").read_text())["reason"] == "calculator_error"
    run(folder, cluster | {"FAKE_VASP": "unconverged", "FAKE_VASP_IN": "none"})
    assert "ALGO = All" in (folder / "disp-00001" / "INCAR").read_text()
    assert conductivity(folder) == pytest.approx(clean_kappa, rel=1e-6)


GROUND = "Iteration      1(   1)\nIteration      1(   2)\n"
REACHED = "----------------- aborting loop because EDIFF is reached ----------------------------------------\n"
NOT_REACHED = "------------------------ aborting loop EDIFF was not reached (unconverged)  --------------------\n"
NELM = "   NELM   =    {};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
OUTCARS = {
    "converged": ("forces", GROUND + REACHED, True),
    "VASP 6": ("forces", GROUND + NOT_REACHED, False),
    "VASP 5": ("forces", GROUND, False),
    "stopped by hand": ("forces", GROUND + "aborting loop because hard stop was set\n", False),
    "an earlier step": ("relax", GROUND + NOT_REACHED + GROUND.replace(" 1(", " 2(") + REACHED, True),
    "the last step": ("relax", GROUND + REACHED + GROUND.replace(" 1(", " 2("), False),
    "the last step, said": ("relax", GROUND + REACHED + GROUND.replace(" 1(", " 2(") + NOT_REACHED, False),
    "the last of NELM": ("forces", NELM.format(2) + GROUND + REACHED, True),
    "Born": ("born", NELM.format(60) + GROUND + REACHED + REACHED * 3, True),
    "Born, steps of the response": ("born", NELM.format(60) + (GROUND + REACHED) * 3, True),
    "Born, response alone": ("born", NELM.format(2) + GROUND + REACHED * 3, False),
    "Born, response alone, with steps": ("born", GROUND + (GROUND + REACHED) * 3, False),
    "Born, response unconverged": ("born", NELM.format(60) + GROUND + REACHED + NOT_REACHED + REACHED, False),
    "nothing": ("forces", "", False),
}


def function(folder: Path, name: str, *arguments: object, calls: str = "") -> subprocess.CompletedProcess[str]:
    """Call one function of the script alone, or with another that it ``calls``."""
    script = (folder / "run.sh").read_text()
    starts = [script.index(f"\n{each}() {{") for each in (name, *calls.split())]
    defined = "".join(script[start : script.index("\n}\n", start) + 3] for start in starts)
    command = ["bash", "-c", f"set -uo pipefail\n{defined}\n{name} {shlex.join(map(str, arguments))}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", OUTCARS)
def test_what_converged_is(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stage, text, converged = OUTCARS[name]
    (tmp_path / stage).mkdir()
    (tmp_path / stage / "OUTCAR").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert (function(exported[1], "converged", stage).returncode == 0) is converged


INCARS = {
    "plain": ("ALGO = Normal\nNELM = 100\nISMEAR = 0\n", ["ALGO = All", "NELM = 300", "ISMEAR = 0"]),
    "all already": ("algo = all\nISMEAR = 0\n", ["ALGO = Normal", "NELM = 180", "ISMEAR = 0"]),
    "by number": ("IALGO = 58\n", ["ALGO = Normal", "NELM = 180"]),
    "several a line": ("NSW=0; ALGO=Fast ;NELM=40! few\n", ["ALGO = All", "NELM = 120", "NSW=0! few"]),
    "in a comment": ("# ALGO = All, NELM = 9\nNELMIN = 6\n", [
        "ALGO = All", "NELM = 180", "# ALGO = All, NELM = 9", "NELMIN = 6"
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", INCARS)
def test_the_incar_of_another_algo(exported: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    text, expected = INCARS[name]
    (tmp_path / "INCAR").write_text(text)
    tags = function(exported[1], "another_algo", tmp_path / "INCAR").stdout.strip()
    assert function(exported[1], "with_tags", tmp_path / "INCAR", tags, "why").stdout.splitlines() == [
        "# why",
        *expected,
    ]


def test_tags_of_a_rule_replace_those_of_the_incar(exported: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "INCAR").write_text("IBRION = 2; NSW = 99\n potim=0.5 # as it was\nISYM = 2\nISYMX = 1\n")
    ran = function(exported[1], "with_tags", tmp_path / "INCAR", "ISYM = 0; POTIM = 0.25", "zpotrf")
    assert ran.stdout.splitlines() == [
        "# zpotrf", "ISYM = 0", "POTIM = 0.25", "IBRION = 2; NSW = 99", "# as it was", "ISYMX = 1"
    ]  # fmt: skip


@pytest.mark.parametrize("crash", known_crashes(), ids=lambda crash: crash.name)
def test_known_crashes_are_known_by_their_own_rule(exported: tuple[Path, Path], tmp_path: Path, crash: Crash) -> None:
    """In the script, too; nothing of a rule breaks its line, or the marker's JSON."""
    (tmp_path / "vasp.out").write_text(f" running on 4 cores\n {crash.example}\n")
    ran = function(exported[1], "known_crash", tmp_path / "vasp.out", tmp_path / "OUTCAR", calls="crashes")
    fields = [crash.name, crash.reason, crash.tags or "-", crash.means]
    assert ran.stdout == "\t".join(fields) + "\n"
    assert re.search(crash.pattern, crash.example)
    assert not any(letter in text for text in fields for letter in '"\\\t\n$`')
    assert crash.tags or crash.reason is not FailureReason.CRASHED
    assert not crash.change or crash.reason is FailureReason.CRASHED
    assert not {tag for tag, _ in crash.change} - RESULT_KEPT


RESULT_KEPT = {"ALGO", "IMIX", "AMIN", "IBRION", "POTIM", "ISYM", "SYMPREC"}
"""Tags that lead to the same result another way."""


def test_a_known_crash_is_tried_once_more_with_the_tags_of_its_rule(
    exported: tuple[Path, Path], cluster: dict[str, str], clean_kappa: float
) -> None:
    """The exported inputs stay; what crashed is kept beside."""
    directory, folder = exported
    before = {p: p.read_bytes() for p in folder.glob("*/INCAR")}
    said = run(folder, cluster | {"FAKE_VASP": "zbrent"}, "relax")
    assert "VASP crashed in relax (zbrent), once more with IBRION = 1 in relax/again" in said
    assert (folder / "relax" / "crashed-1" / "RULE").read_text() == "zbrent\n"
    assert "ZBRENT" in (folder / "relax" / "crashed-1" / "vasp.out").read_text()
    run(folder, cluster | {"FAKE_VASP": "edddav", "FAKE_VASP_IN": "disp-00001"})
    assert "ALGO = All" in (folder / "disp-00001" / "INCAR").read_text()
    assert [p.name for p in folder.glob("disp-*/crashed-*")] == ["crashed-1"]
    assert {p: p.read_bytes() for p in before} == before
    assert conductivity(folder) == pytest.approx(clean_kappa, rel=1e-6)
    assert imported(directory, folder)["state"] == "done"


def test_a_known_crash_that_comes_again_is_of_the_crystal(exported: tuple[Path, Path], cluster: dict[str, str]) -> None:
    """Submitted again it fails again, without VASP, until the second attempt is removed."""
    directory, folder = exported
    crash = {"FAKE_VASP": "exit 1 LAPACK: Routine ZPOTRF failed! 11 1 0"}
    run(folder, cluster | crash, code=1)
    assert "POTIM = 0.25" in (folder / "relax" / "crashed-2" / "INCAR").read_text()
    run(folder, cluster, code=1)
    marker = json.loads((folder / "FAILED").read_text())
    assert (marker["reason"], "(zpotrf zpotrf )" in marker["message"]) == ("crashed", True)
    assert imported(directory, folder)["message"].startswith("crashed: relax: VASP crashed in relax")
    shutil.rmtree(folder / "relax" / "crashed-2")
    run(folder, cluster, "relax")
    assert (folder / "POSCAR-relaxed").exists()


def test_born_charges_that_break_symmetry(make_queue: MakeQueue, cluster: dict[str, str], tmp_path: Path) -> None:
    directory, out = make_queue(NACL, born="auto"), tmp_path / "out"
    done("queue", "export", directory, "--to", out, "--format", "phono3py")
    (folder,) = out.glob("001-*")
    run(folder, cluster | {"FAKE_VASP": "asymmetric"}, "relax", "born", code=1)
    assert imported(directory, out)["message"].startswith("bad_output: born: Symmetry of Born effective charge is")
    assert "# epsilon and Z* of atoms 1 2" in (folder / "born" / "born.log").read_text()
    assert not (folder / "BORN").exists()


@pytest.mark.parametrize("mode", UNCONVERGED)
def test_born_charges_of_unconverged_electrons(
    make_queue: MakeQueue, cluster: dict[str, str], tmp_path: Path, mode: str
) -> None:
    """Linear response converges all the same."""
    directory, out = make_queue(NACL, born="auto"), tmp_path / "out"
    done("queue", "export", directory, "--to", out, "--format", "phono3py")
    (folder,) = out.glob("001-*")
    run(folder, cluster, "relax")
    for environment in ({"FAKE_VASP": mode}, {}):
        run(folder, cluster | environment, "born", code=1)
        assert imported(directory, out)["message"].startswith("not_converged: born: electrons not converged in born")
        assert not (folder / "BORN").exists()


def strained(shift: float = 0.0, strain: float = 0.0) -> dict[str, Any]:
    """Give silicon whose second atom is beside its place, or whose primitive cell has one longer vector."""
    silicon = record(SILICON)
    cell = Structure(silicon["lattice"], silicon["species"], silicon["frac_coords"])
    cell.lattice = Lattice(np.diag([1 + strain, 1, 1]) @ cell.lattice.matrix)
    cell.translate_sites([1], [shift] * 3)
    return silicon | {"id": "Si", "lattice": cell.lattice.matrix.tolist(), "frac_coords": cell.frac_coords.tolist()}


LOWER = {
    "an atom": (strained(shift=0.004), 166, 12.0, ""),
    "the axes, and the mesh": (strained(strain=0.04), 12, 11.2, "the mesh has not the symmetry that was gained"),
}
"""Space group before relaxation, density of the mesh, what is said of it."""


@pytest.mark.parametrize("name", LOWER)
def test_a_cell_that_gains_symmetry_goes_on(
    make_queue: MakeQueue, cluster: dict[str, str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    crystal, before, length, of_the_mesh = LOWER[name]
    directory = make_queue(crystal, mesh_length=length, pair_cutoff=3.0)
    done("queue", "export", directory, "--to", out, "--format", "phono3py")
    (folder,) = out.glob("001-*")
    assert json.loads((folder / "entry.json").read_text())["spacegroup"] == before
    said = run(folder, cluster)
    assert f"space group 227 after relaxation, {before} before" in said
    assert of_the_mesh in said
    assert (folder / "DONE").exists()
    (file,) = folder.glob("kappa-m*.hdf5")
    with h5py.File(file) as results:
        tensor = results["kappa"][0]
    assert tensor[0] > 1
    assert tensor == pytest.approx(tensor[0] * np.array([1, 1, 1, 0, 0, 0]), rel=1e-3, abs=1e-3 * tensor[0])


def test_a_cell_that_loses_symmetry_fails(exported: tuple[Path, Path], cluster: dict[str, str]) -> None:
    _, folder = exported
    cell = Structure.from_file(folder / "POSCAR")
    cell.translate_sites([1], [0.01, 0.0, 0.0])
    cell.to(str(folder / "POSCAR-relaxed"), fmt="poscar")
    run(folder, cluster, "displace", code=1)
    assert json.loads((folder / "FAILED").read_text())["reason"] == "symmetry_broken"
