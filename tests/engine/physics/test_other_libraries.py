"""Real libraries of potentials, in an environment of their own (``tests/make_environment.py``)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.exceptions import PotentialError
from engine.physics.ase_potentials import AsePotential
from engine.physics.calculator_specs import with_python
from engine.physics.debye import calculate_kappa
from engine.physics.descriptors import load_described, mean_and_spread
from engine.physics.outcome import Calculated
from engine.physics.potentials import load_potential
from tests.engine.physics.salts import diamond, fcc, rocksalt
from tests.make_environment import FOLDER, PYTHON, reason_against

SHA_256 = 64


def _of(library: str, spec: str) -> str:
    """The spec, to be calculated in the library's environment; skips the test if there is none."""
    if reason := reason_against(library):
        pytest.skip(reason)
    return with_python(spec, PYTHON)


@pytest.mark.slow
def test_sevennet_passes_and_estimates() -> None:
    potential = load_potential(_of("sevenn", "sevennet:7net-0"))
    described = potential.describe()
    assert described["package"] == "sevenn"
    assert (described["device"], described["precision"]) == ("cpu", "float32")
    assert len(described["weights_sha256"]) == SHA_256
    assert json.loads(described["options"]) == {"device": "cpu"}
    assert "torch" in described["environment"]
    outcome = calculate_kappa(diamond("Si", 5.43), potential)
    assert isinstance(outcome, Calculated)
    assert outcome.provenance["result"]["bulk_modulus"] == pytest.approx(90, rel=0.15)


def test_models_of_one_library_are_different_potentials() -> None:
    one, other = (AsePotential(_of("sevenn", f"sevennet:7net-{name}")) for name in ("0", "l3i5"))
    assert one.describe()["weights_sha256"] != other.describe()["weights_sha256"]
    assert one.sha256 != other.sha256
    with pytest.raises(PotentialError, match="check its model"):
        AsePotential(_of("sevenn", "sevennet:7net-no"))


def test_weights_by_name_and_by_path_are_the_same() -> None:
    by_name = AsePotential(_of("sevenn", "sevennet:7net-0"))
    (path,) = FOLDER.glob("lib/python*/site-packages/sevenn/**/SevenNet_0__11Jul2024/*.pth")
    by_path = AsePotential(_of("sevenn", f"sevennet:{path}"))
    assert by_name.describe()["weights_sha256"] == by_path.describe()["weights_sha256"]


@pytest.mark.slow
def test_chgnet_is_made_by_its_loader_and_passes() -> None:
    """Its equations of state and derivatives are right, useless as its kappa is."""
    potential = load_potential(_of("chgnet", "chgnet:0.3.0"))
    assert len(potential.describe()["weights_sha256"]) == SHA_256
    atoms = rocksalt("MgO").to_atoms()
    atoms.calc = potential.calculator()
    assert atoms.get_stress().shape == (6,)
    assert np.isfinite(atoms.get_potential_energy())


def test_an_unknown_element_is_answered_in_the_librarys_words() -> None:
    potential = AsePotential(_of("sevenn", "sevennet:7net-0"))
    atoms = fcc("Po", 3.3).to_atoms()
    atoms.calc = potential.calculator()
    with pytest.raises(RuntimeError, match="84"):
        atoms.get_potential_energy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "spec", "size", "unknown"),
    [("sevenn", "sevennet:7net-0", 128, {"Po", "At"}), ("chgnet", "chgnet:0.3.0", 64, {"Am"})],
)
def test_descriptors_do_not_depend_on_the_cell(library: str, spec: str, size: int, unknown: set[str]) -> None:
    described = load_described(_of(library, spec))
    assert {"Na", "Cl", "Bi"} <= described.elements
    assert not described.elements & unknown
    primitive = rocksalt("NaCl").to_structure()
    conventional = primitive.copy().make_supercell([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    found = []
    for structure in (primitive, conventional):
        descriptors, _ = described.potential.descriptors(structure.to_ase_atoms())
        assert descriptors.shape == (len(structure), size)
        found.append(mean_and_spread(descriptors))
    one, other = (np.split(columns, 2) for columns in found)
    for mine, theirs in zip(one, other, strict=True):  # mean, spread
        assert np.linalg.norm(theirs - mine) < 1e-4 * np.linalg.norm(mine)
