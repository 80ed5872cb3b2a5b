"""The exported queue as a person on a cluster finds it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Structure

from campaigns.campaign import Campaign
from campaigns.exchange.bill import hours
from tests.campaigns.exchange.conftest import GAAS, NACL, SILICON, SMALL, MakeQueue, make_campaign, record
from tests.campaigns.helpers import configure, done, label_rows, queue, refused, write_lines
from tests.conftest import REPOSITORY

pytest.importorskip("phono3py", reason="phono3py is not installed")

CHALCOPYRITE = "LTC-AgGaS2-chalcopyrite"


def export(directory: Path, out: Path, *options: object, format: str = "phono3py") -> Any:
    return done("queue", "export", directory, "--to", out, "--format", format, *options)


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def entry_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "entry.json").read_text())
    return found


def test_what_is_in_an_export(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory, out = make_queue(NACL, SILICON, born="auto", slurm={"time": "24:00:00"}), tmp_path / "out"
    said = export(directory, out).err
    assert "2 entries written" in said
    assert f"`kappascout label import {directory} {out}`" in said
    (listed,) = out.glob("entries-*.txt")
    names = [listed.name, "manifest.json", "submit.sh", f"001-0001-{NACL}", f"001-0002-{SILICON}"]
    assert sorted(p.name for p in out.iterdir()) == sorted(names)
    vasp = {"INCAR", "KPOINTS", "POTCAR.spec"}
    expected = {"POSCAR", "structure.cif", "entry.json", "run.sh", "relax/POSCAR"}
    expected |= {f"{folder}/{name}" for folder in ("relax", "forces") for name in vasp}
    salt, silicon = out / names[-2], out / names[-1]
    assert set(contents(silicon)) == expected, "silicon is not polar"
    assert set(contents(salt)) == expected | {f"born/{name}" for name in vasp}
    assert (salt / "relax" / "POTCAR.spec").read_text() == "Na_pv\nCl\n"
    assert "LEPSILON = True" in (salt / "born" / "INCAR").read_text()
    assert "NSW = 0" in (salt / "forces" / "INCAR").read_text()
    assert "ISIF = 3" in (salt / "relax" / "INCAR").read_text()

    with Campaign.open(directory) as campaign:
        (material,) = campaign.store.materials([NACL])
    entry = entry_of(salt)
    assert entry["content_hash"] == material.content_hash
    assert entry["predicted"] == {"mean": 2.5, "lower": 1.5, "upper": 4.0, "log10_mean": 0.4, "log10_std": 0.1}
    assert (entry["reason"], entry["work"]["atoms"], entry["work"]["supercells"]) == ("low", 8, 4)
    assert entry["settings"]["phonons"]["temperatures"] == [300.0]
    assert set(entry["versions"]) >= {"kappascout", "phono3py", "symfc", "pymatgen"}
    (row, _) = json.loads((out / "manifest.json").read_text())["entries"]
    assert (row["folder"], row["id"], row["settings_sha256"]) == (salt.name, NACL, entry["settings_sha256"])
    assert "#SBATCH --array=1-2\n" in (out / "submit.sh").read_text()
    assert "#SBATCH --time=24:00:00\n" in (out / "submit.sh").read_text()
    assert listed.read_text() == f"{salt.name}\n{silicon.name}\n"
    assert listed.name in (out / "submit.sh").read_text()
    assert Structure.from_file(salt / "POSCAR").composition.reduced_formula == "NaCl"
    assert [e["state"] for e in queue(directory)] == ["exported"] * 2
    for script in (out / "submit.sh", salt / "run.sh", silicon / "run.sh"):
        subprocess.run(["bash", "-n", script], check=True)


def test_exporting_again_touches_nothing(make_queue: MakeQueue, tmp_path: Path) -> None:
    """Nor does an export of what was approved since then; another campaign made alike writes the same bytes."""
    directory, out = make_queue(NACL, SILICON, GAAS), tmp_path / "out"
    done("queue", "withdraw", directory, GAAS)
    export(directory, out)
    first = contents(out)
    (out / f"001-0001-{NACL}" / "DONE").write_text("{}")
    (out / f"001-0001-{NACL}" / "forces" / "INCAR").write_text("NCORE = 4\n")
    times = {p: p.stat().st_mtime_ns for p in out.glob("001-*/**/*")}
    export(directory, out)
    assert times == {p: p.stat().st_mtime_ns for p in out.glob("001-*/**/*")}
    (tmp_path / "again").mkdir()
    again = make_campaign(tmp_path / "again", NACL, SILICON)
    export(again, tmp_path / "same")
    assert contents(tmp_path / "same") == first


def test_other_settings_never_overwrite(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory, out = make_queue(SILICON), tmp_path / "out"
    export(directory, out)
    before = contents(out)
    configure(directory, {"dft": {"amplitude": 0.05}})
    message = refused("queue", "export", directory, "--to", out, "--format", "phono3py")
    assert f"other settings or crystals under the same names (001-0001-{SILICON})" in message
    assert "other settings" in refused("queue", "export", directory, "--to", out, "--format", "vasp")
    assert contents(out) == before
    export(directory, tmp_path / "other")
    (tmp_path / "third" / f"001-0001-{SILICON}").mkdir(parents=True)
    assert "other settings" in refused("queue", "export", directory, "--to", tmp_path / "third", "--format", "phono3py")


def test_a_full_disk_leaves_nothing_half_written(
    make_queue: MakeQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, out = make_queue(NACL, SILICON), tmp_path / "out"
    write, written = Path.write_text, []

    def fill(path: Path, *args: Any, **kwargs: Any) -> int:
        written.append(path)
        if len(written) == 15:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fill)
        message = refused("queue", "export", directory, "--to", out, "--format", "phono3py")
    assert "(No space left on device)" in message
    assert [e["state"] for e in queue(directory)] == ["approved"] * 2
    assert [p.name for p in out.iterdir()] == [f"001-0001-{NACL}"], "the first entry is whole"
    (out / f".001-0002-{SILICON}.partial").mkdir()
    (out / f".001-0002-{SILICON}.partial" / "rest of a killed export").touch()
    export(directory, out)
    export(directory, tmp_path / "other")
    assert contents(out) == contents(tmp_path / "other")


def test_too_large_is_said_before_anything_is_written(make_queue: MakeQueue, tmp_path: Path) -> None:
    """One large entry does not stop the others; the limits are settings."""
    directory, out = make_queue(CHALCOPYRITE, SILICON, displacements="systematic", min_length=6.0), tmp_path / "out"
    said = export(directory, out, "--max-supercells", 200).err
    assert f"left out: {CHALCOPYRITE}: it takes " in said
    assert "core-hours, above [dft] max_supercells = 200" in said
    assert [p.name for p in out.glob("001-*")] == [f"001-0002-{SILICON}"]
    assert {e["id"]: e["state"] for e in queue(directory)} == {CHALCOPYRITE: "approved", SILICON: "exported"}
    configure(directory, {"dft": {"max_atoms": 7, "max_supercells": 10}})
    message = refused("queue", "export", directory, "--to", tmp_path / "none", "--format", "phono3py")
    assert f"{SILICON}: its supercell has 64 atoms, above [dft] max_atoms = 7" in message
    assert not (tmp_path / "none").exists()
    configure(directory, {"dft": {"max_atoms": 400}})
    export(directory, tmp_path / "all", "--max-supercells", 5000)
    assert len(list((tmp_path / "all").glob("001-*"))) == 2


def test_an_element_without_a_pseudopotential(make_queue: MakeQueue, tmp_path: Path) -> None:
    polonium = record(SILICON) | {"id": "Po", "species": ["Po", "Po"]}
    directory = make_queue(polonium)
    message = refused("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    assert (
        'MPRelaxSet names no pseudopotential for Po; name one in campaign.toml, e.g. [dft] potcar = { Po = "Po" }'
        in message
    )
    configure(directory, {"dft": {"potcar": {"Po": "Po_d"}}})
    message = refused("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    assert "mass for Po; export this entry as vasp or cif" in message
    export(directory, tmp_path / "out", format="vasp")
    assert (tmp_path / "out" / "001-0001-Po" / "relax" / "POTCAR.spec").read_text() == "Po_d\n"


@pytest.mark.parametrize(
    "settings",
    [{}, {"displacements": "systematic"}, {"displacements": "systematic", "pair_cutoff": 3.0}, {"fc2_min_length": 7.0}],
    ids=["random", "systematic", "cutoff", "fc2"],
)
def test_displaced_supercells_are_those_of_phono3py(
    make_queue: MakeQueue, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Without relaxation they are written here, as the exported command makes them on the cluster."""
    directory, out = make_queue(SILICON, relax=False, **settings), tmp_path / "out"
    export(directory, out)
    (folder,) = out.glob("001-*")
    assert not (folder / "relax").exists()
    there = {p.parent.name: p for p in folder.glob("disp*/POSCAR")}
    assert len(there) == entry_of(folder)["work"]["supercells"]
    (command,) = [line for line in (folder / "run.sh").read_text().splitlines() if "phono3py-init -c" in line]
    words = command.split("supervised ")[1].split(" >")[0].split()
    words[0] = str(Path(sys.executable).with_name(words[0]))
    made = tmp_path / "made"
    made.mkdir()
    (made / "POSCAR").write_bytes((folder / "POSCAR").read_bytes())
    subprocess.run(words, cwd=made, check=True, capture_output=True)
    names = {p: p.name.replace("POSCAR_FC2", "disp_fc2").replace("POSCAR", "disp") for p in made.glob("POSCAR*-*")}
    assert set(names.values()) == set(there)
    for path, name in names.items():
        assert path.read_text() == there[name].read_text(), name
    ours, theirs = ((f / "phono3py_disp.yaml").read_text().split("primitive_matrix:") for f in (folder, made))
    assert ours[1] == theirs[1]


