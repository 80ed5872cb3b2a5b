"""A queue that waits: approve, export, import results, judge."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.materials.crystal import Material
from engine.materials.duplicates import same_crystal
from engine.materials.loading import load
from tests.campaigns.helpers import configure, done, kappascout, label_rows, queue, refused, write_lines


@pytest.fixture(scope="module")
def _waiting(_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(shutil.copytree(_campaign, tmp_path_factory.mktemp("waiting") / "c"))
    done("run", directory)
    return directory


@pytest.fixture
def waiting(_waiting: Path, tmp_path: Path) -> Path:
    """Campaign whose first queue waits."""
    return Path(shutil.copytree(_waiting, tmp_path / "c"))


def results(directory: Path, records: list[dict[str, Any]], count: int | None = None) -> Path:
    """Write the published values of the unfinished queue entries as a file of labels."""
    wanted = [e["id"] for e in queue(directory, "proposed", "approved", "exported")][:count]
    return write_lines(directory / "results.jsonl", label_rows([r for r in records if r["id"] in wanted]))


def test_the_queue_waits_and_goes_on_with_results(dft: Path, records: list[dict[str, Any]]) -> None:
    first = done("run", dft, "--format", "json")
    assert [row["state"] for row in first.json] == ["queued"]
    assert "waiting for 4 results (4 not approved yet): `kappascout queue approve" in first.err
    assert done("status", dft, "--format", "json").json["state"] == "waiting"
    assert done("run", dft, "--format", "json").json == []
    assert len(queue(dft)) == 4

    assert "4 entries approved" in done("queue", "approve", dft, "--note", "fine").err
    assert "0 entries approved" in done("queue", "approve", dft).err
    assert "waiting for 4 results (0 not approved yet): `kappascout submit" in done("run", dft).err
    done("queue", "export", dft, "--to", dft / "out", "--format", "cif")
    assert [e["state"] for e in queue(dft)] == ["exported"] * 4

    half = done("label", "import", dft, results(dft, records, 2), "--format", "json")
    beside = half.json.pop("compared")
    assert half.json | {"compared": None} == {"added": 2, "unchanged": 0, "superseded": 0, "compared": None}
    assert len(beside) == 2
    assert sorted(e["state"] for e in queue(dft)) == ["done", "done", "exported", "exported"]
    assert "waiting for 2 results" in done("run", dft).err
    done("label", "import", dft, results(dft, records))
    assert {e["state"] for e in queue(dft)} == {"done"}
    second = done("run", dft, "--format", "json").json
    assert [(row["round"], row["state"]) for row in second] == [(1, "judged"), (2, "queued")]
    assert second[0]["new_labels"] == 4
    assert second[0]["mae"] is not None
    assert second[1]["labels"] == 18


def test_a_label_for_a_proposed_entry_approves_it(waiting: Path, records: list[dict[str, Any]]) -> None:
    from campaigns.campaign import Campaign

    done("label", "import", waiting, results(waiting, records))
    with Campaign.open(waiting) as campaign:
        (entry, *_) = campaign.store.queue()
    assert [change.to_state for change in entry.history] == ["proposed", "approved", "done"]
    assert {change.note for change in entry.history[1:]} == {"label imported"}


def test_a_withdrawn_material_is_never_proposed_again(waiting: Path) -> None:
    """It gives its place in the budget back."""
    configure(waiting, {"campaign": {"batch": 100, "budget": 1000}})
    gone = [e["id"] for e in queue(waiting)]
    assert "1 entries withdrawn" in done("queue", "withdraw", waiting, gone[0], "--note", "toxic").err
    assert done("status", waiting, "--format", "json").json["asked"] == 0, "what is only proposed costs no budget"
    done("queue", "approve", waiting, gone[1])
    assert done("status", waiting, "--format", "json").json["asked"] == 1
    done("queue", "withdraw", waiting, *gone[1:])
    assert done("status", waiting, "--format", "json").json["asked"] == 0
    done("run", waiting)
    assert len(queue(waiting, "proposed")) == 42
    assert not {e["id"] for e in queue(waiting, "proposed")} & set(gone)


def test_a_failed_calculation_is_recorded_and_the_round_judged(waiting: Path, records: list[dict[str, Any]]) -> None:
    ids = [e["id"] for e in queue(waiting)]
    done("queue", "approve", waiting)
    done("queue", "fail", waiting, ids[0], "--reason", "imaginary_modes", "--note", "at X")
    done("label", "import", waiting, results(waiting, records))
    rows = done("run", waiting, "--format", "json").json
    assert (rows[0]["state"], rows[0]["new_labels"], rows[0]["failed"]) == ("judged", 3, 1)
    assert ids[0] not in {e["id"] for e in queue(waiting, "proposed")}
    from campaigns.campaign import Campaign

    with Campaign.open(waiting) as campaign:
        (failure,) = campaign.store.failures()
    assert (failure.material_id, failure.reason, failure.message) == (ids[0], "imaginary_modes", "at X")


def test_moves_that_cannot_be_made_say_why(waiting: Path) -> None:
    first = queue(waiting)[0]["id"]
    assert "nothing" in refused("queue", "approve", waiting, "nothing")
    assert "cannot go from proposed to failed" in refused("queue", "fail", waiting, first, "--reason", "timed_out")
    done("queue", "withdraw", waiting, first)
    message = refused("queue", "approve", waiting, first)
    assert f"not in the queue, or finished: {first}; `kappascout queue list" in message
    assert kappascout("queue", "fail", waiting, first, "--reason", "bored").code == 2
    assert kappascout("queue", "list", waiting, "--state", "lost").code == 2


def test_without_waiting_nothing_more_is_proposed_until_something_happens(waiting: Path) -> None:
    """A move, a label, a failure or another setting is a reason for a further round; never beyond the budget."""
    before = queue(waiting)
    for _ in range(2):
        ran = done("run", waiting, "--no-wait", "--format", "json")
        assert ran.json == []
        assert "nothing new since round 1; 4 entries are proposed: `kappascout queue approve" in ran.err
    assert queue(waiting) == before
    assert done("status", waiting, "--format", "json").json["state"] == "waiting"

    done("queue", "approve", waiting, before[0]["id"])
    ran = done("run", waiting, "--no-wait", "--rounds", 2, "--format", "json")
    assert [row["round"] for row in ran.json] == [2], "the second would know nothing new"
    assert "nothing new since round 2; 7 entries are proposed" in ran.err
    assert len({e["id"] for e in queue(waiting)}) == 8
    done("queue", "approve", waiting, before[1]["id"])
    said = done("run", waiting, "--no-wait").err
    assert "the budget of 8 labels leaves room for the proposed entries alone; `kappascout queue approve" in said
    done("queue", "approve", waiting)
    assert "budget of 8 labels is spent; raise it" in done("run", waiting, "--no-wait").err
    assert done("status", waiting, "--format", "json").json["state"] == "waiting"
    configure(waiting, {"campaign": {"budget": 100}})
    assert [r["round"] for r in done("run", waiting, "--no-wait", "--format", "json").json] == [3]
    assert len({e["id"] for e in queue(waiting)}) == 12


def test_what_counts_as_new(waiting: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Each of these is a reason for a further round; a look at the campaign is none."""
    from campaigns.campaign import Campaign
    from campaigns.round.news import nothing_new

    def is_still(directory: Path) -> bool:
        with Campaign.open(directory) as campaign:
            return bool(nothing_new(campaign.workspace, campaign.queue_entries()))

    first, second, *_ = (e["id"] for e in queue(waiting))
    done("status", waiting)
    done("queue", "list", waiting)
    assert is_still(waiting)
    configure(waiting, {"acquisition": {"function": "greedy"}})
    assert not is_still(waiting)
    configure(waiting, {"acquisition": {"function": "ucb"}})
    assert is_still(waiting)
    for number, news in enumerate(
        (
            ("queue", "approve", "DIR", first),
            ("queue", "withdraw", "DIR", second),
            ("label", "import", "DIR", results(waiting, records, 1)),
            ("ingest", "DIR", "builtin:reference"),
        )
    ):
        directory = Path(shutil.copytree(waiting, tmp_path / str(number)))
        done(*(directory if word == "DIR" else word for word in news))
        assert not is_still(directory), news
    done("queue", "approve", waiting)
    assert not is_still(waiting), "nothing is proposed"


