"""Scoring a pool for the first time and again, through the campaign's own round, against MatGL's own loop.

All with one thread of torch, as the product's own worker processes have, and in seconds of the processor: on a shared
machine the clock, and threads that wait for each other, would measure the other programs.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.crystals import DATA, KAPPA, MEGNET, pool_files
from tests.benchmarks.measure import REPEATS, Measure, processor_seconds

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from campaigns.workspace import Workspace
    from engine.materials.crystal import Crystal

LABELS = (100, 300)
MEMBERS = 5
LOOPED = 200
"""Crystals that MatGL's loop predicts; its time a crystal is taken for the rest."""


def measure() -> list[Measure]:
    """Rates in crystals a second."""
    import torch

    from engine.materials.sources.kinds import CANDIDATES

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _campaign(folder) as campaign:
            campaign.ingest([str(path) for path in pool_files(folder)])
            loop = _loop_rate(campaign)
            measures = []
            for labels in LABELS:
                _label(campaign, labels)
                first, again = _rates(campaign, folder)
                measures += _rows(campaign, labels, first, again, loop)
            if DATA.is_dir():
                campaign.ingest([CANDIDATES])
                measures += _rows(campaign, labels, *_rates(campaign, folder), loop)
    return measures


def _rows(campaign: Campaign, labels: int, first: float, again: float, loop: float) -> list[Measure]:
    what = f"{len(campaign.store.material_index())} crystals, {labels} labels"
    return [
        Measure(f"scoring {what}", first, loop, "crystals/s", ">= 20", f"against predict_structure, {MEMBERS} models"),
        Measure(f"next round's scoring {what}", again, first, "crystals/s", ">= 50", "against the first"),
    ]


def _campaign(folder: Path) -> Campaign:
    from campaigns.campaign import Campaign

    return Campaign.create(folder / "campaign", warm=False, fidelity="agl", batch=1, budget=1000)


def _label(campaign: Campaign, count: int) -> None:
    """Give the first so many of a fixed random order their label."""
    from db.records import LabelRecord

    known = campaign.store.property_values([KAPPA])[KAPPA]
    ids = np.random.default_rng(0).permutation(sorted(known))[:count]
    campaign.store.add_labels(
        [LabelRecord(material_id=str(i), property="kappa_300K", value=float(known[i]), unit="W/(m K)", fidelity="agl")
         for i in ids]
    )  # fmt: skip


def _rates(campaign: Campaign, folder: Path) -> tuple[float, float]:
    """Crystals scored a second with nothing on disk, and in the round after; the best of several pairs of rounds."""
    first, again = [], []
    for _ in range(REPEATS):
        workspace = replace(campaign.workspace, features=Path(tempfile.mkdtemp(dir=folder)))
        first.append(_score_seconds(workspace))
        again.append(_score_seconds(workspace))
    n = len(campaign.store.material_index())
    return n / min(first), n / min(again)


def _score_seconds(workspace: Workspace) -> float:
    """Do one round; time its steps that embed and score the pool, reading and writing included."""
    from campaigns.round.context import RoundContext
    from campaigns.round.opening import open_round
    from campaigns.round.steps import STEPS, run_steps
    from db.states import RoundState

    rounds = [RoundContext.of(workspace, open_round(workspace, batch=1), lambda text: None)]
    taken = 0.0
    for step, end in zip(STEPS, [*(step.after for step in STEPS[1:]), RoundState.QUEUED], strict=True):
        spent = processor_seconds(lambda end=end: rounds.append(run_steps(rounds[-1], end, embedded=len(rounds) > 1)))
        taken += spent if step.after in (RoundState.STARTED, RoundState.TRAINED) else 0.0
    return taken


def _loop_rate(campaign: Campaign) -> float:
    """Crystals a second of a loop over ``predict_structure`` of as many MEGNet models as the ensemble has members."""
    models = [_megnet() for _ in range(MEMBERS)]
    structures = [crystal.to_structure() for crystal in itertools.islice(_crystals(campaign), LOOPED)]

    def loop() -> None:
        for structure in structures:
            for model in models:
                model.predict_structure(structure)

    return len(structures) / min(processor_seconds(loop) for _ in range(REPEATS))


def _crystals(campaign: Campaign) -> Iterator[Crystal]:
    from engine.materials.crystal import Crystal

    ids = sorted(key.material_id for key in campaign.store.material_index())
    ids = np.random.default_rng(1).permutation(ids).tolist()
    return (Crystal.from_dict(record.structure) for record in campaign.store.materials(ids[:LOOPED]))


def _megnet() -> Any:
    if MEGNET.is_dir():
        import matgl

        return matgl.load_model(str(MEGNET))
    from engine.learning.backbones.backbone import load_backbone
    from engine.learning.backbones.bodies import body_arguments, build_body

    body = load_backbone().body
    return build_body(type(body).__name__, body_arguments(body)).eval()
