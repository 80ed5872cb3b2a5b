"""Export, compute on the "cluster" with the exported scripts and the real phono3py, import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaigns.exchange.conftest import SILICON, MakeQueue
from tests.campaigns.helpers import done, queue
from tests.conftest import REPOSITORY

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the environment of a cluster: vasp_std on the path, names of pseudopotentials as pseudopotentials."""
    root = tmp_path_factory.mktemp("cluster")
    vasp = root / "bin" / "vasp_std"
    vasp.parent.mkdir()
    vasp.write_text(f"#!/bin/sh\nexec {sys.executable} -m tests.campaigns.exchange.fake_vasp\n")
    vasp.chmod(0o755)
    for name in ("Na_pv", "Cl", "Si"):
        (root / "potcars" / name).mkdir(parents=True)
        (root / "potcars" / name / "POTCAR").write_text(f"{name}\n")
    path = os.pathsep.join([str(vasp.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    return os.environ | threads | {
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY),
        "POTCAR_DIR": str(root / "potcars"),
        "SLURM_ARRAY_TASK_ID": "1",
    }  # fmt: skip


def submit(out: Path, cluster: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run the job script as the scheduler does for one task of the array."""
    return subprocess.run(
        ["bash", "submit.sh"], cwd=out, env=cluster | more, capture_output=True, text=True, timeout=300, check=False
    )


def imported(directory: Path, out: Path) -> dict[str, Any]:
    """Import an export; the outcome of its only entry."""
    (entry,) = done("label", "import", directory, out, "--format", "json").json["entries"]
    found: dict[str, Any] = entry
    return found


def test_kappa_comes_back_to_all_digits(make_queue: MakeQueue, cluster: dict[str, str], tmp_path: Path) -> None:
    """Relaxation, displacements, forces, kappa: nothing is typed by hand."""
    directory = make_queue(SILICON, temperatures=[300.0, 500.0])
    out = tmp_path / "out"
    done("queue", "export", directory, "--to", out, "--format", "phono3py")
    (folder,) = out.glob("001-*")
    assert imported(directory, out)["state"] == "not started"

    ran = submit(out, cluster)
    assert ran.returncode == 0, ran.stderr
    before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    done("queue", "export", directory, "--to", out, "--format", "phono3py")
    assert submit(out, cluster).returncode == 0
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == before

    (file,) = folder.glob("kappa-m*.hdf5")
    with h5py.File(file) as results:
        temperatures, tensors = results["temperature"][:], results["kappa"][:]
        lowest = float(results["frequency"][:].min())
    report = done("label", "import", directory, out, "--temperature", 500, "--format", "json").json
    assert report == {
        "added": 2, "unchanged": 0, "superseded": 0,
        "entries": [{"folder": folder.name, "id": SILICON, "state": "done", "message": ""}],
    }  # fmt: skip
    labels = {label["property"]: label for label in done("label", "list", directory, "--format", "json").json}
    for row, (name, temperature) in enumerate({"kappa_300K": 300.0, "kappa_500K": 500.0}.items()):
        assert temperatures[row] == temperature
        assert labels[name]["value"] == np.mean(tensors[row, :3])
        assert list(labels[name]["provenance"]["tensor"].values()) == tensors[row].tolist()
    label = labels["kappa_300K"]
    assert (label["fidelity"], label["method"], label["unit"]) == ("dft", "phono3py RTA", "W/(m K)")
    assert label["provenance"]["lowest_frequency_THz"] == lowest
    assert label["provenance"]["phono3py"]
    assert label["provenance"]["relaxed"]["numbers"] == [14, 14]
    assert label["cost"] >= 0
    assert [e["state"] for e in queue(directory)] == ["done"]
    again = done("label", "import", directory, out, "--temperature", 500, "--format", "json").json
    assert (again["added"], again["unchanged"]) == (0, 2)
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "out")
    assert done("label", "import", directory, packed, "--format", "json").json["unchanged"] == 1
