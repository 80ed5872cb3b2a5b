"""Ensembles hold rows out, calibrate on what they held out and say how far off they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.ensemble import ensemble as module
from engine.learning.ensemble import settings as settings_module
from engine.learning.ensemble import stacking
from engine.learning.ensemble import training as training_module
from engine.learning.ensemble.ensemble import MemberTable
from engine.learning.ensemble.settings import EnsembleSettings, minimum_labels
from engine.learning.ensemble.training import Labels, assign_folds, labels_hash, train_ensemble
from engine.learning.heads.gp import GaussianProcessHead
from engine.learning.heads.members import LOWER_FIDELITY
from engine.learning.networks.finetune import NetworkHead
from engine.learning.networks.graph_data import Crystals, network_data
from engine.learning.networks.schedule import Schedule
from engine.metrics.calibration import shrunk_scale
from engine.metrics.extrapolation import held_out_distances
from tests.engine.learning.trained import Trained

SHORT = Schedule(epochs=2, batch_size=16)
SETTINGS = {
    "gp": EnsembleSettings(members=3, seed=5, trees=False),
    "mlp": EnsembleSettings(head="mlp", members=3, seed=5),
    "network": EnsembleSettings(strategy="full", head="network", members=3, seed=5, schedule=SHORT),
    "blended": EnsembleSettings(strategy="full", members=3, seed=5, schedule=SHORT),
}


def train(labelled, settings, values=None, **options):
    values = labelled.values if values is None else values
    known = {name: options.pop(name) for name in ("property", "scale", "auxiliaries") if name in options}
    labels = Labels(labelled.keys, values, **{"property": "kappa", "scale": "log10", **known})
    return train_ensemble(labelled.featuriser, labels, settings, **options)


@pytest.fixture(scope="session")
def progress():
    """What was reported while each of ``ensembles`` was trained."""
    return {name: [] for name in SETTINGS}


@pytest.fixture(scope="session")
def ensembles(labelled, progress):
    return Trained(lambda name: train(labelled, SETTINGS[name], progress=progress[name].append))


class TestFolds:
    @given(st.lists(st.text(min_size=1), unique=True, max_size=40), st.integers(2, 6), st.integers(0, 9), st.randoms())
    def test_every_row_is_held_out_once_whatever_the_order(self, keys, n_folds, seed, random):
        folds = dict(zip(keys, assign_folds(keys, n_folds, seed).tolist(), strict=True))
        shuffled = random.sample(keys, len(keys))
        assert dict(zip(shuffled, assign_folds(shuffled, n_folds, seed).tolist(), strict=True)) == folds
        sizes = np.bincount(list(folds.values()), minlength=n_folds) if keys else np.zeros(n_folds)
        assert len(sizes) == n_folds
        assert sizes.max() - sizes.min() <= 1

    def test_the_seed_changes_them(self):
        keys = [str(i) for i in range(50)]
        assert (assign_folds(keys, 5, 0) != assign_folds(keys, 5, 1)).any()

    def test_the_hash_of_labels_knows_no_order(self):
        assert labels_hash(["a", "b"], np.array([1.0, 2.0])) == labels_hash(["b", "a"], np.array([2.0, 1.0]))
        assert labels_hash(["a", "b"], np.array([1.0, 2.0])) != labels_hash(["a", "b"], np.array([2.0, 1.0]))


class TestMemberTable:
    def test_total_spread_is_that_between_and_within_members(self):
        table = MemberTable(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.6, 0.3], [0.8, 0.4]]))
        mean, std = table.total(calibration=2.0)
        np.testing.assert_allclose(mean, [2, 0])
        np.testing.assert_allclose(std, 2 * np.sqrt([2 + 0.5, 0.125]))


@pytest.mark.parametrize("name", SETTINGS)
class TestEveryStrategy:
    def test_shapes_and_order(self, ensembles, labelled, name):
        ensemble = ensembles[name]
        table = ensemble.predict(labelled.featuriser, labelled.keys)
        assert table.mean.shape == table.std.shape == (3, 60)
        assert (table.std > 0).all()
        some = ensemble.predict(labelled.featuriser, labelled.keys[10:4:-1])
        np.testing.assert_allclose(some.mean, table.mean[:, 10:4:-1], atol=1e-4)
        assert ensemble.predict(labelled.featuriser, []).mean.shape == (3, 0)

    def test_a_pool_is_predicted_in_chunks(self, ensembles, labelled, name, monkeypatch):
        whole = ensembles[name].predict(labelled.featuriser, labelled.keys)
        monkeypatch.setattr(module, "CHUNK", 17)
        monkeypatch.setattr(module, "chunks", lambda keys: [keys[i : i + 17] for i in range(0, len(keys), 17)])
        parts = ensembles[name].predict(labelled.featuriser, labelled.keys)
        np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-4)

    def test_a_held_out_label_does_not_reach_the_member_that_predicts_it(self, ensembles, labelled, name):
        if name == "blended":
            pytest.skip("its share is chosen on the other folds, whose members have seen the label")
        settings = SETTINGS[name]
        folds = assign_folds(labelled.keys, 3, settings.seed)
        row = int(np.flatnonzero(folds == 1)[0])
        values = labelled.values.copy()
        values[row] += 2.0
        before, again = ensembles[name], train(labelled, settings, values)
        assert again.held_out[row, 0] == pytest.approx(before.held_out[row, 0], abs=1e-6)
        elsewhere = np.flatnonzero(folds != 1)
        assert np.abs(again.held_out - before.held_out)[elsewhere, 0].max() > 1e-3
        member = [e.predict(labelled.featuriser, labelled.keys[row : row + 1]).mean[:, 0] for e in (before, again)]
        assert np.abs(member[1] - member[0])[[0, 2]].min() > 1e-4

    def test_metrics_stand_beside_baselines_on_the_same_rows(self, ensembles, name):
        metrics = ensembles[name].metrics
        assert set(metrics) == {"labels", "model", "folds", "curves", "chosen", "constant", "extra_trees"}
        assert len(metrics["folds"]) == 3
        for judged in ("model", "constant", "extra_trees"):
            assert metrics[judged]["rows"] == metrics["labels"] == 60
            assert set(metrics[judged]) == set(metrics["model"])
        assert metrics["constant"]["r2"] < 0.05
        assert metrics["extra_trees"]["mae"] < metrics["constant"]["mae"]
        assert {"mae", "r2", "spearman", "nll", "coverage_50", "coverage_90"} <= set(metrics["model"])

    def test_calibration_is_that_of_the_held_out_rows(self, ensembles, labelled, name):
        ensemble = ensembles[name]
        folds = assign_folds(labelled.keys, 3, 5)
        error = ensemble.held_out[:, 0] - labelled.values
        rms = np.array([np.sqrt(np.mean(error[folds == k] ** 2)) for k in range(3)])
        np.testing.assert_allclose(ensemble.noise, rms, rtol=1e-3)
        if name in ("gp", "blended"):
            std = _std_without_own_fold(ensemble, labelled, folds)
        else:
            std = np.array([np.sqrt(np.mean(error[folds != k] ** 2)) for k in range(3)])[folds]
        widened = std * ensemble.variance_inflation(held_out_distances(labelled.embeddings, folds, seed=5))
        assert ensemble.calibration == pytest.approx(shrunk_scale(error / widened), rel=1e-3)

    def test_joint_draws_are_centred_and_as_wide_as_the_marginals(self, ensembles, labelled, name):
        posterior = ensembles[name].posterior(labelled.featuriser, labelled.keys, n_draws=600, seed=4)
        rows = np.arange(60)
        mean, std = posterior.mean_std(rows)
        draws = posterior.draws(rows)
        assert draws.shape == (posterior.n_draws, 60) == (600, 60)
        assert draws.dtype == np.float32
        assert (np.abs(draws.mean(0) - mean) < 0.25 * std).all()
        assert (draws.std(0) < 1.2 * std).all(), "draws of a function carry no label noise"
        some = np.array([41, 3, 17])
        np.testing.assert_allclose(posterior.draws(some), draws[:, some], atol=1e-3)
        again = ensembles[name].posterior(labelled.featuriser, labelled.keys, n_draws=600, seed=4)
        np.testing.assert_array_equal(again.draws(rows), draws)

    def test_the_same_seed_gives_the_same_ensemble(self, ensembles, labelled, name):
        again = train(labelled, SETTINGS[name])
        first = ensembles[name]
        assert (again.calibration, again.noise, again.metrics) == (first.calibration, first.noise, first.metrics)
        assert again.data_hash == first.data_hash == labels_hash(labelled.keys, labelled.values)
        table, expected = (e.predict(labelled.featuriser, labelled.keys) for e in (again, first))
        np.testing.assert_array_equal(table.mean, expected.mean)

    def test_a_linear_property_of_hundreds(self, labelled, name):
        """Such as a bulk modulus in GPa: nothing may take it for a logarithm."""
        ensemble = train(labelled, SETTINGS[name], 300 + 200 * labelled.values, property="bulk", scale="linear")
        mean, std = ensemble.predict(labelled.featuriser, labelled.keys).total(ensemble.calibration)
        assert 100 < mean.mean() < 1000
        assert np.isfinite(std).all()
        for judged in ("model", "constant", "extra_trees"):
            assert all(v is None or np.isfinite(v) for v in ensemble.metrics[judged].values())


def test_gaussian_processes_beat_the_constant(ensembles):
    metrics = ensembles["gp"].metrics
    assert metrics["model"]["mae"] < 0.8 * metrics["constant"]["mae"]
    assert metrics["model"]["coverage_90"] > 0.75


def test_reported_spread_never_used_its_own_fold(labelled):
    """A fold of impossible labels widens the intervals of the others, not its own."""
    folds = assign_folds(labelled.keys, 3, 5)
    values = labelled.values + np.where(folds == 0, 8.0, 0.0)
    metrics = train(labelled, SETTINGS["mlp"], values).metrics["model"]
    assert metrics["coverage_90"] < 0.8


def test_progress_and_lineage(ensembles, progress, labelled):
    ensemble = ensembles["gp"]
    assert [line.split(":")[0] for line in progress["gp"]] == [f"gp member {k} of 3" for k in (1, 2, 3)]
    assert ensemble.seen == tuple(sorted(key[:12] for key in labelled.keys))
    assert SETTINGS["gp"].member_seeds == [5000, 5001, 5002]


def test_too_few_and_useless_labels(labelled):
    def few(n, members=3, values=labelled.values):
        settings = EnsembleSettings(members=members)
        return train_ensemble(labelled.featuriser, Labels(labelled.keys[:n], values[:n], "kappa", "log10"), settings)

    assert minimum_labels(3) == 8
    assert minimum_labels(12) == 12
    with pytest.raises(TooFewLabelsError, match="kappa has 7 labels, 3 members need at least 8"):
        few(7)
    with pytest.raises(TooFewLabelsError, match="kappa has 11 labels, 12 members need at least 12"):
        few(11, members=12)
    with pytest.raises(TooFewLabelsError, match=r"all 10 labels of kappa are equal \(1.5\)"):
        few(10, values=np.full(60, 1.5))
    with pytest.raises(TrainingError, match="1 labels of kappa are not finite"):
        few(10, values=np.where(np.arange(60) == 4, np.nan, labelled.values))
    assert few(8).metrics["labels"] == 8


def test_a_member_without_labels_to_tell_apart_is_refused(labelled):
    """Band gaps of metals, say: one label that differs is always held out by one member."""
    values = np.where(np.arange(60) == 7, 1.5, 0.0)
    with pytest.raises(
        TooFewLabelsError, match=r"59 of 60 labels of kappa are equal \(0\), so that a member that holds"
    ):
        train(labelled, SETTINGS["gp"], values)


def test_labels_too_many_for_memory_are_refused_with_numbers(labelled, monkeypatch):
    labels = Labels(labelled.keys[:20], labelled.values[:20], "kappa", "log10")
    monkeypatch.setattr("engine.learning.memory.available_bytes", lambda: 10_000)
    with pytest.raises(TrainingError, match=r"training on 20 labels needs about .* GB .*; give fewer labels"):
        train_ensemble(labelled.featuriser, labels, EnsembleSettings(members=2))
    monkeypatch.setattr("engine.learning.memory.available_bytes", lambda: None)

    def out_of_memory(*_):
        raise MemoryError("no more")

    monkeypatch.setattr(GaussianProcessHead, "fit", out_of_memory)
    with pytest.raises(TrainingError, match=r"memory ran out in training on 20 labels, .*no more.*; give fewer labels"):
        train_ensemble(labelled.featuriser, labels, EnsembleSettings(members=2))


def test_settings_are_checked_before_anything_expensive():
    with pytest.raises(TrainingError, match="at least 2 members to hold rows out, got 1"):
        EnsembleSettings(members=1)
    with pytest.raises(TrainingError, match="unknown strategy 'most'"):
        EnsembleSettings(strategy="most")
    with pytest.raises(TrainingError, match="unknown head 'forest'; known are gp, mlp, network"):
        EnsembleSettings(head="forest")
    with pytest.raises(TrainingError, match="head 'network' needs a strategy that trains networks, not 'frozen'"):
        EnsembleSettings(head="network")
    with pytest.raises(TrainingError, match="strategy 'full' needs 'gp' or 'network'"):
        EnsembleSettings(strategy="full", head="mlp")


class TestOtherModels:
    def test_networks_estimate_what_they_have_not_seen(self, ensembles, labelled):
        """A label that no other row explains must not come back in what is said of the row itself."""
        folds = assign_folds(labelled.keys, 3, 5)
        row = int(np.flatnonzero(folds == 1)[0])
        values = labelled.values.copy()
        values[row] += 3.0
        before = ensembles["network"].held_out[row, 0]
        after = train(labelled, SETTINGS["network"], values).held_out[row, 0]
        assert after == pytest.approx(before, abs=1e-6)

    def test_networks_that_score_the_pool_have_seen_all_labels(self, labelled, monkeypatch):
        monkeypatch.setattr(stacking, "SMALLEST_WEIGHT", -1.0)  # kept, whatever their share
        settings = SETTINGS["blended"]
        network = train(labelled, settings).stacking.models["networks"].networks[1]
        (data,) = network_data(labelled.featuriser, labelled.keys, labelled.values[:, None])
        everything, tuning = np.arange(len(labelled.values)), replace(settings.tuning, seed=settings.member_seeds[1])
        alone = NetworkHead.fit(labelled.featuriser.backbone, data, everything, tuning)
        np.testing.assert_array_equal(network.predict(data, everything), alone.predict(data, everything))

    def test_a_cheaper_fidelity_carries_a_dear_one(self, ensembles, labelled):
        """What the cheap labels know of crystals that have no dear one reaches the dear model."""
        low = ensembles["gp"]
        some = slice(0, 12)
        dear = labelled.values + 0.5
        labels = Labels(labelled.keys[some], dear[some], "kappa", "log10")
        alone, helped = (
            train_ensemble(labelled.featuriser, labels, SETTINGS["gp"], lower_fidelity=cheap) for cheap in (None, low)
        )
        errors = [
            np.abs(e.predict(labelled.featuriser, labelled.keys[12:]).mean.mean(0) - dear[12:]).mean()
            for e in (alone, helped)
        ]
        assert errors[1] < 0.8 * errors[0]
        posterior = helped.posterior(labelled.featuriser, labelled.keys, 60, 0)
        cheaper, rows = posterior.at(LOWER_FIDELITY), np.arange(60)
        expected = low.predict(labelled.featuriser, labelled.keys).mean.mean(0)
        assert np.abs(cheaper.mean_std(rows)[0] - expected).mean() < 0.1
        wanted, drawn = posterior.draws(rows), cheaper.draws(rows)
        np.testing.assert_array_equal(cheaper.draws(rows[[7, 3]]), drawn[:, [7, 3]])
        together = [np.corrcoef(wanted[:, k], drawn[:, k])[0, 1] for k in rows]
        assert np.mean(together) > 0.15
        ratio = helped.information_ratio(labelled.featuriser, labelled.keys)
        assert ((ratio >= 0) & (ratio < 1.2)).all()

    def test_auxiliaries_change_the_networks_alone(self, ensembles, labelled):
        values = labelled.values
        other = {"stiffness": np.where(np.arange(60) % 3 == 0, np.nan, values**2)}
        plain, helped = ensembles["network"], train(labelled, SETTINGS["network"], auxiliaries=other)
        assert helped.members.heads[0].network.properties == ("target", "auxiliary_0")
        assert np.abs(plain.held_out - helped.held_out).max() > 1e-4


class TestAuto:
    def test_few_labels_leave_no_choice(self, labelled):
        ensemble = train(labelled, EnsembleSettings(strategy="auto", members=3, seed=5))
        assert ensemble.metrics["chosen"] == f"frozen gp, trees' share {ensemble.stacking.weights['trees']:.2f}"
        assert ensemble.settings.strategy == "frozen"

    def test_enough_labels_bring_networks_with_the_share_that_helps(self, ensembles, labelled, monkeypatch):
        monkeypatch.setattr(settings_module, "NETWORK_LABELS", 40)
        monkeypatch.setattr(stacking, "SMALLEST_WEIGHT", -1.0)
        settings = EnsembleSettings(strategy="auto", members=3, seed=5, schedule=SHORT, trees=False)
        ensemble = train(labelled, settings)
        share = ensemble.stacking.weights["networks"]
        assert ensemble.settings.strategy == "full"
        assert ensemble.metrics["chosen"] == f"full gp, networks' share {share:.2f}"
        networks = train(labelled, replace(settings, head="network")).held_out[:, 0]
        alone = ensembles["gp"].held_out[:, 0]
        errors = [np.abs((1 - w) * alone + w * networks - labelled.values).mean() for w in np.linspace(0, 1, 21)]
        best = np.linspace(0, 1, 21)[np.argmin(errors)]
        assert share == pytest.approx((60 * best + 10 / 2) / 70)


@pytest.fixture(scope="session")
def blended(labelled):
    """With trees, and what was told while it was trained."""
    lines: list[str] = []
    return train(labelled, EnsembleSettings(members=3, seed=5), progress=lines.append), lines


class TestTrees:
    def test_they_are_blended_at_the_share_that_is_told(self, ensembles, blended, labelled):
        ensemble, lines = blended
        share = ensemble.stacking.weights["trees"]
        assert 0.05 <= share < 1
        assert ensemble.metrics["chosen"] == f"frozen gp, trees' share {share:.2f}"
        assert lines[-1].startswith(f"trees' share {share:.2f}: held-out error 0.")
        alone = ensembles["gp"].predict(labelled.featuriser, labelled.keys)
        crystals = Crystals(labelled.featuriser, labelled.keys)
        trees = ensemble.stacking.models["trees"].estimate(crystals)
        found = ensemble.predict(labelled.featuriser, labelled.keys)
        np.testing.assert_allclose(
            found.mean.mean(axis=0), (1 - share) * alone.mean.mean(axis=0) + share * trees, atol=1e-9
        )
        widened = [e.inflation_factors(crystals) for e in (ensemble, ensembles["gp"])]
        np.testing.assert_allclose(found.std / widened[0], alone.std / widened[1])

    def test_members_and_draws_move_with_the_mean(self, blended, labelled):
        ensemble, _ = blended
        posterior = ensemble.posterior(labelled.featuriser, labelled.keys, n_draws=600, seed=4)
        rows = np.arange(60)
        mean, std = posterior.mean_std(rows)
        assert (np.abs(posterior.draws(rows).mean(0) - mean) < 0.25 * std).all()

    def test_they_are_the_same_in_any_order_of_the_labels(self, blended, labelled):
        order = np.random.default_rng(0).permutation(60)
        keys = [labelled.keys[i] for i in order]
        settings = EnsembleSettings(members=3, seed=5)
        again = train_ensemble(labelled.featuriser, Labels(keys, labelled.values[order], "kappa", "log10"), settings)
        first, second = (e.stacking.models["trees"].forest.to_tensors() for e in (blended[0], again))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
        assert again.stacking.weights == pytest.approx(blended[0].stacking.weights)

    def test_many_labels_and_settings_do_without(self, labelled, monkeypatch):
        monkeypatch.setattr(training_module, "TREE_LABELS", 59)
        ensemble = train(labelled, EnsembleSettings(members=3, seed=5))
        assert ensemble.stacking is None
        assert ensemble.metrics["chosen"] == "frozen gp"

    def test_above_a_cheaper_fidelity_there_are_none(self, blended, labelled):
        """They would draw the mean back to the cheaper value where a few dear labels say otherwise."""
        some = slice(0, 12)
        ensemble = train_ensemble(
            labelled.featuriser, Labels(labelled.keys[some], labelled.values[some] + 0.5, "kappa", "log10"),
            EnsembleSettings(members=3, seed=5), lower_fidelity=blended[0],
        )  # fmt: skip
        assert ensemble.stacking is None
        assert ensemble.metrics["chosen"] == "frozen gp"


def _std_without_own_fold(ensemble, labelled, folds):
    """Give what a process fitted without a row's fold, hyperparameters and scalers included, expects of it."""
    embeddings, backbone = labelled.featuriser.embeddings(labelled.keys), ensemble.backbone
    std = np.empty(len(folds))
    for k, seed in enumerate(ensemble.settings.member_seeds):
        kept = folds != k
        values = labelled.values[kept]
        head = GaussianProcessHead.fit(embeddings[kept], values, backbone.groups, seed, backbone.column_statistics)
        std[~kept] = head.predict(embeddings[~kept])[1]
    return std
