"""Folders whose markers, structures or files do not tell one story."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.campaigns.exchange.conftest import GAAS, SILICON, MakeQueue, mark_done, write_kappa
from tests.campaigns.exchange.test_importing import failure, import_, labels, outcome
from tests.campaigns.helpers import done, queue

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")

Exported = tuple[Path, Path]
HOUR = 3600.0


def aged(path: Path, seconds: float) -> Path:
    """Set the date of a file to so long ago."""
    at = path.stat().st_mtime - seconds
    os.utime(path, (at, at))
    return path


def marker(folder: Path, name: str, text: str = "", age: float = 0.0) -> Path:
    path = folder / name
    path.write_text(text)
    return aged(path, age)


def test_a_run_that_was_finished_by_hand(exported: Exported) -> None:
    directory, folder = exported
    marker(folder, "STARTED", '{"at": "2026-01-02T03:04:05Z"}')
    path = write_kappa(folder, 5.0)
    state, message = outcome(directory, folder)
    assert (state, path.name in message, "STARTED" in message) == ("done", True, True)
    assert [label.value for label in labels(directory)] == [5.0]
    assert [e["state"] for e in queue(directory)] == ["done"]


def test_a_run_that_began_after_the_conductivity_is_running(exported: Exported) -> None:
    """It will remove the file when it comes to its own."""
    directory, folder = exported
    path = aged(write_kappa(folder, 5.0), 2 * HOUR)
    marker(folder, "STARTED", age=HOUR)
    state, message = outcome(directory, folder)
    assert (state, path.name in message) == ("running", True)
    assert not labels(directory)


NODE_DIED = '{"reason": "timed_out", "stage": "kappa", "message": "stopped", "at": "2026-01-01T00:00:00Z"}'


@pytest.mark.parametrize("text", [NODE_DIED, "the node died\n"])
def test_a_failure_that_was_finished_by_hand(exported: Exported, text: str) -> None:
    directory, folder = exported
    marker(folder, "STARTED", age=2 * HOUR)
    marker(folder, "FAILED", text, age=HOUR)
    path = write_kappa(folder, 5.0)
    state, message = outcome(directory, folder)
    assert (state, path.name in message, "older FAILED" in message) == ("done", True, True)
    assert [label.value for label in labels(directory)] == [5.0]


def unreadable(folder: Path) -> None:
    path = write_kappa(folder, 5.0)
    path.write_bytes(path.read_bytes()[:700])


STILL_FAILED: dict[str, tuple[str, float, Callable[[Path], object]]] = {
    "older": (NODE_DIED, 0.0, lambda folder: aged(write_kappa(folder, 5.0), HOUR)),
    "partial": (NODE_DIED, HOUR, unreadable),
    "not converged": (NODE_DIED.replace("timed_out", "not_converged"), HOUR, lambda folder: write_kappa(folder, 5.0)),
}


@pytest.mark.parametrize("name", STILL_FAILED)
def test_failures_that_stand(exported: Exported, name: str) -> None:
    directory, folder = exported
    text, age, make = STILL_FAILED[name]
    make(folder)
    marker(folder, "FAILED", text, age)
    assert outcome(directory, folder)[0] == "failed"
    assert failure(directory).reason == ("not_converged" if name == "not converged" else "timed_out")
    assert not labels(directory)


def test_a_conductivity_finished_by_hand_is_judged(exported: Exported) -> None:
    directory, folder = exported
    marker(folder, "FAILED", NODE_DIED, HOUR)
    write_kappa(folder, 5.0, frequency=np.full((2, 6), -1.0))
    assert outcome(directory, folder)[1].startswith("imaginary_modes")


# -- relaxation to more symmetry --------------------------------------------------------------------------------------


def poscar(*edges: float, z: float = 0.5) -> str:
    rows = [" ".join("0" if i != j else f"{edge}" for j in range(3)) for i, edge in enumerate(edges)]
    return "\n".join(["CsCl", "1.0", *rows, "Cl Cs", "1 1", "Direct", "0 0 0", f"0.5 0.5 {z}", ""])


@pytest.mark.parametrize(
    ("relaxed", "state", "words"),
    [
        (poscar(4.1, 4.1, 4.1), "done", "gained symmetry: 221 from 123"),
        (poscar(4.1, 4.1, 4.2), "done", ""),
        (poscar(4.1, 4.2, 4.3), "failed", "symmetry_broken: space group 47 after relaxation, 123 before"),
        (poscar(4.1, 4.1, 4.2, z=0.45), "failed", "symmetry_broken: space group 99 after relaxation, 123 before"),
    ],
)
@pytest.mark.parametrize("keep_poscar", [True, False])
def test_relaxation(
    make_queue: MakeQueue, tmp_path: Path, relaxed: str, state: str, words: str, keep_poscar: bool
) -> None:
    crystal = {
        "id": "cs",
        "lattice": np.diag([4.1, 4.1, 4.3]).tolist(),
        "species": ["Cs", "Cl"],
        "frac_coords": [[0.5, 0.5, 0.5], [0, 0, 0]],
        "properties": {},
    }
    directory = make_queue(crystal)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    (folder,) = (tmp_path / "out").glob("001-*")
    write_kappa(folder, 5.0)
    (folder / "POSCAR-relaxed").write_text(relaxed)
    if not keep_poscar:
        (folder / "POSCAR").unlink()
    assert outcome(directory, folder) == (state, words)


# -- one bad folder ---------------------------------------------------------------------------------------------------


def no_text(folder: Path) -> None:
    (folder / "POSCAR").unlink()
    (folder / "POSCAR").mkdir()


def endless_times(folder: Path) -> None:
    (folder / "TIMES").write_text("9" * 400 + " 1 1\n")


def no_dataset(folder: Path) -> None:
    with h5py.File(next(folder.glob("kappa-m*")), "a") as file:
        del file["version"]
        file.create_group("version")


def strange_marker(folder: Path) -> None:
    (folder / "DONE").write_text('{"at": "0001-01-01T00:00:00+23:00", "files": ["kappa"]}')


@pytest.mark.parametrize("spoil", [no_text, endless_times, no_dataset, strange_marker])
def test_one_bad_folder_stops_no_other(make_queue: MakeQueue, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    directory = make_queue(SILICON, GAAS)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    folders = sorted((tmp_path / "out").glob("001-*"))
    for folder in folders:
        write_kappa(folder, 5.0)
    spoil(folders[0])
    first, second = import_(directory, tmp_path / "out")["entries"]
    assert second["state"] == "done"
    assert first["folder"] == folders[0].name
    assert [label.material_id for label in labels(directory) if label.material_id == GAAS] == [GAAS]


def test_a_folder_that_raises_is_refused_by_name(exported: Exported) -> None:
    directory, folder = exported
    write_kappa(folder, 5.0)
    no_text(folder)
    state, message = outcome(directory, folder)
    assert (state, folder.name in message) == ("refused", True)
    shutil.rmtree(folder / "POSCAR")
    mark_done(folder)
    assert outcome(directory, folder)[0] == "done"
