"""One compound in two relaxations: a batch holds one of them, with a model and without; its dimensions as a limit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import NoCandidatesError
from campaigns.pool.pool import Pool
from campaigns.pool.relatives import Relatives
from campaigns.round.context import RoundContext
from campaigns.round.opening import open_round
from campaigns.round.rank import rank
from campaigns.round.steps import run_steps
from db.states import RoundState
from tests.campaigns.helpers import configure, done, queue, refused, write_lines

STRETCH = 1.05
"""Of the cell's vectors; 16 % in volume."""


def other_relaxation(row: dict[str, Any]) -> dict[str, Any]:
    """Give the record as another functional relaxes it."""
    lattice = (STRETCH * np.array(row["lattice"])).tolist()
    return row | {"id": f"{row['id']}-other", "lattice": lattice, "properties": {}}


def compounds(entries: list[str]) -> list[str]:
    return [id_.removesuffix("-other") for id_ in entries]


@pytest.fixture(scope="module")
def twice(_campaign: Path, records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the campaign with another relaxation of most crystals."""
    directory = Path(shutil.copytree(_campaign, tmp_path_factory.mktemp("twice") / "c"))
    rows = [other_relaxation(row) for row in records[2:]]
    told = done("ingest", directory, write_lines(directory / "other.jsonl", rows))
    assert f"{len(rows)} materials are the same compound as another" in told.err
    return directory


@pytest.fixture
def campaign(twice: Path, tmp_path: Path) -> Iterator[Campaign]:
    """Give a copy of it, open."""
    with Campaign.open(Path(shutil.copytree(twice, tmp_path / "c"))) as campaign:
        yield campaign


def test_relatives_are_found_by_row(campaign: Campaign, records: list[dict[str, Any]]) -> None:
    pool = Pool.of(campaign.store, campaign.backbone(campaign.configuration.model.backbone).elements)
    relatives = Relatives.of(campaign.store, pool)
    assert relatives is not None
    for row, id_ in enumerate(pool.ids[:10]):
        found = [pool.ids[other] for other in relatives(row)]
        assert found == ([] if row < 2 else [f"{id_}-other"])
    a, b = pool.rows_of({records[5]["id"], f"{records[5]['id']}-other"}).tolist()
    assert (relatives(a).tolist(), relatives(b).tolist()) == ([b], [a])
    assert records[5]["id"] in relatives.words(b, {a})
    assert "labelled" in relatives.words(b, {a})
    assert "stands for" in relatives.words(b, set())
    assert relatives.words(0, {a}) == ""


def test_a_pool_without_any_asks_for_none(dft: Path) -> None:
    with Campaign.open(dft) as campaign:
        pool = Pool.of(campaign.store, campaign.backbone(campaign.configuration.model.backbone).elements)
        buckets = pool.rows.distinct("bucket")[0]
        assert (Relatives.of(campaign.store, pool) is None) == (len(buckets) == len(pool))


def test_a_ranked_batch_holds_one_of_each(campaign: Campaign) -> None:
    """Those of a labelled compound may be chosen, and the reason says so."""
    configure(campaign.directory, {"campaign": {"batch": 60, "budget": 200}})
    with Campaign.open(campaign.directory) as opened:
        work = RoundContext.of(opened.workspace, open_round(opened.workspace, 60), lambda text: None)
        work = run_steps(work, RoundState.SCORED)
        entries, _ = rank(work)
        labelled = work.labels.keys()
    ids = [e.material_id for e in entries]
    assert len(set(compounds(ids))) == len(ids)
    assert len(ids) == 46 + 12, "46 compounds without a label, and another relaxation of 12 that have one"
    for e in entries:
        assert ("labelled" in e.reason) == (compounds([e.material_id])[0] in labelled)


def test_a_batch_without_a_model_and_the_next_one(campaign: Campaign) -> None:
    """The first is awaited when the second is chosen."""
    directory = campaign.directory
    configure(directory, {"campaign": {"batch": 20, "budget": 200, "fidelity": "experiment"}})
    for _ in range(3):
        done("run", directory, "--no-wait")
        done("queue", "approve", directory)
    ids = [e["id"] for e in queue(directory)]
    assert len(ids) == 60
    assert len(set(compounds(ids))) == 60
    assert any("stands for" in e["reason"] for e in queue(directory))


def slab(id_: str, height: float) -> dict[str, Any]:
    """Give a layer of MoS2 in a cell of this height, Angstrom."""
    z = 1.56 / height
    sites = [[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5 + z], [2 / 3, 1 / 3, 0.5 - z]]
    lattice = [[3.16, 0, 0], [-1.58, 1.58 * 3**0.5, 0], [0, 0, height]]
    return {"id": id_, "lattice": lattice, "species": ["Mo", "S", "S"], "frac_coords": sites, "properties": {}}


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (3, {"salt"}),
        ([3], {"salt"}),
        (2, {"bulk", "slab", "given"}),
        ([0, 3], {"salt", "xenon"}),
        ([0, 1, 2, 3], {"salt", "xenon", "bulk", "slab", "given"}),
    ],
)
def test_dimensions_are_a_constraint(empty: Path, tmp_path: Path, wanted: Any, kept: set[str]) -> None:
    """Found when first asked for and kept as a property; a number that records bring stands."""
    salt = {"id": "salt", "lattice": (5.64 / 2 * (1 - np.eye(3))).tolist(), "species": ["Na", "Cl"]}
    salt |= {"frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]], "properties": {"dimensionality": "3D-bulk"}}
    xenon = {"id": "xenon", "lattice": (12 * np.eye(3)).tolist(), "species": ["Xe"], "frac_coords": [[0, 0, 0]]}
    given = salt | {"id": "given", "species": ["K", "Cl"], "properties": {"dimensionality": 2}}
    ingest = write_lines(
        tmp_path / "x.jsonl", [salt, xenon | {"properties": {}}, given, slab("bulk", 6.2), slab("slab", 25.0)]
    )
    done("ingest", empty, ingest)
    configure(empty, {"constraints": {"dimensionality": wanted}})
    with Campaign.open(empty) as campaign:
        pool = Pool.of(campaign.store, {"Na", "K", "Cl", "Xe", "Mo", "S"})
        for _ in range(2):
            rows = pool.candidates(campaign.store, campaign.configuration.constraints, ())
            assert {pool.ids[row] for row in rows} == kept
        stored = campaign.store.property_values(["dimensionality"])["dimensionality"]
    assert stored == {"salt": "3D-bulk", "xenon": 0, "given": 2, "bulk": 2, "slab": 2}


def test_dimensions_that_nothing_has(dft: Path) -> None:
    configure(dft, {"constraints": {"dimensionality": 1}})
    with Campaign.open(dft) as campaign:
        pool = Pool.of(campaign.store, campaign.backbone(campaign.configuration.model.backbone).elements)
        with pytest.raises(NoCandidatesError, match=r"60 .* 1 dimension"):
            pool.candidates(campaign.store, campaign.configuration.constraints, ())


@pytest.mark.parametrize("value", [4, [-1, 2], "three", True, [2.5]])
def test_dimensions_that_do_not_exist_are_refused(dft: Path, value: Any) -> None:
    configure(dft, {"constraints": {"dimensionality": value}})
    assert "dimensionality" in refused("run", dft)
