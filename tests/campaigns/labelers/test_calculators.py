"""A campaign closes its own loop: it calculates what it queued, with real physics, and survives what goes wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import ConfigurationError
from campaigns.intake.adding import add_materials
from campaigns.intake.ingest_report import IngestReport
from campaigns.labelers.calculators import Calculator, stored_reason
from db.states import FailureReason, QueueState
from engine.materials.identity import identify
from engine.physics.debye import calculate_kappa
from engine.physics.outcome import REASONS, Failed
from engine.physics.potentials import load_potential
from tests.campaigns.calculations import WRONG, by_formula
from tests.campaigns.helpers import configure, done, refused, write_lines
from tests.engine.physics.salts import LATTICE_CONSTANTS, rocksalt

AGL = {
    "campaign": {"batch": 4, "budget": 12, "fidelity": "agl"},
    "labeler": {"kind": "agl", "potential": "rigid-ion"},
    "model": {"members": 2},
}


@pytest.fixture(scope="module")
def salts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give rocksalt crystals as a file; the name of each is its formula."""
    rows = [
        {
            "id": formula,
            "lattice": (crystal := rocksalt(formula)).lattice.tolist(),
            "species": crystal.symbols,
            "frac_coords": crystal.frac_coords.tolist(),
            "properties": {},
        }
        for formula in LATTICE_CONSTANTS
    ]
    return write_lines(tmp_path_factory.mktemp("salts") / "salts.jsonl", rows)


