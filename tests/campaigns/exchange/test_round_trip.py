"""Export, compute on the "cluster" with the exported scripts and the real phono3py, import."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.campaigns.exchange.conftest import NACL, SILICON, MakeQueue, imported, run
from tests.campaigns.helpers import done, queue

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")


def submit(out: Path, cluster: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run the job script as the scheduler does for one task of the array."""
    return subprocess.run(
        ["bash", "submit.sh"], cwd=out, env=cluster | more, capture_output=True, text=True, timeout=300, check=False
    )


def assert_accumulated(table: dict[str, list[float]], file: Path) -> None:
    """Compare kappa over mean free path at 300 K with phono3py's own routine for the latter, which gives Angstrom."""
    from phono3py.conductivity.utils import get_mfp

    with h5py.File(file) as results:
        lengths = get_mfp(results["gamma"][0], results["group_velocity"][:]) / 10
        modes = results["mode_kappa"][0, :, :, 0]
        total = results["kappa"][0, 0] * np.prod(results["mesh"][:])
    # in silicon one component is as good as the mean
    for length, share in list(zip(table["mean_free_path_nm"], table["share"], strict=True))[1:-1]:
        assert modes[lengths <= length].sum() / total == pytest.approx(share, abs=0.002)
    assert table["share"][-1] == 1.0


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
    (doubted,) = report.pop("doubtful")
    (beside,) = report.pop("compared")
    assert (beside["id"], beside["predicted"], beside["interval"]) == (SILICON, 2.5, "outside")
    assert doubted["property"] == "kappa_300K", "the queue expects 2.5 of what is silicon"
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
    assert_accumulated(label["provenance"]["accumulation"], file)
    assert [e["state"] for e in queue(directory)] == ["done"]
    again = done("label", "import", directory, out, "--temperature", 500, "--format", "json").json
    assert (again["added"], again["unchanged"]) == (0, 2)
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "out")
    assert done("label", "import", directory, packed, "--format", "json").json["unchanged"] == 1


def test_born_charges_reach_phono3py(make_queue: MakeQueue, cluster: dict[str, str], tmp_path: Path) -> None:
    """Stage by stage; one displaced supercell alone."""
    directory, out = make_queue(NACL, born="auto"), tmp_path / "out"
    done("queue", "export", directory, "--to", out, "--format", "phono3py")
    (folder,) = out.glob("001-*")
    run(folder, cluster, "relax", "born", "displace")
    epsilon, sodium, chlorine = np.loadtxt(folder / "BORN", comments="#").reshape(3, 3, 3)
    assert np.allclose(epsilon, 2.4 * np.eye(3))
    assert np.allclose([sodium, chlorine], [np.eye(3), -np.eye(3)])
    assert 'NAC parameters were read from "BORN"' in (folder / "displace.log").read_text()
    assert not list(folder.glob("disp-*/OUTCAR"))
    run(folder, cluster, "forces", "2")
    assert [p.parent.name for p in folder.glob("disp-*/OUTCAR")] == ["disp-00002"]
    assert "no forces in disp-00001/ yet" in run(folder, cluster, "kappa", code=1)
    assert imported(directory, out)["message"].startswith("bad_output: kappa: no forces in disp-00001/ yet")


