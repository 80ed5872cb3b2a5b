"""What the exported script checks and records: pseudopotentials, restarts of the relaxation, moments."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Incar

from campaigns.campaign import Campaign
from tests.campaigns.exchange.conftest import NACL, SILICON, MakeQueue, imported, make_campaign, record, run
from tests.campaigns.helpers import configure, done, kappascout, queue, refused

pytest.importorskip("phono3py", reason="phono3py is not installed")

TITELS = {
    "Na_pv": "PAW_PBE Na_pv 19Sep2006",
    "Cl": "PAW_PBE Cl 06Sep2000",
    "Si": "PAW_PBE Si 05Jan2001",
    "O": "PAW_PBE O 08Apr2002",
    "Ni_pv": "PAW_PBE Ni_pv 06Sep2000",
}
RUTILE = Structure.from_spacegroup(
    "P4_2/mnm", Lattice.tetragonal(4.87, 3.31), ["Mn", "F"], [[0, 0, 0], [0.305, 0.305, 0]]
)
NIO = record(NACL) | {"id": "NiO", "species": ["Ni", "O"]}
PRESET = {"preset": "phonon-pbesol"}


def potcar(titel: str, rest: str = "") -> str:
    """Write the lines of a data set that are read here."""
    return f"  {titel}\n   4.0000\n parameters from PSCTR are:\n   TITEL  = {titel}\n{rest} End of Dataset\n"


@pytest.fixture
def site(cluster: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Give the environment of a cluster with pseudopotentials that have a TITEL."""
    for name, titel in TITELS.items():
        folder = tmp_path / "potcars" / name
        folder.mkdir(parents=True)
        (folder / "POTCAR").write_text(potcar(titel))
    return cluster | {"POTCAR_DIR": str(tmp_path / "potcars")}


def exported_with(root: Path, crystal: Any, *, format: str = "phono3py", **dft: Any) -> tuple[Path, Path]:
    """Campaign and folder of its only entry."""
    directory = make_campaign(root, crystal, **dft)
    done("queue", "export", directory, "--to", root / "out", "--format", format)
    (folder,) = (root / "out").glob("001-*")
    return directory, folder


def failed(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "FAILED").read_text())
    return found


def write_potcar(site: dict[str, str], name: str, text: str) -> None:
    (Path(site["POTCAR_DIR"]) / name / "POTCAR").write_text(text)


def test_pseudopotentials_are_recorded(tmp_path: Path, site: dict[str, str]) -> None:
    _, folder = exported_with(tmp_path, NACL, **PRESET)
    run(folder, site, "relax")
    rows = [line.split(" ", 2) for line in (folder / "POTCAR.titel").read_text().splitlines()]
    expected = [
        [name, hashlib.sha256(potcar(TITELS[name]).encode()).hexdigest(), TITELS[name]] for name in ("Na_pv", "Cl")
    ]
    assert rows == expected
    assert not [p for p in folder.iterdir() if p.name.startswith(".POTCAR")]
    # a calculation with another one is refused, and not begun
    write_potcar(site, "Cl", potcar(TITELS["Cl"], " edited\n"))
    run(folder, site, "displace")
    run(folder, site, "forces", "1", code=2)
    assert "POTCAR.titel" in failed(folder)["message"]
    assert not (folder / "disp-00001" / "POTCAR").exists()
    assert not (folder / "disp-00001" / "OUTCAR").exists()


WRONG = {
    "element": ({}, "Cl", "PAW_PBE Br 06Sep2000", "is of Br, not of Cl"),
    "release": (PRESET, "Na_pv", "PAW_PBE Na_pv 05Jan2001", "is not that of PBE_54"),
    "LDA": (PRESET, "Cl", "PAW Cl 02Feb1998", "is not that of PBE_54"),
    "no POTCAR": (PRESET, "Cl", "", "is of no element"),
}