@pytest.mark.parametrize("function", ["qUCB", "qLogEI", "thompson"])
def test_joint_rules_condition_on_what_is_pending(waiting: Path, function: str) -> None:
    configure(waiting, {"acquisition": {"function": function, "draws": 64}})
    done("run", waiting, "--no-wait")
    assert len({e["id"] for e in queue(waiting)}) == 8


def test_exported_crystals_come_back_as_themselves(waiting: Path, pool_file: Path) -> None:
    done("queue", "approve", waiting)
    done("queue", "export", waiting, "--to", waiting / "out", "--format", "cif")
    entries = queue(waiting)
    files = sorted((waiting / "out").glob("*.cif"))
    assert [f.name for f in files] == [f"001-{e['rank']:04d}-{e['id']}.cif" for e in entries]
    known = {m.id: m for part in load([pool_file], 1) for m in part if isinstance(m, Material)}
    for file, entry in zip(files, entries, strict=True):
        (crystal,) = [m for part in load([file], 1) for m in part]
        assert isinstance(crystal, Material)
        assert same_crystal(crystal, known[entry["id"]])
    with (waiting / "out" / "queue.csv").open() as handle:
        assert [row["id"] for row in csv.DictReader(handle)] == [e["id"] for e in entries]


@pytest.mark.parametrize(("format", "name"), [("cif", "out"), ("csv", "out.csv"), ("json", "out.json")])
def test_exporting_again_gives_the_same_bytes(waiting: Path, format: str, name: str) -> None:
    done("queue", "approve", waiting)

    def export() -> dict[str, bytes]:
        done("queue", "export", waiting, "--to", waiting / name, "--format", format)
        target = waiting / name
        files = sorted(target.iterdir()) if target.is_dir() else [target]
        return {f.name: f.read_bytes() for f in files}

    first = export()
    assert {e["state"] for e in queue(waiting)} == {"exported"}
    assert export() == first
    if format == "json":
        (content,) = first.values()
        assert [set(e["structure"]["lattice"]) >= {"matrix"} for e in json.loads(content)] == [True] * 4


