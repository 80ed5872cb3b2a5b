"""Mistyped names, doubtful values, limits and withdrawals of labels, as people meet them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import CampaignError
from campaigns.intake.doubts import doubts
from db.exceptions import IllegalMoveError, LabelError, UnknownRecordError
from db.records import QueueEntryRecord
from db.states import RoundState
from tests.campaigns.helpers import configure, done, kappascout, label_rows, queue, refused, write_lines

KAPPA = {"property": "kappa_300K", "unit": "W/(m K)", "fidelity": "dft"}


@pytest.fixture(scope="module")
def _small(_empty: Path, records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = Path(shutil.copytree(_empty, tmp_path_factory.mktemp("small") / "c"))
    done("ingest", directory, write_lines(directory / "pool.jsonl", records[:6]))
    return directory


@pytest.fixture
def small(_small: Path, tmp_path: Path) -> Path:
    """Campaign with a few materials and no label."""
    return Path(shutil.copytree(_small, tmp_path / "c"))


def import_(directory: Path, *rows: dict[str, Any], options: tuple[str, ...] = ()) -> Any:
    path = write_lines(directory / "labels.jsonl", rows)
    return done("label", "import", directory, path, "--format", "json", *options)


def row(record: dict[str, Any], value: float, **fields: Any) -> dict[str, Any]:
    return KAPPA | {"id": record["id"], "value": value} | fields


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"property": "kapa_300K"}, "kappa_300K"),
        ({"property": "Kappa_300K"}, "kappa_300K"),
        ({"fidelity": "DFT"}, "dft"),
        ({"fidelity": "experimnt"}, "experiment"),
    ],
)
def test_mistyped_names_are_refused_unless_meant(
    small: Path, records: list[dict[str, Any]], fields: dict[str, str], meant: str
) -> None:
    bad = row(records[0], 2.0, **fields)
    (given,) = fields.values()
    path = write_lines(small / "labels.jsonl", [row(records[1], 3.0), bad])
    message = refused("label", "import", small, path)
    assert "line 2" in message
    assert repr(given) in message
    assert repr(meant) in message
    assert "--new-property" in message
    with Campaign.open(small) as campaign:
        changed = {name: value for name, value in bad.items() if name not in ("id", "value")}
        with pytest.raises(LabelError, match=meant):
            campaign.record(records[0]["id"], 2.0, **changed)
        assert campaign.record(records[0]["id"], 2.0, new_property=True, **changed).added
    assert import_(small, row(records[2], 2.0, **fields)).json["added"] == 1, "it is known now"


def test_a_mistyped_label_field_is_refused_before_anything_is_read(empty: Path, records: list[dict[str, Any]]) -> None:
    path = write_lines(empty / "pool.jsonl", records[:3])
    message = refused("ingest", empty, path, "--label", "kappa_300K=kapa_300K@dft:W/(m K)")
    assert "'kappa_300K'" in message
    assert done("status", empty, "--format", "json").json["materials"] == 0
    told = "kappa_300K=kapa_300K@dft:W/(m K)"
    assert done("ingest", empty, path, "--label", told, "--new-property", "--format", "json").json["labels"] == 3
    assert "'kappa_300K_600K'" in refused("ingest", empty, path, "--label", "kappa_300K=kappa_300K_600K@dft")


def test_other_temperatures_and_the_first_of_two_new_names(small: Path, records: list[dict[str, Any]]) -> None:
    hot = row(records[0], 1.0, property="kappa_600K", temperature=600)
    new = {"property": "debye_temperature", "unit": "K"}
    rows = [hot, row(records[0], 300.0, **new), row(records[1], 9.0, **new | {"property": "debye_temperture"})]
    message = refused("label", "import", small, write_lines(small / "labels.jsonl", rows))
    assert "1 of 3 labels" in message
    assert "'debye_temperature'" in message


# -- doubts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "doubtful"), [(0.000214, True), (0.0099, True), (0.01, False), (5000.0, False), (5001.0, True)]
)
def test_values_out_of_range(small: Path, records: list[dict[str, Any]], value: float, doubtful: bool) -> None:
    outcome = import_(small, row(records[0], value))
    assert outcome.json["added"] == 1
    assert ("doubtful" in outcome.json) == doubtful == ("doubtful" in outcome.err)
    assert len(done("label", "list", small, "--doubtful", "--format", "json").json) == doubtful
    assert import_(small, row(records[0], value)).json.get("doubtful") is None, "told once, listed always"


@pytest.mark.parametrize(
    ("earlier", "value", "named"),
    [
        ([(2.0, "dft")], 21.0, 0), ([(2.0, "dft")], 19.0, None), ([(2.0, "dft")], 0.19, 0),
        ([(2.0, "agl")], 21.0, 0), ([(2.0, "dft"), (20.0, "agl")], 21.0, 0),
        ([(20.0, "dft"), (2.0, "agl")], 21.0, None),
    ],
)  # fmt: skip
def test_values_far_off_an_earlier_label(
    small: Path, records: list[dict[str, Any]], earlier: list[tuple[float, str]], value: float, named: int | None
) -> None:
    """A label of the same fidelity is the measure where there is one."""
    import_(small, *(row(records[0], v, fidelity=f, source="paper") for v, f in earlier))
    outcome = import_(small, row(records[0], value, method="other"))
    listed = [d for d in done("label", "list", small, "--doubtful", "--format", "json").json if d["method"] == "other"]
    if named is None:
        assert "doubtful" not in outcome.json
        assert listed == []
        return
    ((told,),) = ([d["reasons"]] for d in outcome.json["doubtful"])
    assert f"label {named + 1}, {earlier[named][0]:g}" in told[0]
    assert earlier[named][1] in told[0]
    assert listed[0]["doubtful"] == told


def test_other_temperatures_are_not_compared(small: Path, records: list[dict[str, Any]]) -> None:
    import_(small, row(records[0], 300.0, property="kappa", temperature=20))
    assert "doubtful" not in import_(small, row(records[0], 3.0, property="kappa", temperature=300)).json


def test_a_correction_by_a_factor_is_told(small: Path, records: list[dict[str, Any]]) -> None:
    import_(small, row(records[0], 0.214))
    outcome = import_(small, row(records[0], 214.0)).json
    assert outcome["superseded"] == 1
    assert "label 1" in outcome["doubtful"][0]["reasons"][0]
    assert done("label", "list", small, "--doubtful", "--format", "json").json == [], "the other no longer counts"


@pytest.mark.parametrize(("value", "doubtful"), [(1.0, False), (8.9, False), (10.0, True), (0.113, False), (0.1, True)])
def test_values_far_off_their_prediction(
    small: Path, records: list[dict[str, Any]], value: float, doubtful: bool
) -> None:
    """The 99 % interval is a third to three; three times beyond is doubtful."""
    std = 0.47712125 / 2.5758293
    with Campaign.open(small) as campaign:
        manifest = {"settings": campaign.configuration.model_dump(mode="json"), "labels": 0, "hit": None}
        campaign.store.start_round(manifest)
        entry = QueueEntryRecord(1, records[0]["id"], log10_mean=0.0, log10_std=std, fidelity="dft")
        campaign.store.finish_step(1, RoundState.QUEUED, queue=[entry])
        report = campaign.record(records[0]["id"], value)
        assert bool(report.doubtful) == doubtful == bool(doubts(campaign.store))
        assert not campaign.record(records[0]["id"], value, fidelity="agl", source="other").doubtful or value == 0.1


def test_doubtful_labels_of_crystals_are_told(empty: Path, records: list[dict[str, Any]]) -> None:
    odd = [*records[:2], records[2] | {"properties": {"kappa_300K": 0.000214}}]
    path = write_lines(empty / "pool.jsonl", odd)
    outcome = done("ingest", empty, path, "--label", "kappa_300K=kappa_300K@dft", "--format", "json")
    assert [d["material_id"] for d in outcome.json["doubtful"]] == [records[2]["id"]]
    assert "doubtful" in outcome.err
    status = done("status", empty, "--format", "json").json
    assert status["best"] == 0.000214
    assert "label 3" in status["best_doubtful"]
    done("label", "withdraw", empty, 3, "--reason", "a slip of the pen")
    assert "best_doubtful" not in done("status", empty, "--format", "json").json


def test_a_run_says_that_the_best_is_doubtful(dft: Path, records: list[dict[str, Any]]) -> None:
    import_(dft, row(records[20], 0.000214))
    assert "the best so far is doubtful" in done("run", dft, "--rounds", "1").err


# -- limits -----------------------------------------------------------------------------------------------------------


def test_values_beyond_the_limits_are_refused(small: Path, records: list[dict[str, Any]]) -> None:
    configure(small, {"labels": {"limits": {"kappa_300K": {"min": 0.1, "max": 100.0}}}})
    bad = [
        row(records[0], 0.09),
        row(records[1], 101.0),
        row(records[2], 0.1),
        row(records[3], 1e4, property="kappa_400K"),
    ]
    message = refused("label", "import", small, write_lines(small / "l.jsonl", bad))
    assert "2 of 4 labels" in message
    with Campaign.open(small) as campaign, pytest.raises(LabelError, match=r"0\.1"):
        campaign.record(records[0]["id"], 0.01)
    odd = write_lines(small / "odd.jsonl", [r | {"id": f"new-{r['id']}"} for r in records[8:10]])
    values = [r["properties"]["kappa_300K"] for r in records[8:10]]
    configure(small, {"labels": {"limits": {"kappa_300K": {"max": min(values)}}}})
    outcome = done("ingest", small, odd, "--label", "kappa_300K=kappa_300K@dft", "--format", "json").json
    assert (outcome["added"], outcome["rejected"], outcome["reasons"]) == (1, 1, {"bad_label": 1})


def test_a_rehearsal_takes_no_answer_beyond_the_limits(replay: Path) -> None:
    configure(replay, {"labels": {"limits": {"kappa_300K": {"min": 1e4}}}})
    done("run", replay, "--rounds", "1")
    assert {e["state"] for e in queue(replay)} == {"failed"}


# -- withdrawals ------------------------------------------------------------------------------------------------------


def test_withdrawn_labels_are_kept_and_count_no_more(small: Path, records: list[dict[str, Any]]) -> None:
    rows = [row(record, 1.0 + k) for k, record in enumerate(records[:3])]
    import_(small, *rows)
    outcome = done("label", "withdraw", small, 1, 2, "--reason", "wrong functional", "--format", "json")
    assert [label["id"] for label in outcome.json] == [1, 2]
    assert records[0]["id"] in outcome.err
    assert [label["id"] for label in done("label", "list", small, "--format", "json").json] == [3]
    every = done("label", "list", small, "--all", "--format", "json").json
    assert [label["state"].split()[0] for label in every] == ["withdrawn", "withdrawn", "current"]
    assert [label["trains"] for label in every] == [False, False, True]
    assert every[0]["withdrawn_reason"] == "wrong functional"
    assert every[0]["withdrawn_by"]
    assert every[0]["withdrawn_at"] > every[0]["created_at"]
    assert done("status", small, "--format", "json").json["labels"] == 1

    same = import_(small, *rows)
    assert same.json == {"added": 0, "unchanged": 3, "superseded": 0}
    assert "label 1 stays withdrawn (wrong functional)" in same.err
    assert import_(small, rows[0] | {"value": 7.0}).json["added"] == 1, "another value is another label"
    assert import_(small, rows[1], options=("--again",)).json["added"] == 1
    assert len(done("label", "list", small, "--format", "json").json) == 3


def test_labels_of_materials_are_withdrawn(small: Path, records: list[dict[str, Any]]) -> None:
    id_ = records[0]["id"]
    import_(
        small, row(records[0], 1.0), row(records[0], 2.0, fidelity="agl"), row(records[0], 3.0, property="kappa_600K")
    )
    assert f"{id_!r} is not the id of a label" in refused("label", "withdraw", small, id_, "--reason", "x")
    assert "no current label" in refused(
        "label", "withdraw", small, records[1]["id"], "--fidelity", "dft", "--reason", "x"
    )
    (gone,) = done("label", "withdraw", small, id_, "--fidelity", "agl", "--reason", "x", "--format", "json").json
    assert (gone["property"], gone["fidelity"]) == ("kappa_300K", "agl")
    (gone,) = done(
        "label", "withdraw", small, id_, "--property", "kappa_600K", "--reason", "x", "--format", "json"
    ).json
    assert gone["value"] == 3.0
    for ids, reason in ((["2"], "x"), (["99"], "x"), (["1"], " ")):
        refused("label", "withdraw", small, *ids, "--reason", reason)
    assert [label["id"] for label in done("label", "list", small, "--format", "json").json] == [1]
    with Campaign.open(small) as campaign:
        with pytest.raises(IllegalMoveError, match="label 2 "):
            campaign.withdraw_labels([1, 2], "x")
        with pytest.raises(UnknownRecordError, match="99"):
            campaign.withdraw_labels([1, 99], "x")
        with pytest.raises(CampaignError):
            campaign.withdraw_labels(["one"], "x")
        assert len(campaign.labels()) == 1


def test_what_was_withdrawn_is_asked_again_and_a_round_keeps_its_labels(
    replay: Path, records: list[dict[str, Any]]
) -> None:
    from campaigns.pool.labels import Moment, training_labels
    from campaigns.round.manifest import RoundManifest

    done("run", replay, "--rounds", "1")
    asked = [e["id"] for e in queue(replay)]
    with Campaign.open(replay) as campaign:
        began = RoundManifest.of(campaign.store.rounds()[-1]).moment
        learned = training_labels(campaign.store, campaign.configuration, began)
        first = next(iter(learned.values()))
        own = campaign.store.labels(material_ids=[asked[0]])[0]
        hours = campaign.asked()
        gone = campaign.withdraw_labels([first.id or 0, own.id or 0], "to be repeated")
        assert set(campaign.candidates_again(gone)) == {first.material_id, own.material_id}
        assert training_labels(campaign.store, campaign.configuration, began).keys() == learned.keys()
        later = Moment.now(campaign.store)
        assert first.material_id not in training_labels(campaign.store, campaign.configuration, later)
        assert campaign.asked() == hours
    assert {e["state"] for e in queue(replay)} == {"done"}
    configure(replay, {"campaign": {"batch": 60, "budget": 1000}})
    done("run", replay, "--rounds", "1")
    second = [e["id"] for e in queue(replay) if e["round"] == 2]
    assert {first.material_id, own.material_id} <= set(second), "candidates again, and answered again"
    assert {e["state"] for e in queue(replay)} == {"done"}


# -- which one trains -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefer", "value"),
    [("latest", 3.0), (["LBTE"], 1.0), (["none", "RTA"], 2.0), (["RTA", "LBTE"], 2.0), (["none"], 3.0)],
)
def test_the_preferred_method_trains(
    small: Path, records: list[dict[str, Any]], prefer: str | list[str], value: float
) -> None:
    configure(small, {"labels": {"prefer": prefer}})
    for v, method in ((1.0, "LBTE"), (2.0, "RTA"), (3.0, "GK")):
        import_(small, row(records[0], v, method=method))
    import_(small, row(records[1], 5.0), row(records[0], 6.0, fidelity="experiment"))
    listed = done("label", "list", small, "--format", "json").json
    assert [label["value"] for label in listed if label["trains"]] == [value, 5.0]
    assert done("status", small, "--format", "json").json["best"] == value
    assert "trains" in done("label", "list", small).out


@pytest.mark.parametrize(
    "text",
    ["prefer = 'RTA'", "prefer = 3", "prefer = []", "prefer = ['a', 'a']", "limits = { kapa_300K = { min = 1.0 } }"],
)
def test_bad_settings(small: Path, text: str) -> None:
    path = small / "campaign.toml"
    head, section, rest = path.read_text().partition("[labels]")
    assert section
    heading, _, keys = rest.partition("\n")
    path.write_text(f"{head}{section}{heading}\n{text}\n{keys}")
    assert text.split(maxsplit=1)[0] in refused("status", small)


def test_everything_is_json(small: Path, records: list[dict[str, Any]]) -> None:
    import_(small, row(records[0], 0.001))
    assert json.loads(kappascout("label", "list", small, "--format", "json").out)[0]["doubtful"]
    assert "below 0.01" in done("label", "list", small, "--doubtful").out
    assert "below 0.01" in done("label", "list", small, "--format", "csv").out
    assert label_rows(records[:1])[0]["id"] in done("label", "list", small).out