@pytest.fixture(scope="module")
def _agl(salts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("agl") / "c"
    done("init", directory, "--cold", "--goal", "max")
    done("ingest", directory, salts)
    configure(directory, AGL)
    return directory


@pytest.fixture
def agl(_agl: Path, tmp_path: Path) -> Path:
    """Campaign on salts that calculates its labels."""
    return Path(shutil.copytree(_agl, tmp_path / "c"))


def test_three_rounds_close_by_themselves(agl: Path) -> None:
    """The third round's model is trained on what the first two calculated."""
    ran = done("run", agl)
    assert "the budget of 12 labels is spent" in ran.err
    with Campaign.open(agl) as campaign:
        rounds, labels = campaign.store.rounds(), campaign.store.labels()
        entries = campaign.queue_entries()
    assert [str(r.state) for r in rounds] == ["judged"] * 3
    assert rounds[2].manifest["labels"] == 8
    assert rounds[2].metrics_before is not None
    assert {e.state for e in entries} == {QueueState.DONE}
    assert len({e.material_id for e in entries}) == len(labels) == 12
    assert [c.to_state for c in entries[0].history] == ["proposed", "approved", "running", "done"]
    potential = load_potential("rigid-ion")
    for label in labels:
        outcome: Any = calculate_kappa(rocksalt(label.material_id), potential)
        assert label.value == pytest.approx(outcome.kappa, rel=1e-6)
        assert (label.unit, label.temperature, label.fidelity) == ("W/(m K)", 300.0, "agl")
        assert label.method == "quasi-harmonic Debye model"
        assert label.source.endswith(", agl, rigid-ion")
        assert label.provenance["potential"] == potential.describe()
        assert label.provenance["result"]["gruneisen"] == pytest.approx(outcome.provenance["result"]["gruneisen"])
        assert label.provenance["wall_seconds"] > 0
        assert 0 < (label.cost or 0) < 1 / 60
    assert len({label.provenance["settings_hash"] for label in labels}) == 1
    assert rounds[2].metrics_after is not None
    assert rounds[2].metrics_after["cost"] > 0


def test_labels_of_another_version_of_the_potential_are_not_joined(agl: Path) -> None:
    """Nothing is touched; another potential is reported, and a change while the work goes on is a failure."""
    done("run", agl, "--rounds", "1")
    with Campaign.open(agl) as campaign:
        described = load_potential("rigid-ion").describe()
        newer = described | {"sha256": "0" * 64, "version": "2"}
        campaign.labeler = Calculator(campaign.configuration, by_formula, "rigid-ion", "0" * 64, newer)
        with pytest.raises(ConfigurationError, match="version unknown, now 2"):
            campaign.run(1)
        assert len(campaign.store.labels()) == 4
        assert sorted(campaign.queue()["state"]) == ["done"] * 4 + ["proposed"] * 4
        other = newer | {"name": "other"}
        campaign.labeler = Calculator(campaign.configuration, by_formula, "rigid-ion", "0" * 64, other)
        lines: list[str] = []
        campaign.run(1, lines.append)
        assert len(campaign.store.labels()) == 4
        failures = campaign.store.failures()
    assert any("are of rigid-ion; those of other join them" in line for line in lines)
    assert any(failure.reason is FailureReason.REJECTED for failure in failures)


def test_a_value_beyond_the_limits_is_a_failure(agl: Path) -> None:
    configure(agl, {"campaign": {"batch": 8, "budget": 8}, "labels": {"limits": {"kappa_300K": {"max": 5.0}}}})
    done("run", agl, "--rounds", "1")
    with Campaign.open(agl) as campaign:
        labels, failures = campaign.store.labels(), campaign.store.failures()
        states = {e.material_id: e.state for e in campaign.queue_entries()}
    assert len(labels) + len(failures) == 8
    assert max(label.value for label in labels) <= 5.0
    assert {failure.reason for failure in failures} == {FailureReason.REJECTED}
    assert all(states[failure.material_id] is QueueState.FAILED for failure in failures)


@pytest.mark.slow
def test_a_campaign_on_dask_is_the_campaign_made_here(agl: Path, tmp_path: Path) -> None:
    """Labels and trained networks are the same; the second round's model is trained on the cluster."""
    pytest.importorskip("distributed", reason="Dask is not installed (extra `dask`)")
    model = {"members": 2, "networks": "full", "head": "network", "epochs": 1}
    found = {}
    for backend in ("local", "dask"):
        directory = Path(shutil.copytree(agl, tmp_path / backend))
        configure(directory, AGL | {"campaign": AGL["campaign"] | {"batch": 8, "budget": 9}, "model": model})
        configure(directory, {"execution": {"backend": backend, "workers": 2}})
        done("run", directory)
        with Campaign.open(directory) as campaign:
            labels = {label.material_id: label for label in campaign.store.labels()}
            rounds = campaign.store.rounds()
            states = {e.material_id: str(e.state) for e in campaign.queue_entries()}
        assert set(states.values()) == {"done"}
        assert len(rounds) == 2
        assert rounds[1].metrics_before is not None
        values = {id_: (label.value, label.provenance["settings_hash"]) for id_, label in labels.items()}
        found[backend] = values, states, rounds[1].metrics_before["held_out"]
    assert len(found["local"][0]) == 9
    assert found["dask"] == found["local"]


MEASURED = {"NaCl": 7.1, "MgO": 60.0, "LiF": 17.6, "NaF": 18.4, "KCl": 7.1, "KBr": 3.4, "RbCl": 2.8, "RbI": 2.3}
"""W/(m K) at 300 K, as compiled by Toher et al. (2014)."""


def test_two_rounds_close_with_phonons(agl: Path) -> None:
    """Supercells and meshes are far below what science needs; the values still are those of the salts."""
    small = {"min_length": 7.0, "first_mesh": 12.0, "last_mesh": 12.0, "wigner": False}
    configure(agl, {"campaign": {"batch": 2, "budget": 4, "fidelity": "mlip"}})
    configure(agl, {"labeler": {"kind": "phonons", "settings": small}})
    done("run", agl)
    with Campaign.open(agl) as campaign:
        rounds, labels = campaign.store.rounds(), campaign.store.labels()
        assert set(campaign.queue()["state"]) == {"done"}
    assert [str(r.state) for r in rounds] == ["judged"] * 2
    assert len(labels) == 4
    for label in labels:
        assert label.method == "phonons, RTA"
        assert label.provenance["settings"]["min_length"] == 7.0
    ratios = [label.value / MEASURED[label.material_id] for label in labels if label.material_id in MEASURED]
    assert ratios
    assert all(1 / 3 < ratio < 3 for ratio in ratios)


def test_what_goes_wrong_is_a_failure_with_a_reason(agl: Path) -> None:
    configure(agl, {"campaign": {"batch": 17, "budget": 17}, "labeler": {"time_limit": 2.0, "workers": 2}})
    with Campaign.open(agl) as campaign:
        campaign.labeler = Calculator(campaign.configuration, by_formula, "rigid-ion", "0" * 64)
        lines: list[str] = []
        report = campaign.run(say=lines.append)
        failures = {f.material_id: f for f in campaign.store.failures()}
        labels = {label.material_id: label for label in campaign.store.labels()}
        states = {e.material_id: e.state for e in campaign.queue_entries()}
    assert report.stopped == "budget"
    assert {id_: str(f.reason) for id_, f in failures.items()} == WRONG
    assert set(labels) == set(LATTICE_CONSTANTS) - set(WRONG)
    assert all(states[id_] is (QueueState.FAILED if id_ in WRONG else QueueState.DONE) for id_ in states)
    assert failures["LiCl"].provenance["frequency"] == -1.2
    assert failures["LiCl"].cost == pytest.approx(0.002)
    assert failures["NaF"].cost == pytest.approx(2.0 / 3600, rel=0.5)
    assert "SIGKILL" in failures["RbF"].message
    assert labels["MgO"].cost == pytest.approx(0.001)
    assert any("NaF, failed, timed_out" in line for line in lines)


def test_isotopes_are_not_calculated_with_natural_masses(agl: Path) -> None:
    """A failure that tells nothing of other crystals; the hydride is calculated."""
    with Campaign.open(agl) as campaign:
        heavy = identify("LiD", rocksalt("LiF"), isotopes="2H")
        add_materials(campaign.store, [heavy], IngestReport())
    configure(agl, {"campaign": {"batch": 18, "budget": 18}})
    ran = done("run", agl, "--rounds", 1)
    assert "LiD is not calculated" in ran.err
    with Campaign.open(agl) as campaign:
        (failure,) = campaign.store.failures()
        states = {e.material_id: e.state for e in campaign.queue_entries()}
    assert (failure.material_id, failure.reason) == ("LiD", FailureReason.REJECTED)
    assert "2H" in failure.message
    assert (states["LiD"], states["LiF"]) == (QueueState.FAILED, QueueState.DONE)


def test_stopped_and_run_again_it_calculates_nothing_twice(agl: Path) -> None:
    """Stopped after the second result: two are kept, the others were running and are calculated on the next run."""

    def stop(line: str) -> None:
        if line.startswith("agl 2 of 4"):
            raise KeyboardInterrupt

    with Campaign.open(agl) as campaign, pytest.raises(KeyboardInterrupt):
        campaign.run(1, stop)
    with Campaign.open(agl) as campaign:
        kept = {label.material_id: label.id for label in campaign.store.labels()}
        assert len(kept) == 2
        assert sorted(campaign.queue()["state"]) == ["done", "done", "running", "running"]
        lines: list[str] = []
        configure(agl, {"campaign": {"budget": 4}})
    with Campaign.open(agl) as campaign:
        campaign.run(say=lines.append)
        after = {label.material_id: label.id for label in campaign.store.labels()}
    assert [line.split(":")[0] for line in lines if line.startswith("agl")] == ["agl 1 of 2", "agl 2 of 2"]
    assert len(after) == 4
    assert {id_: after[id_] for id_ in kept} == kept


def test_labels_from_elsewhere_and_exported_entries_are_left_alone(agl: Path) -> None:
    with Campaign.open(agl) as campaign:
        labeler = campaign.labeler
        campaign.labeler = Waiting()
        campaign.run(1)
        first, second, *_ = campaign.queue()["id"]
        campaign.record(first, 9.0, method="measured by hand")
        campaign.move([second], QueueState.APPROVED)
        campaign.move([second], QueueState.EXPORTED)
        campaign.labeler = labeler
        report = campaign.run()
        states = dict(zip(campaign.queue()["id"], campaign.queue()["state"], strict=True))
        labels = {label.material_id: label for label in campaign.store.labels()}
    assert report.stopped == "waiting"
    assert states.pop(second) == "exported"
    assert set(states.values()) == {"done"}
    assert labels[first].value == 9.0
    assert second not in labels


class Waiting:
    """A labeler that does nothing."""

    def work(self, store: Any, entries: Any, say: Any) -> None:
        """Wait."""

    def hit_rate(self, hit: float, goal: str) -> None:
        """Not known."""


def test_labels_are_calculated_on_two_devices(agl: Path) -> None:
    configure(agl, {"labeler": {"devices": ["cpu", "cpu"]}})
    done("run", agl, "--rounds", "1")
    with Campaign.open(agl) as campaign:
        labels = campaign.store.labels()
    assert len(labels) == 4
    assert {label.provenance["potential"]["sha256"] for label in labels} == {load_potential("rigid-ion").sha256}


def test_settings_and_potential_make_the_hash(agl: Path) -> None:
    hashes = set()
    for labeler in ({}, {"settings": {"strain": 0.05}}, {"potential": "rigid-ion:NaCl"}):
        configure(agl, {"labeler": AGL["labeler"] | labeler})
        with Campaign.open(agl) as campaign:
            hashes.add(campaign.labeler._settings_hash)  # type: ignore[attr-defined]
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"campaign": {"fidelity": "dft"}}, "not 'dft'; set [campaign] fidelity = 'agl'"),
        ({"campaign": {"property": "band_gap_eV", "unit": "eV"}}, "gives kappa in W/(m K)"),
        ({"labeler": {"potential": ""}}, "needs potential"),
        ({"labeler": {"potential": "rigid-ion:CsCl"}}, "there is no rigid-ion:CsCl"),
        ({"labeler": {"potential": "./nowhere"}}, "nowhere"),
        ({"labeler": {"workers": 0}}, "[labeler] workers = 0"),
        ({"labeler": {"time_limit": -1.0}}, "[labeler] time_limit = -1.0"),
        ({"labeler": {"devices": ["cuda:97"]}}, "there is no device cuda:97"),
        ({"labeler": {"devices": ["gpu"]}}, "there is no device 'gpu'"),
        ({"labeler": {"devices": ["cpu"], "workers": 2}}, "workers = 2 and 1 devices contradict each other"),
        ({"labeler": {"devices": ["cpu"]}, "execution": {"backend": "dask"}}, "devices are those of this machine"),
        ({"labeler": {"settings": {"strains": 0.1}}}, "has no strains; there are points, strain"),
        ({"labeler": {"settings": {"temperature": 100}}}, "has no temperature"),
        ({"labeler": {"settings": {"strain": "wide"}}}, "strain: Input should be a valid number"),
        ({"labeler": {"settings": {"points": 3}}}, "points must be at least 5"),
        ({"labeler": {"kind": "phonons", "settings": {"displacements": "some"}}}, "displacements"),
        ({"labeler": {"potential_python": "bin/python"}}, "leave it out"),
        ({"labeler": {"potential": "mace:medium", "potential_python": "bin/python"}}, "there is no program bin/python"),
        ({"labeler": {"potential": "maze:medium"}}, "there is no family of potentials 'maze'"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(agl: Path, settings: Any, message: str) -> None:
    configure(agl, settings)
    assert message in refused("run", agl)


def test_engine_and_store_have_the_same_reasons() -> None:
    assert all(FailureReason[reason.upper()] == reason for reason in REASONS)


@pytest.mark.parametrize(
    ("failed", "reason"),
    [
        (Failed("timed_out", "took longer than 2 s"), FailureReason.TOO_LONG),
        (Failed("timed_out", "while the potential was loaded", from_outside=True), FailureReason.TIMED_OUT),
        (Failed("calculator_error", "the process died (SIGSEGV)"), FailureReason.CRASHED),
        (Failed("calculator_error", "the process died (SIGKILL)", from_outside=True), FailureReason.CALCULATOR_ERROR),
        (Failed("not_converged", "no"), FailureReason.NOT_CONVERGED),
    ],
)
def test_what_hangs_or_crashes_here_is_the_crystals_doing(failed: Failed, reason: FailureReason) -> None:
    assert stored_reason(failed) is reason


def test_tables_and_crystals_for_notebooks(agl: Path) -> None:
    with Campaign.open(agl) as campaign:
        assert len(campaign.queue()) == len(campaign.labels()) == 0
        assert "reason" in campaign.queue().columns
        assert {"material_id", "value", "unit"} <= set(campaign.labels().columns)
        structure, atoms = campaign.structure("NaCl"), campaign.atoms("NaCl")
    assert structure.composition.reduced_formula == "NaCl"
    assert structure.volume == pytest.approx(5.64**3 / 4)
    assert atoms.get_volume() == pytest.approx(structure.volume)
    assert all(atoms.pbc)
