"""What is frozen is computed once: the same numbers, sooner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.learning.networks import activations
from engine.learning.networks.activations import CutFeatures, Readouts, from_graphs, frozen_activations
from engine.learning.networks.finetune import NetworkHead, new_network
from engine.learning.networks.schedule import FineTuning, Schedule
from engine.learning.networks.strategies import parse
from engine.learning.networks.training import predict_network, train_network
from tests.engine.learning.bodies import SMALL, small_backbone

SCHEDULE = Schedule(epochs=4, batch_size=8)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("text", ["frozen", "last", "head", "blocks:1", "blocks:2", "embedding_frozen"])
def test_cached_training_gives_the_same_numbers(kind, text, crystals_of):
    backbone = small_backbone(kind, trunk=True)
    data, rows = crystals_of(backbone)
    strategy, rows = parse(text), rows[5:35]
    networks, histories = [], []
    for cached in (False, True):
        network = new_network(backbone, 1, strategy)
        cache = frozen_activations(network, data, rows, strategy) if cached else None
        histories.append(train_network(network, data, rows, FineTuning(SCHEDULE, 1, strategy), activations=cache))
        networks.append(network)
    plain, cached = (predict_network(network, data, rows) for network in networks)
    np.testing.assert_allclose(cached, plain, atol=1e-5)
    for first, second in zip(*histories, strict=True):
        assert second.train_loss == pytest.approx(first.train_loss, abs=1e-6)
        assert second.validation_loss == pytest.approx(first.validation_loss, abs=1e-6)
    start = new_network(backbone, 1, strategy)
    assert np.abs(cached - predict_network(start, data, rows)).max() > 1e-3, "it did learn"


@pytest.mark.parametrize("kind", SMALL)
def test_the_pass_goes_on_from_every_cut(kind, crystals_of):
    backbone = small_backbone(kind, trunk=True)
    data, rows = crystals_of(backbone)
    network = new_network(backbone, 0).eval()
    some = rows[[3, 0, 7]]
    with torch.no_grad():
        expected = from_graphs(network, data)(some)
        for cut in range(
            len(getattr(network.body, {"MEGNet": "blocks", "M3GNet": "graph_layers"}.get(kind, "layers")))
        ):
            found = CutFeatures.of(network, data, rows, cut).resume(network, data)(some)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(Readouts.of(network, data, rows).resume(network, data)(some), expected)


def test_nothing_is_cached_where_nothing_stays(crystals_of):
    backbone = small_backbone("MEGNet")
    data, rows = crystals_of(backbone)
    for text in ("full", "gradual"):
        assert frozen_activations(new_network(backbone, 0), data, rows, parse(text)) is None


def test_large_activations_are_on_disk(crystals_of, monkeypatch):
    backbone = small_backbone("MEGNet")
    data, rows = crystals_of(backbone)
    network = new_network(backbone, 0)
    in_memory = CutFeatures.of(network, data, rows, 2)
    monkeypatch.setattr(activations, "MAX_BYTES_IN_MEMORY", 1000)
    on_disk = CutFeatures.of(network, data, rows, 2)
    for kind, feature in on_disk.features.items():
        assert isinstance(feature, np.memmap)
        assert not isinstance(in_memory.features[kind], np.memmap)
        np.testing.assert_array_equal(feature, in_memory.features[kind])


def test_frozen_layers_do_not_drop_out(crystals_of):
    """A body with dropout gives the same readouts in every epoch while it is frozen."""
    backbone = small_backbone("MEGNet", trunk=True, dropout=0.5)
    data, rows = crystals_of(backbone)
    strategy = parse("frozen")
    heads = [
        NetworkHead.fit(backbone, data, rows[:30], FineTuning(SCHEDULE, 1, strategy), activations=cache).predict(
            data, rows
        )
        for cache in (None, frozen_activations(new_network(backbone, 1, strategy), data, rows, strategy))
    ]
    # batches of other sizes round otherwise; dropout would move them by tenths
    np.testing.assert_allclose(*heads, rtol=0, atol=1e-5)
    network = new_network(backbone, 1, strategy)
    strategy.set_training(network)
    assert network.training
    assert not network.body.blocks[0].dropout.training


@pytest.mark.parametrize(("text", "resting"), [("frozen", slice(None)), ("blocks:1", slice(-1))])
def test_cached_epochs_leave_out_what_is_frozen(text, resting, backbone, crystals_of):
    data, rows = crystals_of(backbone)
    passes = [_passes_of(backbone, data, rows, parse(text), resting, cached) for cached in (False, True)]
    assert passes[0] > 0
    assert passes[1] == 0


def _passes_of(backbone, data, rows, strategy, resting, cached) -> int:
    """How often two epochs run the blocks `resting`."""
    network = new_network(backbone, 1, strategy)
    cache = frozen_activations(network, data, rows, strategy) if cached else None
    calls = []
    for block in network.body.blocks[resting]:
        block.register_forward_hook(lambda module, *_: calls.append(module))
    train_network(network, data, rows, FineTuning(Schedule(epochs=2), 1, strategy), activations=cache)
    return len(calls)
