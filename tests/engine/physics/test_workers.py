"""A calculation that goes wrong costs its own crystal and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from engine.exceptions import PotentialError
from engine.execution import ExecutionSettings, executor
from engine.materials.crystal import Crystal
from engine.physics.outcome import Calculated, Failed
from engine.physics.workers import calculate_all, calculate_on
from tests.engine.physics.calculations import WRONG, by_size

POTENTIAL = "lennard-jones:Ar"


def cube(length: float) -> Crystal:
    return Crystal.from_symbols(np.eye(3) * length, ["Ar"], [[0, 0, 0]])


def test_every_crystal_has_an_outcome():
    lengths = [5.0, 0.5, 6.0, 1.5, 7.0, 2.5, 8.0, 3.5, 9.0]
    crystals = ((str(a), cube(a)) for a in lengths)
    found = {f.key: f for f in calculate_all(crystals, by_size, POTENTIAL, workers=2, time_limit=2.0)}
    assert set(found) == {str(a) for a in lengths}
    for a in lengths:
        outcome = found[str(a)].outcome
        if a in WRONG:
            assert isinstance(outcome, Failed)
            assert outcome.reason == WRONG[a]
        else:
            assert isinstance(outcome, Calculated)
            assert outcome.kappa == pytest.approx(a)
            assert outcome.provenance == {"threads": "1"}
    assert "licence expired" in found["0.5"].outcome.message
    assert "SIGKILL" in found["1.5"].outcome.message
    assert "2 s" in found["2.5"].outcome.message
    assert found["2.5"].wall_seconds >= 2.0


@pytest.mark.slow
def test_on_dask_what_goes_wrong_costs_its_own_crystal():
    pytest.importorskip("distributed", reason="Dask is not installed (extra `dask`)")
    crystals = [(str(a), cube(a)) for a in (5.0, 1.5, 2.5, 0.5)]
    with executor(ExecutionSettings("dask", 2)) as run:
        found = {f.key: f.outcome for f in calculate_on(run, crystals, by_size, POTENTIAL, time_limit=2.0)}
        with pytest.raises(PotentialError, match="lennard-jones:He"):
            list(calculate_on(run, crystals, by_size, "lennard-jones:He"))
    calculated = found.pop("5.0")
    assert isinstance(calculated, Calculated)
    assert calculated.provenance == {"threads": "1"}
    for key, outcome in found.items():
        assert isinstance(outcome, Failed)
        assert outcome.reason == WRONG[float(key)]


def test_threads_of_this_process_are_left_as_they_were():
    before = dict(os.environ)
    assert not list(calculate_all([], by_size, POTENTIAL))
    list(calculate_all([("a", cube(5.0))], by_size, POTENTIAL))
    assert dict(os.environ) == before


def test_a_bad_potential_is_an_error_not_a_failure():
    with pytest.raises(PotentialError, match="lennard-jones:He"):
        list(calculate_all([("a", cube(5.0))], by_size, "lennard-jones:He"))


def test_crystals_are_taken_only_as_they_are_needed():
    taken = []

    def crystals():
        for k in range(10):
            taken.append(k)
            yield str(k), cube(5.0 + k)

    results = calculate_all(crystals(), by_size, POTENTIAL)
    next(results)
    assert len(taken) <= 3
    results.close()


def test_processes_end_with_the_program_that_started_them():
    """Killed in the middle of a calculation that would take ten minutes."""
    script = (
        "from engine.physics.workers import calculate_all\n"
        "from tests.engine.physics.calculations import by_size\n"
        "from tests.engine.physics.test_workers import cube\n"
        "import multiprocessing, threading, time\n"
        "def tell():\n"
        "    while not multiprocessing.active_children(): time.sleep(0.05)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=tell, daemon=True).start()\n"
        f"    list(calculate_all([('a', cube(2.5))], by_size, {POTENTIAL!r}))\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(program.stdout.readline())
    time.sleep(2)
    program.kill()
    program.wait()
    program.stdout.close()
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    pytest.fail("the process went on without its parent")
