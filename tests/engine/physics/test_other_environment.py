"""A calculator in another environment: the same numbers, and what goes wrong costs its own crystal and nothing else."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from engine.exceptions import PotentialError
from engine.physics.ase_potentials import AsePotential, load_ase_potential
from engine.physics.calculator_specs import with_python
from engine.physics.debye import calculate_kappa
from engine.physics.other_environment import OtherEnvironmentError, find_python
from engine.physics.outcome import Calculated, Failed
from engine.physics.potential import Potential
from engine.physics.potentials import load_potential
from engine.physics.workers import calculate_all
from tests.engine.physics.awkward import HOME
from tests.engine.physics.environments import borrowing_environment, empty_environment
from tests.engine.physics.salts import fcc

EMT_SPEC = "ase.calculators.emt:EMT"
ARGON = f"{HOME}:Argon[Ar]"
NEAR, FAR = fcc("Ar", 5.31), fcc("Ar", 16.0)
"""Argon as it is, and so far apart that awkward calculators go wrong."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the Python of an environment that has our packages."""
    return borrowing_environment(tmp_path_factory.mktemp("other"))


def spec_of(name: str, python: str, **options: object) -> str:
    text = f"{HOME}:{name}[Ar]" + (f"?{json.dumps(options)}" if options else "")
    return with_python(text, python)


def results(potential: Potential, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    atoms = atoms.copy()
    atoms.calc = potential.calculator()
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()


def rattled(symbol: str, length: float, seed: int = 0) -> Atoms:
    atoms = fcc(symbol, length).to_atoms() * (2, 2, 2)
    atoms.rattle(0.05, seed=seed)
    return atoms


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("spec", "symbol", "length"), [(EMT_SPEC, "Cu", 3.61), (ARGON, "Ar", 5.31)])
def test_the_numbers_are_those_of_this_process(spec, symbol, length, other):
    here, there = AsePotential(spec), AsePotential(with_python(spec, other))
    for seed in range(3):
        for mine, theirs in zip(
            results(here, rattled(symbol, length, seed)), results(there, rattled(symbol, length, seed)), strict=True
        ):
            np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-12)
    assert there.sha256 == here.sha256
    assert there.name == here.name == spec
    assert there.describe() == here.describe() | {"environment": there.describe()["environment"]}
    assert f"python {sys.version.split()[0]}" in there.describe()["environment"]
    assert there.core_seconds_elsewhere > 0


