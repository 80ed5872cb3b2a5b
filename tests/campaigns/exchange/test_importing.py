"""Results of an exported queue: states, failures, refusals, and labels that are never written twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.campaign import Campaign
from db.records import FailureRecord
from db.states import QueueState
from tests.campaigns.exchange.conftest import GAAS, SILICON, MakeQueue, mark_done, write_kappa
from tests.campaigns.helpers import done, kappascout, queue, refused

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")

Exported = tuple[Path, Path]


def import_(directory: Path, *paths: object) -> dict[str, Any]:
    """Import what may be refused in part; the report."""
    outcome = kappascout("label", "import", directory, *paths, "--format", "json")
    assert "Traceback" not in outcome.err
    report: dict[str, Any] = outcome.json
    assert outcome.code == any(e["state"] == "refused" for e in report["entries"])
    return report


def outcome(directory: Path, path: Path) -> tuple[str, str]:
    """State and message of the only entry."""
    (entry,) = import_(directory, path)["entries"]
    return entry["state"], entry["message"]


def labels(directory: Path, *, every: bool = False) -> list[Any]:
    with Campaign.open(directory) as campaign:
        return campaign.store.labels(current_only=not every)


def failure(directory: Path) -> FailureRecord:
    with Campaign.open(directory) as campaign:
        (record,) = campaign.store.failures()
    return record


def test_states_move_the_queue(exported: Exported) -> None:
    """From nothing over running to done; every step may be imported any number of times."""
    directory, folder = exported
    for _ in range(2):
        assert outcome(directory, folder.parent) == ("not started", "")
        assert [e["state"] for e in queue(directory)] == ["exported"]
    (folder / "STARTED").touch()
    (folder / "TIMES").write_text("1800 4 2\nbroken\n")
    for _ in range(2):
        assert outcome(directory, folder) == ("running", "")
        assert [e["state"] for e in queue(directory)] == ["running"]
    path = write_kappa(folder, 1.0)
    path.write_bytes(path.read_bytes()[:700])
    for _ in range(2):
        state, message = outcome(directory, folder)
        assert state == "running", "a file that is still being written is left alone"
        assert path.name in message
    write_kappa(folder, 3.0, 3.0, 3.0, 0.01)
    mark_done(folder)
    report = import_(directory, folder)
    assert (report["added"], report["entries"][0]["state"]) == (1, "done")
    assert [e["state"] for e in queue(directory)] == ["done"]
    (label,) = labels(directory)
    assert (label.material_id, label.property, label.value, label.unit) == (SILICON, "kappa_300K", 3.0, "W/(m K)")
    assert (label.temperature, label.fidelity, label.method, label.cost) == (300.0, "dft", "phono3py RTA", 4.0)
    assert label.provenance["tensor"] == {"xx": 3.0, "yy": 3.0, "zz": 3.0, "yz": 0.01, "xz": 0.0, "xy": 0.0}
    assert label.provenance["highest_frequency_THz"] == 15.0
    assert import_(directory, folder)["unchanged"] == 1
    assert len(labels(directory, every=True)) == 1


@pytest.mark.parametrize("at", ['"at": "2026-01-01T00:00:00Z"', '"by": "hand"'])
def test_a_marker_from_before_the_retry_is_no_new_failure(exported: Exported, at: str) -> None:
    """The next run of the script removes it; what that one writes counts."""
    directory, folder = exported
    marker = f'{{"reason": "disk_full", "stage": "forces", "message": "full", {at}}}'
    (folder / "STARTED").touch()
    (folder / "FAILED").write_text(marker)
    assert outcome(directory, folder) == ("failed", "disk_full: forces: full")
    done("queue", "retry", directory, SILICON)
    for _ in range(2):
        state, message = outcome(directory, folder)
        assert (state, "from before it was retried" in message) == ("not started", True)
        assert [e["state"] for e in queue(directory)] == ["approved"]
    (folder / "FAILED").write_text(marker.replace(at, '"at": "2026-01-02T00:00:00Z"'))
    assert outcome(directory, folder)[0] == "failed"
    assert [e["remedy"] for e in queue(directory, "failed")] == ["queue retry"]


def test_a_result_that_comes_without_a_retry_finishes_what_the_machine_failed(exported: Exported) -> None:
    """Not what failed by its crystal, which a person decides; the hours of a job that counts its runs count once."""
    directory, folder = exported
    (folder / "TIMES").write_text("3600 10 1\n")
    marked(TIMED_OUT)(folder)
    outcome(directory, folder)
    assert done("status", directory, "--format", "json").json["core_hours"] == 10.0
    (folder / "FAILED").unlink()
    (folder / "TIMES").write_text("3600 10 1\n3600 10 1\n")
    write_kappa(folder, 3.0)
    mark_done(folder)
    assert outcome(directory, folder) == ("done", "")
    assert [e["state"] for e in queue(directory)] == ["done"]
    with Campaign.open(directory) as campaign:
        assert campaign.store.failures() == []
    assert done("status", directory, "--format", "json").json["core_hours"] == 20.0


def truncated(folder: Path) -> None:
    path = write_kappa(folder, 5.0)
    path.write_bytes(path.read_bytes()[:700])
    mark_done(folder)


def marked(text: str) -> Callable[[Path], None]:
    def fail(folder: Path) -> None:
        (folder / "STARTED").touch()
        (folder / "FAILED").write_text(text)

    return fail


def with_kappa(*values: float, **fields: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_kappa(folder, *values, **fields)
        mark_done(folder)

    return write


def distorted(folder: Path) -> None:
    write_kappa(folder, 5.0)
    lines = (folder / "POSCAR").read_text().splitlines()
    lines[2] = "0.0 2.75 2.9"
    (folder / "POSCAR-relaxed").write_text("\n".join(lines) + "\n")


def unrelaxed(folder: Path) -> None:
    write_kappa(folder, 5.0)
    (folder / "relax" / "OUTCAR").write_text("General timing and accounting\n")


TIMED_OUT = '{"reason": "timed_out", "exit_code": 143, "stage": "forces", "message": "stopped", "at": "2026-01-01"}'
FAILURES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "time limit": (marked(TIMED_OUT), "timed_out", "forces: stopped"),
    "by hand": (marked("wrong pseudopotential\n"), "calculator_error", "wrong pseudopotential"),
    "unknown": (marked('{"reason": "bored", "stage": "relax"}'), "calculator_error", "relax"),
    "empty": (marked(""), "calculator_error", ""),
    "truncated": (truncated, "bad_output", "cannot be read"),
    "nan": (with_kappa(1.0, np.nan, 1.0), "bad_output", "kappa is nan at 300 K"),
    "zero": (with_kappa(0.0), "below_floor", "kappa is 0.0 at 300 K"),
    "negative": (with_kappa(-4.0, 1.0), "below_floor", "kappa is -1.0 at 300 K"),
    "imaginary": (with_kappa(5.0, frequency=np.array([[-0.4, *[3.0] * 5]])), "imaginary_modes", "a mode at -0.40 THz"),
    "symmetry": (distorted, "symmetry_broken", "after relaxation, 227 before"),
    "ions": (unrelaxed, "not_converged", "relax/OUTCAR"),
    "no kappa": (lambda f: h5py.File(f / "kappa-m1.hdf5", "w").close(), "bad_output", "holds no kappa"),
    "shape": (with_kappa(5.0, kappa=np.ones((2, 6))), "bad_output", "kappa has the shape (2, 6)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_labels_with_a_reason(exported: Exported, name: str) -> None:
    directory, folder = exported
    make, reason, message = FAILURES[name]
    make(folder)
    for _ in range(2):
        state, said = outcome(directory, folder)
        assert state == "failed"
        assert said.startswith(reason)
        assert message in said
        record = failure(directory)
        assert (record.material_id, record.property, record.reason) == (SILICON, "kappa_300K", reason)
        assert [e["state"] for e in queue(directory)] == ["failed"]
    assert not labels(directory)


def test_a_failed_entry_that_ends_well_after_all(exported: Exported) -> None:
    """Its label is kept; the entry stays failed by its crystal, which a person may reopen."""
    directory, folder = exported
    marked(TIMED_OUT.replace("timed_out", "symmetry_broken"))(folder)
    outcome(directory, folder)
    write_kappa(folder, 5.0)
    mark_done(folder, "2026-01-01T00:00:01Z")
    assert outcome(directory, folder) == ("done", "its queue entry stays failed; the label is kept")
    assert [label.value for label in labels(directory)] == [5.0]


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


def half_copied(folder: Path) -> None:
    mark_done(folder)
    next(folder.glob("kappa-m*")).unlink()


def cut_short(folder: Path) -> None:
    mark_done(folder)
    path = next(folder.glob("kappa-m*"))
    path.write_bytes(path.read_bytes()[:700])


def another_relaxed(folder: Path) -> None:
    (folder / "POSCAR-relaxed").write_text((folder / "POSCAR").read_text().replace("Si", "Ge"))


def links_outside(folder: Path) -> None:
    path = next(folder.glob("kappa-m*"))
    target = folder.parent / "other.hdf5"
    path.replace(target)
    with h5py.File(path, "w") as file:
        file["temperature"] = np.array([300.0])
        file["kappa"] = h5py.ExternalLink(str(target), "kappa")


def other_supercell(folder: Path) -> None:
    (folder / "phono3py_disp.yaml").write_text("supercell_matrix:\n- [ 2, 0, 0 ]\n- [ 0, 2, 0 ]\n- [ 0, 0, 2 ]\n")


def rewritten_settings(folder: Path) -> None:
    """Edit an entry so well that its own hash is right."""
    from campaigns.exchange.manifest import Entry

    entry = Entry.from_json((folder / "entry.json").read_text(), "x")
    settings = entry.settings.model_copy(update={"born": True})
    changed = entry.model_copy(update={"settings": settings, "settings_sha256": settings.sha256})
    (folder / "entry.json").write_text(changed.to_json())


REFUSALS: dict[str, tuple[Callable[[Path], None], str]] = {
    "structure": (edited("POSCAR", "0.7500", "0.7600"), "differs from what was exported: POSCAR (the structure)"),
    "cutoff": (edited("forces/INCAR", "520", "400"), "differs from what was exported: forces/INCAR"),
    "k-points": (edited("relax/KPOINTS", "Gamma", "Monkhorst"), "differs from what was exported: relax/KPOINTS"),
    "potential": (edited("relax/POTCAR.spec", "Si", "Si_GW"), "relax/POTCAR.spec"),
    "supercell": (other_supercell, "phono3py_disp.yaml (supercell [[2, 0, 0]"),
    "settings": (edited("entry.json", '"amplitude": 0.03', '"amplitude": 0.06'), "was edited"),
    "settings and hash": (rewritten_settings, "entry.json differs in settings.born, settings_sha256; restore it"),
    "another crystal": (edited("entry.json", SILICON, GAAS), "was not exported by this campaign"),
    "damaged": (edited("entry.json", '"round": 1', '"round": "one"'), "entry.json is damaged (round: "),
    "no json": (lambda f: (f / "entry.json").write_text("{"), "entry.json is damaged (Invalid JSON"),
    "half copied": (half_copied, "is missing; copy the folder again"),
    "cut short": (cut_short, "is not the file that the job wrote"),
    "another relaxed": (another_relaxed, "POSCAR-relaxed is Ge, but Si was exported"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_was_not_exported_is_refused_by_name(exported: Exported, name: str) -> None:
    directory, folder = exported
    change, message = REFUSALS[name]
    write_kappa(folder, 5.0)
    change(folder)
    state, said = outcome(directory, folder)
    assert state == "refused"
    assert folder.name in said
    assert message in said
    assert not labels(directory)
    assert [e["state"] for e in queue(directory)] == ["exported"]


def test_conductivities_of_other_settings(exported: Exported) -> None:
    """Refused where they are all there is, passed over beside the right one, taken by hand with an id."""
    directory, folder = exported
    other = write_kappa(folder, 3.0, mesh=np.array([31, 31, 31]), gamma_isotope=np.zeros((1, 3)))
    state, message = outcome(directory, folder)
    assert state == "refused"
    assert "mesh (31, 31, 31) instead of" in message
    assert "isotope True instead of False" in message
    write_kappa(folder, 2.0)
    state, message = outcome(directory, folder)
    assert state == "done"
    assert other.name in message
    assert [label.value for label in labels(directory)] == [2.0]
    assert "give its id with --id" in refused("label", "import", directory, other)
    done("label", "import", directory, other, "--id", SILICON)
    assert sorted(label.value for label in labels(directory)) == [2.0, 3.0]


def test_temperatures(exported: Exported) -> None:
    directory, folder = exported
    given = {"temperature": np.array([100.0, 300.0, 600.0]), "kappa": np.outer([9.0, 3.0, 1.0], [1, 1, 1, 0, 0, 0])}
    path = write_kappa(folder, **given)
    mark_done(folder)
    assert import_(directory, folder, "--temperature", 600, "--temperature", 300)["added"] == 2
    assert {(x.property, x.temperature, x.value) for x in labels(directory)} == {
        ("kappa_300K", 300.0, 3.0),
        ("kappa_600K", 600.0, 1.0),
    }
    (state, message) = next(
        (e["state"], e["message"]) for e in import_(directory, folder, "--temperature", 450)["entries"]
    )
    assert state == "refused"
    assert "has no value at 450 K (it has 100, 300, 600); run phono3py with --ts 450" in message
    assert "no value at 450 K" in refused("label", "import", directory, path, "--id", SILICON, "--temperature", 450)


def test_none_at_the_temperature_of_the_property(exported: Exported) -> None:
    directory, folder = exported
    write_kappa(folder, temperature=np.array([0.0, 10.0]), kappa=np.ones((2, 6)))
    assert outcome(directory, folder)[0] == "refused"
    assert [e["state"] for e in queue(directory)] == ["exported"]


def test_solvers_terms_and_versions(exported: Exported) -> None:
    """LBTE beside RTA, the Wigner term under both names it had, and a version that was off."""
    from campaigns.exchange.results import read_kappa

    _, folder = exported
    exact = read_kappa(write_kappa(folder, 5.0, kappa_RTA=np.ones((1, 6)), gamma_isotope=np.zeros(3)))
    assert (exact.solver, exact.isotope, exact.interband, exact.is_suspect) == ("LBTE", True, False, False)
    wigner = read_kappa(write_kappa(folder, 5.0, extra_datasets={"kappa_inter": np.ones((1, 6))}))
    assert (wigner.solver, wigner.isotope, wigner.interband) == ("RTA", False, True)
    older = {"kappa_TOT_RTA": np.full((1, 6), 7.0), "kappa_C": np.ones((1, 6))}
    path = write_kappa(folder, kappa=None, extra_datasets=older)
    with h5py.File(path, "a") as file:
        del file["version"]
        file["version"] = "3.18.2"
    old = read_kappa(path)
    assert (old.tensors[0, 0], old.solver, old.interband, old.version, old.is_suspect) == (
        7.0,
        "RTA",
        True,
        "3.18.2",
        True,
    )


def test_a_doubtful_version_is_said(exported: Exported) -> None:
    directory, folder = exported
    path = write_kappa(folder, 5.0)
    with h5py.File(path, "a") as file:
        del file["version"]
        file["version"] = np.bytes_("3.20.0")
    assert outcome(directory, folder) == ("done", "phono3py 3.20.0 had an error in third order; compute kappa anew")
    assert labels(directory)[0].provenance["phono3py"] == "3.20.0"


def test_a_file_that_points_into_others_is_not_followed(exported: Exported) -> None:
    directory, folder = exported
    write_kappa(folder, 5.0)
    links_outside(folder)
    state, message = outcome(directory, folder)
    assert state == "failed"
    assert "kappa is a link" in message


@pytest.mark.parametrize("newest_first", [False, True])
def test_two_results_of_one_entry(exported: Exported, tmp_path: Path, newest_first: bool) -> None:
    """Both are recorded and the newest counts, in whichever order and however often they come."""
    directory, folder = exported
    copies = []
    for name, value, at in (("old", 1.0, "2026-01-01T00:00:00Z"), ("new", 2.0, "2026-02-01T00:00:00Z")):
        copy = Path(shutil.copytree(folder, tmp_path / name / folder.name))
        write_kappa(copy, value)
        mark_done(copy, at)
        copies.append(copy)
    for copy in [*(reversed(copies) if newest_first else copies), *copies]:
        import_(directory, copy)
        done("label", "import", directory, tmp_path / "old", tmp_path / "new")
    assert [label.value for label in labels(directory)] == [2.0]
    assert {label.value for label in labels(directory, every=True)} == {1.0, 2.0}


def test_tags_of_parallelisation_and_a_moved_folder_are_no_difference(exported: Exported, tmp_path: Path) -> None:
    directory, folder = exported
    incar = folder / "forces" / "INCAR"
    incar.write_text("# mine\nNCORE = 8 ; KPAR = 2\n" + incar.read_text().replace("ENCUT = 520.0", "encut=520.0  ! eV"))
    write_kappa(folder, 5.0)
    elsewhere = Path(shutil.move(folder, tmp_path / "somewhere else"))
    shutil.rmtree(elsewhere / "relax")
    assert outcome(directory, elsewhere)[0] == "done"


def test_results_of_a_withdrawn_entry_are_kept(exported: Exported) -> None:
    directory, folder = exported
    done("queue", "withdraw", directory, SILICON)
    marked(TIMED_OUT)(folder)
    assert outcome(directory, folder)[0] == "failed"
    with Campaign.open(directory) as campaign:
        assert not campaign.store.failures()
        assert [e.state for e in campaign.store.queue()] == [QueueState.WITHDRAWN]


def test_one_refusal_stops_no_other(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory = make_queue(SILICON, GAAS)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    first, second = sorted((tmp_path / "out").glob("001-*"))
    write_kappa(first, 5.0)
    write_kappa(second, 5.0)
    edited("POSCAR", "0.7500", "0.7600")(second)
    ran = kappascout("label", "import", directory, tmp_path / "out", "--format", "json")
    assert ran.code == 1
    assert [e["state"] for e in ran.json["entries"]] == ["done", "refused"]
    assert "error: some folders were refused" in ran.err
    assert json.dumps(second.name)[1:-1] in ran.err
    assert len(labels(directory)) == 1


def test_folders_that_hold_no_export(exported: Exported, tmp_path: Path) -> None:
    directory, _ = exported
    assert "holds no exported entry (a folder with entry.json)" in refused("label", "import", directory, tmp_path / "c")
    damaged = tmp_path / "x.hdf5"
    damaged.write_bytes(b"\x89HDF\r\n")
    assert "x.hdf5 cannot be read" in refused("label", "import", directory, damaged, "--id", SILICON)
