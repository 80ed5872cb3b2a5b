"""The candidate generator: chemistry rules, lattice fits, uniqueness and plausibility."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import spglib
import spglib.error

from engine.materials.candidates import FITTED, MEASURED, SUBSTITUTION, generate_candidates, lattice_fits
from engine.materials.elements import ATOMIC_NUMBERS, ELECTRONEGATIVITY, GROUP
from engine.materials.prototypes import PROTOTYPES, find
from engine.materials.reference import reference_table

UNSTABLE = {"Tc", "Pm", "Po", "At", "Ra", "Fr", "Ac", "Th", "Pa", "U", "Np", "Pu"}
NOBLE = {"He", "Ne", "Ar", "Kr", "Xe", "Rn"}


@pytest.fixture(autouse=True)
def _errors_of_spglib_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this spglib 2.8 returns None on failure and warns on every call."""
    monkeypatch.setattr(spglib.error, "OLD_ERROR_HANDLING", False)


def test_thousands_in_every_prototype_but_diamond() -> None:
    counts = Counter(c.prototype for c in generate_candidates())
    assert 5000 <= counts.total() <= 9000
    assert set(counts) == set(PROTOTYPES) - {"diamond"}
    assert min(counts.values()) >= 10


def test_unique() -> None:
    candidates = generate_candidates()
    assert len({c.id for c in candidates}) == len(candidates)
    # half-Heuslers that differ only in which of 4a and 4b is which are one crystal, full Heuslers too
    keys = set()
    for c in candidates:
        symmetric = {"half-Heusler": (1, (0, 2)), "full-Heusler": (0, (1, 2))}.get(c.prototype)
        rest = frozenset(c.elements[i] for i in symmetric[1]) if symmetric else c.elements
        keys.add((c.prototype, c.elements[symmetric[0]] if symmetric else "", rest))
    assert len(keys) == len(candidates)


def test_ids_follow_prototype_and_formula_in_order() -> None:
    candidates = generate_candidates()
    assert all(c.id == f"GEN-{c.prototype}-{c.formula}" for c in candidates)
    assert "GEN-rocksalt-SrTe" in {c.id for c in candidates}
    for prototype in {c.prototype for c in candidates}:
        formulas = [c.formula for c in candidates if c.prototype == prototype]
        assert formulas == sorted(formulas)


def test_another_process_generates_the_same() -> None:
    digest = (
        "import hashlib; from engine.materials.candidates import generate_candidates as g;"
        "print(hashlib.sha256(b''.join(c.id.encode() + c.crystal.lattice.tobytes() + c.crystal.frac_coords.tobytes()"
        " for c in g())).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", digest], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}
    )
    mine = hashlib.sha256(
        b"".join(
            c.id.encode() + c.crystal.lattice.tobytes() + c.crystal.frac_coords.tobytes() for c in generate_candidates()
        )
    )
    assert other.stdout.strip() == mine.hexdigest()


def test_torch_is_not_imported() -> None:
    code = "import sys, engine.materials.candidates as c; c.generate_candidates(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_reference_compounds_are_left_out() -> None:
    known = {(e.prototype, frozenset(e.elements)) for e in reference_table()}
    assert not known & {(c.prototype, frozenset(c.elements)) for c in generate_candidates()}


def test_charges_balance_and_anions_are_most_electronegative() -> None:
    ionic = [c for c in generate_candidates() if c.charges]
    assert len(ionic) > 2500
    for c in ionic:
        counts = find(c.prototype).counts
        assert sum(q * n for q, n in zip(c.charges, counts, strict=True)) == 0, c.id
        by_charge = {np.sign(q): [] for q in c.charges}
        for element, q in zip(c.elements, c.charges, strict=True):
            by_charge[np.sign(q)].append(ELECTRONEGATIVITY[ATOMIC_NUMBERS[element]])
        assert max(by_charge[1]) < min(by_charge[-1]), c.id


def test_valence_counts_of_the_others() -> None:
    # ten electrons of He et al. and a filled d shell make 20; Yb gives two or three
    allowed = {"half-Heusler": {18}, "full-Heusler": {24, 20}}
    counted = [c for c in generate_candidates() if not c.charges]
    assert {c.prototype for c in counted} == set(allowed)
    for c in counted:
        counts = find(c.prototype).counts
        electrons = sum(_valence(e) * n for e, n in zip(c.elements, counts, strict=True))
        divalent = {electrons} | {electrons - n for e, n in zip(c.elements, counts, strict=True) if e in "EuYb"}
        assert divalent & allowed[c.prototype], c.id


