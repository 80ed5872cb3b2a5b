"""Stages, and the records that jobs leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from campaigns.cluster.hosts import ThisMachine
from campaigns.cluster.jobs import RECORDS, job_end, resources, stages_of
from campaigns.cluster.schedulers import Scheduler
from campaigns.configuration import Configuration
from campaigns.exceptions import ClusterError
from campaigns.exchange.manifest import Entry
from db.states import FailureReason

SLURM = Scheduler("slurm", ThisMachine())


def configuration(**cluster: object) -> Configuration:
    campaign = {"name": "c", "goal": "min", "property": "kappa_300K"}
    return Configuration.model_validate({"campaign": campaign, "cluster": cluster, "dft": {"slurm": {"time": "10"}}})


@pytest.mark.parametrize(("largest", "tasks"), [(100, [7]), (3, [3, 3, 1]), (1, [1] * 7)])
def test_an_array_has_a_task_for_each_supercell(exported_entry: Entry, largest: int, tasks: list[int]) -> None:
    entry = exported_entry.model_copy(
        update={"work": exported_entry.work.model_copy(update={"supercells": 7}) if exported_entry.work else None}
    )
    stages = stages_of(entry, "slurm", largest)
    arrays = [stage for stage in stages if stage.name == "forces"]
    assert [stage.tasks for stage in arrays] == tasks
    assert [stage.offset for stage in arrays] == [sum(tasks[:i]) for i in range(len(tasks))]
    numbered = [stage for stage in arrays if stage.tasks == 1]
    assert [stage.arguments for stage in numbered] == [("forces", str(stage.offset + 1)) for stage in numbered]
    assert [stages[0].name, stages[-1].name] == ["prepare", "kappa"]
    (alone,) = stages_of(entry, "shell", largest)
    assert alone.arguments[0] == "preflight"
    assert alone.arguments[-2:] == ("forces", "kappa")


def test_options_of_a_stage_and_after_failures() -> None:
    section = configuration(options={"time": "02:00:00", "mem": "4G"}, forces={"time": "01:00:00"}, growth=3.0)
    assert resources(section, "prepare", SLURM) == {"time": "02:00:00", "mem": "4G"}
    failures = [FailureReason.TIMED_OUT, FailureReason.OUT_OF_MEMORY, FailureReason.TIMED_OUT]
    assert resources(section, "forces", SLURM, failures) == {"time": "09:00:00", "mem": "12G"}
    assert resources(configuration(), "kappa", SLURM) == {"time": "10"}, (
        "those of [dft] slurm where there are no others"
    )


def test_what_the_site_wants() -> None:
    with pytest.raises(ClusterError, match="account"):
        resources(configuration(options={"time": "1"}, required=("time", "account")), "kappa", SLURM)


def test_records_of_an_array(tmp_path: Path) -> None:
    folder = tmp_path / RECORDS
    folder.mkdir()
    for number, code in ((1, 0), (2, 7), (3, 0)):
        started = {"at": f"2026-01-01T00:00:0{number}Z", "id": "9", "nodes": f"n{number}", "cores": 4}
        ended = {"at": f"2026-01-01T01:00:0{number}Z", "exit_code": code, "seconds": 1800, "cores": 4}
        (folder / f"job.{number}.started").write_text(json.dumps(started))
        (folder / f"job.{number}.ended").write_text(json.dumps(ended))
    end = job_end(tmp_path, "job", 3)
    assert (end.exit_code, end.missing, end.begun, end.core_hours) == (7, 0, 3, 6.0)
    assert (end.started_at, end.ended_at) == ("2026-01-01T00:00:01Z", "2026-01-01T01:00:03Z")
    assert end.nodes == "n1, n2, n3"
    (folder / "job.2.ended").write_text('{"at": "2026')
    end = job_end(tmp_path, "job", 3)
    assert (end.missing, end.ended_at) == (1, None), "a record that is cut is none"
