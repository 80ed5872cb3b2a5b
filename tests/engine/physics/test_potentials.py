"""Potentials are what they are asked for, and wrong ones are refused by name and number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.exceptions import PotentialError, UnknownElementError
from engine.physics import potentials
from engine.physics.classical import PairPotential, PairTerm
from engine.physics.potential import Potential
from engine.physics.potentials import check_compounds, load_potential
from engine.pretrained import read_model
from tests.engine.physics.salts import diamond, rocksalt

PBE = "pretrained/TensorNet-MatPES-PBE-v2025.1-PES"
R2SCAN = "pretrained/TensorNet-MatPES-r2SCAN-v2025.1-PES"


class Softened(Potential):
    """Rigid ions with the wrong charges."""

    name, sha256, elements = "softened", "0" * 64, frozenset({"Mg", "O", "Na", "Cl"})

    def __init__(self, charge: float):
        self._charge = charge

    def calculator(self):
        charges = {"Mg": self._charge, "O": -self._charge}
        terms = {("Mg", "O"): PairTerm(926.69, 0.29909), ("O", "O"): PairTerm(4870.0, 0.2670, 77.0)}
        return PairPotential(terms, cutoff=9.0, charges=charges)


@pytest.fixture(scope="module")
def pbe(shared) -> potentials.MatGLPotential:
    return load_potential(shared(PBE))


@pytest.mark.parametrize("spec", ["lennard-jones:Ar", "tersoff:Si", "rigid-ion:NaCl", "rigid-ion"])
def test_classical_potentials_are_named_and_hashed(spec):
    one, other = load_potential(spec), load_potential(spec)
    assert one.describe() == other.describe() == {"name": spec, "sha256": one.sha256}
    assert len(one.sha256) == 64
    assert one.calculator() is not one.calculator()


def test_different_numbers_have_different_hashes():
    specs = ("lennard-jones:Ar", "lennard-jones:Kr", "tersoff:Si", "rigid-ion:NaCl", "rigid-ion:MgO", "rigid-ion")
    assert len({load_potential(spec).sha256 for spec in specs}) == len(specs)


@pytest.mark.parametrize("spec", ["lennard-jones:He", "lennard-jones:", "tersoff:C", "rigid-ion:CsCl"])
def test_what_does_not_ship_is_named_with_what_does(spec):
    with pytest.raises(PotentialError, match="there are"):
        load_potential(spec)


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(PotentialError, match=r"model.pt, state.pt"):
        load_potential(tmp_path)


def test_elements_are_checked_before_anything_is_calculated():
    with pytest.raises(UnknownElementError, match="Ge"):
        load_potential("tersoff:Si").check_elements(diamond("Ge", 5.6))
    with pytest.raises(UnknownElementError, match="LiF, NaF"):
        load_potential("rigid-ion").check_elements(rocksalt("NaO", 5.0))


def test_rigid_ions_pass_the_compound_check():
    check_compounds(load_potential("rigid-ion"))


@pytest.mark.parametrize(
    ("charge", "message"),
    [(1.5, r"gives MgO a lattice constant of 4\.\d\d Angstrom, known is 4.21"), (0.0, "no minimum")],
)
def test_a_wrong_potential_is_refused_by_name_and_number(charge, message):
    with pytest.raises(PotentialError, match=f"potential softened.*{message}"):
        check_compounds(Softened(charge))


def test_a_potential_that_cannot_be_checked_is_refused():
    with pytest.raises(PotentialError, match="Mg, O"):
        check_compounds(load_potential("tersoff:Si"))


def test_repaired_weights_give_the_energies_of_their_time(pbe):
    """-5.87 eV/atom at the PBE lattice constant, by MatGL 2."""
    assert pbe.sha256 in potentials.MADE_BEFORE_MATGL_3
    assert pbe.energies([rocksalt("MgO", 4.25)])[0] / 2 == pytest.approx(-5.87, abs=0.01)


def test_repair_is_exactly_the_other_end_of_every_edge(pbe, shared):
    """The old code summed messages at ``edge_index[1]``; the repair changes weights alone."""
    from matgl.layers._embedding import TensorEmbedding

    class OtherEnd(TensorEmbedding):
        def forward(self, z, edge_index, *rest, **more):
            self.end = edge_index[1]
            return super().forward(z, edge_index, *rest, **more)

        def aggregate(self, msg, index, dim_size):
            return super().aggregate(msg, self.end, dim_size)

    old = read_model("old", Path(shared(PBE)), PotentialError, old=True).eval()
    old.model.tensor_embedding.__class__ = OtherEnd
    reference = potentials.MatGLPotential("old", "", old)
    atoms = rocksalt("MgO").to_atoms()
    atoms.rattle(0.1, seed=2)
    found = []
    for potential in (pbe, reference):
        atoms.calc = potential.calculator()
        found.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_without_the_repair_the_check_refuses_them(shared, monkeypatch):
    monkeypatch.setattr(potentials, "_turn_messages", lambda embedding: None)
    with pytest.raises(PotentialError, match=r"PBE.* MgO .* 3.9\d Angstrom"):
        load_potential(shared(PBE))


def test_other_weights_are_never_repaired(shared, tmp_path):
    """The hash decides: the same network with one number changed is refused, not repaired."""
    import torch

    folder = Path(shutil.copytree(shared(PBE), tmp_path / "changed"))
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    state["data_std"] = state["data_std"] * 1.001
    torch.save(state, folder / "state.pt")
    with pytest.raises(PotentialError, match="another meaning in the installed MatGL"):
        load_potential(folder)
    content = json.loads((folder / "model.json").read_text())
    content["kwargs"]["model"]["@model_version"] = 2
    content["@model_version"] = 3
    (folder / "model.json").write_text(json.dumps(content))
    with pytest.raises(PotentialError, match=r"changed .*known is|another meaning"):
        load_potential(folder)


def test_energies_agree_with_the_calculator(pbe):
    crystals = [rocksalt("NaCl", a) for a in (5.5, 5.7)]
    by_calculator = []
    for crystal in crystals:
        atoms = crystal.to_atoms()
        atoms.calc = pbe.calculator()
        by_calculator.append(atoms.get_potential_energy())
    np.testing.assert_allclose(pbe.energies(crystals), by_calculator, atol=1e-5)


def test_both_shipped_hashes_are_those_of_the_files(shared):
    for name in (PBE, R2SCAN):
        assert load_potential(shared(name)).sha256 in potentials.MADE_BEFORE_MATGL_3