BROKEN = {
    "crash": ({"FAKE_VASP": "crash"}, 3, "calculator_error: relax: VASP ended with exit code 3 in relax"),
    "unconverged": ({"FAKE_VASP": "unconverged"}, 1, "not_converged: relax: electrons not converged in relax"),
    "unrelaxed": ({"FAKE_VASP": "unrelaxed"}, 1, "not_converged: relax: ions not relaxed after 3 runs"),
    "unfinished": ({"FAKE_VASP": "unfinished"}, 1, "calculator_error: relax: VASP ended without its last lines"),
    "no POTCAR": ({"POTCAR_DIR": ""}, 2, "missing_setup: preflight: no POTCAR: set POTCAR_DIR"),
    "no Si": ({"POTCAR_DIR": "/nowhere"}, 2, "missing_setup: preflight: no pseudopotential Si in POTCAR_DIR"),
    "no VASP": ({"VASP_COMMAND": "no_vasp"}, 2, "missing_setup: preflight: no no_vasp on the path"),
    "not VASP": ({"VASP_COMMAND": "/etc/passwd"}, 2, "missing_setup: preflight: no /etc/passwd on the path"),
    "no step": (
        {"FAKE_VASP": "exit 2 slurmstepd: error: execve(): vasp_std: No such file or directory"},
        2,
        "missing_setup: relax: VASP ended with exit code 2 in relax (missing_setup: ",
    ),
    "memory": ({"FAKE_VASP": "exit 137 Detected 1 oom_kill event in StepId=17.0."}, 137, "out_of_memory: relax: "),
    "killed": ({"FAKE_VASP": "exit 137 no word"}, 137, "calculator_error: relax: VASP ended with exit code 137"),
    "disk": ({"FAKE_VASP": "exit 1 forrtl: No space left on device"}, 1, "disk_full: relax: "),
    "bands": ({"FAKE_VASP": "exit 1 TOO FEW BANDS!! I REFUSE TO CONTINUE"}, 1, "calculator_error: relax: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_failures_on_the_cluster_are_marked(exported: tuple[Path, Path], cluster: dict[str, str], name: str) -> None:
    directory, folder = exported
    environment, code, message = BROKEN[name]
    ran = submit(folder.parent, cluster, **environment)
    assert ran.returncode == code
    assert imported(directory, folder)["message"].startswith(message)
    assert [e["state"] for e in queue(directory)] == ["failed"]
    assert (folder / "TIMES").exists()


@pytest.mark.parametrize(("command", "code"), [("no_vasp", 127), ("/etc/passwd", 126)])
def test_vasp_that_does_not_start(
    exported: tuple[Path, Path], cluster: dict[str, str], command: str, code: int
) -> None:
    """In a stage by itself, which nothing was checked before."""
    directory, folder = exported
    run(folder, cluster | {"VASP_COMMAND": command}, "relax", code=code)
    assert imported(directory, folder)["message"].startswith(f"missing_setup: relax: VASP ended with exit code {code}")


def test_two_runs_never_share_a_folder(exported: tuple[Path, Path], cluster: dict[str, str]) -> None:
    _, folder = exported
    environment = cluster | {"FAKE_VASP": "hang"}
    with subprocess.Popen(["bash", "run.sh"], cwd=folder, env=environment, stderr=subprocess.DEVNULL) as first:
        until(lambda: "hanging" in (folder / "relax" / "vasp.out").read_text())
        assert "another run works here" in run(folder, cluster, "relax", code=75)
        assert "another run works here" in run(folder, cluster, "forces", "1", code=75)
        assert not (folder / "FAILED").exists()
        for process in (*psutil.Process(first.pid).children(recursive=True), first):
            process.kill()
        first.wait()
    run(folder, cluster, "relax")
    assert not list((folder / ".locks").iterdir()), "the lock of a run that was killed is taken over, then removed"


def test_the_time_limit_is_marked_and_the_work_goes_on(exported: tuple[Path, Path], cluster: dict[str, str]) -> None:
    """The scheduler's signal ends VASP and the script; submitted again, it goes on."""
    directory, folder = exported
    environment = cluster | {"FAKE_VASP": "hang"}
    with subprocess.Popen(["bash", "submit.sh"], cwd=folder.parent, env=environment, stderr=subprocess.DEVNULL) as job:
        until(lambda: "hanging" in (folder / "relax" / "vasp.out").read_text())
        assert imported(directory, folder)["state"] == "running"
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=20) == 143
    marker = json.loads((folder / "FAILED").read_text())
    assert (marker["reason"], marker["exit_code"], marker["stage"]) == ("timed_out", 143, "relax")
    assert [e["state"] for e in queue(directory)] == ["running"]
    run(folder, cluster, "relax")
    assert (folder / "POSCAR-relaxed").exists()
    assert not (folder / "FAILED").exists()
    assert imported(directory, folder)["state"] == "running"


def test_an_unknown_stage(exported: tuple[Path, Path], cluster: dict[str, str]) -> None:
    _, folder = exported
    assert "unknown stage bake; there are: relax displace forces kappa" in run(folder, cluster, "bake", code=2)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("it did not happen")
