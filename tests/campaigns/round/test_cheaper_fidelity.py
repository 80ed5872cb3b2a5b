"""Material and fidelity chosen together: crystals with a first-principles value and one of AGL, both replayed."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.configuration import parse_configuration
from campaigns.exceptions import CampaignError, ConfigurationError
from campaigns.labelers.labelers import make_labeler
from campaigns.pool.costs import Costs
from campaigns.round.cheaper_fidelity import cheaper_fidelities
from campaigns.round.context import RoundContext
from campaigns.round.opening import changed_settings, open_round
from db.states import QueueState
from tests.campaigns.helpers import configure, done, queue, reference_records, write_lines

LABELS = 10
BATCH = 3
DFT_HOURS = 500.0


@pytest.fixture(scope="module")
def both(shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give records with both values, by formula and space group."""
    from engine.materials.checks import Rejection
    from engine.materials.loading import load

    path = tmp_path_factory.mktemp("both") / "pool.jsonl"
    dft = {r["id"]: r for r in reference_records(400)}
    elements = {frozenset(r["species"]) for r in dft.values()}
    with gzip.open(shared("data/aflow_agl.jsonl.gz"), "rt") as lines:
        same_elements = [r for r in map(json.loads, lines) if frozenset(r["species"]) in elements]
    plain = next(load([write_lines(path, dft.values())], workers=1))
    agl = {
        (m.formula, m.spacegroup, len(m.crystal)): m.properties["kappa_agl_300K_W_mK"]
        for part in load([write_lines(path.with_name("agl.jsonl"), same_elements)], workers=1)
        for m in part
        if not isinstance(m, Rejection)
    }
    found = [(m.id, agl.get((m.formula, m.spacegroup, len(m.crystal)))) for m in plain]
    known = [(id_, value) for id_, value in found if value is not None]
    assert len(known) > 40
    return write_lines(path, [dft[id_] | {"properties": dft[id_]["properties"] | {"agl": v}} for id_, v in known])


