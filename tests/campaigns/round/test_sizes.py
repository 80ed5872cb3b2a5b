"""Limits of [dft] in the choice of a batch: nothing too large is queued, and nothing changes where none is exceeded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.configuration import check_configuration
from campaigns.exceptions import CampaignError, NoCandidatesError
from campaigns.pool.costs import WORKLOADS, Costs
from campaigns.round.context import RoundContext, RoundProgress
from campaigns.round.first_batch import first_entries
from campaigns.round.opening import open_round
from campaigns.round.rank import rank
from campaigns.round.steps import run_steps
from db.records import QueueEntryRecord
from db.states import RoundState
from engine.exceptions import AcquisitionError
from engine.materials.crystal import Crystal
from engine.physics.cost import SupercellSettings, count_workload
from tests.campaigns.helpers import configure, done, queue, refused

pytest.importorskip("phono3py", reason="phono3py is not installed")

SMALL = {"min_length": 6.4}
"""Half of the crystals take 12 supercells of 12 atoms, the others 72 of 96."""
HERE = None
"""What a manifest holds of [dft] where a labeler has no limits."""


@pytest.fixture(scope="module")
def scored(_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoundContext]:
    """Give a round whose pool has predictions, to be ranked with other settings."""
    directory = Path(shutil.copytree(_campaign, tmp_path_factory.mktemp("scored") / "c"))
    configure(directory, {"dft": SMALL})
    with Campaign.open(directory) as campaign:
        work = RoundContext.of(campaign.workspace, open_round(campaign.workspace, 4), lambda text: None)
        yield run_steps(work, RoundState.SCORED)


def changed(work: RoundContext, said: list[str], manifest: dict[str, Any], **sections: Any) -> RoundContext:
    """Give the same round with other settings."""
    settings = work.settings.model_dump(mode="json")
    dft = sections.pop("dft", {})
    manifest = manifest | {"dft": None if dft is HERE else (work.manifest.dft or {}) | dft}
    for name, section in sections.items():
        settings[name] = settings[name] | section
    other = replace(
        work,
        settings=check_configuration(settings, "test"),
        manifest=work.manifest.model_copy(update=manifest),
        progress=RoundProgress(work.record.number, lambda text: said.append(text.partition(": ")[2])),
    )
    vars(other).update({name: getattr(work, name) for name in ("backbone", "pool", "featuriser", "ensemble")})
    return other


def ranked(work: RoundContext, **sections: Any) -> tuple[list[QueueEntryRecord], list[str]]:
    """Rank with other settings; the entries and what was said."""
    said: list[str] = []
    entries, _ = rank(changed(work, said, {}, **sections))
    return entries, said


def counts(work: RoundContext) -> dict[str, int]:
    """Count the random displacements of every candidate."""
    settings = SupercellSettings(6.4, displacements="random")
    ids = [work.pool.rows[row].material_id for row in work.candidates]
    structures = work.store.structures(ids)
    crystals = (Crystal.from_dict(structure) for _, structure in structures)
    return {id_: count_workload(crystal, settings).calls for id_, crystal in zip(ids, crystals, strict=True)}


def choice(entries: list[QueueEntryRecord]) -> list[tuple[Any, ...]]:
    return [(e.material_id, e.rank, e.acquisition_value, e.log10_mean, e.log10_std, e.details) for e in entries]


@pytest.mark.parametrize("function", ["ucb", "qLogEI", "thompson", "random"])
def test_limits_that_are_not_exceeded_change_nothing(scored: RoundContext, function: str) -> None:
    acquisition = {"function": function, "draws": 64}
    free, _ = ranked(scored, acquisition=acquisition, dft=HERE)
    limited, said = ranked(scored, acquisition=acquisition, dft=SMALL | {"max_core_hours": 1e6})
    assert choice(limited) == choice(free)
    assert not any("too large" in text for text in said)
    assert {e.expected_cost for e in free} == {None}
    for e in limited:
        assert e.expected_cost is not None
        (hours,) = re.findall(r"; about ([\d.]+) core-hours$", e.reason)
        assert float(hours) == pytest.approx(e.expected_cost, rel=0.005)


@pytest.mark.parametrize("function", ["ucb", "qLogEI", "thompson"])
def test_what_is_too_large_is_left_out_and_the_next_taken(scored: RoundContext, function: str) -> None:
    acquisition = {"function": function, "draws": 64}
    exact = counts(scored)
    high = {"goal": "max"}  # of dense crystals, which are among the larger half
    free, _ = ranked(scored, acquisition=acquisition, campaign=high)
    limit = 12
    assert 10 < sum(count <= limit for count in exact.values()) < len(exact) - 10
    assert any(exact[e.material_id] > limit for e in free), "the limit is exceeded"
    limited, said = ranked(scored, acquisition=acquisition, campaign=high, dft=SMALL | {"max_supercells": limit})
    assert len(limited) == 4
    assert all(exact[e.material_id] <= limit for e in limited)
    (words,) = [text for text in said if "left out as too large" in text]
    assert f"[dft] max_supercells = {limit:,}, max_atoms = 400" in words
    if function == "ucb":
        value = {e.material_id: e.acquisition_value for e in free}
        kept = [e.material_id for e in free if exact[e.material_id] <= limit]
        assert [e.material_id for e in limited][: len(kept)] == kept, "those that fit stay first"
        assert all(e.acquisition_value == value[e.material_id] for e in limited[: len(kept)])


def test_only_what_would_be_queued_is_counted(scored: RoundContext) -> None:
    kept = scored.workspace.artifacts / WORKLOADS
    before = kept.read_text() if kept.is_file() else ""
    kept.unlink(missing_ok=True)
    try:
        ranked(scored, dft={"min_length": 6.0})
        lines = [json.loads(line) for line in kept.read_text().splitlines() if line]
        assert len(lines) == 4
    finally:
        kept.write_text(before)


def test_a_round_keeps_the_limits_that_it_began_with(dft: Path) -> None:
    configure(dft, {"dft": SMALL | {"max_supercells": 12}, "campaign": {"goal": "max"}})
    with Campaign.open(dft) as campaign:
        open_round(campaign.workspace, 4)
    configure(dft, {"dft": {"min_length": 10.0, "max_supercells": 1}})
    done("run", dft)
    assert [e["cost"] for e in queue(dft)] == pytest.approx([12 * 10.0 * 0.12**2] * 4)


def test_nothing_within_the_limits(scored: RoundContext) -> None:
    with pytest.raises(AcquisitionError, match=r"too large for \[dft\] max_supercells = 1, max_atoms = 400; raise"):
        ranked(scored, dft=SMALL | {"max_supercells": 1})
    with pytest.raises(AcquisitionError, match=r"max_core_hours = 0\.001"):
        ranked(scored, dft=SMALL | {"max_core_hours": 0.001})


def test_a_first_batch_has_prices_limits_and_a_budget(scored: RoundContext) -> None:
    exact, said = counts(scored), []
    free = first_entries(changed(scored, said, {}, dft=HERE))
    priced = first_entries(changed(scored, said, {}))
    assert [e.material_id for e in priced] == [e.material_id for e in free]
    assert all(e.expected_cost and e.reason.endswith(" core-hours") for e in priced)
    limit = min(exact[e.material_id] for e in free)
    small = first_entries(changed(scored, said, {}, dft=SMALL | {"max_supercells": limit}))
    assert len(small) == 4
    assert all(exact[e.material_id] <= limit for e in small)
    if max(exact[e.material_id] for e in free) > limit:
        assert any("left out as too large" in text for text in said)
    left = 1.5 * min(e.expected_cost or 0.0 for e in priced)
    few = first_entries(changed(scored, said, {"core_hours_left": left}))
    assert 0 < sum(e.expected_cost or 0.0 for e in few) <= left
    with pytest.raises(AcquisitionError, match="budget_core_hours"):
        first_entries(changed(scored, said, {"core_hours_left": 1e-6}))
    with pytest.raises(AcquisitionError, match="max_supercells = 1"):
        first_entries(changed(scored, said, {}, dft=SMALL | {"max_supercells": 1}))


def test_what_was_found_too_large_is_no_candidate_of_the_next_round(dft: Path) -> None:
    configure(dft, {"dft": SMALL | {"max_supercells": 12}, "campaign": {"goal": "max"}})
    said = done("run", dft).err
    assert "left out as too large" in said
    with Campaign.open(dft) as campaign:
        costs = Costs.now(campaign.workspace, lambda text: None)
        keys = campaign.store.material_index()
        large = {
            key.material_id
            for key, is_large in zip(keys, costs.known_too_large([k.content_hash for k in keys]), strict=True)
            if is_large
        }
        record = open_round(campaign.workspace, 4)
        work = RoundContext.of(campaign.workspace, record, lambda text: None)
        assert large
        assert work.manifest.too_large == len(large)
        work = changed(run_steps(work, RoundState.SCORED), heard := [], {}, campaign={"goal": "min"})
        assert not large & {e.material_id for e in rank(work)[0]}
        assert (
            f"left out as too large: {len(large)} known from earlier rounds; [dft] max_supercells = 12, max" in heard[0]
        )
        assert not large & {work.pool.rows[row].material_id for row in work.candidates}
    assert not large & {e["id"] for e in queue(dft)}
    for entry in queue(dft):
        assert entry["cost"] > 0
    configure(dft, {"dft": {"max_supercells": 1}})
    with Campaign.open(dft) as campaign:
        costs = Costs.now(campaign.workspace, lambda text: None)
        costs.prices(campaign.store.material_index())
        with pytest.raises(NoCandidatesError, match=r"are too large for .* max_supercells = 1"):
            open_round(campaign.workspace, 4)


def test_a_budget_of_core_hours_needs_a_price(replay: Path) -> None:
    configure(replay, {"campaign": {"budget_core_hours": 100.0}})
    message = refused("run", replay)
    assert "budget_core_hours = 100 cannot limit what is queued, no cost of dft is known; give [costs] dft" in message
    assert queue(replay) == []
    with Campaign.open(replay) as campaign:
        assert not campaign.store.rounds()
        with pytest.raises(CampaignError, match="budget_core_hours"):
            open_round(campaign.workspace, 4)
    configure(replay, {"costs": {"dft": 30.0}})
    done("run", replay, "--rounds", 1)
    assert [e["cost"] for e in queue(replay)] == [30.0] * 3
