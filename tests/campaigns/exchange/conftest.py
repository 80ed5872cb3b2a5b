"""A campaign on a few real crystals whose queue is approved, small enough to be computed in seconds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.campaign import Campaign
from db.records import QueueEntryRecord
from db.states import QueueState, RoundState
from engine.materials.reference import reference_crystals
from tests.campaigns.helpers import configure, done, write_lines
from tests.conftest import REPOSITORY

SILICON = "LTC-Si-diamond"
NACL = "LTC-NaCl-rocksalt"
GAAS = "LTC-GaAs-zincblende"
SMALL = {
    "min_length": 5.0,
    "mesh_length": 12.0,
    "born": "never",
    "vasp_command": "vasp_std",
    "imaginary_tolerance": 0.1,
    "preset": None,
}
"""Without a preset; cells of 8 atoms: right for tests, wrong for science."""
VASP = """#!/bin/sh
mode=
case "$PWD" in *"$FAKE_VASP_IN"*) mode=$FAKE_VASP ;; esac
case $mode in
*_once)
    if [ ! -e once ]; then
        touch once
        export FAKE_VASP="${{mode%_once}}"
        exec {python} -m tests.campaigns.exchange.fake_vasp
    fi
    mode=
    unset FAKE_VASP
    ;;
esac
stored={outputs}/$mode$FAKE_VASP_MOMENT-$(cat POSCAR INCAR POTCAR POTCAR.spec | cksum | tr ' ' -)
if [ ! -d "$stored" ]; then
    {python} -m tests.campaigns.exchange.fake_vasp || exit
    mkdir -p "$stored-$$"
    cp CONTCAR OUTCAR vasprun.xml "$stored-$$"
    mv "$stored-$$" "$stored"
fi
exec cp "$stored/CONTCAR" "$stored/OUTCAR" "$stored/vasprun.xml" .
"""
"""``vasp_std`` of the tests: output of the same input is computed once, for importing ASE takes most of the time."""

MakeQueue = Callable[..., Path]


@pytest.fixture
def make_queue(tmp_path: Path) -> MakeQueue:
    """Make a campaign whose approved queue holds these crystals, in their order; ``dft`` are settings of [dft]."""
    return partial(make_campaign, tmp_path)


@pytest.fixture(scope="session")
def _exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    directory = make_campaign(root, SILICON)
    done("queue", "export", directory, "--to", root / "out", "--format", "phono3py")
    return root


@pytest.fixture
def exported(_exported: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Give a campaign with one entry, silicon, and the folder it is exported to."""
    shutil.copytree(_exported, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "out").glob("001-*")
    return tmp_path / "c", folder


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the environment of one task of an array on a cluster."""
    return cluster_environment(tmp_path_factory.mktemp("cluster")) | {"SLURM_ARRAY_TASK_ID": "1"}


def cluster_environment(root: Path) -> dict[str, str]:
    """Make what a cluster has: vasp_std on the path, names of pseudopotentials as pseudopotentials."""
    vasp = root / "bin" / "vasp_std"
    vasp.parent.mkdir()
    vasp.write_text(VASP.format(python=sys.executable, outputs=root / "outputs"))
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
    }  # fmt: skip


def make_campaign(root: Path, *crystals: str | dict[str, Any], **dft: Any) -> Path:
    """Make it in ``root``; crystals are ids of the reference table or records."""
    records = [record(c) if isinstance(c, str) else c for c in crystals]
    directory = root / "c"
    done("init", directory, "--cold", "--goal", "min", "--property", "kappa_300K")
    configure(directory, {"dft": SMALL | dft})
    done("ingest", directory, write_lines(root / "pool.jsonl", records))
    with Campaign.open(directory) as campaign:
        settings = campaign.configuration.model_dump(mode="json")
        campaign.store.start_round({"settings": settings, "labels": 0})
        queue = [
            QueueEntryRecord(i, each["id"], 2.5, 1.5, 4.0, 0.4, 0.1, reason="low", fidelity="dft")
            for i, each in enumerate(records, start=1)
        ]
        campaign.store.finish_step(1, RoundState.QUEUED, queue=queue)
        campaign.move([], QueueState.APPROVED, "test")
    return directory


def record(id_: str) -> dict[str, Any]:
    """Give a crystal of the reference table as a record, without its value."""
    crystal = reference_crystals()[id_]
    return {
        "id": id_,
        "lattice": crystal.lattice.tolist(),
        "species": crystal.symbols,
        "frac_coords": crystal.frac_coords.tolist(),
        "properties": {},
    }


def write_kappa(folder: Path, *values: float, **fields: Any) -> Path:
    """Write ``kappa-*.hdf5`` by phono3py's own routine; ``values`` are components at 300 K, one is that of a cubic one.

    As in files of its command line, the mean free path at the boundary is a metre.
    """
    from phono3py.file_IO import write_kappa_to_hdf5

    entry = json.loads((folder / "entry.json").read_text())
    tensor = [*values, *[0.0] * (6 - len(values))] if len(values) != 1 else [*values * 3, 0.0, 0.0, 0.0]
    given = {
        "temperature": np.array([300.0]),
        "mesh": np.array(entry["settings"]["phonons"]["mesh"]),
        "kappa": np.array([tensor]),
        "frequency": np.array([[0.0, 0.0, 0.0, 15.0, 15.0, 15.0], [4.0, 4.0, 9.0, 12.0, 13.0, 13.0]]),
        "boundary_mfp": 1e6,
        "verbose": False,
    } | fields
    with contextlib.chdir(folder):
        return folder / write_kappa_to_hdf5(**given)


def mark_done(folder: Path, at: str = "2026-01-02T03:04:05Z") -> None:
    """Write DONE as the script does, for the conductivities that are there."""
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("kappa-m*.hdf5")}
    (folder / "STARTED").touch()
    (folder / "DONE").write_text(json.dumps({"at": at, "files": files}))


def imported(directory: Path, out: Path) -> dict[str, Any]:
    """Import an export; the outcome of its only entry."""
    (entry,) = done("label", "import", directory, out, "--format", "json").json["entries"]
    found: dict[str, Any] = entry
    return found


def run(folder: Path, cluster: dict[str, str], *stages: str, code: int = 0) -> str:
    """Run stages of an entry by hand; what the script says."""
    ran = subprocess.run(
        ["bash", "run.sh", *stages], cwd=folder, env=cluster, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == code, ran.stderr
    return ran.stderr