def test_exports_that_cannot_be_written_mark_nothing(waiting: Path) -> None:
    assert "(4 proposed); approve some first" in refused("queue", "export", waiting, "--to", waiting / "out")
    done("queue", "approve", waiting)
    blocked = waiting / "campaign.toml" / "out"
    assert "no entry was marked as exported" in refused("queue", "export", waiting, "--to", blocked)
    assert {e["state"] for e in queue(waiting)} == {"approved"}
    assert kappascout("queue", "export", waiting, "--to", waiting / "o", "--format", "docx").code == 2


def test_what_comes_while_a_round_is_unfinished_waits_for_the_next(
    dft: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """New labels and crystals change nothing in its queue; a label that came is not asked for again."""
    from campaigns.campaign import Campaign
    from campaigns.round.opening import open_round

    undisturbed = Path(shutil.copytree(dft, tmp_path / "undisturbed"))
    done("run", undisturbed, "--rounds", 1)
    with Campaign.open(dft) as campaign:
        open_round(campaign.workspace, 4)
    done("label", "import", dft, write_lines(dft / "all.jsonl", label_rows(records[14:], source="others")))
    done("ingest", dft, "builtin:reference")
    ran = done("run", dft, "--rounds", 1)
    assert "round 1: continuing after its last finished step, started" in ran.err
    assert [e["state"] for e in queue(dft)] == ["done"] * 4
    predicted = ("id", "mean", "lower", "upper", "reason")
    assert [[e[name] for name in predicted] for e in queue(dft)] == [
        [e[name] for name in predicted] for e in queue(undisturbed)
    ]


def test_settings_changed_within_a_round_wait_for_the_next(dft: Path) -> None:
    from campaigns.campaign import Campaign
    from campaigns.round.opening import open_round

    with Campaign.open(dft) as campaign:
        open_round(campaign.workspace, 4)
    configure(dft, {"campaign": {"batch": 7}, "acquisition": {"function": "greedy"}})
    ran = done("run", dft)
    changed = "round 1: keeps the settings it began with; changed since: [campaign] batch, [acquisition] function"
    assert changed in ran.err
    assert ["ucb)" in e["reason"] or "(ucb" in e["reason"] for e in queue(dft)] == [True] * 4


def test_a_round_refuses_other_inputs_than_it_began_with(dft: Path) -> None:
    from campaigns.campaign import Campaign
    from campaigns.round.opening import open_round

    with Campaign.open(dft) as campaign:
        open_round(campaign.workspace, 4)
    candidates = dft / "artifacts" / "rounds" / "001" / "candidates.npy"
    kept = candidates.read_bytes()
    candidates.write_bytes(kept + b"x")
    assert f"{candidates} is missing or changed since round 1 began" in refused("run", dft)
    candidates.write_bytes(kept)
    done("run", dft)


def test_record_and_tables_from_a_notebook(waiting: Path) -> None:
    """A campaign in Python says what the command line says."""
    from campaigns.campaign import Campaign
    from db.exceptions import LabelError

    with Campaign.open(waiting) as campaign:
        table = campaign.queue()
        assert list(table["state"]) == ["proposed"] * 4
        report = campaign.record(table["id"][0], 3.5, method="measured by hand")
        assert len(report.added) == 1
        assert list(campaign.queue()["state"]) == ["done", *["proposed"] * 3]
        assert campaign.labels()["value"].iloc[-1] == 3.5
        with pytest.raises(LabelError, match="must be above zero"):
            campaign.record(table["id"][1], -3.5)
