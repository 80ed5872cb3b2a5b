"""The training loop, and the whole network learning on from a backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.execution import ExecutionSettings, executor
from engine.learning.backbones.backbone import Backbone
from engine.learning.backbones.network import GraphNetwork
from engine.learning.device import device, random_states, set_random_states
from engine.learning.networks.activations import frozen_activations
from engine.learning.networks.finetune import NetworkHead, fit_heads, new_network
from engine.learning.networks.graph_data import GraphData
from engine.learning.networks.losses import masked_loss
from engine.learning.networks.schedule import FineTuning, Schedule
from engine.learning.networks.strategies import parse
from engine.learning.networks.training import TrainingRun, predict_network, train_network
from engine.learning.seeding import one_thread
from tests.engine.learning.bodies import SMALL, small_backbone

SHORT = Schedule(epochs=3, batch_size=8)
ROWS = np.arange(40)


@pytest.fixture(scope="module")
def data(labelled, backbone) -> GraphData:
    graphs = labelled.featuriser.graphs(labelled.keys)
    targets = labelled.values[:, None].astype(np.float32)
    return GraphData(graphs, labelled.embeddings[:, :88], targets, backbone.node_types)


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
    head = NetworkHead.fit(backbone, data, ROWS, FineTuning(Schedule(epochs=6, batch_size=8), 0), history.append)
    assert [epoch.number for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1].train_loss < 0.7 * history[0].train_loss
    error = np.abs(head.predict(data, ROWS) - labelled.values[ROWS]).mean()
    assert error < 0.8 * np.abs(labelled.values[ROWS] - labelled.values[ROWS].mean()).mean()


def test_the_backbone_itself_is_not_touched(backbone, data):
    before = {k: v.clone() for k, v in backbone.network.state_dict().items()}
    NetworkHead.fit(backbone, data, ROWS, FineTuning(replace(SHORT, epochs=1), 0))
    for name, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_trunk_of_the_backbone_is_kept_and_the_head_is_new(backbone):
    network, other = new_network(backbone, 1), new_network(backbone, 2)
    tensors = network.state_dict()
    heads = {name for name in tensors if name.startswith("heads.")}
    assert heads
    assert {tensors[name].shape[0] for name in heads} == {1}
    for name in tensors.keys() - heads:
        assert torch.equal(tensors[name], backbone.network.state_dict()[name]), name
    assert not torch.equal(network.heads.weight, other.heads.weight)


def test_a_backbone_without_trunk_gets_one_scaled_on_training_rows(backbone, data):
    bare = Backbone("bare", GraphNetwork(backbone.body, backbone.network.readout_size, ()), {})
    head = NetworkHead.fit(bare, data, ROWS, FineTuning(replace(SHORT, epochs=1), 0))
    np.testing.assert_allclose(head.network.statistics_mean, data.statistics[ROWS].mean(0), rtol=1e-4)


def test_statistics_that_few_rows_share_do_not_blow_up(backbone, data):
    """Seven crystals of one kind leave most columns without a scale; others are still a few deviations away."""
    bare = Backbone("bare", GraphNetwork(backbone.body, backbone.network.readout_size, ()), {})
    alike = np.argsort(np.abs(data.statistics - data.statistics[0]).mean(1))[:7]
    assert (data.statistics[alike].std(0) < 1e-6).any()
    head = NetworkHead.fit(bare, data, alike, FineTuning(replace(SHORT, epochs=1)))
    values = data.targets[alike, 0]
    assert np.abs(head.predict(data, np.arange(len(data.graphs))) - values.mean()).max() < 20 * np.ptp(values)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("text", ["full", "blocks:1"])
def test_bf16_passes_learn_as_well(kind, text, crystals_of):
    """On the CPU, whose autocast takes the way of a GPU; weights and outputs stay in single precision."""
    backbone = small_backbone(kind, trunk=True)
    data, rows = crystals_of(backbone)
    predicted, losses = [], []
    for bf16 in (False, True):
        network, strategy = new_network(backbone, 1, parse(text)), parse(text)
        cache = frozen_activations(network, data, rows, strategy)
        schedule = Schedule(epochs=4, batch_size=16, bf16=bf16)
        history = train_network(network, data, rows, FineTuning(schedule, 1, strategy), activations=cache)
        assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
        losses.append([epoch.train_loss for epoch in history])
        predicted.append(predict_network(network, data, rows))
    plain, rounded = losses
    assert rounded != plain, "the passes were rounded"
    np.testing.assert_allclose(rounded, plain, rtol=0.02)
    assert rounded[-1] < 0.9 * rounded[0]
    assert np.abs(predicted[1] - predicted[0]).mean() < 0.1


class TestDevice:
    """What can be told of it without a GPU."""

    def test_one_place_chooses_it(self):
        assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")

    def test_random_streams_go_on(self):
        before = random_states()
        drawn = torch.rand(3)
        set_random_states(before)
        assert torch.equal(torch.rand(3), drawn)
        set_random_states([*before, before[0]])  # of a GPU that is not here
        assert torch.equal(torch.rand(3), drawn)

    def test_every_tensor_of_a_batch_is_moved(self, backbone, data):
        """On ``meta``, which has no numbers: what stayed behind would be mixed with it, and refused."""
        graphs, statistics = data.batch(ROWS[:3], torch.device("meta"))
        found = {name: value.device.type for name, value in graphs.to_dict().items() if isinstance(value, torch.Tensor)}
        assert {"edge_index", "pos", "node_type", "pbc_offshift"} <= set(found)
        assert {*found.values(), statistics.device.type} == {"meta"}
        assert data.labels(ROWS[:3], torch.device("meta")).device.type == "meta"

    def test_weights_come_back_to_the_cpu(self, backbone, data):
        network = new_network(backbone, 0)
        train_network(network, data, ROWS, FineTuning(replace(SHORT, epochs=1), 0))
        assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}


def test_the_same_seed_gives_the_same_weights(backbone, data):
    torch.rand(5)
    before = torch.get_rng_state()
    heads = [NetworkHead.fit(backbone, data, ROWS, FineTuning(SHORT, seed)) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
    first, again, other = (head.predict(data, ROWS) for head in heads)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_rows_held_out_do_not_matter(backbone, data):
    changed = replace(data, targets=data.targets.copy())
    changed.targets[45:] += 10
    first, second = (
        NetworkHead.fit(backbone, d, ROWS, FineTuning(SHORT, 0)).predict(data, ROWS) for d in (data, changed)
    )
    np.testing.assert_array_equal(first, second)


def test_tensors_make_the_same_head_again(backbone, data):
    head = NetworkHead.fit(backbone, data, ROWS, FineTuning(replace(SHORT, epochs=1), 0))
    again = NetworkHead.from_tensors(backbone, head.to_tensors())
    np.testing.assert_array_equal(again.predict(data, ROWS), head.predict(data, ROWS))
    fewer = {name: t for name, t in head.to_tensors().items() if name != "heads.bias"}
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
    with pytest.raises(TrainingError, match=r"epoch 3.*0\.001"):
        train_network(network, broken, ROWS, FineTuning(schedule, 0), spoil)
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, good[name]), name


class TestLosses:
    def test_by_hand(self):
        prediction, target = torch.tensor([[0.0], [0.0]]), torch.tensor([[3.0], [0.5]])
        assert masked_loss(prediction, target, loss="l1").item() == pytest.approx(1.75)
        assert masked_loss(prediction, target, loss="huber").item() == pytest.approx((2.5 + 0.125) / 2)
        found = masked_loss(prediction, target, torch.full((2, 1), np.log(4.0)), loss="nll")
        gaussian = torch.distributions.Normal(prediction, 2.0)
        expected = -(gaussian.log_prob(target) + 0.5 * np.log(2 * np.pi)).mean()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_balance(self):
        nan = float("nan")
        target = torch.tensor([[2.0, 4.0], [2.0, nan], [2.0, nan]])
        zero = torch.zeros(3, 2)
        assert masked_loss(zero, target, loss="l1").item() == pytest.approx(3.0)
        assert masked_loss(zero, target, loss="l1", balance="size").item() == pytest.approx(2.5)
        log_noise = torch.tensor([0.0, np.log(4.0)])
        found = masked_loss(zero, target, loss="l1", balance="uncertainty", log_noise=log_noise)
        assert found.item() == pytest.approx((2.0 + 4.0 / 4 + 0.5 * np.log(4)) / 2)

    @pytest.mark.parametrize("balance", ["equal", "size", "uncertainty"])
    def test_the_parts_of_a_batch_add_up(self, balance):
        torch.manual_seed(0)
        prediction, target = torch.randn(9, 3), torch.randn(9, 3)
        target[torch.rand(9, 3) < 0.4] = torch.nan
        log_noise = torch.randn(3) if balance == "uncertainty" else None
        options = {"balance": balance, "log_noise": log_noise}
        labels = torch.isfinite(target).sum(0)
        parts = [masked_loss(prediction[i], target[i], labels=labels, **options) for i in torch.arange(9).split(4)]
        assert sum(parts).item() == pytest.approx(masked_loss(prediction, target, **options).item(), rel=1e-5)

    def test_words_that_are_not_known(self, backbone, data):
        network = new_network(backbone, 0)
        with pytest.raises(TrainingError, match=r"'l2'.*huber, l1, nll"):
            train_network(network, data, ROWS, FineTuning(SHORT, 0, loss="l2"))
        with pytest.raises(TrainingError, match=r"'sum'.*equal, size, uncertainty"):
            train_network(network, data, ROWS, FineTuning(SHORT, 0, balance="sum"))
        with pytest.raises(TrainingError, match="both learn the noise"):
            train_network(network, data, ROWS, FineTuning(SHORT, 0, loss="nll", balance="uncertainty"))
        with pytest.raises(TrainingError, match="predicts_noise=True"):
            train_network(network, data, ROWS, FineTuning(SHORT, 0, loss="nll"))

    def test_a_head_that_predicts_its_noise(self, backbone, data, labelled):
        head = NetworkHead.fit(backbone, data, ROWS, FineTuning(replace(SHORT, epochs=6), 0, loss="nll"))
        mean, std = head.predict_with_std(data, ROWS)
        assert (std > 0).all()
        assert (
            np.abs(mean - labelled.values[ROWS]).mean() < 0.8 * np.abs(labelled.values - labelled.values.mean()).mean()
        )
        again = NetworkHead.from_tensors(backbone, head.to_tensors())
        np.testing.assert_array_equal(again.predict_with_std(data, ROWS)[1], std)
        plain = NetworkHead.fit(backbone, data, ROWS, FineTuning(replace(SHORT, epochs=1), 0))
        assert plain.predict_with_std(data, ROWS)[1] is None

    def test_learned_weights_see_the_noise(self, crystals_of):
        """A property of pure noise is given less weight than one that can be learned."""
        backbone = small_backbone("MEGNet")
        data, rows = crystals_of(backbone)
        noise = np.random.default_rng(0).normal(scale=4, size=(len(rows), 1)).astype(np.float32)
        known = (data.statistics[:, :1] - data.statistics[:, 0].mean()) / data.statistics[:, 0].std()
        both = replace(data, targets=np.concatenate([known, noise], 1))
        network = GraphNetwork(backbone.body, backbone.network.readout_size, ("known", "noise"), 16)
        network.fit_statistics(torch.from_numpy(data.statistics))
        tuning = FineTuning(Schedule(epochs=20, learning_rate=3e-2), balance="uncertainty")
        run = TrainingRun(network, both, rows, tuning, None)
        run.train(None)
        assert run.log_noise[0] < run.log_noise[1]


def test_patience_stops_early_and_keeps_the_best(backbone, data):
    schedule = Schedule(epochs=40, batch_size=8, learning_rate=5e-3, patience=2, validation_fraction=0.3)
    network = new_network(backbone, 0)
    history = train_network(network, data, ROWS, FineTuning(schedule, 0))
    losses = [epoch.validation_loss for epoch in history]
    assert len(losses) < 40
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"learning_rate": 0.0}, {"validation_fraction": 1.0}, {"patience": 0}]
)
def test_schedules_that_cannot_be_followed(wrong):
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        Schedule(**wrong)


def test_labels_that_cannot_be_learned(backbone, data):
    network = new_network(backbone, 0)
    for targets, words in ((np.nan, "target has no label in the 40"), (1.5, "all 40 training labels of target are eq")):
        with pytest.raises(TooFewLabelsError, match=words):
            train_network(
                network, replace(data, targets=np.full_like(data.targets, targets)), ROWS, FineTuning(SHORT, 0)
            )
    with pytest.raises(TooFewLabelsError, match="nothing to tell apart"):
        NetworkHead.fit(backbone, replace(data, targets=np.full_like(data.targets, 2.0)), ROWS, FineTuning(SHORT, 0))


def limit(network, crystals: int) -> None:
    """Let the memory of a pass be enough for so many crystals."""

    def check(module, args, kwargs):
        if kwargs["g"].num_graphs > crystals:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    network.body.register_forward_pre_hook(check, with_kwargs=True)


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing_else(backbone, data):
    plain, short = new_network(backbone, 0), new_network(backbone, 0)
    train_network(plain, data, ROWS, FineTuning(SHORT, 0))
    limit(short, 3)
    history = train_network(short, data, ROWS, FineTuning(SHORT, 0))
    assert "out of memory: from here on a batch of 8 is computed in 4 parts" in history[0].note
    assert not history[1].note
    np.testing.assert_allclose(predict_network(short, data, ROWS), predict_network(plain, data, ROWS), atol=2e-3)


def test_a_crystal_too_large_for_memory(backbone, data):
    network = new_network(backbone, 0)
    limit(network, 0)
    with pytest.raises(TrainingError, match="single crystal"):
        train_network(network, data, ROWS, FineTuning(SHORT, 0))
    with pytest.raises(TrainingError, match="single crystal"):
        frozen_activations(network, data, ROWS, parse("frozen"))


def test_bfloat16_learns_too(backbone, data, labelled):
    head = NetworkHead.fit(backbone, data, ROWS, FineTuning(Schedule(epochs=6, batch_size=8, bf16=True), 0))
    error = np.abs(head.predict(data, ROWS) - labelled.values[ROWS]).mean()
    assert error < 0.8 * np.abs(labelled.values[ROWS] - labelled.values[ROWS].mean()).mean()
    assert all(p.dtype == torch.float32 for p in head.network.parameters())


class TestResuming:
    """A training that was interrupted ends as if it had not been."""

    SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=3e-3)

    @pytest.mark.parametrize(("text", "balance"), [("full", "equal"), ("gradual", "uncertainty"), ("head", "size")])
    def test_to_the_last_bit(self, crystals_of, tmp_path, text, balance):
        backbone = small_backbone("MEGNet", trunk=True, dropout=0.2)
        data, rows = crystals_of(backbone)
        strategy, rows = parse(text), rows[:30]

        def train(on_epoch=None, folder=None):
            network = new_network(backbone, 0, strategy)
            cache = frozen_activations(network, data, rows, strategy)
            tuning = FineTuning(self.SCHEDULE, strategy=strategy, balance=balance)
            options = {"activations": cache, "checkpoint": folder}
            return network, train_network(network, data, rows, tuning, on_epoch, **options)

        expected, history = train()

        def interrupt(epoch):
            if epoch.number == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(interrupt, tmp_path)
        done = []
        network, again = train(lambda epoch: done.append(epoch.number), tmp_path)
        assert done == [3, 4]
        assert again == history
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name
        finished, _ = train(done.append, tmp_path)
        assert done == [3, 4], "nothing is left to do"
        for name, tensor in finished.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name

    def test_the_checkpoint_of_another_training_is_refused(self, crystals_of, tmp_path):
        backbone = small_backbone("MEGNet")
        data, rows = crystals_of(backbone)
        train_network(new_network(backbone, 0), data, rows, FineTuning(self.SCHEDULE), checkpoint=tmp_path)
        other = replace(data, targets=data.targets + 1)
        for different in (
            {"tuning": FineTuning(self.SCHEDULE, seed=1)},
            {"tuning": FineTuning(replace(self.SCHEDULE, epochs=5))},
            {"data": other},
            {"rows": rows[1:]},
        ):
            given = {"data": data, "rows": rows, "tuning": FineTuning(self.SCHEDULE), **different}
            with pytest.raises(TrainingError, match=r"training\.pt"):
                train_network(new_network(backbone, 0), **given, checkpoint=tmp_path)

    def test_a_changed_checkpoint_is_refused(self, crystals_of, tmp_path):
        backbone = small_backbone("MEGNet")
        data, rows = crystals_of(backbone)
        train_network(new_network(backbone, 0), data, rows, FineTuning(self.SCHEDULE), checkpoint=tmp_path)
        path = tmp_path / "training.pt"
        content = path.read_bytes()
        for broken in (content[:-5], content[:500] + b"x" + content[501:], b""):
            path.write_bytes(broken)
            with pytest.raises(TrainingError, match=r"training\.pt"):
                train_network(new_network(backbone, 0), data, rows, FineTuning(self.SCHEDULE), checkpoint=tmp_path)


def test_validation_rows_without_labels_choose_nothing(backbone, data):
    """The last epoch stands then, not the untrained network."""
    sparse = replace(data, targets=np.where(np.arange(60)[:, None] < 20, data.targets, np.nan).astype(np.float32))
    network = new_network(backbone, seed=0)
    start = network.heads.weight.clone()
    rows = np.concatenate([np.arange(20), [50]])
    history = train_network(network, sparse, rows, FineTuning(replace(SHORT, validation_fraction=0.01, batch_size=32)))
    assert np.isnan([e.validation_loss for e in history]).all()
    assert not torch.equal(network.heads.weight, start)


def test_one_epoch_of_one_batch(backbone, data):
    history = train_network(new_network(backbone, 0), data, ROWS, FineTuning(Schedule(epochs=1, batch_size=64), 0))
    assert len(history) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "dask"])
def test_members_in_processes_are_the_members_made_here(backbone, data, backend):
    jobs = [(ROWS, 1), (ROWS[::8], 2), (ROWS[::2], 3)]  # the second is finished first
    with one_thread():
        here = list(fit_heads(backbone, data, jobs, FineTuning(SHORT)))
    if backend == "local":
        there = list(fit_heads(backbone, data, jobs, FineTuning(SHORT), workers=2))
    else:
        pytest.importorskip("distributed", reason="Dask is not installed (extra `dask`)")
        with executor(ExecutionSettings("dask", 2)) as run:
            there = list(fit_heads(backbone, data, jobs, FineTuning(SHORT), run=run))
    for first, second in zip(here, there, strict=True):
        for name, tensor in first.to_tensors().items():
            assert torch.equal(tensor, second.to_tensors()[name]), name
