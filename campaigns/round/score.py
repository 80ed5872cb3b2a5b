"""A round's predictions of the whole pool: computed part by part, in parallel where it pays, joined in one table.

A finished part is stored, so that a killed round continues with the next one; parts are cut by the pool alone, so
that the numbers do not depend on who computes them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.files import replaced
from campaigns.output import Count
from campaigns.round.prefilter import first_pass
from engine.execution import Threads, cores, executor
from engine.learning.ensemble.records import RECORD
from engine.learning.seeding import one_thread
from engine.posteriors.posterior import finite_members

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from engine.execution import Run
    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.ensemble.ensemble import Ensemble, MemberTable

PART = 8192
"""Rows of one part."""
MANY_FOR_NETWORKS = 2_000
"""With networks, a larger pool uses separate processes, which take as long to load as to predict so many rows."""
ROWS_FOR_CLUSTER = 500_000
"""A larger pool uses a cluster, where there is one."""

Part = tuple[int, "NDArray[np.float64]", tuple[str, ...]]
"""First row, mean and standard deviation (2 x rows), and notes."""


def score_pool(context: RoundContext, path: Path) -> float:
    """Write the predictions of the whole pool to ``path``; returns the expected number of hits among them.

    Workers of a cluster read embeddings and write nothing; they must see the campaign's directory under the same name.
    """
    folder, passed = _parts_folder(context, path), first_pass(context)
    full = np.ones(len(context.pool), dtype=bool) if passed is None else passed.full
    starts = range(0, len(context.pool), PART)
    missing = [start for start in starts if not _part(folder, start).is_file()]
    done = len(context.pool) - sum(min(PART, len(context.pool) - start) for start in missing)
    items = ((start, context.hashes(start + np.flatnonzero(full[start : start + PART]))) for start in missing)
    with _workers(context) as run:
        for start, found, notes in run.map_unordered(predict_part, items, context.ensemble, context.featuriser):
            table = found
            if passed is not None:  # those of the cheap model for the others
                rows = slice(start, start + PART)
                table = np.stack([passed.mean[rows], passed.std[rows]]).astype(np.float64)
                table[:, full[rows]] = found
            with replaced(_part(folder, start)) as partial, partial.open("wb") as handle:
                np.save(handle, table)
            context.progress.once(notes)
            done += table.shape[1]
            context.say(Count(f"{done} of {len(context.pool)} crystals scored"))
    expected = _join(context, path, (np.load(_part(folder, start)) for start in starts))
    shutil.rmtree(folder, ignore_errors=True)
    return expected


def predict_part(item: tuple[int, Sequence[str]], ensemble: Ensemble, featuriser: AnyFeaturiser) -> Part:
    """Calibrated mean and standard deviation of some rows."""
    start, hashes = item
    table, notes = finite_table(ensemble, featuriser, hashes)
    return start, np.stack(table.total(ensemble.calibration)), notes


def finite_table(
    ensemble: Ensemble, featuriser: AnyFeaturiser, hashes: Sequence[str]
) -> tuple[MemberTable, tuple[str, ...]]:
    """Predictions of the members without those that are not finite, and which members these are.

    Raises
    ------
    AcquisitionError
        If fewer than three are left.
    """
    table = ensemble.predict(featuriser, hashes)
    mean, std, notes = finite_members(table.mean, table.std)
    return (table if std is None or not notes else replace(table, mean=mean, std=std)), notes


def finite_predictions(context: RoundContext, hashes: Sequence[str]) -> MemberTable:
    """Predict crystals as :func:`finite_table`; members that are left out are named once in a round."""
    table, notes = finite_table(context.ensemble, context.featuriser, hashes)
    context.progress.once(notes)
    return table


@contextmanager
def _workers(context: RoundContext) -> Iterator[Run]:
    """Workers: threads for linear algebra, processes for networks, and a cluster where there is one and it pays."""
    execution = context.workspace.configuration.execution
    networks, n = context.ensemble.settings.networks, len(context.pool)
    if n > (MANY_FOR_NETWORKS if networks else ROWS_FOR_CLUSTER) and (networks or execution.backend == "dask"):
        with executor(execution.settings()) as run:
            yield run
    else:
        with one_thread():  # each
            yield Threads(1 if networks else execution.workers or cores())


def _join(context: RoundContext, path: Path, parts: Iterator[NDArray[np.float64]]) -> float:
    import pyarrow as pa
    from pyarrow import parquet

    names = ("mean", "lower", "upper", "learned_mean", "learned_std")
    schema = pa.schema([("id", pa.string()), ("formula", pa.string()), *((name, pa.float64()) for name in names)])
    hit, expected, start = context.manifest.hit, 0.0, 0
    with replaced(path) as partial, parquet.ParquetWriter(partial, schema, use_dictionary=["formula"]) as writer:
        for mean, std in parts:
            rows = context.pool.rows[start : start + len(mean)]
            half = context.half_width * std
            true = [context.scale.true(values) for values in (mean, mean - half, mean + half)]
            columns = [rows.column("material_id"), rows.column("formula"), *map(pa.array, (*true, mean, std))]
            writer.write_table(pa.table(columns, schema=schema))
            if hit is not None:
                expected += float(context.settings.campaign.sought.hit_probability(mean, std, hit).sum())
            start += len(mean)
    return expected


def _parts_folder(context: RoundContext, path: Path) -> Path:
    """Folder of parts, named by the hash of the model that computes them."""
    assert context.record.model_id is not None
    record = context.workspace.artifacts / "models" / context.record.model_id / RECORD
    return path.with_name(f"{path.stem}-{hashlib.sha256(record.read_bytes()).hexdigest()[:16]}")


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:010d}.npy"
