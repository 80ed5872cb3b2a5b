"""What fine-tuning is going to take, told by one step on a few crystals before it starts.

A body made for a property trains some hundred crystals a second on one core, that of a potential a few: hours that
nobody expects. The estimate is as rough as its sample, and knows nothing of other work on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.ensemble.settings import EnsembleSettings
    from engine.learning.networks.graph_data import GraphData
    from engine.learning.networks.strategies import Strategy

SAMPLE = 16
"""Crystals of the step."""
WORTH_SAYING = 600.0
"""Seconds from which a warning is given."""


def effort_warning(featuriser: AnyFeaturiser, keys: Sequence[str], settings: EnsembleSettings, workers: int = 1) -> str:
    """Warning of how long the networks of an ensemble will train on crystals ``keys``; empty if it is not long."""
    if not settings.networks:
        return ""
    workers = min(workers, settings.members)
    seconds = expected_seconds(featuriser, keys, settings) / workers
    if seconds < WORTH_SAYING:
        return ""
    time_ = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
    return (
        f"training {settings.members} networks ({settings.strategy}, {settings.schedule.epochs} epochs, "
        f"{len(keys)} crystals) takes about {time_} in {workers} process{'es' if workers > 1 else ''}, by one step on "
        f"{min(SAMPLE, len(keys))} of them; strategy frozen reads embeddings alone, which are made already"
    )


def expected_seconds(featuriser: AnyFeaturiser, keys: Sequence[str], settings: EnsembleSettings) -> float:
    """Estimate the seconds of one process in which the networks of an ensemble train."""
    from engine.learning.networks import strategies
    from engine.learning.networks.graph_data import network_data

    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(keys), min(SAMPLE, len(keys)), replace=False))
    data = network_data(featuriser, [keys[i] for i in rows.tolist()], rng.normal(size=(len(rows), 1)))
    strategy = strategies.parse(settings.strategy)
    backbones = featuriser.backbone.trained
    total = 0.0
    for number, (backbone, graphs) in enumerate(zip(backbones, data, strict=True)):
        frozen, step = _seconds(backbone, graphs, strategy)
        heads = math.ceil((settings.members - number) / len(backbones))
        passes = (settings.members - 1) / settings.members  # over the crystals: a fold is left out
        if settings.members_class.kind.is_stacked:
            passes += 1  # those beside Gaussian processes are trained once more, on all labels
        total += (frozen + heads * passes * settings.schedule.epochs * step) * len(keys) / len(rows)
    return total


def _seconds(backbone: Backbone, data: GraphData, strategy: Strategy) -> tuple[float, float]:
    """Seconds for all of ``data``: of what stays frozen, done once, and of a step."""
    from engine.learning.device import device
    from engine.learning.networks.activations import from_graphs, frozen_activations
    from engine.learning.networks.finetune import new_network
    from engine.learning.networks.losses import masked_loss
    from engine.learning.seeding import one_thread, seeded

    rows = np.arange(len(data.graphs))
    network = new_network(backbone, 0, strategy).to(device())
    step = math.inf
    with one_thread(), seeded(0):
        began = time.perf_counter()
        activations = frozen_activations(network, data, rows, strategy)
        frozen = time.perf_counter() - began
        trunk = activations.resume(network, data) if activations else from_graphs(network, data)
        strategy.set_training(network)
        for _ in range(2):  # the first of a process takes longer
            began = time.perf_counter()
            loss = masked_loss(network.heads(trunk(rows)), data.labels(rows, device()))
            loss.backward()
            step = min(step, time.perf_counter() - began)
    return frozen, step
