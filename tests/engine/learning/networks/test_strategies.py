"""What each strategy trains, on every body whose layers are known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.exceptions import BackboneError, TrainingError
from engine.learning.backbones.network import GraphNetwork
from engine.learning.networks.finetune import load_weights, new_network
from engine.learning.networks.schedule import FineTuning, Schedule
from engine.learning.networks.strategies import STRATEGIES, Strategy, n_blocks, network_parts, parse
from engine.learning.networks.training import train_network
from tests.engine.learning.bodies import SMALL, small_backbone

NAMES = ("full", "frozen", "last", "head", "blocks:1", "blocks:2", "embedding_frozen", "gradual")
PARTS = {
    "full": {"embedding", "block 1", "block 2", "block 3", "readout", "trunk", "head"},
    "frozen": {"trunk", "head"},
    "last": {"head"},
    "head": {"trunk", "head"},
    "blocks:1": {"block 3", "readout", "trunk", "head"},
    "blocks:2": {"block 2", "block 3", "readout", "trunk", "head"},
    "embedding_frozen": {"block 1", "block 2", "block 3", "readout", "trunk", "head"},
    "gradual": {"embedding", "block 1", "block 2", "block 3", "readout", "trunk", "head"},
}


@pytest.mark.parametrize("text", NAMES)
def test_a_name_is_read_and_written(text):
    assert str(parse(text)) == text
    assert parse(text).name in STRATEGIES


@given(st.text(max_size=12) | st.sampled_from(["blocks", "blocks:0", "blocks:", "blocks:-1", "Full", "full "]))
def test_other_words_are_refused(text):
    if text in NAMES or (text.startswith("blocks:") and text[7:].isdecimal()):
        return
    with pytest.raises(TrainingError, match="full, frozen, last, head, blocks:K"):
        parse(text)


@pytest.mark.parametrize("text", NAMES)
def test_it_says_what_it_trains(text):
    network = new_network(small_backbone("MEGNet", trunk=True), 0)
    plan = parse(text).describe(network)
    assert set(plan.parts) == PARTS[text]
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    assert plan.parameters == sum(sizes[name] for name in plan.tensors)
    assert str(plan).startswith(f"{text} trains {len(plan.tensors)} tensors, {plan.parameters:,} of ")
    whole = Strategy().describe(network)
    assert plan.parameters + plan.frozen_parameters == whole.parameters
    assert not [name for name in whole.tensors if "output_proj" in name], "MatGL's own head is not part of our network"


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("text", NAMES)
def test_it_trains_that_and_nothing_else(kind, text, crystals_of):
    backbone = small_backbone(kind, trunk=True)
    data, rows = crystals_of(backbone)
    network = new_network(backbone, 0, parse(text))
    plan = parse(text).describe(network)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    learnable = {name for name, p in network.named_parameters() if p.requires_grad}
    schedule = Schedule(epochs=3, batch_size=8, validation_fraction=0.0)
    train_network(network, data, rows[:24], FineTuning(schedule, strategy=parse(text)))
    moved = {name for name, t in network.state_dict().items() if not torch.equal(t, before[name])}
    assert moved <= set(plan.tensors)
    # some have no gradient: the antisymmetric part of TensorNet in symmetric crystals, edges of M3GNet's last block
    assert len(moved) >= 0.7 * len(plan.tensors)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == learnable, "left as it was"


@pytest.mark.parametrize("kind", SMALL)
def test_more_blocks_than_there_are(kind):
    network = new_network(small_backbone(kind), 0)
    there = n_blocks(network.body)
    with pytest.raises(TrainingError, match=rf"blocks:9 .*{kind} .*{there}"):
        parse("blocks:9").describe(network)
    whole = set(parse(f"blocks:{there}").describe(network).tensors)
    assert whole == set(parse("embedding_frozen").describe(network).tensors)


def test_a_body_with_unknown_layers_is_taken_whole():
    from matgl.models import SO3Net

    body = SO3Net(target_property="graph", dim_node_embedding=16, units=16)
    network = GraphNetwork(body, 16, ("a",), 8)
    assert list(network_parts(network)) == ["body", "trunk", "head"]
    for text in ("full", "frozen", "last", "head"):
        assert parse(text).describe(network).parameters
    for text in ("blocks:1", "embedding_frozen", "gradual"):
        with pytest.raises(TrainingError, match=r"SO3Net.*MEGNet, M3GNet, TensorNet"):
            parse(text).describe(network)


def test_gradual_opens_from_the_output_down_and_deeper_is_slower():
    strategy, network = parse("gradual"), new_network(small_backbone("MEGNet"), 0)
    groups = strategy.groups(network, 1e-3)
    assert [list(parts) for parts, _ in groups] == [
        ["trunk", "head"], ["readout"], ["block 3"], ["block 2"], ["block 1"], ["embedding"]
    ]  # fmt: skip
    rates = [rate for _, rate in groups]
    assert rates[0] == 1e-3
    assert all(deep < shallow for shallow, deep in pairwise(rates))
    opened = [strategy.open_groups(6, epoch, 20) for epoch in range(1, 21)]
    assert opened[0] == 1
    assert opened == sorted(opened)
    assert set(opened[10:]) == {6}
    assert [parse("full").open_groups(1, epoch, 3) for epoch in (1, 2, 3)] == [1, 1, 1]


class TestLoading:
    def test_it_says_how_many_tensors_matched(self, backbone):
        network = new_network(backbone, 0)
        loaded = load_weights(network, backbone.network.state_dict(), [], "x")
        assert set(loaded.new) == {"heads.weight", "heads.bias"}
        n = len(network.state_dict())
        assert str(loaded) == f"{n - 2} of {n} tensors loaded"

    def test_a_wrong_prefix_is_refused_rather_than_loading_nothing(self, backbone):
        """The released ParAIsite code loaded no weight at all, and said nothing."""
        network = new_network(backbone, 0)
        wrong = {f"model.{name}": t for name, t in backbone.network.state_dict().items()}
        needed = [name for name in network.state_dict() if name.startswith("body.")]
        with pytest.raises(BackboneError, match=r"0 of the \d+ tensors needed from x match; not body\.\S+ \(missing\)"):
            load_weights(network, wrong, needed, "x")

    def test_other_shapes_are_named(self):
        small, wide = small_backbone("MEGNet"), small_backbone("MEGNet", dim_node_embedding=20)
        network = new_network(small, 0)
        needed = [name for name in network.state_dict() if name.startswith("body.")]
        with pytest.raises(BackboneError, match=r"layer_node_embedding\.weight \(89 x 20 there, 89 x 16 here\)"):
            load_weights(network, wide.network.state_dict(), needed, "wide")

    def test_last_needs_a_trunk(self):
        with pytest.raises(BackboneError, match=r"small-MEGNet for strategy last match; not statistics_mean.*trunk\.0"):
            new_network(small_backbone("MEGNet"), 0, parse("last"))
        new_network(small_backbone("MEGNet"), 0, parse("frozen"))

    def test_head_takes_a_new_trunk_and_frozen_goes_on_with_it(self, backbone):
        trunk = backbone.network.trunk[0].weight
        assert torch.equal(new_network(backbone, 0, parse("frozen")).trunk[0].weight, trunk)
        assert not torch.equal(new_network(backbone, 0, parse("head")).trunk[0].weight, trunk)
