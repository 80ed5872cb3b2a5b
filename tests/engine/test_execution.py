"""Work on processes and on Dask: the same results, whoever dies."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.exceptions import ExecutionError
from engine.execution import AHEAD, ExecutionSettings, Run, Threads, cores, executor, single_threaded_children

BACKENDS = ["local", "dask"]
SBATCH = """#!/bin/bash
# a Slurm of one machine: a job is a process; like the real one it keeps the script, which is deleted when this returns
job=$(cat "$1")
bash -c "$job" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""


@pytest.fixture(scope="module", params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Give two workers."""
    if request.param == "dask":
        pytest.importorskip("distributed", reason="Dask is not installed (extra `dask`)")
    with executor(ExecutionSettings(request.param, 2)) as run:
        yield run


def solve(seed: int, matrix: np.ndarray, shift: float) -> tuple[int, bytes]:
    """Do some linear algebra; the result in bits."""
    vector = np.random.default_rng(seed).normal(size=len(matrix))
    return seed, (np.linalg.solve(matrix, vector) + shift).tobytes()


def look_up(row: int, table: np.ndarray) -> float:
    return float(table[row])


def slowly(item: int) -> tuple[int, int]:
    time.sleep(0.05)
    return item, os.getpid()


def die_once(item: int, folder: Path) -> int:
    """Kill the own process the first time that item 3 is seen."""
    marker = folder / "died"
    if item == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def die(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def divide(item: int) -> float:
    return 1 / item


def fail_to_write(item: int) -> None:
    raise OSError(28, "No space left on device", f"shard-{item}")


def total(item: int, weights: list) -> float:
    return item + float(sum(w.sum() for w in weights))


def threads(item: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_every_item_once_to_the_last_bit(run: Run) -> None:
    matrix = np.random.default_rng(0).normal(size=(60, 60))
    with executor(ExecutionSettings(workers=1)) as here:
        expected = list(here.map_unordered(solve, range(30), matrix, 0.5))
    assert [seed for seed, _ in expected] == list(range(30))
    assert sorted(run.map_unordered(solve, range(30), matrix, 0.5)) == expected
    assert list(run.map_unordered(solve, [], matrix, 0.5)) == []
    assert run.workers == 2


def test_what_is_common_may_be_large(run: Run) -> None:
    table = np.arange(3_000_000.0)
    assert sorted(run.map_unordered(look_up, [5, 7], table)) == [5.0, 7.0]


def test_items_are_taken_as_they_are_needed(run: Run) -> None:
    taken = itertools.count()
    results = run.map_unordered(slowly, zip(taken, strict=False))
    for _ in range(3):
        next(results)
    results.close()
    assert next(taken) <= 3 + AHEAD * 2 + 2


def test_a_worker_killed_in_the_middle(run: Run) -> None:
    results = run.map_unordered(slowly, range(24))
    first, process = next(results)
    os.kill(process, signal.SIGKILL)
    assert sorted([first, *(item for item, _ in results)]) == list(range(24))


def test_an_item_that_kills_its_worker_once(run: Run, tmp_path: Path) -> None:
    assert sorted(run.map_unordered(die_once, range(8), tmp_path)) == [item * item for item in range(8)]


def test_an_item_that_always_kills_its_worker_is_given_up(run: Run) -> None:
    with pytest.raises(ExecutionError, match="4 times"):
        list(run.map_unordered(die, range(5)))
    assert sorted(run.map_unordered(die, range(3))) == [0, 1, 2]


def test_what_the_function_raises_is_raised_here(run: Run) -> None:
    with pytest.raises(ZeroDivisionError):
        list(run.map_unordered(divide, [1, 0, 2]))
    with pytest.raises(OSError, match="No space left"):
        list(run.map_unordered(fail_to_write, [1]))


def test_workers_run_one_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert set(run.map_unordered(threads, range(4))) == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "8"
    monkeypatch.delenv("OMP_NUM_THREADS")
    with single_threaded_children():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_scheduler_that_runs_already() -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra `dask`)")
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as cluster:
        settings = ExecutionSettings("dask", address=cluster.scheduler_address)
        with (
            pytest.raises(ExecutionError, match=r"tcp://.* 0\.3 s"),
            executor(replace(settings, timeout=0.3)),
        ):
            pass
        cluster.scale(1)
        with executor(settings) as run:
            assert sorted(run.map_unordered(divide, [1, 2])) == [0.5, 1.0]
    for address in (settings.address, "nonsense://x"):
        with (
            pytest.raises(ExecutionError, match=address),
            executor(replace(settings, address=address, timeout=0.3)),
        ):
            pass


def test_jobs_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through dask-jobqueue, with commands that run a job here."""
    pytest.importorskip("dask_jobqueue", reason="Dask is not installed (extra `dask`)")
    for name, script in (("sbatch", SBATCH), ("scancel", '#!/bin/bash\npkill -P "$1"; kill "$1"\n')):
        program = tmp_path / name
        program.write_text(script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm = {"cores": 2, "memory": "2 GB", "queue": "short", "interface": "lo", "log_directory": str(tmp_path)}
    with executor(ExecutionSettings("dask", slurm=slurm)) as run:
        assert sorted(item for item, _ in run.map_unordered(slowly, range(8))) == list(range(8))
        assert run.workers == 2
    with (
        pytest.raises(ExecutionError, match="dask-jobqueue"),
        executor(ExecutionSettings("dask", slurm={"que": "short", "cores": 1, "memory": "1 GB"})),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backend": "threads"}, "unknown backend 'threads'"),
        ({"workers": -1}, "workers = -1"),
        ({"address": "tcp://h:1"}, "needs backend 'dask'"),
        ({"backend": "dask", "address": "tcp://h:1", "slurm": {"cores": 1}}, "keep one"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ExecutionError, match=words):
        ExecutionSettings(**settings)  # type: ignore[arg-type]


def test_one_worker_a_core() -> None:
    with executor(ExecutionSettings()) as run:
        assert run.workers == cores() >= 1


def test_threads() -> None:
    run: Run = Threads(2)
    assert sorted(run.map_unordered(look_up, [5, 7, 1], np.arange(9.0))) == [1.0, 5.0, 7.0]
    taken = itertools.count()
    results = run.map_unordered(slowly, zip(taken, strict=False))
    assert {next(results)[1] for _ in range(3)} == {os.getpid()}
    results.close()
    assert next(taken) <= 3 + AHEAD * 2 + 2
    with pytest.raises(ZeroDivisionError):
        list(run.map_unordered(divide, [1, 0, 2]))


def test_tensors_travel_to_every_process(run: Run) -> None:
    torch = pytest.importorskip("torch")
    weights = [torch.full((3,), float(k)) for k in range(50)]
    assert sorted(run.map_unordered(total, range(3), weights)) == [3675.0, 3676.0, 3677.0]