@pytest.fixture(scope="module")
def _made(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fidelities") / "c"
    done("init", directory, "--cold", "--goal", "min")
    done("ingest", directory, both)
    records = [json.loads(line) for line in both.read_text().splitlines()]
    labels = [
        {"id": r["id"], "property": "kappa_300K", "value": r["properties"][field], "unit": "W/(m K)", "fidelity": name}
        for field, name in (("kappa_300K", "dft"), ("agl", "agl"))
        for r in records[:LABELS]
    ]
    done("label", "import", directory, write_lines(directory / "labels.jsonl", labels))
    replay = {"kind": "replay", "source": str(both)}
    configure(
        directory,
        {
            "campaign": {"batch": BATCH},
            "model": {"members": 3},
            "acquisition": {"function": "GIBBON", "fidelities": ["agl"], "draws": 128},
            "costs": {"dft": DFT_HOURS, "agl": 20.0},
            "labeler": replay | {"agl": replay | {"field": "agl"}},
        },
    )
    return directory


@pytest.fixture
def campaign(_made: Path, tmp_path: Path) -> Path:
    """Give a campaign with ten labels of each fidelity."""
    return Path(shutil.copytree(_made, tmp_path / "c"))


def test_a_cheap_fidelity_is_queued_where_it_tells_more(campaign: Path) -> None:
    rows = done("run", campaign, "--rounds", 2, "--format", "json").json
    entries = queue(campaign)
    cheap = [e for e in entries if e["fidelity"] == "agl"]
    assert len(cheap) > BATCH
    assert all(e["cost"] == 20.0 and "agl first: it tells" in e["reason"] for e in cheap)
    assert all("for 0.04 of its core-hours" in e["reason"] for e in cheap)
    for row in rows:
        own = [e for e in entries if e["round"] == row["round"] and e["fidelity"] == "dft"]
        spent = sum(e["cost"] for e in entries if e["round"] == row["round"])
        assert len(own) == row["new_labels"] <= BATCH
        assert row["cost"] == row["expected_cost"] == spent <= BATCH * DFT_HOURS
    assert rows[0]["cheaper_labels"] + rows[1]["cheaper_labels"] == len(cheap)
    assert len({(e["id"], e["fidelity"]) for e in entries}) == len(entries)
    where = done("status", campaign, "--format", "json").json
    dft = len(entries) - len(cheap)
    assert (where["asked"], where["labels"], where["labels (agl)"]) == (dft, LABELS + dft, LABELS + len(cheap))
    assert where["core_hours"] == sum(e["cost"] for e in entries)
    with Campaign.open(campaign) as opened:
        agl = {label.material_id: label for label in opened.store.labels("kappa_300K", "agl")}
        assert all(agl[e["id"]].cost == 20.0 for e in cheap)
        assert opened.fidelity_note() is None


def test_a_fidelity_as_dear_as_the_campaigns_is_never_queued(campaign: Path) -> None:
    configure(campaign, {"costs": {"agl": DFT_HOURS}})
    done("run", campaign, "--rounds", 2)
    entries = queue(campaign)
    assert [e["fidelity"] for e in entries] == ["dft"] * 2 * BATCH
    models = campaign / "artifacts" / "models"
    (shared,) = (models / "lower-fidelity").iterdir()
    rounds = list(models.glob("round-*/lower-fidelity"))
    assert len(rounds) == 2
    for file in shared.glob("*.safetensors"):
        assert all((folder / file.name).samefile(file) for folder in rounds), "kept once"
    assert {row["state"] for row in done("models", "verify", campaign, "--format", "json").json} == {"intact"}
    known = "dft: agl of it is there"
    assert all(known in e["reason"] or "dft at once: agl would tell" in e["reason"] for e in entries)


def test_without_labels_the_cheap_ones_come_first(both: Path, campaign: Path, tmp_path: Path) -> None:
    shutil.copy(campaign / "campaign.toml", tmp_path / "campaign.toml")
    empty = tmp_path / "empty"
    done("init", empty, "--cold", "--goal", "min")
    shutil.copy(tmp_path / "campaign.toml", empty / "campaign.toml")
    configure(empty, {"campaign": {"name": "empty"}})
    done("ingest", empty, both)
    done("run", empty, "--rounds", 2)
    first, second = ([e for e in queue(empty) if e["round"] == n] for n in (1, 2))
    assert {e["fidelity"] for e in first} == {"agl"}
    assert len(first) == 10 * BATCH
    assert "no model yet (0 labels of agl, which it stands on)" in first[0]["reason"]
    assert [(e["fidelity"], e["cost"]) for e in second] == [("dft", DFT_HOURS)] * BATCH


def test_a_label_without_its_cheap_one_may_get_it(campaign: Path) -> None:
    """Materials that have both tell how the fidelities differ."""
    with Campaign.open(campaign) as opened:
        labelled = {label.material_id for label in opened.store.labels()}
        new = next(key.material_id for key in opened.store.material_index() if key.material_id not in labelled)
        opened.record(new, 3.0)
        work = RoundContext.of(opened.workspace, open_round(opened.workspace, BATCH), lambda text: None)
        (cheaper,) = cheaper_fidelities(work)
        assert cheaper is not None
        own, [row] = work.candidates, work.pool.rows_of([new])
        assert row not in own
        assert set(cheaper.candidates) == {*own, row}
        known = opened.configuration.model_copy(update={"costs": {"agl": 1.0, "mlip": 3.0}})
        assert changed_settings(known, work.record) == ["[costs] agl", "[costs] mlip", "[costs] dft"]


def test_each_fidelity_goes_to_those_who_calculate_it(campaign: Path) -> None:
    waits = {"kind": "dft", "source": None, "field": None}
    configure(campaign, {"labeler": waits | {"agl": {"kind": "dft"}}, "costs": {"agl": 200.0}})
    done("run", campaign)
    done("queue", "approve", campaign)
    entries = queue(campaign)
    assert {e["fidelity"] for e in entries} == {"dft", "agl"}
    done("queue", "export", campaign, "--to", campaign / "cif", "--format", "cif")
    assert len(list((campaign / "cif").glob("*.cif"))) == len(entries)
    configure(campaign, {"labeler": {"agl": {"kind": "agl", "potential": "rigid-ion:NaCl"}}})
    done("queue", "export", campaign, "--to", campaign / "own", "--format", "cif")
    assert len(list((campaign / "own").glob("*.cif"))) == sum(e["fidelity"] == "dft" for e in entries)
    with Campaign.open(campaign) as opened:
        some = next(e for e in entries if e["fidelity"] == "agl")
        assert [e.fidelity for e in opened.move([some["id"]], QueueState.WITHDRAWN, fidelity="agl")] == ["agl"]


def test_a_material_too_large_for_the_target_is_queued_at_no_fidelity(campaign: Path) -> None:
    pytest.importorskip("phono3py", reason="phono3py is not installed")
    waits = {"kind": "dft", "source": None, "field": None}
    small = {"min_length": 6.4, "max_supercells": 12}
    configure(campaign, {"labeler": waits | {"agl": {"kind": "dft"}}, "costs": {"agl": 200.0}, "dft": small})
    configure(campaign, {"campaign": {"goal": "max"}})
    said = done("run", campaign).err
    assert "left out as too large" in said
    entries = queue(campaign)
    assert {e["fidelity"] for e in entries} == {"dft", "agl"}
    with Campaign.open(campaign) as opened:
        costs = Costs.now(opened.workspace, lambda text: None)
        queued = opened.store.material_index([e["id"] for e in entries if e["fidelity"] == "dft"])
        assert not any(costs.too_large(queued))
        known = costs.known_too_large([key.content_hash for key in opened.store.material_index()])
        large = {
            key.material_id for key, is_large in zip(opened.store.material_index(), known, strict=True) if is_large
        }
    assert large
    assert not large & {e["id"] for e in entries}


def settings(**changed: Any) -> str:
    """Write settings of two fidelities, with a section changed or taken out."""
    sections: dict[str, Any] = {
        "campaign": 'name = "x"\ngoal = "min"',
        "acquisition": 'function = "GIBBON"\nfidelities = ["agl"]',
        "costs": "agl = 0.01",
        "labeler": 'kind = "dft"',
        "labeler.agl": 'kind = "agl"\npotential = "rigid-ion:NaCl"',
    } | changed
    return "\n".join(f"[{name}]\n{text}" for name, text in sections.items() if text)


TWO = 'function = "top_share"\nfidelities = ["agl", "mlip"]'
COSTS = "agl = 0.01\nmlip = 10.0"


def test_several_fidelities_are_learned_from_the_cheapest() -> None:
    known = parse_configuration(settings(acquisition=TWO, costs=COSTS), "campaign.toml")
    assert known.lower_fidelities == ("agl", "mlip")
    given = parse_configuration(
        settings(**{"acquisition": "", "labeler.agl": "", "costs": "", "model": 'lower_fidelity = "x"'}), "c"
    )
    assert given.lower_fidelities == ("x",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"acquisition": 'fidelities = ["agl"]'}, "function 'ucb' .* label of agl"),
        ({"acquisition": 'function = "GIBBON"\nfidelities = ["dft"]'}, r"\['dft'\] is the fidelity of the campaign"),
        ({"acquisition": TWO}, r"names agl, mlip, and its cost is not given; give \[costs\] mlip"),
        ({"acquisition": TWO, "costs": "agl = 2.0\nmlip = 1.0"}, "core-hours 2, 1; name each once, from the cheapest"),
        ({"acquisition": TWO, "costs": COSTS, "model": 'lower_fidelity = "agl"'}, "remove lower_fidelity"),
        ({"costs": ""}, r"give \[costs\] agl = CORE_HOURS"),
        ({"costs": "agl = 0.0"}, "greater than 0"),
        ({"costs": "agl = 1.0\nmlip = 2.0"}, r"\[costs\] mlip: the campaign queues dft, agl"),
        ({"model": 'lower_fidelity = "mlip"'}, "remove lower_fidelity"),
        ({"model": 'head = "mlp"'}, r"set \[model\] head = 'gp'"),
        ({"labeler.mlip": 'kind = "dft"'}, r"\[labeler.mlip\]: \[acquisition\] fidelities names agl; add 'mlip'"),
        ({"labeler.agl": 'kind = "agl"'}, r"\[labeler.agl\]: kind 'agl' needs potential"),
        ({"labeler.agl": 'kind = "replay"\nsorce = "x"'}, r"\[labeler.agl\] sorce; did you mean 'source'"),
        ({"labeler": 'kind = "dft"\nsetings = { strain = 0.1 }'}, "setings; did you mean 'settings'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_configuration(settings(**changed), "campaign.toml")


def test_a_fidelity_that_nobody_calculates(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\[labeler.agl\] kind = 'agl'"):
        make_labeler(parse_configuration(settings(**{"labeler.agl": ""}), "campaign.toml"), tmp_path)


def test_what_the_own_fidelity_takes_has_to_be_known(campaign: Path) -> None:
    configure(campaign, {"costs": {"dft": None}})
    with Campaign.open(campaign) as opened, pytest.raises(CampaignError, match=r"\[costs\] dft = CORE_HOURS"):
        opened.run(rounds=1)