def test_crystals_may_change_in_every_way(other):
    """What is not sent again is what the other process has."""
    calculator = AsePotential(with_python(EMT_SPEC, other)).calculator()
    wide, moved = rattled("Cu", 3.70), rattled("Cu", 3.70, 1)
    slab = rattled("Cu", 3.61)
    slab.pbc = (True, True, False)
    mixed = rattled("Cu", 3.61)
    mixed.symbols[0] = "Au"
    for atoms in (rattled("Cu", 3.61), wide, moved, slab, fcc("Cu", 3.61).to_atoms(), mixed, rattled("Al", 4.05)):
        own = atoms.copy()
        own.calc, atoms.calc = EMT(), calculator
        assert atoms.get_potential_energy() == pytest.approx(own.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(atoms.get_forces(), own.get_forces(), rtol=0, atol=1e-12)


def test_estimates_are_the_same_and_their_cost_is_counted(other):
    here, there = load_potential(EMT_SPEC), load_potential(EMT_SPEC, python=other)
    crystals = [("Cu", fcc("Cu", 3.61))]
    (finished,) = calculate_all(crystals, calculate_kappa, with_python(EMT_SPEC, other))
    for outcome in (calculate_kappa(fcc("Cu", 3.61), there), finished.outcome):
        mine = calculate_kappa(fcc("Cu", 3.61), here)
        assert isinstance(mine, Calculated)
        assert isinstance(outcome, Calculated)
        assert outcome.kappa == pytest.approx(mine.kappa, rel=1e-9)
    assert there.core_seconds_elsewhere > 0


def test_what_a_potential_prints_stays_there(other, capfd):
    potential = load_ase_potential(spec_of("Printing", other))
    energy = results(potential, rattled("Ar", 5.31))[0]
    assert energy == results(AsePotential(ARGON), rattled("Ar", 5.31))[0]
    assert capfd.readouterr().out == ""


def test_a_process_that_dies_once_is_started_again(other, tmp_path, caplog):
    potential = AsePotential(spec_of("Dying", other, notes=str(tmp_path)))
    with caplog.at_level(logging.WARNING):
        energy, forces, _ = results(potential, FAR.to_atoms())
    assert np.isfinite(energy)
    assert forces.shape == (1, 3)
    assert "SIGKILL" in caplog.text
    assert "no atom in reach" in caplog.text


def test_a_crystal_that_kills_fails_with_the_last_words_and_the_next_goes_on(other):
    potential = AsePotential(spec_of("Dying", other))
    with pytest.raises(OtherEnvironmentError, match=r"SIGKILL.*no atom in reach"):
        results(potential, FAR.to_atoms())
    expected = results(AsePotential(ARGON), NEAR.to_atoms())
    np.testing.assert_allclose(results(potential, NEAR.to_atoms())[2], expected[2], rtol=0, atol=1e-12)


def test_among_many_crystals_the_killing_one_is_a_failure(other):
    crystals = [("a", NEAR), ("far", FAR), ("b", fcc("Ar", 5.4))]
    spec = spec_of("Dying", other)
    found = {f.key: f.outcome for f in calculate_all(crystals, awkward_volume, spec, time_limit=60.0)}
    assert isinstance(found["a"], Calculated)
    assert isinstance(found["b"], Calculated)
    far = found["far"]
    assert isinstance(far, Failed)
    assert far.reason == "calculator_error"
    assert "SIGKILL" in far.message


def awkward_volume(crystal, potential):
    """The volume as kappa, after a force calculation."""
    results(potential, crystal.to_atoms())
    return Calculated(crystal.volume, 300.0, "volume")


def test_a_hung_process_ends_with_the_time_limit_of_its_crystal(other, tmp_path):
    pid = tmp_path / "pid"
    spec = spec_of("Hanging", other, notes=str(tmp_path))
    crystals = [("far", FAR), ("near", NEAR)]
    found = {f.key: f.outcome for f in calculate_all(crystals, awkward_volume, spec, time_limit=3.0)}
    far = found["far"]
    assert isinstance(far, Failed)
    assert far.reason == "timed_out"
    assert isinstance(found["near"], Calculated)
    assert gone(int(pid.read_text()))


def test_a_hung_process_is_killed_after_the_limit_of_an_answer(other, tmp_path):
    pid = tmp_path / "pid"
    potential = AsePotential(spec_of("Hanging", other, notes=str(tmp_path)))
    potential.allow(1.0)
    with pytest.raises(OtherEnvironmentError, match="within 1 s"):
        results(potential, FAR.to_atoms())
    assert gone(int(pid.read_text()))
    potential.allow(np.inf)
    assert np.isfinite(results(potential, NEAR.to_atoms())[0])


def test_it_ends_with_a_program_that_is_killed(other, tmp_path):
    pid = tmp_path / "pid"
    script = (
        "from engine.physics.ase_potentials import AsePotential\n"
        "from tests.engine.physics.test_other_environment import FAR, results\n"
        f"results(AsePotential({spec_of('Hanging', other, notes=str(tmp_path))!r}), FAR.to_atoms())\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script])
    for _ in range(600):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    program.kill()
    program.wait()
    assert gone(int(pid.read_text()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoNumbers", "not finite"),
        ("NoStress", "stress"),
        ("WrongShape", "shape"),
        ("DirectForces", "derivative of the energy"),
        ("Leaving", "exit code 3.*no licence"),
        ("Nobody", "no callable Nobody"),
    ],
)
def test_the_tests_of_a_potential_are_run_there_too(name, words, other):
    with pytest.raises(PotentialError, match=words):
        load_ase_potential(spec_of(name, other))


def test_an_unknown_element_is_noticed_when_it_is_asked_for(other):
    potential = load_potential(EMT_SPEC, python=other)
    outcome = calculate_kappa(fcc("W", 3.9), potential)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "calculator_error"
    assert "W" in outcome.message
    assert isinstance(calculate_kappa(fcc("Cu", 3.61), potential), Calculated)


def test_a_python_that_cannot_do_it_is_refused_with_the_reason(other, tmp_path):
    empty = empty_environment(tmp_path / "empty")
    with pytest.raises(PotentialError, match="no ASE"):
        load_potential(EMT_SPEC, python=empty)
    with pytest.raises(PotentialError, match=f"{other} -m pip install"):
        load_potential("nowhere.at_all:Calculator", python=other)
    with pytest.raises(PotentialError, match="no program"):
        load_potential(EMT_SPEC, python=tmp_path / "nowhere" / "python")
    for program in ("true", "cat"):
        with pytest.raises(PotentialError, match="check that it is the Python"):
            load_potential(EMT_SPEC, python=str(shutil.which(program)))
    with pytest.raises(PotentialError, match="leave it out"):
        load_potential("rigid-ion", python=other)


def test_links_to_a_python_are_kept():
    """A virtual environment is known by the place of its link."""
    assert find_python(sys.executable) == str(Path(sys.executable).absolute())
    assert find_python("python3") == str(Path(str(shutil.which("python3"))).absolute())


def test_the_server_is_one_file_that_needs_nothing_of_ours():
    from engine.physics import calculator_server

    words = Path(str(calculator_server.__file__)).read_text()
    assert "engine." not in "".join(line for line in words.splitlines() if "import" in line)
