"""A pool as columns, and its embeddings made in blocks: the same numbers, whoever makes them and whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from campaigns.campaign import Campaign
from campaigns.pool import columns as columns_module
from campaigns.pool import pool as module
from campaigns.pool.columns import MaterialColumns
from campaigns.pool.pool import Pool, crystals_of, embed_pool
from db.records import MaterialKey
from engine.execution import ExecutionSettings
from engine.learning.features.featuriser import Featuriser

KEYS = [
    MaterialKey(f"m{i}", f"{i:032x}", "MgO" if i % 3 else "NaCl", "Mg-O" if i % 3 else "Cl-Na", 225, 2 + i % 5, "b")
    for i in range(20)
]


def test_columns_read_like_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_module, "BLOCK_ROWS", 6)
    columns = MaterialColumns.of(tuple(zip(*part, strict=True)) for part in (KEYS[:7], KEYS[7:]))
    assert len(columns) == 20
    assert list(columns) == KEYS
    assert columns[7] == KEYS[7]
    assert columns[-1] == KEYS[-1]
    assert list(columns[4:9]) == KEYS[4:9]
    assert not columns[:0]
    assert columns.take(np.array([9, 2])).texts("material_id") == ["m9", "m2"]
    assert columns.numbers("n_sites").tolist() == [key.n_sites for key in KEYS]
    assert columns.find("material_id", {"m17", "m3", "absent"}).tolist() == [3, 17]
    values, of_row = columns.distinct("formula")
    assert [values[k] for k in of_row] == [key.formula for key in KEYS]
    assert len(MaterialColumns.of([])) == 0
    with pytest.raises(ValueError, match="not consecutive"):
        columns[::2]
    with pytest.raises(IndexError):
        columns[20]


@pytest.fixture
def campaign(dft: Path) -> Iterator[Campaign]:
    """Give a campaign whose pool is to be embedded in blocks of 8."""
    with Campaign.open(dft) as campaign:
        yield campaign


@pytest.fixture
def pool(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(module, "BLOCK", 8)
    return Pool.of(campaign.store, campaign.backbone(campaign.configuration.model.backbone).elements)


def test_elements_that_the_backbone_does_not_know(campaign: Campaign, pool: Pool) -> None:
    known = set(pool.rows[0].chemical_system.split("-"))
    few = Pool.of(campaign.store, known)
    assert len(few) + len(few.unknown) == len(pool)
    assert all(set(key.chemical_system.split("-")) <= known for key in few.rows)
    assert few.unknown[0].material_id not in few.ids
    assert len(Pool.of(campaign.store, known, 5).unknown) <= 5


def testcrystals_of_are_bounded_and_follow_from_the_pool(
    campaign: Campaign, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [list(block) for block in crystals_of(campaign.store, pool, np.arange(len(pool)))]
    assert [key for block in whole for key in block] == pool.hashes
    assert {len(block) for block in whole[:-1]} == {8}
    left = [list(block) for block in crystals_of(campaign.store, pool, np.arange(19, len(pool)))]
    assert left == [whole[2][3:], *whole[3:]], "what is left of an interrupted run is cut at the same places"
    monkeypatch.setattr(module, "_BLOCK_SITES", 6)
    sites = dict(zip(pool.hashes, pool.rows.numbers("n_sites").tolist(), strict=True))
    for block in crystals_of(campaign.store, pool, np.arange(len(pool))):
        assert sum(sites[key] for key in list(block)[:-1]) <= 6
    assert list(crystals_of(campaign.store, pool, np.array([], dtype=np.int64))) == []


@pytest.mark.slow
def test_a_worker_killed_in_mid_run(
    campaign: Campaign, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Dask cluster of two processes, one of which dies: the same bits as in this process."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra `dask`)")
    backbone = campaign.backbone(campaign.configuration.model.backbone)
    here = Featuriser(backbone, tmp_path / "here", keep_graphs=False)
    assert list(embed_pool(campaign.store, here, pool))[-1] == len(pool)
    assert list(embed_pool(campaign.store, here, pool)) == [len(pool)], "nothing is done twice"
    monkeypatch.setattr(module, "WORTH_WORKERS", 1)
    apart = Featuriser(backbone, tmp_path / "apart", keep_graphs=False)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        settings = ExecutionSettings("dask", address=cluster.scheduler_address)
        with distributed.Client(cluster, set_as_default=False) as client:
            processes = list(client.run(os.getpid).values())
        progress = embed_pool(campaign.store, apart, pool, settings)
        done = [next(progress), next(progress)]
        os.kill(processes[0], signal.SIGKILL)
        done += progress
    assert done == sorted(done)
    assert done[-1] == len(pool)
    np.testing.assert_array_equal(apart.embeddings(pool.hashes), here.embeddings(pool.hashes))


def test_graphs_are_added_where_networks_want_them(campaign: Campaign, pool: Pool, tmp_path: Path) -> None:
    backbone = campaign.backbone(campaign.configuration.model.backbone)
    for keep_graphs in (False, True):
        featuriser = Featuriser(backbone, tmp_path, keep_graphs=keep_graphs)
        for _ in embed_pool(campaign.store, featuriser, pool):
            pass
    assert [len(g.numbers) for g in featuriser.graphs(pool.hashes)] == pool.rows.numbers("n_sites").tolist()
    assert len(list((tmp_path / "embeddings").rglob("*.arrow"))) == -(-len(pool) // 8)
