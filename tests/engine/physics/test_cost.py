"""Costs: counts against phono3py, estimates against counts, the law found again in what it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import spglib
from hypothesis import given
from hypothesis import strategies as st

from engine.materials.crystal import Crystal
from engine.materials.elements import ATOMIC_NUMBERS
from engine.materials.identity import standardise
from engine.materials.reference import reference_crystals
from engine.physics import cost
from engine.physics.cost import (
    ATOMS,
    CORE_HOURS,
    VALENCE,
    CostModel,
    SupercellSettings,
    Workload,
    WorkloadCounter,
    count_workload,
    estimate_workload,
    point_group_order,
)

SALT = Crystal([[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]], [11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]])


def _finished(n: int, electrons: float, atoms: float, scatter: float, seed: int = 0) -> list[tuple[Workload, float]]:
    """Make calculations whose cost follows a law with these exponents."""
    rng = np.random.default_rng(seed)
    work = [Workload(*rng.uniform([100, 60, 2 * 60], [4000, 400, 8 * 400])) for _ in range(n)]
    law = [w.calls * 1e-6 * w.electrons**electrons * w.atoms**atoms for w in work]
    return [(w, hours * np.exp(scatter * rng.standard_normal())) for w, hours in zip(work, law, strict=True)]


def test_valence_electrons():
    symbols = ("H", "Na", "Mg", "Ti", "Zn", "Ga", "Si", "Cl", "Ar")
    assert [VALENCE[ATOMIC_NUMBERS[s]] for s in symbols] == [1, 1, 2, 4, 12, 3, 4, 7, 8]


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, of its own calls
def test_orders_are_those_of_the_space_groups():
    orders: dict[int, int] = {}
    for hall in range(1, 531):
        number = spglib.get_spacegroup_type(hall).number
        rotations = spglib.get_symmetry_from_database(hall)["rotations"]
        orders[number] = len({r.astype(np.int8).tobytes() for r in rotations})
    assert dict(zip(orders, point_group_order(list(orders)).tolist(), strict=True)) == orders


def test_salt_is_counted_as_phono3py_does(tmp_path: Path):
    pytest.importorskip("phono3py")
    crystal, _ = standardise(SALT)
    found = count_workload(crystal, SupercellSettings(11.0))
    assert (found.calls, found.atoms, found.electrons, found.exact) == (146, 64, 256, True)
    near = count_workload(crystal, SupercellSettings(11.0, 5.0))
    assert near.calls == 62
    counter = WorkloadCounter(tmp_path / "new" / "counts.jsonl", SupercellSettings(11.0))
    assert counter({"salt": crystal}) == {"salt": found}


def test_estimates_follow_counts():
    pytest.importorskip("phono3py")
    crystals = list(reference_crystals().values())[:60:10]
    counts = [count_workload(c, SupercellSettings(9.0)) for c in crystals]
    groups = [spglib.get_symmetry_dataset((c.lattice, c.frac_coords, c.numbers), 1e-2).number for c in crystals]
    found = estimate_workload(
        [len(c) for c in crystals],
        groups,
        [c.volume / len(c) for c in crystals],
        [VALENCE[c.numbers].mean() for c in crystals],
        SupercellSettings(9.0),
    )
    assert not found.exact
    exactly = cost.estimate_calls([len(c) for c in crystals], point_group_order(groups), [w.atoms for w in counts])
    assert exactly == pytest.approx([w.calls for w in counts], rel=0.35)
    for name in ("calls", "atoms", "electrons"):
        ratio = getattr(found, name) / [getattr(w, name) for w in counts]
        assert np.exp(np.abs(np.log(ratio)).mean()) < 1.8


def test_a_cutoff_leaves_pairs_out():
    whole = estimate_workload(2, 225, 22.0, 4.0, SupercellSettings(11.0))
    assert estimate_workload(2, 225, 22.0, 4.0, SupercellSettings(11.0, 5.0)).calls < 0.6 * whole.calls
    assert estimate_workload(2, 225, 22.0, 4.0, SupercellSettings(11.0, 50.0)).calls == whole.calls


def test_counts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(cost, "count_workload", lambda crystal, *_: made.append(1) or Workload(7, 8, 9.0))
    path = tmp_path / "counts.jsonl"
    assert WorkloadCounter(path, SupercellSettings(10.0))({"a": SALT, "b": SALT}) == {
        "a": Workload(7, 8, 9.0),
        "b": Workload(7, 8, 9.0),
    }
    path.write_text(path.read_text()[:-20])
    assert len(made) == 2
    assert set(WorkloadCounter(path, SupercellSettings(10.0))({"a": SALT, "b": SALT})) == {"a", "b"}
    assert len(made) == 3, "the half line is counted again"
    WorkloadCounter(path, SupercellSettings(10.0, 4.0))({"a": SALT})
    assert len(made) == 4, "other settings, another count"
    WorkloadCounter(path, SupercellSettings(10.0))({"a": SALT, "b": SALT})
    assert len(made) == 4


class TestCostModel:
    def test_many_calculations_give_back_their_law(self):
        found = CostModel.fit(_finished(400, 2.2, 0.3, scatter=0.3))
        assert found.electron_exponent == pytest.approx(2.2, abs=0.15)
        assert found.electron_exponent + found.atom_exponent == pytest.approx(2.5, abs=0.1)
        assert found.scatter == pytest.approx(0.3, abs=0.03)
        new = _finished(4000, 2.2, 0.3, scatter=0.3, seed=1)
        predicted = np.array([found.predict(w) for w, _ in new])
        assert predicted.sum() == pytest.approx(sum(hours for _, hours in new), rel=0.05), "the mean, not the median"

    def test_one_calculation_sets_the_level_only(self):
        work = Workload(200, 100, 400)
        found = CostModel.fit([(work, 50.0)])
        assert (found.electron_exponent, found.atom_exponent) == pytest.approx(cost.EXPONENTS)
        assert found.predict(work) == pytest.approx(50 * np.exp(found.scatter**2 / 2))
        twice = found.predict(Workload(200, 200, 800)) / found.predict(work)
        assert twice == pytest.approx(4.0), "quadratic"

    def test_a_few_move_the_exponents_part_of_the_way(self):
        few, more = (CostModel.fit(_finished(n, 2.5, 0.5, 0.0)) for n in (3, 60))
        assert 1.5 < few.electron_exponent + few.atom_exponent - 0.5 < more.electron_exponent + more.atom_exponent

    def test_without_data_it_counts_atoms_and_says_so(self):
        found = CostModel.fit([(Workload(100, 50, 200), 0.0), (Workload(100, 50, 200), float("nan"))])
        assert found.unit == ATOMS
        assert found.predict(Workload(100, 50, 200)) == 5000
        assert "not core-hours" in str(found)
        with pytest.raises(ValueError, match="cost"):
            found.per_call(200, 50)

    def test_it_predicts_arrays_and_survives_as_json(self):
        found = CostModel.fit(_finished(5, 1.5, 0.5, 0.1))
        assert CostModel(**json.loads(json.dumps(found.to_dict()))) == found
        pool = estimate_workload([2, 20], [225, 62], [20.0, 15.0], [4.0, 5.0], SupercellSettings(10.0))
        hours = found.predict(pool)
        assert hours.shape == (2,)
        assert hours[1] > 30 * hours[0]
        assert found.unit == CORE_HOURS
        assert "5 finished calculations" in str(found)

    @given(hours=st.floats(1e-3, 1e4), calls=st.integers(1, 10**5), atoms=st.integers(1, 2000), own=st.integers(0, 99))
    def test_a_stated_cost_grows_with_the_square_of_the_atoms(self, hours: float, calls: int, atoms: int, own: int):
        found = CostModel.fit([], hours)
        assert found.unit == CORE_HOURS
        expected = hours * (calls * (atoms / 100) ** 2 + own * (3 * atoms / 100) ** 2)
        work = Workload(calls, atoms, 4.0 * atoms, True, own, 3 * atoms)
        assert found.predict(work) == pytest.approx(expected)
        assert (work.supercells, work.most_atoms) == (calls + own, 3 * atoms)

    def test_supercells_of_second_order_are_calls_of_their_size(self):
        plain, both = Workload(100, 64, 256.0), Workload(100, 64, 256.0, True, 2, 640)
        alone = CostModel.fit([(plain, 50.0)])
        assert CostModel.fit([(both, 150.0)]).per_call(256, 64) == pytest.approx(alone.per_call(256, 64))
        assert alone.predict(both) == pytest.approx(3 * alone.predict(plain)), "ten times the atoms, 100 times the cost"
        assert CostModel.fit([(plain, 50.0)], stated=1.0) == alone, "what is learned counts"


def test_random_displacements_are_counted_as_exported(tmp_path: Path):
    pytest.importorskip("phono3py")
    crystal, _ = standardise(SALT)
    settings = SupercellSettings(11.0, displacements="random", fc2_min_length=16.0)
    found = count_workload(crystal, settings)
    assert (found.calls, found.atoms, found.fc2_atoms, found.exact) == (16, 64, 216, True)
    assert found.fc2_calls == 2
    systematic = count_workload(crystal, SupercellSettings(11.0, fc2_min_length=16.0))
    assert (systematic.calls, systematic.fc2_calls) == (146, 2)
    path = tmp_path / "counts.jsonl"
    assert WorkloadCounter(path, settings)({"salt": crystal}) == {"salt": found}
    assert WorkloadCounter(path, settings).known("salt") == found
    assert WorkloadCounter(path, SupercellSettings(11.0)).known("salt") is None


def test_a_supercell_too_large_to_count_is_estimated(tmp_path: Path):
    pytest.importorskip("phono3py")
    crystal, _ = standardise(SALT)
    path, settings = tmp_path / "counts.jsonl", SupercellSettings(16.0)
    large = WorkloadCounter(path, settings, most_atoms=100)({"salt": crystal})["salt"]
    assert (large.atoms, large.exact) == (216, False)
    assert WorkloadCounter(path, settings, most_atoms=100).known("salt") == large
    counter = WorkloadCounter(path, settings, most_atoms=300)
    assert counter.known("salt") is None, "a higher limit asks for the count"
    counted = counter({"salt": crystal})["salt"]
    assert counted.exact
    assert large.calls == pytest.approx(counted.calls, rel=0.5)
    assert WorkloadCounter(path, settings, most_atoms=100).known("salt") == counted
