"""Born charges of a user's folder: by material, for phonons alone, refused where they are not of the crystal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import ConfigurationError
from campaigns.labelers.born_folder import BornFolder
from campaigns.labelers.calculators import Calculator
from db.states import FailureReason
from engine.exceptions import BornChargesError
from engine.materials.crystal import Crystal
from engine.physics.born_charges import PolarCrystal
from engine.physics.phonons import METHOD, WITH_CHARGES
from tests.campaigns.calculations import by_charges
from tests.campaigns.helpers import configure, done, refused, write_lines
from tests.engine.physics.polar import ALN, NACL
from tests.engine.physics.salts import LATTICE_CONSTANTS, rocksalt

SALTS = ("NaCl", "KCl", "LiF", "MgO")
SMALL = {"min_length": 7.0, "first_mesh": 12.0, "last_mesh": 12.0, "wigner": False}
POSCAR = "cell\n{length}\n0 .5 .5\n.5 0 .5\n.5 .5 0\n{symbols}\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


def charges(charge: float, dielectric: float = 1.0) -> str:
    """Text of a BORN file of a salt AB."""
    return "born\n" + "".join(f"{x} 0 0 0 {x} 0 0 0 {x}\n" for x in (dielectric, charge, -charge))


def poscar(first: str, second: str, formula: str) -> str:
    return POSCAR.format(length=LATTICE_CONSTANTS[formula], symbols=f"{first} {second}")


def test_files_are_found_by_id(tmp_path: Path) -> None:
    (tmp_path / "NaCl.BORN").write_text(NACL)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "BORN").write_text(charges(1.2, 2.1))
    # Cl stands first in this cell, so that its charge is the first of the file
    (tmp_path / "k" / "POSCAR").write_text(poscar("Cl", "K", "KCl"))
    folder = BornFolder(tmp_path)
    salt = folder.with_charges(rocksalt("NaCl"), ["other", "NaCl"])
    assert isinstance(salt, PolarCrystal)
    second = folder.with_charges(rocksalt("KCl"), ["k"])
    assert isinstance(second, PolarCrystal)
    assert [round(float(z), 6) for z in second.born[:, 0, 0]] == [-1.2, 1.2]
    without = rocksalt("LiF")
    assert folder.with_charges(without, ["LiF", "../k", "k/BORN"]) is without
    (tmp_path / "k" / "POSCAR-unitcell").write_text(poscar("K", "Cl", "KCl"))
    second = folder.with_charges(rocksalt("KCl"), ["k"])
    assert isinstance(second, PolarCrystal)
    assert second.born[0, 0, 0] == pytest.approx(1.2)


def test_several_files_of_one_material_are_refused(tmp_path: Path) -> None:
    (tmp_path / "NaCl.BORN").write_text(NACL)
    (tmp_path / "mp-22862").mkdir()
    (tmp_path / "mp-22862" / "BORN").write_text(NACL)
    folder = BornFolder(tmp_path)
    assert isinstance(folder.with_charges(rocksalt("NaCl"), ["NaCl", "NaCl"]), PolarCrystal)
    with pytest.raises(BornChargesError, match="several files"):
        folder.with_charges(rocksalt("NaCl"), ["NaCl", "mp-22862"])


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no file"):
        BornFolder(tmp_path)
    with pytest.raises(ConfigurationError, match="is no folder"):
        BornFolder(tmp_path / "none")


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """Campaign on four salts that calculates phonons, with an empty folder of charges."""
    file = write_lines(tmp_path / "salts.jsonl", [rocksalt(f).to_dict() | {"id": f} for f in SALTS])
    directory = tmp_path / "c"
    done("init", directory, "--cold", "--goal", "max")
    done("ingest", directory, file)
    labeler = {"kind": "phonons", "potential": "rigid-ion", "born": "born", "settings": SMALL}
    configure(directory, {"campaign": {"batch": 4, "budget": 4, "fidelity": "mlip"}, "labeler": labeler})
    (directory / "born").mkdir()
    return directory


def run_by_charges(directory: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    with Campaign.open(directory) as opened:
        folder = BornFolder(directory / "born")
        opened.labeler = Calculator(opened.configuration, by_charges, "rigid-ion", "0" * 64, born=folder)
        lines: list[str] = []
        opened.run(1, lines.append)
        labels = {label.material_id: label for label in opened.store.labels()}
        return labels, {f.material_id: f for f in opened.store.failures()}, lines


def test_materials_with_and_without_charges_and_one_with_those_of_another(campaign: Path) -> None:
    born = campaign / "born"
    (born / "NaCl.BORN").write_text(NACL)
    (born / "LiF.BORN").write_text(charges(1.0).replace("-1.0", "-0.9"))
    (born / "MgO.BORN").write_text(ALN.born)
    (born / "MgO.POSCAR").write_text(ALN.poscar)
    labels, failures, lines = run_by_charges(campaign)
    assert {id_: label.method for id_, label in labels.items()} == {
        "NaCl": "with charges", "LiF": "with charges", "KCl": "without charges",
    }  # fmt: skip
    assert labels["NaCl"].provenance["born_charges"]["source"].startswith("NaCl.BORN, SHA-256 ")
    assert failures["MgO"].reason is FailureReason.REJECTED
    assert "AlN is not MgO" in failures["MgO"].message
    assert any("2 of 4 materials have Born charges" in line for line in lines)
    assert any(
        "Born charges of LiF broke symmetry or did not add up to zero, and were corrected by up to 0.050" in line
        for line in lines
    )


def test_labels_are_calculated_with_the_charges(campaign: Path) -> None:
    (campaign / "born" / "KCl.BORN").write_text(charges(1.0))
    (campaign / "born" / "NaCl.BORN").write_text(charges(1.0))
    done("run", campaign)
    with Campaign.open(campaign) as opened:
        labels = {label.material_id: label for label in opened.store.labels()}
    assert {id_: label.method == METHOD + WITH_CHARGES for id_, label in labels.items()} == {
        "KCl": True, "NaCl": True, "LiF": False, "MgO": False,
    }  # fmt: skip
    assert labels["LiF"].method == METHOD
    assert not labels["LiF"].provenance["non_analytical_correction"]
    assert labels["KCl"].provenance["born_charges"]["dielectric"][0][0] == pytest.approx(1)
    assert Crystal.from_dict(labels["KCl"].provenance["relaxed"]).formula == "KCl"


@pytest.mark.parametrize(
    ("labeler", "message"),
    [
        ({"kind": "agl"}, "born is for kind 'phonons'"),
        ({"born": "nowhere"}, "nowhere is no folder"),
        ({}, "has no file ID.BORN or ID/BORN"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(campaign: Path, labeler: Any, message: str) -> None:
    configure(campaign, {"labeler": labeler})
    assert message in refused("run", campaign)
