"""Predictions of a pool in parts: resumed, the same on threads and in processes, embeddings mended on the way."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from campaigns.campaign import Campaign
from campaigns.round import prefilter
from campaigns.round import score as module
from campaigns.round.context import RoundContext
from campaigns.round.opening import open_round
from campaigns.round.prefilter import first_pass, promising
from campaigns.round.score import finite_predictions, score_pool
from campaigns.round.steps import run_steps
from db.states import RoundState
from engine.execution import ExecutionSettings, executor
from tests.campaigns.helpers import configure


@pytest.fixture
def work(dft: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoundContext]:
    """Give a round with a model, its pool to be predicted in parts of 16 rows."""
    monkeypatch.setattr(module, "PART", 16)
    with Campaign.open(dft) as campaign:
        work = RoundContext.of(campaign.workspace, open_round(campaign.workspace, 4), lambda text: None)
        work = run_steps(work, RoundState.TRAINED)
        yield work


def test_parts_are_kept_and_joined(work: RoundContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score_pool(work, tmp_path / "whole.parquet")
    whole = parquet.read_table(tmp_path / "whole.parquet")
    assert whole.column("id").to_pylist() == work.pool.ids
    mean, std = finite_predictions(work, work.pool.hashes).total(work.ensemble.calibration)
    np.testing.assert_allclose(whole.column("learned_mean").to_numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(whole.column("learned_std").to_numpy(), std, atol=1e-5)
    assert [path.name for path in tmp_path.glob("whole*")] == ["whole.parquet"], "no parts are left"

    made: list[int] = []
    predict = module.predict_part

    def interrupted(item, *common):
        made.append(item[0])
        if len(made) == 3:
            raise KeyboardInterrupt
        return predict(item, *common)

    monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(module, "predict_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_pool(work, tmp_path / "again.parquet")
    assert not (tmp_path / "again.parquet").exists()
    kept = {int(file.stem) for file in tmp_path.glob("again-*/*.npy")}
    assert kept
    made.clear()
    monkeypatch.setattr(module, "predict_part", lambda item, *common: (made.append(item[0]), predict(item, *common))[1])
    assert score_pool(work, tmp_path / "again.parquet") == pytest.approx(expected, rel=1e-12)
    assert set(made) == set(range(0, len(work.pool), 16)) - kept, "what was finished is not done again"
    assert parquet.read_table(tmp_path / "again.parquet").equals(whole)


@pytest.mark.slow
def test_processes_give_the_same_numbers(work: RoundContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_pool(work, tmp_path / "threads.parquet")
    monkeypatch.setattr(module, "_workers", lambda work: executor(ExecutionSettings(workers=2)))
    score_pool(work, tmp_path / "processes.parquet")
    found, expected = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("processes", "threads"))
    assert found.equals(expected)


def test_damaged_embeddings_are_made_again(work: RoundContext) -> None:
    folder = work.featuriser.parts[0]._embeddings.folder
    path = min(folder.glob("*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said: list[str] = []
    again = run_steps(RoundContext.of(work.workspace, work.record, said.append), RoundState.SCORED)
    assert again.record.state is RoundState.SCORED
    assert any(f"shard {path.name} is not what was written" in text for text in said)
    assert again.featuriser.parts[0].embedded(again.pool.hashes).all()
    assert all(shard.stat().st_size for shard in folder.glob("*.arrow"))


def test_a_first_pass_keeps_the_promising_share(dft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefilter, "SAMPLE", 10)
    monkeypatch.setattr(prefilter, "_FEWEST", 1)
    monkeypatch.setattr(module, "PART", 16)
    shutil.rmtree(dft / "artifacts" / "embeddings")
    configure(dft, {"acquisition": {"prefilter": 0.2}})
    said: list[str] = []
    with Campaign.open(dft) as campaign:
        work = RoundContext.of(campaign.workspace, open_round(campaign.workspace, 4), said.append)
        work = run_steps(work, RoundState.QUEUED)
        first = first_pass(work)
        assert first is not None
        candidates = work.candidates
        assert first.passed[candidates].sum() == math.ceil(0.2 * len(candidates))
        assert first.passed[work.pool.rows_of(work.labels)].all()
        embedded = work.featuriser.embedded(work.pool.hashes)
        np.testing.assert_array_equal(embedded, first.full)
        assert not embedded.all()
        mean, std = work.predicted()
        np.testing.assert_array_equal(mean[~embedded], first.mean[~embedded])
        assert not np.isclose(mean[embedded], first.mean[embedded], rtol=1e-6).all()
        assert (std > 0).all()
        queued = work.pool.rows_of({entry.material_id for entry in campaign.store.queue()})
        assert len(queued) == 4
        assert first.passed[queued].all()
        lost = campaign.store.rounds()[0].metrics_before["first_pass"]
        assert lost["sampled"] == 10
        assert 0 <= lost["lost"] <= lost["best"] == 1
        again = first_pass(RoundContext.of(campaign.workspace, work.record, said.append))
        np.testing.assert_array_equal(again.passed, first.passed)
    assert any("of the best 1 of 10 candidates drawn at random were filtered out" in text for text in said)


def test_a_small_pool_needs_no_first_pass(dft: Path) -> None:
    configure(dft, {"acquisition": {"prefilter": 0.2}})
    with Campaign.open(dft) as campaign:
        work = RoundContext.of(campaign.workspace, open_round(campaign.workspace, 4), lambda text: None)
        assert first_pass(work) is None
        assert promising(work).tolist() == work.candidates.tolist()
