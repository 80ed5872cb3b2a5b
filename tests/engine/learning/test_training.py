"""The training loop, and the whole network learning on from a backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exceptions import TrainingError
from engine.learning.backbone import Backbone
from engine.learning.finetune import NetworkHead, fit_heads, new_network
from engine.learning.network import GraphNetwork
from engine.learning.training import GraphData, Schedule, masked_loss, train_network

SHORT = Schedule(epochs=3, batch_size=8)
ROWS = np.arange(40)


@pytest.fixture(scope="module")
def data(labelled, backbone) -> GraphData:
    graphs = labelled.featuriser.graphs(labelled.keys)
    targets = labelled.values[:, None].astype(np.float32)
    return GraphData(graphs, labelled.embeddings[:, :28], targets, backbone.node_types)


def test_the_loss_averages_over_known_labels_then_over_properties():
    nan = float("nan")
    prediction = torch.zeros(3, 3, requires_grad=True)
    target = torch.tensor([[3.0, nan, nan], [5.0, 2.0, nan], [1.5, nan, nan]])
    loss = masked_loss(prediction, target)
    assert loss.item() == pytest.approx(((2.5 + 4.5 + 1.0) / 3 + 1.5) / 2)
    loss.backward()
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad[torch.isnan(target)] == 0).all()


def test_fine_tuning_learns(backbone, data, labelled):
    history = []
    head = NetworkHead.fit(backbone, data, ROWS, Schedule(epochs=3, batch_size=8), 0, history.append)
    assert [epoch.number for epoch in history] == [1, 2, 3]
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    error = np.abs(head.predict(data, ROWS) - labelled.values[ROWS]).mean()
    assert error < 0.8 * np.abs(labelled.values[ROWS] - labelled.values[ROWS].mean()).mean()


def test_the_backbone_itself_is_not_touched(backbone, data):
    before = {k: v.clone() for k, v in backbone.network.state_dict().items()}
    NetworkHead.fit(backbone, data, ROWS, replace(SHORT, epochs=1), seed=0)
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_trunk_of_the_backbone_is_kept_and_the_head_is_new(backbone):
    network, other = new_network(backbone, 1), new_network(backbone, 2)
    for name, tensor in network.state_dict().items():
        if name.startswith("heads."):
            assert tensor.shape[0] == 1
        else:
            assert torch.equal(tensor, backbone.network.state_dict()[name]), name
    assert not torch.equal(network.heads.weight, other.heads.weight)


def test_a_backbone_without_trunk_gets_one_scaled_on_training_rows(backbone, data):
    bare = Backbone("bare", GraphNetwork(backbone.body, backbone.network.readout_size, ()), {})
    head = NetworkHead.fit(bare, data, ROWS, replace(SHORT, epochs=1), seed=0)
    np.testing.assert_allclose(head.network.statistics_mean, data.statistics[ROWS].mean(0), rtol=1e-4)


def test_the_same_seed_gives_the_same_weights(backbone, data):
    torch.rand(5)
    before = torch.get_rng_state()
    heads = [NetworkHead.fit(backbone, data, ROWS, SHORT, seed) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
    first, again, other = (head.predict(data, ROWS) for head in heads)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_rows_held_out_do_not_matter(backbone, data):
    changed = replace(data, targets=data.targets.copy())
    changed.targets[45:] += 10
    first, second = (NetworkHead.fit(backbone, d, ROWS, SHORT, 0).predict(data, ROWS) for d in (data, changed))
    np.testing.assert_array_equal(first, second)


def test_tensors_make_the_same_head_again(backbone, data):
    head = NetworkHead.fit(backbone, data, ROWS, replace(SHORT, epochs=1), seed=0)
    again = NetworkHead.from_tensors(backbone, head.tensors)
    np.testing.assert_array_equal(again.predict(data, ROWS), head.predict(data, ROWS))
    fewer = {name: t for name, t in head.tensors.items() if name != "heads.bias"}
    with pytest.raises(RuntimeError, match=r"Missing key.*heads\.bias"):
        NetworkHead.from_tensors(backbone, fewer)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_weights(backbone, data):
    network = new_network(backbone, seed=0)
    good = {}

    def spoil(epoch):
        good.update({k: v.clone() for k, v in network.state_dict().items()})
        broken.targets[:] = np.inf if epoch.number == 2 else broken.targets
        broken.statistics[:] = np.nan if epoch.number == 2 else broken.statistics

    broken = replace(data, statistics=data.statistics.copy(), targets=data.targets.copy())
    schedule = replace(SHORT, epochs=4, validation_fraction=0.0)
    with pytest.raises(TrainingError, match=r"became nan in epoch 3.*learning rate \(now 0.001\)"):
        train_network(network, broken, ROWS, schedule, 0, spoil)
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, good[name]), name


def test_validation_rows_without_labels_choose_nothing(backbone, data):
    """The last epoch stands then, not the untrained network."""
    sparse = replace(data, targets=np.where(np.arange(60)[:, None] < 20, data.targets, np.nan).astype(np.float32))
    network = new_network(backbone, seed=0)
    start = network.heads.weight.clone()
    rows = np.concatenate([np.arange(20), [50]])
    history = train_network(network, sparse, rows, replace(SHORT, validation_fraction=0.01, batch_size=32), 0)
    assert np.isnan([e.validation_loss for e in history]).all()
    assert not torch.equal(network.heads.weight, start)


def test_one_epoch_of_one_batch(backbone, data):
    history = train_network(new_network(backbone, 0), data, ROWS, Schedule(epochs=1, batch_size=64), 0)
    assert len(history) == 1


@pytest.mark.slow
def test_members_in_processes_are_the_members_made_here(backbone, data):
    jobs = [(ROWS, 1), (ROWS[::2], 2)]
    here = list(fit_heads(backbone, data, jobs, SHORT))
    there = list(fit_heads(backbone, data, jobs, SHORT, workers=2))
    for first, second in zip(here, there, strict=True):
        for name, tensor in first.tensors.items():
            assert torch.equal(tensor, second.tensors[name]), name
