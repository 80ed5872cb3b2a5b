"""What is refused rather than read as another crystal: slabs, placeholders, formulas and counts that disagree."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.formats import Format, RawRecord, Record, parse
from tests.engine.materials.cases import rocksalt
from tests.engine.materials.sources.services import optimade_entry

MGO = rocksalt()
PYMATGEN = MGO.to_structure().as_dict()
OURS = {"lattice": MGO.lattice.tolist(), "species": MGO.symbols, "frac_coords": MGO.frac_coords.tolist()}


def parsed(content: dict[str, Any]) -> Record | Rejection:
    return parse(RawRecord("x", Format.JSON, content, "here"))


def with_species(*species: dict[str, Any]) -> dict[str, Any]:
    structure = copy.deepcopy(PYMATGEN)
    structure["sites"][0]["species"] = list(species)
    return structure


@pytest.mark.parametrize("pbc", [[True, True, False], [True, False, False], [False, False, False]])
def test_slabs_chains_and_molecules_are_refused(pbc: list[bool]) -> None:
    found = parsed(PYMATGEN | {"lattice": PYMATGEN["lattice"] | {"pbc": pbc}})
    assert isinstance(found, Rejection)
    assert f"periodic in {sum(pbc)} directions" in found.message


@pytest.mark.parametrize("name", ["H2O", "OH", "Va", "?", "X", "T1", "Wat", "", None, "H2"])
def test_what_is_no_element_is_refused_by_name(name: str | None) -> None:
    found = parsed(with_species({"element": name, "occu": 1}))
    assert isinstance(found, Rejection)
    assert found.reason is RejectionReason.UNKNOWN_ELEMENT
    assert repr(name) in found.message
    found = parsed(OURS | {"species": [name, "O"]})
    assert isinstance(found, Rejection)
    assert found.reason is RejectionReason.UNKNOWN_ELEMENT
    assert repr(name) in found.message


def test_placeholders_of_pymatgen_are_refused() -> None:
    found = parsed(with_species({"@class": "DummySpecies", "element": "H", "oxidation_state": 0, "occu": 1}))
    assert isinstance(found, Rejection)
    assert "DummySpecies" in found.message


@pytest.mark.parametrize(
    "species",
    [
        {"element": "Mg", "occu": 1.0},
        {"element": "Mg", "oxidation_state": 2.0, "occu": 1},
        {"element": "Mg2+", "occu": 1},
        {"@class": "Species", "element": "Mg", "oxidation_state": 2, "spin": 1, "occu": 1},
    ],
)
def test_elements_with_charges_are_elements(species: dict[str, Any]) -> None:
    found = parsed(with_species(species))
    assert isinstance(found, Record)
    assert found.crystal.formula == "MgO"


@pytest.mark.parametrize("field", ["formula", "formula_pretty", "pretty_formula"])
@pytest.mark.parametrize(
    ("formula", "outcome"),
    [
        ("MgO", "read"),
        ("O Mg", "read"),
        ("Mg4 O4", "read"),
        ("(MgO)2", "read"),
        ("Mg0.5O0.5", "read"),
        ("MgO2", "refused"),
        ("MgH2O2", "refused"),
        ("Mg", "refused"),
        ("NaCl", "refused"),
        ("periclase", "noted"),
        ("MgO rock salt", "noted"),
        ("SiC-4H", "noted"),
        ("4H SiC", "noted"),
        ("Mg2+ O2-", "noted"),
        ("MgO.2H2O", "noted"),
        ("ABO3", "noted"),
    ],
)
def test_formulas_are_compared_with_the_sites(field: str, formula: str, outcome: str) -> None:
    for crystal in (OURS, {"structure": PYMATGEN}):
        found = parsed(crystal | {field: formula})
        if outcome == "refused":
            assert isinstance(found, Rejection)
            assert formula in found.message
            assert "MgO" in found.message
        else:
            assert isinstance(found, Record)
            assert [formula in note for note in found.notes] == ([True] if outcome == "noted" else [])


def test_deuterium_counts_as_hydrogen() -> None:
    found = parsed(OURS | {"species": ["D", "Li"], "formula": "LiD"})
    assert isinstance(found, Record)
    assert parsed(OURS | {"species": ["D", "Li"], "formula": "LiH"}).__class__ is Record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"structure_features": ["implicit_atoms"]}, "implicit"),
        ({"structure_features": ["assemblies"]}, "assemblies"),
        ({"structure_features": ["site_attachments"]}, "site_attachments"),
        ({"structure_features": ["unknown_positions"]}, "unknown_positions"),
        ({"structure_features": ["disorder"]}, "disorder"),
        ({"structure_features": ["what_comes_next"]}, "what_comes_next"),
        ({"nsites": 3}, "nsites is 3, and there are 2"),
        ({"species_at_sites": ["Mg"]}, "2 positions and 1 species_at_sites"),
        ({"chemical_formula_reduced": "MgO2"}, "MgO2"),
        ({"chemical_formula_descriptive": "Mg(OH)2"}, "Mg(OH)2"),
        ({"elements": ["H", "Mg", "O"]}, "H, Mg, O"),
        ({"species_at_sites": ["Mg", "H2O"]}, "H2O"),
        ({"dimension_types": [1, 1, 0]}, "2 directions"),
    ],
)
@pytest.mark.parametrize("is_flat", [False, True])
def test_optimade_entries_that_contradict_themselves(change: dict[str, Any], words: str, is_flat: bool) -> None:
    entry = optimade_entry(("m1", MGO, {}))
    entry["attributes"] |= {"nsites": 2, "elements": ["Mg", "O"], "chemical_formula_reduced": "MgO"}
    assert isinstance(parsed(entry), Record)
    entry["attributes"] |= change
    found = parsed({"id": "m1"} | entry["attributes"] if is_flat else entry)
    assert isinstance(found, Rejection)
    assert found.record_id == "m1"
    assert words in found.message


def test_species_at_no_site_are_implicit_atoms_unless_the_formula_agrees() -> None:
    entry = optimade_entry(("m1", MGO, {}))
    entry["attributes"]["species"].append({"name": "H", "chemical_symbols": ["H"], "concentration": [1.0]})
    found = parsed(entry)
    assert isinstance(found, Rejection)
    assert "implicit" in found.message
    entry["attributes"]["chemical_formula_reduced"] = "MgO"
    assert isinstance(parsed(entry), Record)