def test_a_template_of_the_users_own(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory, out = make_queue(SILICON, slurm_template="job.j2", setup="module load vasp"), tmp_path / "out"
    command = ("queue", "export", directory, "--to", out, "--format", "phono3py")
    assert "job.j2 cannot be used" in refused(*command)
    (directory / "job.j2").write_text("{{ nodes }}")
    assert "'nodes' is undefined" in refused(*command)
    assert not out.exists()
    (directory / "job.j2").write_text("{{ setup }}; for e in {{ entries | join(' ') }}; do bash $e/run.sh; done\n")
    done(*command)
    expected = f"module load vasp; for e in 001-0001-{SILICON}; do bash $e/run.sh; done\n"
    assert (out / "submit.sh").read_text() == expected


def test_ids_and_commands_cannot_break_out_of_scripts(make_queue: MakeQueue, tmp_path: Path) -> None:
    evil = 'x"; touch /tmp/pwned\n$(touch pwned) `touch pwned` ../../é' + "x" * 300
    directory = make_queue(record(SILICON) | {"id": evil}, vasp_command='srun "$(touch pwned)" vasp')
    export(directory, tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("001-*")
    assert "/" not in folder.name
    script = (folder / "run.sh").read_text()
    assert "$e" not in script
    assert evil[:5] not in script
    assert entry_of(folder)["id"] == evil
    done_ = subprocess.run(
        ["bash", "run.sh"], cwd=folder, env={"PATH": "/usr/bin:/bin"}, check=False, capture_output=True
    )
    assert done_.returncode != 0
    assert not list(folder.rglob("pwned"))


def test_magnetic_elements_keep_their_spin(make_queue: MakeQueue, tmp_path: Path) -> None:
    nickel = record(NACL) | {"id": "NiO", "species": ["Ni", "O"]}
    export(make_queue(nickel), tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("001-*")
    for name, count in (("relax", 1), ("forces", 4)):
        incar = (folder / name / "INCAR").read_text()
        assert "ISPIN = 2" in incar
        assert f"MAGMOM = {count}*" in incar
    assert (folder / "POSCAR").read_text().splitlines()[5].split() == ["O", "Ni"]


def test_moments_start_parallel_or_as_the_user_says(make_queue: MakeQueue, tmp_path: Path) -> None:
    """An order is the user's to give, one moment an atom of each stage's cell; it is said where none is given."""
    nickel = record(NACL) | {"id": "NiO", "species": ["Ni", "O"]}
    directory = make_queue(nickel, born="always")
    export(directory, tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("001-*")
    (note,) = [note for note in entry_of(folder)["notes"] if "ferromagnetic" in note]
    assert "moments of Ni 5 (MAGMOM" in note
    own = {"relax": {"magmom": [0, -5]}, "born": {"MAGMOM": "0 -5"}, "forces": {"MAGMOM": "4*0 2*5 2*-5"}}
    configure(directory, {"dft": {"incar": own}})
    export(directory, tmp_path / "own")
    (folder,) = (tmp_path / "own").glob("001-*")
    assert not [note for note in entry_of(folder)["notes"] if "ferromagnetic" in note]
    assert "MAGMOM = 1*0.0 1*-5.0" in (folder / "born" / "INCAR").read_text()
    assert "MAGMOM = 4*0.0 2*5.0 2*-5.0" in (folder / "forces" / "INCAR").read_text()
    configure(directory, {"dft": {"incar": {"MAGMOM": "0 5"}}})
    message = refused("queue", "export", directory, "--to", tmp_path / "no", "--format", "phono3py")
    assert "MAGMOM = '0 5' has 2 atoms, the cell of the stage forces has 8" in message


def test_tags_of_one_stage(make_queue: MakeQueue, tmp_path: Path) -> None:
    """In any case of letters; what linear response does not run with is left out of the Born stage, and said."""
    tags = {"ncore": 4, "GGA": "PS", "ediff": 1e-9, "relax": {"Potim": 0.2}, "born": {"NPAR": 2, "KPAR": 3}}
    directory = make_queue(NACL, born="always", incar=tags)
    export(directory, tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("001-*")
    lines = {s: (folder / s / "INCAR").read_text().splitlines() for s in ("relax", "born", "forces")}
    for stage, found in lines.items():
        assert {"GGA = Ps", "EDIFF = 1e-09"} <= set(found)
        assert ("NCORE = 4" in found) is (stage != "born")
        assert ("POTIM = 0.2" in found) is (stage == "relax")
        assert ("KPAR = 3" in found) is (stage == "born")
    assert not [line for line in lines["born"] if line.startswith(("NPAR", "NCORE"))]
    notes = " ".join(entry_of(folder)["notes"])
    assert "NCORE = 4 is left out of born/INCAR" in notes
    assert "NPAR = 2 is left out of born/INCAR" in notes


def test_a_density_of_points_in_place_of_kpoints(make_queue: MakeQueue, tmp_path: Path) -> None:
    export(make_queue(SILICON, incar={"KSPACING": 0.2}), tmp_path / "out")
    (folder,) = (tmp_path / "out").glob("001-*")
    assert "KSPACING = 0.2" in (folder / "forces" / "INCAR").read_text()
    assert not list(folder.rglob("KPOINTS"))


def test_relaxation_alone(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory, out = make_queue(NACL, born="always"), tmp_path / "out"
    export(directory, out, format="vasp")
    (folder,) = out.glob("001-*")
    assert {p.split("/")[0] for p in contents(folder)} == {"POSCAR", "structure.cif", "relax", "run.sh", "entry.json"}
    assert "phono3py" not in (folder / "run.sh").read_text()
    assert entry_of(folder)["settings"]["phonons"] is None


def test_polar_crystals() -> None:
    from campaigns.exchange.vasp import is_polar
    from engine.materials.reference import reference_crystals

    crystals = reference_crystals()
    for name, polar in {NACL: True, GAAS: True, SILICON: False, "LTC-HfNiSn-half-Heusler": True}.items():
        assert is_polar(crystals[name], {}) is polar, name
    assert not is_polar(crystals[NACL], {"band_gap_eV": 0.0})
    assert is_polar(crystals["LTC-BAs-zincblende"], {"band_gap_eV": 1.5})
    assert not is_polar(crystals[SILICON], {"band_gap_eV": 1.1})


def test_the_price_of_the_queue_is_that_of_the_export(tmp_path: Path) -> None:
    """Real crystals from the first batch to the files: one number in the queue, the reason, the table and the entry."""
    directory, out = tmp_path / "c", tmp_path / "out"
    done("init", directory, "--cold", "--goal", "min", "--property", "kappa_300K")
    configure(directory, {"dft": SMALL | {"relax": False, "fc2_min_length": 7.0}})
    crystals = [record(name) for name in (NACL, SILICON, GAAS, CHALCOPYRITE)]
    done("ingest", directory, write_lines(tmp_path / "pool.jsonl", crystals))
    done("run", directory, "--rounds", 1)
    queued = {e["id"]: e for e in queue(directory)}
    assert set(queued) == {NACL, SILICON, GAAS, CHALCOPYRITE}
    assert "cost" in done("queue", "list", directory).out
    done("queue", "approve", directory)
    ran = export(directory, out)
    assert "when_queued" not in ran.out
    total = sum(e["cost"] for e in queued.values())
    assert (
        f"4 calculations take about {total:,.0f} core-hours together; no calculation is finished: costs are 10"
        in ran.err
    )
    for folder in out.glob("001-*"):
        entry = entry_of(folder)
        work, cost = entry["work"], queued[entry["id"]]["cost"]
        assert entry["expected_cost"] == work["core_hours"] == cost
        assert f"about {cost:.3g} core-hours" in queued[entry["id"]]["reason"]
        written = [*folder.glob("disp-*"), *folder.glob("disp_fc2-*")]
        assert len(written) == work["supercells"]
        sizes = [len(Structure.from_file(path / "POSCAR")) for path in written]
        assert max(sizes) == work["atoms"]
        assert sum(10 * (size / 100) ** 2 for size in sizes) == pytest.approx(cost)
        (line,) = [line for line in ran.out.splitlines() if line.startswith(entry["id"])]
        assert [str(work["supercells"]), str(work["atoms"])] == line.split()[2:4]


def test_a_price_learned_since_is_said_beside_the_earlier_one(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    done("init", directory, "--cold", "--goal", "min", "--property", "kappa_300K")
    configure(directory, {"dft": SMALL})
    crystals = [record(name) for name in (NACL, SILICON, GAAS)]
    done("ingest", directory, write_lines(tmp_path / "pool.jsonl", crystals))
    done("run", directory, "--rounds", 1)
    before = {e["id"]: e["cost"] for e in queue(directory)}
    done("queue", "approve", directory)
    label = crystals[0] | {"properties": {"kappa_300K": 5.0}}
    done("label", "import", directory, write_lines(tmp_path / "l.jsonl", label_rows([label], cost=80.0)))
    ran = export(directory, tmp_path / "out")
    assert "when_queued" in ran.out
    old = before[SILICON] + before[GAAS]
    assert f"2 of them were queued at {hours(old)} core-hours" in ran.err
    assert "costs follow 1 finished calculation" in ran.err
    for folder in (tmp_path / "out").glob("001-*"):
        entry = entry_of(folder)
        assert entry["expected_cost"] == before[entry["id"]]
        assert entry["work"]["core_hours"] > 2 * entry["expected_cost"]
    assert {e["id"]: e["cost"] for e in queue(directory)} == before


def test_many_core_hours_need_a_yes(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory, out = make_queue(NACL, SILICON, confirm_core_hours=0.01), tmp_path / "out"
    message = refused("queue", "export", directory, "--to", out, "--format", "phono3py")
    assert "2 new calculations take about 1 core-hours, above [dft] confirm_core_hours = 0.01; nothing was" in message
    assert not out.exists()
    assert [e["state"] for e in queue(directory)] == ["approved"] * 2
    asked = answered(directory, out, "n")
    assert (asked.returncode, out.exists()) == (1, False)
    assert "export them? [y/N]" in asked.stdout
    assert answered(directory, out, "y").returncode == 0
    assert len(list(out.glob("001-*"))) == 2
    export(directory, out)  # nothing in it is new
    export(directory, tmp_path / "other", "--yes")
    export(directory, tmp_path / "relax", format="vasp")


def answered(directory: Path, out: Path, answer: str) -> subprocess.CompletedProcess[str]:
    """Export on a terminal, with an answer to the question."""
    command = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    words = [sys.executable, "-m", "campaigns", "queue", "export", str(directory), "--to", str(out)]
    return subprocess.run(
        [sys.executable, "-c", command, *words, "--format", "phono3py"],
        input=f"{answer}\n", capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY,
    )  # fmt: skip


def test_a_limit_of_core_hours(make_queue: MakeQueue, tmp_path: Path) -> None:
    directory = make_queue(CHALCOPYRITE, SILICON, max_core_hours=1.0)
    said = export(directory, tmp_path / "out").err
    assert f"left out: {CHALCOPYRITE}: it takes about " in said
    assert "above [dft] max_core_hours = 1; raise the limit" in said
    assert {e["id"]: e["state"] for e in queue(directory)} == {CHALCOPYRITE: "approved", SILICON: "exported"}