def test_no_unstable_or_noble_elements() -> None:
    used = {e for c in generate_candidates() for e in c.elements}
    assert not used & (UNSTABLE | NOBLE)
    assert len(used) > 60


def test_perovskites_tile() -> None:
    formulas = {c.formula for c in generate_candidates() if c.prototype == "perovskite"}
    assert {"BaTiO3", "KMgF3", "CsPbI3", "LaAlO3"} <= formulas
    assert not {"LiBaF3", "CsLiF3", "BeBaO3"} & formulas


def test_density_and_distances_are_plausible() -> None:
    candidates = generate_candidates()
    densities = np.array([c.crystal.density for c in candidates])
    assert densities.min() > 0.5
    assert densities.max() < 22.7
    for c in candidates[::25]:
        structure = c.crystal.to_structure()
        nearest = min(n.nn_distance for site in structure for n in structure.get_neighbors(site, 4.5))
        assert nearest > 1.4, c.id


def test_space_groups_of_a_sample() -> None:
    for c in generate_candidates()[::40]:
        cell = (c.crystal.lattice, c.crystal.frac_coords, c.crystal.numbers)
        assert spglib.get_symmetry_dataset(cell, symprec=1e-4).number == find(c.prototype).spacegroup, c.id


def test_properties_name_prototype_and_source_of_the_lattice() -> None:
    by_id = {c.id: c for c in generate_candidates()}
    assert by_id["GEN-rocksalt-SrTe"].properties == {"prototype": "rocksalt", "lattice_source": MEASURED}
    assert {c.lattice_source for c in by_id.values()} == {MEASURED, FITTED}


@pytest.mark.parametrize("prototype", sorted(set(PROTOTYPES) - {"diamond"}))
def test_lattice_fits_leave_one_out(prototype: str) -> None:
    fit = lattice_fits()[prototype]
    assert fit.n_known > len(fit.coefficients)
    assert fit.leave_one_out_error < 2.5
    assert fit.worst_error < 10


@pytest.mark.parametrize(
    ("prototype", "elements", "charges", "a"),
    [
        ("rocksalt", ("Tb", "N"), (3, -3), 4.93),
        ("rocksalt", ("Nd", "Sb"), (3, -3), 6.32),
        ("half-Heusler", ("Hf", "Co", "Sb"), (), 6.04),
        ("perovskite", ("Rb", "Zn", "F"), (1, 2, -1), 4.11),
    ],
)
def test_fit_of_unseen_compounds(prototype: str, elements: tuple, charges: tuple, a: float) -> None:
    formula = find(prototype).formula(elements)
    source = {c.formula: c.lattice_source for c in generate_candidates() if c.prototype == prototype}
    assert source.get(formula) == FITTED
    assert lattice_fits()[prototype].predict([(elements, charges)])[0, 0] == pytest.approx(a, rel=0.04)


def _valence(element: str) -> int:
    """Valence electrons, d electrons included."""
    group = int(GROUP[ATOMIC_NUMBERS[element]])
    return group if group <= 12 else group - 10


def test_known_crystals_are_likelier_substitutions_than_invented_ones() -> None:
    scored = {(c.prototype, c.formula): c.properties for c in generate_candidates() if c.prototype != "half-Heusler"}
    known = [("rocksalt", "SrS"), ("CsCl", "CsBr"), ("CsCl", "TlI"), ("fluorite", "BaF2"), ("zincblende", "CuI")]
    invented = [("perovskite", "TlHgI3"), ("perovskite", "CsHgI3"), ("perovskite", "TlHgBr3")]
    lowest = min(scored[one][SUBSTITUTION] for one in known)
    assert all(scored[one][SUBSTITUTION] < lowest - 1 for one in invented)
    assert scored["CsCl", "CsBr"]["substituted_in"] == "CsI"
    assert not any(
        SUBSTITUTION in properties for (prototype, _), properties in scored.items() if "Heusler" in prototype
    )