@pytest.mark.parametrize("own", [False, True], ids=["POTCAR_DIR", "own file"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_pseudopotentials_are_refused_before_vasp_starts(
    tmp_path: Path, site: dict[str, str], name: str, own: bool
) -> None:
    dft, wrong, titel, message = WRONG[name]
    directory, folder = exported_with(tmp_path, NACL, **dft)
    text = potcar(titel) if titel else "not a pseudopotential\n End of Dataset\n"
    write_potcar(site, wrong, text)
    if own:
        parts = [(Path(site["POTCAR_DIR"]) / each / "POTCAR").read_text() for each in ("Na_pv", "Cl")]
        (folder / "relax" / "POTCAR").write_text("".join(parts))
    run(folder, site, "relax", code=2)
    assert message in failed(folder)["message"]
    assert not (folder / "relax" / "OUTCAR").exists()
    assert (folder / "relax" / "POTCAR").exists() is own, "what is wrong is not left for the next run"
    assert [p.name for p in folder.rglob("*POTCAR.*") if p.name != "POTCAR.spec"] == [".POTCAR.partial"] * (not own)
    assert message in imported(directory, folder)["message"]


def test_a_release_with_the_same_data_set_is_accepted(tmp_path: Path, site: dict[str, str]) -> None:
    _, folder = exported_with(tmp_path, SILICON, potcar_release="PBE_64")
    run(folder, site, "relax")
    assert (folder / "POSCAR-relaxed").exists()


def test_the_relaxation_is_restarted_until_it_takes_one_step(exported: tuple[Path, Path], site: dict[str, str]) -> None:
    _, folder = exported
    said = run(folder, site | {"FAKE_VASP": "pulay"}, "relax")
    assert "relaxed in 4 steps" in said
    assert json.loads((folder / "RELAXATION").read_text()) == {"restarts": 1, "last_steps": 1}
    assert (folder / "POSCAR-relaxed").read_text() == (folder / "relax" / "CONTCAR").read_text()


def test_a_crystal_without_a_moment_goes_on_without_spin(tmp_path: Path, site: dict[str, str]) -> None:
    directory, folder = exported_with(tmp_path, NIO, born="always", **PRESET)
    before = (folder / "forces" / "INCAR").read_text()
    assert "ISPIN = 2" in before
    run(folder, site | {"FAKE_VASP_MOMENT": "0.012"}, "relax")
    assert json.loads((folder / "SPIN").read_text()) == {"spin": "none", "largest_moment": 0.012}
    for stage in ("born", "forces"):
        assert (folder / stage / "INCAR").read_text() == (folder / stage / "INCAR.nonmagnetic").read_text()
    assert imported(directory, folder)["state"] == "running", "inputs without spin are what was exported"
    run(folder, site, "displace")
    run(folder, site, "forces", "1")
    assert "ISPIN = 1" in (folder / "disp-00001" / "INCAR").read_text()
    # relaxed anew, with a moment that is accepted
    shutil.copy(folder / "forces" / "INCAR.magnetic", tmp_path / "INCAR")
    assert (tmp_path / "INCAR").read_text() == before
    with (folder / "forces" / "INCAR").open("a") as handle:
        handle.write("ENCUT = 300\n")
    assert "forces/INCAR" in kappascout("label", "import", directory, folder).err


def test_a_moment_without_a_known_order_is_refused(tmp_path: Path, site: dict[str, str]) -> None:
    directory, folder = exported_with(tmp_path, NIO, **PRESET)
    run(folder, site | {"FAKE_VASP_MOMENT": "-1.6"}, "relax", code=1)
    assert failed(folder)["reason"] == "rejected"
    assert not (folder / "POSCAR-relaxed").exists()
    message = imported(directory, folder)["message"]
    assert message.startswith("rejected: relax: a site has a moment of 1.600 Bohr magnetons")
    assert "magnetism = 'ferromagnetic'" in message


def test_a_moment_is_kept_where_ferromagnetism_is_chosen(tmp_path: Path, site: dict[str, str]) -> None:
    _, folder = exported_with(tmp_path, NIO, magnetism="ferromagnetic", **PRESET)
    before = (folder / "forces" / "INCAR").read_text()
    for moment, spin in (("0", "none"), ("1.6", "polarised")):
        (folder / "POSCAR-relaxed").unlink(missing_ok=True)
        (folder / "relax" / "OUTCAR").unlink(missing_ok=True)
        run(folder, site | {"FAKE_VASP_MOMENT": moment}, "relax")
        assert json.loads((folder / "SPIN").read_text())["spin"] == spin
    assert (folder / "forces" / "INCAR").read_text() == before


def test_orders_that_nobody_chose_are_refused(tmp_path: Path) -> None:
    directory = make_campaign(tmp_path, NIO, relax=False, **PRESET)
    command = ("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    assert "Ni may carry a moment" in refused(*command)
    configure(directory, {"dft": {"relax": True, "incar": {"relax": {"MAGMOM": "0 2"}}}})
    assert "not for forces" in refused(*command)
    configure(directory, {"dft": {"relax": False, "magnetism": "nonmagnetic", "incar": None}})
    done(*command)


def test_the_order_of_a_material(tmp_path: Path) -> None:
    """Antiferromagnetic manganese fluoride beside silicon; supercells repeat the order, others do not have it."""
    fluoride = {
        "id": "MnF2",
        "lattice": RUTILE.lattice.matrix.tolist(),
        "species": [site.specie.symbol for site in RUTILE],
        "frac_coords": RUTILE.frac_coords.tolist(),
        "properties": {},
    }
    directory = make_campaign(tmp_path, fluoride, SILICON, moments={"MnF2": [0, 0, 0, 0, 5, -5]}, **PRESET)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    ordered, silicon = sorted((tmp_path / "out").glob("001-*"))
    assert "MAGMOM = 4*0.0 1*5.0 1*-5.0" in (ordered / "relax" / "INCAR").read_text()
    cell = Structure.from_file(ordered / "POSCAR")
    entry = json.loads((ordered / "entry.json").read_text())
    repeats = round(abs(np.linalg.det(entry["settings"]["phonons"]["supercell"])))
    moments = Incar.from_file(ordered / "forces" / "INCAR")["MAGMOM"]
    assert len(moments) == repeats * len(cell)
    assert [moments.count(moment) for moment in (0, 5, -5)] == [4 * repeats, repeats, repeats]
    assert not (ordered / "forces" / "INCAR.nonmagnetic").exists()
    assert "decide_spin" not in (ordered / "run.sh").read_text()
    assert entry["settings"]["method"]["spin"] == "given"
    assert "ISPIN = 1" in (silicon / "relax" / "INCAR").read_text()
    for wrong, message in (([5, -5], "2 values"), ([0, 0, 0, 0, 5, 0], "lower symmetry")):
        configure(directory, {"dft": {"moments": {"MnF2": wrong}}})
        out = done("queue", "export", directory, "--to", tmp_path / message[0], "--format", "phono3py").err
        assert "left out: MnF2: [dft] moments" in out
        assert message in out


def test_a_relaxation_alone_ends_as_done(tmp_path: Path, site: dict[str, str]) -> None:
    """The entry is done, has no label, and its cell is kept where it can be ingested."""
    directory, folder = exported_with(tmp_path, SILICON, format="vasp", **PRESET)
    assert imported(directory, folder)["state"] == "not started"
    run(folder, site)
    for _ in range(2):
        outcome = imported(directory, folder)
        assert (outcome["state"], "without a label" in outcome["message"]) == ("done", True)
        assert [e["state"] for e in queue(directory)] == ["done"]
    (kept,) = (directory / "artifacts" / "relaxed").iterdir()
    row = json.loads(kept.read_text())
    assert row["provenance"]["dft"]["functional"] == "PBEsol"
    assert row["provenance"]["potcar"][0]["titel"] == TITELS["Si"]
    with Campaign.open(directory) as campaign:
        assert not campaign.store.labels()
    done("init", tmp_path / "next", "--cold", "--goal", "min")
    assert done("ingest", tmp_path / "next", kept, "--format", "json").json["added"] == 1


def test_the_method_is_in_the_label(tmp_path: Path, site: dict[str, str]) -> None:
    """By the real phono3py; functional, pseudopotentials and restarts are in its provenance, and others are named."""
    directory, folder = exported_with(tmp_path, SILICON, **PRESET)
    method = json.loads((folder / "entry.json").read_text())["settings"]["method"]
    assert (method["preset"], method["functional"], method["potcar"]) == ("phonon-pbesol", "PBEsol", {"Si": "Si"})
    run(folder, site)
    assert imported(directory, folder)["state"] == "done"
    (label,) = done("label", "list", directory, "--format", "json").json
    assert label["method"] == "phono3py RTA, PBEsol"
    assert label["provenance"]["dft"] == method
    assert label["provenance"]["potcar"][0]["titel"] == TITELS["Si"]
    assert label["provenance"]["relaxation"] == {"restarts": 0, "last_steps": 1}
    assert "spin" not in label["provenance"]


def test_layered_crystals_of_one_queue(make_queue: MakeQueue, tmp_path: Path) -> None:
    """One queue of phonon-pbe: the correction is in the method of the layered crystal alone."""
    from tests.campaigns.exchange.test_vasp import MOS2

    layered = {
        "id": "MoS2",
        "lattice": MOS2.lattice.matrix.tolist(),
        "species": [site.specie.symbol for site in MOS2],
        "frac_coords": MOS2.frac_coords.tolist(),
        "properties": {},
    }
    directory = make_queue(layered, SILICON, preset="phonon-pbe")
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "vasp")
    entries = [json.loads(p.read_text()) for p in sorted((tmp_path / "out").glob("*/entry.json"))]
    assert [e["settings"]["method"]["functional"] for e in entries] == ["PBE-D3(BJ)", "PBE"]
    assert [e["settings"]["method"]["spin"] for e in entries] == ["tested", "none"]
