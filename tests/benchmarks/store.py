"""What the queue costs when it is long: moves of many entries and of one, and results of a whole folder coming in."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from campaigns.campaign import Campaign
from db.records import MaterialRecord, QueueEntryRecord, SourceRecord
from db.states import QueueState, RoundState
from tests.benchmarks.measure import Measure, processor_seconds

MANY, PART = 10_000, 1_000
"""Entries of one round, and of one of ten parts of it."""
FEW = 100
ONE_MOVE = 5.0
"""Milliseconds of processor time that moving one entry may take, however long the queue is."""
REPEATS = 20
FOLDERS, FEW_FOLDERS = 2_000, 500
STRUCTURE = {
    "lattice": [[2.82, 2.82, 0.0], [2.82, 0.0, 2.82], [0.0, 2.82, 2.82]],
    "numbers": [11, 17],
    "frac_coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
}


def measure() -> list[Measure]:
    """Ratios of processor time, each measured against its reference in this run."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        return [*_moves(root), *_imports(root)]


def _moves(root: Path) -> list[Measure]:
    with _queued(root / "whole", MANY) as (campaign, _):
        at_once = processor_seconds(partial(campaign.move, [], QueueState.APPROVED))
    with _queued(root / "parts", MANY) as (campaign, ids):
        in_parts = sum(
            processor_seconds(partial(campaign.move, ids[start : start + PART], QueueState.APPROVED))
            for start in range(0, MANY, PART)
        )
        one_of_many = _one_move(campaign, ids)
    with _queued(root / "few", FEW) as (campaign, ids):
        campaign.move([], QueueState.APPROVED)
        one_of_few = _one_move(campaign, ids)
    note = "processor time"
    return [
        Measure(f"approve {MANY:,} at once, to {MANY // PART} x {PART:,}", at_once, in_parts, "s", "<= 3", note),
        Measure(f"move one of {MANY:,}, to the limit", one_of_many, ONE_MOVE, "ms", "<= 1", note),
        Measure(f"move one of {MANY:,}, to one of {FEW}", one_of_many, one_of_few, "ms", "<= 2", note),
    ]


def _one_move(campaign: Campaign, ids: Sequence[str]) -> float:
    """Milliseconds that one entry takes, the least of several."""
    return 1000 * min(processor_seconds(partial(campaign.move, [id_], QueueState.RUNNING)) for id_ in ids[-REPEATS:])


def _imports(root: Path) -> list[Measure]:
    """Milliseconds that one entry of a folder takes, of long and of short ones."""
    many, few = _import(root / "long", FOLDERS), _import(root / "short", FEW_FOLDERS)
    again = f"an entry of {FOLDERS:,} finished ones, to one of {FEW_FOLDERS}"
    return [
        Measure(f"import {again}", many[0], few[0], "ms", "<= 1.3", "processor time"),
        Measure(f"import again {again}", many[1], few[1], "ms", "<= 1.3", "processor time; nothing is new"),
        Measure(f"import of failures, {again}", many[2], few[2], "ms", "<= 1.3", "processor time"),
    ]


def _import(root: Path, size: int) -> tuple[float, float, float]:
    """Milliseconds an entry of a first and of a second import, and of entries that all failed."""
    with _queued(root / "done", size) as (campaign, ids):
        campaign.move([], QueueState.APPROVED)
        out = _finished_folders(root, campaign, ids)
        first, second = (processor_seconds(partial(campaign.import_labels, [out])) for _ in range(2))
        assert campaign.store.queue_counts()[QueueState.DONE] == size
    with _queued(root / "failed", size) as (campaign, ids):
        campaign.move([], QueueState.APPROVED)
        shutil.copytree(root / "done" / "artifacts" / "exports", campaign.artifacts / "exports")
        for folder in out.iterdir():
            (folder / "DONE").rename(folder / "FAILED")
            (folder / "FAILED").write_text("wrong pseudopotential\n")
            (folder / "kappa-m101010.hdf5").unlink()
        failed = processor_seconds(partial(campaign.import_labels, [out]))
        assert campaign.store.queue_counts()[QueueState.FAILED] == size
    return 1000 * first / size, 1000 * second / size, 1000 * failed / size


@contextmanager
def _queued(directory: Path, size: int) -> Iterator[tuple[Campaign, list[str]]]:
    """A campaign whose queue holds so many proposed entries, and the ids of their materials."""
    ids = [f"m{i}" for i in range(size)]
    with Campaign.create(directory, warm=False) as campaign:
        campaign.store.add_materials(
            MaterialRecord(
                id_, f"hash of {id_}", "NaCl", "Cl-Na", 225, 2, id_, STRUCTURE, sources=(SourceRecord(id_, "pool"),)
            )
            for id_ in ids
        )
        campaign.store.start_round({"settings": campaign.configuration.model_dump(mode="json"), "labels": 0})
        queue = [
            QueueEntryRecord(rank, id_, 2.5, 1.5, 4.0, 0.4, 0.1, fidelity="dft") for rank, id_ in enumerate(ids, 1)
        ]
        campaign.store.finish_step(1, RoundState.QUEUED, queue=queue)
        yield campaign, ids


def _finished_folders(root: Path, campaign: Campaign, ids: Sequence[str]) -> Path:
    """Folders of an export with results: one real one of silicon, told apart by the ids of the materials."""
    from tests.campaigns.exchange.conftest import SILICON, make_campaign, mark_done, write_kappa
    from tests.campaigns.helpers import done

    real = make_campaign(root / "real", SILICON)
    done("queue", "export", real, "--to", root / "one", "--format", "phono3py")
    (template,) = (root / "one").glob("001-*")
    written = write_kappa(template, 3.0).rename(template / "kappa-m101010.hdf5")
    mark_done(template)
    (record,) = (real / "artifacts" / "exports").glob("*.json")
    out, records = root / "out", campaign.artifacts / "exports"
    records.mkdir(parents=True)
    for rank, id_ in enumerate(ids, 1):
        text = json.dumps(json.loads(record.read_text()) | {"id": id_, "rank": rank, "round": 1})
        (records / f"{id_}.json").write_text(text)
        folder = out / id_
        folder.mkdir(parents=True)
        (folder / "entry.json").write_text(text)
        for name in ("POSCAR", "DONE", "STARTED", written.name):
            shutil.copy(template / name, folder / name)
    return out
