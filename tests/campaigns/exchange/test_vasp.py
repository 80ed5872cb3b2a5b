"""VASP's inputs: presets, pseudopotentials of a release, spin, +U, van der Waals; and what they are without any."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.sets import MPRelaxSet

from campaigns.configuration import DftSection
from campaigns.exceptions import ExchangeError
from campaigns.exchange.functional import functional_of
from campaigns.exchange.spin import Spin
from campaigns.exchange.vasp import ordered_structure, vasp_inputs
from engine.materials.crystal import Crystal
from engine.materials.reference import reference_crystals

PBESOL = DftSection(preset="phonon-pbesol")
NIO = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.17), ["O", "Ni"], [[0, 0, 0], [0.5, 0.5, 0.5]])
MNO = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.44), ["O", "Mn"], [[0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure.from_spacegroup("Im-3m", Lattice.cubic(2.83), ["Fe"], [[0, 0, 0]])
MOS2 = Structure.from_spacegroup(
    "P6_3/mmc", Lattice.hexagonal(3.16, 12.3), ["S", "Mo"], [[1 / 3, 2 / 3, 0.621], [1 / 3, 2 / 3, 0.25]]
)
HALF_HEUSLER = ordered_structure(reference_crystals()["LTC-HfNiSn-half-Heusler"])
NACL = ordered_structure(reference_crystals()["LTC-NaCl-rocksalt"])


def incar(structure: Structure, dft: DftSection, stage: Any = "forces", **more: Any) -> dict[str, str]:
    text = vasp_inputs(structure, stage, dft, **more).files["INCAR"]
    return dict(line.split(" = ", 1) for line in text.splitlines())


BEFORE = {
    ("NaCl", "relax"): "3ab16415b6b4",
    ("NaCl", "born"): "dd6cbdf4fefd",
    ("NaCl", "forces"): "da0d7ec037bb",
    ("NiO", "relax"): "e260ee7f917a",
    ("NiO", "born"): "70b367e7eae3",
    ("NiO", "forces"): "0e9251d9c353",
    ("HfNiSn", "relax"): "126767ffa308",
    ("HfNiSn", "born"): "e52b6654754c",
    ("HfNiSn", "forces"): "7f217dfee700",
    ("MoS2", "relax"): "92036d5c15af",
    ("MoS2", "born"): "9a309ccfebbc",
    ("MoS2", "forces"): "c9a5cb63a0e5",
}
"""Hashes of the inputs of the version before there were presets, with the input sets of one version of pymatgen."""
PYMATGEN = "2026.10.16"


@pytest.mark.skipif(version("pymatgen-core") != PYMATGEN, reason="input sets of another version of pymatgen")
@pytest.mark.parametrize("stage", ["relax", "born", "forces"])
@pytest.mark.parametrize("structure", [NACL, NIO, HALF_HEUSLER, MOS2], ids=["NaCl", "NiO", "HfNiSn", "MoS2"])
def test_inputs_without_a_preset_are_those_of_before(structure: Structure, stage: Any) -> None:
    made = vasp_inputs(structure, stage, DftSection())
    text = "".join(f"{name}\n{content}" for name, content in sorted(made.files.items()))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert digest == BEFORE[structure.composition.reduced_formula, stage]


def test_a_preset_and_what_replaces_it() -> None:
    assert functional_of(incar(NACL, DftSection())) == "PBE"
    found = incar(NACL, PBESOL)
    assert (found["GGA"], found["ENCUT"], found["ISPIN"]) == ("Ps", "520.0", "1")
    assert not {"KPAR", "NCORE", "NPAR", "LDAUU"} & set(found)
    assert incar(NACL, DftSection(preset="phonon-pbe"))["GGA"] == "Pe"
    own = DftSection(preset="phonon-pbesol", incar={"gga": "RP", "relax": {"ENCUT": 700}})
    assert incar(NACL, own)["GGA"] == "Rp"
    assert (incar(NACL, own)["ENCUT"], incar(NACL, own, "relax")["ENCUT"]) == ("520.0", "700.0")


def test_hubbard_u_is_off_in_presets_and_on_by_choice() -> None:
    assert [(tag, value) for tag, value in incar(NIO, PBESOL).items() if tag.startswith("LDAU")] == [("LDAU", "False")]
    assert functional_of(vasp_inputs(NIO, "forces", PBESOL).tags) == "PBEsol"
    on = DftSection(preset="phonon-pbesol", hubbard_u="materials-project")
    assert functional_of(vasp_inputs(NIO, "forces", on).tags) == "PBEsol+U"
    assert functional_of(vasp_inputs(NIO, "forces", DftSection()).tags) == "PBE+U"
    assert functional_of(vasp_inputs(HALF_HEUSLER, "forces", on).tags) == "PBEsol", "neither an oxide nor a fluoride"


def test_the_users_u_is_used_where_pymatgen_has_none() -> None:
    given = {"LDAU": True, "LDAUTYPE": 2, "LDAUU": "4 0 0", "LDAUL": "2 -1 -1", "LDAUJ": "0 0 0"}
    found = incar(HALF_HEUSLER, DftSection(preset="phonon-pbesol", incar=given))
    assert (found["LDAU"], found["LDAUTYPE"], found["LDAUU"].split()[0]) == ("True", "2", "4")


def test_dispersion_of_layered_crystals() -> None:
    pbe = DftSection(preset="phonon-pbe")
    assert incar(MOS2, pbe, is_layered=True)["IVDW"] == "12"
    assert "IVDW" not in incar(NACL, pbe, is_layered=False)
    assert "IVDW" not in incar(MOS2, PBESOL, is_layered=True)
    assert incar(NACL, DftSection(van_der_waals="always"))["IVDW"] == "12"
    own = DftSection(preset="phonon-pbe", incar={"IVDW": 4})
    assert incar(MOS2, own, is_layered=True)["IVDW"] == "4"


@pytest.mark.parametrize("structure", [NIO, MNO, IRON, MOS2, HALF_HEUSLER])
def test_the_relaxation_looks_for_moments(structure: Structure) -> None:
    relax, forces = (vasp_inputs(structure, stage, PBESOL) for stage in ("relax", "forces"))
    assert (relax.spin, forces.spin) == (Spin.TESTED, Spin.TESTED)
    assert {"ISPIN = 2", "LORBIT = 11"} <= set(relax.files["INCAR"].splitlines())
    assert "INCAR.nonmagnetic" not in relax.files
    spinless = forces.files["INCAR.nonmagnetic"].splitlines()
    assert "ISPIN = 1" in spinless
    assert not [line for line in spinless if line.startswith("MAGMOM")]
    rest = [line for line in forces.files["INCAR"].splitlines() if not line.startswith(("MAGMOM", "ISPIN"))]
    assert rest == [line for line in spinless if not line.startswith("ISPIN")]


def test_spin_as_the_user_says() -> None:
    never = DftSection(preset="phonon-pbesol", magnetism="nonmagnetic")
    assert vasp_inputs(NIO, "relax", never).spin is Spin.NONE
    assert incar(NIO, never)["ISPIN"] == "1"
    order = DftSection(preset="phonon-pbesol", incar={"MAGMOM": "4*0 2*2 2*-2"})
    made = vasp_inputs(Structure.from_sites(sorted(NIO, key=lambda s: s.specie.Z)), "forces", order)
    assert (made.spin, "INCAR.nonmagnetic" in made.files, made.notes) == (Spin.GIVEN, False, ())
    assert vasp_inputs(NACL, "relax", PBESOL).spin is Spin.NONE
    assert vasp_inputs(NIO, "forces", DftSection()).spin is Spin.PARALLEL
    chosen = DftSection(preset="phonon-pbesol", magnetism="ferromagnetic")
    made = vasp_inputs(NIO, "forces", chosen, is_relaxed=False)
    assert (made.spin, "INCAR.nonmagnetic" in made.files) == (Spin.PARALLEL, False)


SPINS = {
    ("refuse", 1): Spin.NONE,
    ("refuse", 2): Spin.TESTED,
    ("nonmagnetic", 1): Spin.NONE,
    ("nonmagnetic", 2): Spin.PARALLEL,
}


@pytest.mark.parametrize(("magnetism", "ispin"), SPINS)
def test_the_users_ispin(magnetism: Any, ispin: int) -> None:
    dft = DftSection(magnetism=magnetism, incar={"ISPIN": ispin})
    made = vasp_inputs(NIO, "forces", dft)
    assert made.spin is SPINS[magnetism, ispin]
    assert made.tags["ISPIN"] == ispin
    assert ("MAGMOM" in made.tags) is (ispin == 2)
    assert bool(made.notes) is (ispin == 2), "that moments start parallel"


def test_copper_starts_with_a_moment_where_the_relaxation_decides() -> None:
    salt = ordered_structure(reference_crystals()["LTC-CuCl-zincblende"])
    assert vasp_inputs(salt, "relax", PBESOL).spin is Spin.TESTED
    assert "MAGMOM" in incar(salt, PBESOL, "relax")
    assert vasp_inputs(salt, "relax", DftSection()).spin is Spin.NONE


def test_the_names_of_a_release() -> None:
    tungsten = Structure(Lattice.cubic(2.9), ["W", "Yb"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for release, names in {None: "W_pv\nYb_2\n", "PBE_52": "W_pv\nYb_2\n", "PBE_54": "W_sv\nYb_3\n"}.items():
        made = vasp_inputs(tungsten, "relax", DftSection(potcar_release=release, magnetism="nonmagnetic"))
        assert made.files["POTCAR.spec"] == names
        assert any("Yb_2" in note for note in made.notes) is (release in (None, "PBE_52"))
    own = DftSection(preset="phonon-pbesol", potcar={"Yb": "Yb_2"})
    assert vasp_inputs(tungsten, "relax", own).files["POTCAR.spec"] == "W_sv\nYb_2\n"


def test_a_layered_crystal_is_found() -> None:
    from engine.materials.dimensionality import dimensionality

    assert dimensionality(Crystal.from_structure(MOS2)) == 2
    assert "Mo" in MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]


def test_a_moment_for_each_atom() -> None:
    with pytest.raises(ExchangeError, match="2 atoms"):
        vasp_inputs(NIO, "forces", DftSection(preset="phonon-pbesol", incar={"MAGMOM": "0 5"}))
