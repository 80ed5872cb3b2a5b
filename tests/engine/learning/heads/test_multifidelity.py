"""The multi-fidelity process against the joint covariance of the textbook, its limits, and real crystals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from scipy.stats import spearmanr

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.heads import kernels
from engine.learning.heads.discrepancy import SAME_PROPERTY
from engine.learning.heads.gp import GaussianProcessHead, GaussianProcessTensors
from engine.learning.heads.multifidelity import MultiFidelityHead, evaluate_all, predict_all
from engine.learning.heads.multifidelity_tensors import MultiFidelityTensors

SINGLE = 1e-3
"""Relative error of a variance in single precision; means are ten times as exact."""
ORDER = ("agl", "mlip", "dft")
GROUPS = {"composition": slice(0, 1), "bonding": slice(1, 2), "trunk": slice(2, 5)}


def crystals(n: int, seed: int):
    """Embeddings and the three fidelities of one property."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    low = np.sin(2 * x[:, 0]) + x[:, 2] + 2
    middle = 0.8 * low + 0.1 * x[:, 3]
    high = 0.7 * middle + 0.2 * np.cos(x[:, 4]) - 1
    return x, dict(zip(ORDER, (low, middle, high), strict=True))


def labels(counts: dict[str, int], noise: float = 0.03):
    """Embeddings, values and fidelities of labels, those of a fidelity not side by side."""
    parts = []
    for seed, (name, count) in enumerate(counts.items()):
        x, values = crystals(count, seed)
        y = values[name] + noise * np.random.default_rng(seed + 50).normal(size=count)
        parts.append((x, y, np.full(count, name)))
    x, y, names = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    mixed = np.random.default_rng(0).permutation(len(y))
    return x[mixed], y[mixed], names[mixed]


@pytest.fixture(scope="module")
def two() -> MultiFidelityHead:
    return MultiFidelityHead.fit(*labels({"agl": 60, "dft": 12}), GROUPS, 0, order=ORDER)


@pytest.fixture(scope="module")
def three() -> MultiFidelityHead:
    return MultiFidelityHead.fit(*labels({"agl": 60, "mlip": 20, "dft": 10}), GROUPS, 0, order=ORDER)


def prior(head: MultiFidelityHead, a, s, b, t) -> np.ndarray:
    """Covariance of fidelity s at standardised ``a`` with t at ``b``, discrepancy by discrepancy, in numpy."""
    v = {name: tensor.numpy() for name, tensor in head.tensors.to_tensors().items()}
    total = np.zeros((len(a), len(b)))
    for level in range(min(s, t) + 1):
        times = np.prod(v["slope"][level + 1 : s + 1]) * np.prod(v["slope"][level + 1 : t + 1])
        for k in np.flatnonzero(v["kernel_level"] == level):
            columns = slice(*v["columns"][k])
            if np.isinf(v["lengthscale"][k]):
                total += times * v["outputscale"][k] * a[:, columns] @ b[:, columns].T
                continue
            distance = np.linalg.norm(a[:, None, columns] - b[None, :, columns], axis=-1)
            r = math.sqrt(5) * distance / v["lengthscale"][k]
            total += times * v["outputscale"][k] * (1 + r + r**2 / 3) * np.exp(-r)
    return total


def textbook(head: MultiFidelityHead, new, t: int, other: int | None = None):
    """Mean and covariance (noise-free, perhaps with another fidelity) at new rows from all labels' joint covariance."""
    v = {name: tensor.numpy() for name, tensor in head.tensors.to_tensors().items()}
    at = (new - v["centre"]) / v["scale"]
    parts = [np.flatnonzero(v["level"] == s) for s in range(len(head.fidelities))]
    rows = np.concatenate(parts)
    x = [v["x"][part] for part in parts]
    blocks = [[prior(head, x[s], s, x[u], u) for u in range(len(x))] for s in range(len(x))]
    inverse = np.linalg.inv(np.block(blocks) + np.diag(v["row_noise"][rows]))
    u = t if other is None else other
    cross, cross_u = (np.concatenate([prior(head, at, k, x[s], s) for s in range(len(x))], axis=1) for k in (t, u))
    mean = cross @ inverse @ v["target"][rows] * v["std"] + v["mean"][t]
    return mean, (prior(head, at, t, at, u) - cross @ inverse @ cross_u.T) * v["std"] ** 2


@pytest.mark.parametrize("which", ["two", "three"])
def test_prediction_conditions_on_the_joint_covariance_of_all_labels(which, request):
    head = request.getfixturevalue(which)
    new, _ = crystals(15, 9)
    for t, fidelity in enumerate(head.fidelities):
        mean, std = head.predict(new, fidelity)
        expected, covariance = textbook(head, new, t)
        noise = float(head.tensors.noise[t] * head.tensors.std**2)
        np.testing.assert_allclose(mean, expected, atol=SINGLE)
        np.testing.assert_allclose(std**2, np.diag(covariance) + noise, rtol=5 * SINGLE)
    np.testing.assert_array_equal(head.predict(new)[0], mean)


@pytest.mark.parametrize("which", ["two", "three"])
def test_it_learns_what_few_labels_alone_do_not_tell(which, request):
    head = request.getfixturevalue(which)
    new, truth = crystals(300, 9)
    mean, std = head.predict(new)
    x, y, names = labels({"agl": 60, "dft": 12})
    alone, _ = GaussianProcessHead.fit(x[names == "dft"], y[names == "dft"], GROUPS, 0).predict(new)
    assert np.abs(mean - truth["dft"]).mean() < 0.7 * np.abs(alone - truth["dft"]).mean()
    assert 0.75 < np.mean(np.abs(mean - truth["dft"]) < 1.645 * std) <= 1


def test_forrester():
    """The pair of Forrester, Sobester, Keane, Proc. R. Soc. A 463, 3251 (2007), the low one doubled: a slope of 1."""
    grid = np.linspace(0, 1, 101)
    high = (6 * grid - 2) ** 2 * np.sin(12 * grid - 4)
    low = high + 20 * (grid - 0.5) - 10
    few, many = np.array([0, 40, 60, 100]), np.arange(0, 101, 5)
    x = np.stack([grid, np.zeros(101), grid, grid, grid], axis=1).astype(np.float32)
    rows = np.concatenate([few, many])
    y, names = np.concatenate([high[few], low[many]]), ["high"] * len(few) + ["low"] * len(many)
    head = MultiFidelityHead.fit(x[rows], y, names, GROUPS, 0, order=("low", "high"))
    alone = GaussianProcessHead.fit(x[few], high[few], GROUPS, 0)
    error, error_alone = (np.abs(p.predict(x)[0] - high).mean() for p in (head, alone))
    assert error < 1.2
    assert error < 0.3 * error_alone


def test_without_cheap_labels_it_is_the_plain_head():
    x, y, names = labels({"dft": 15})
    new, _ = crystals(15, 9)
    plain, head = GaussianProcessHead.fit(x, y, GROUPS, 3), MultiFidelityHead.fit(x, y, names, GROUPS, 3, order=ORDER)
    assert head.fidelities == ("dft",)
    for found, expected in zip(head.predict(new), plain.predict(new), strict=True):
        np.testing.assert_allclose(found, expected, atol=SINGLE)


def test_with_slope_zero_fidelities_know_nothing_of_each_other(two):
    head = MultiFidelityHead(replace(two.tensors, slope=torch.zeros(2, dtype=torch.float64)), two.fidelities)
    new, _ = crystals(15, 9)
    for level, fidelity in enumerate(head.fidelities):
        own = head.keeping(np.flatnonzero(two.tensors.level == level))
        for found, expected in zip(head.predict(new, fidelity), own.predict(new, fidelity), strict=True):
            np.testing.assert_allclose(found, expected, rtol=SINGLE)
    np.testing.assert_allclose(head.variance_reduction(new, "agl"), 0, atol=1e-12)


def test_without_discrepancy_it_is_one_head_on_all_labels(two):
    t = two.tensors
    lowest = t.kernel_level == 0
    same = torch.where(lowest, t.outputscale, 0.0)
    slope = torch.tensor([0.0, 1.0]).double()
    head = MultiFidelityHead(replace(t, outputscale=same, slope=slope, noise=t.noise[[0, 0]]), two.fidelities)
    kept = {name: t.to_tensors()[name][lowest] for name in ("columns", "lengthscale", "outputscale")}
    pooled = GaussianProcessHead(
        GaussianProcessTensors.from_tensors({**t.to_tensors(), **kept, "noise": t.noise[0], "mean": t.mean[1]})
    )
    new, _ = crystals(15, 9)
    for found, expected in zip(head.predict(new), pooled.predict(new), strict=True):
        np.testing.assert_allclose(found, expected, atol=SINGLE)


def test_the_slope_is_learned():
    x, y, names = labels({"agl": 200, "mlip": 60})
    for factor in (0.6, 1.2):
        scaled = np.where(names == "mlip", factor * y, y)
        head = MultiFidelityHead.fit(x, scaled, names, GROUPS, 0, order=("agl", "mlip"))
        assert float(head.tensors.slope[1]) == pytest.approx(0.8 * factor, abs=0.1)


def test_a_factor_between_fidelities_is_no_error():
    x, y, names = labels({"agl": 60, "dft": 12})
    moved = np.where(names == "dft", y + 3, y)
    before, after = (MultiFidelityHead.fit(x, v, names, GROUPS, 0, order=ORDER).predict(x) for v in (y, moved))
    np.testing.assert_allclose(after[0], before[0] + 3, atol=SINGLE)
    np.testing.assert_allclose(after[1], before[1], rtol=SINGLE)


def test_a_process_that_holds_its_labels_together_is_the_same_in_any_order(two):
    x, y, names = labels({"agl": 60, "dft": 12})
    turned = np.argsort(names, kind="stable")[::-1]
    new, _ = crystals(15, 9)
    again = two.keeping(np.random.default_rng(1).permutation(72))
    for found, expected in zip(again.predict(new), two.predict(new), strict=True):
        np.testing.assert_allclose(found, expected, atol=SINGLE)
    swapped = MultiFidelityHead.fit(x[turned], y[turned], names[turned], GROUPS, 0, order=ORDER)
    np.testing.assert_allclose(swapped.predict(new)[0], two.predict(new)[0], atol=0.02)


def test_draws_have_the_joint_posterior_s_mean_and_covariance(monkeypatch):
    """Up to the Fourier features' error in the prior, which shows most where the posterior is narrowest."""
    monkeypatch.setattr(kernels, "FREQUENCIES", 2048)
    counts = {"agl": 60, "mlip": 20, "dft": 10}
    head = MultiFidelityHead.fit(*labels(counts, noise=0.4), GROUPS, 0, order=ORDER)
    new, _ = crystals(20, 9)
    functions = head.functions(1500, seed=3)
    drawn = [functions(new, fidelity)[1] for fidelity in ORDER]
    for t, fidelity in enumerate(ORDER):
        expected, covariance = textbook(head, new, t)
        scatter = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(functions(new, fidelity)[0], expected, atol=1e-6)
        assert (np.abs(drawn[t].mean(0) - expected) < 0.2 * scatter).all()
        for u in range(t + 1):
            _, shared = textbook(head, new, t, u)
            found = (drawn[t] - drawn[t].mean(0)).T @ (drawn[u] - drawn[u].mean(0)) / 1500
            both = np.outer(scatter, np.sqrt(np.diag(textbook(head, new, u)[1])))
            np.testing.assert_allclose(found / both, shared / both, atol=0.3)
            assert np.abs((found - shared) / both).mean() < 0.06


def test_members_on_one_process_ask_it_once_to_the_same_numbers():
    x, values = crystals(40, 3)
    low = MultiFidelityHead.of(GaussianProcessHead.fit(*labels({"agl": 60})[:2], GROUPS, 0), "agl")
    sight = low.sees(x)
    kept = [np.arange(40) % 5 != k for k in range(3)]
    alone = [low.above("dft", x[rows], values["dft"][rows], k) for k, rows in enumerate(kept)]
    members = [low.above("dft", x[rows], values["dft"][rows], k, sight[rows]) for k, rows in enumerate(kept)]
    new, _ = crystals(15, 9)
    for fidelity in ("agl", "dft"):
        together = predict_all(members, new, fidelity)
        drawn = evaluate_all([m.functions(4, k) for k, m in enumerate(members)], new, fidelity)
        for k, process in enumerate(alone):
            for found, expected in zip(together, process.predict(new, fidelity), strict=True):
                np.testing.assert_allclose(found[k], expected, atol=SINGLE)
            mean, values_drawn = process.functions(4, k)(new, fidelity)
            np.testing.assert_allclose(drawn[0][k], mean, atol=1e-8)
            np.testing.assert_allclose(drawn[1][4 * k : 4 * k + 4], values_drawn, atol=1e-8)


def test_what_the_process_beneath_worked_out_is_what_the_tensors_say(three):
    alike = MultiFidelityHead(three.tensors, three.fidelities)
    new, _ = crystals(15, 9)
    for fidelity in ORDER:
        for found, expected in zip(alike.predict(new, fidelity), three.predict(new, fidelity), strict=True):
            np.testing.assert_allclose(found, expected, rtol=SINGLE)


def test_draws_are_functions(two):
    new, _ = crystals(300, 9)
    functions = two.functions(8, seed=3)
    whole = functions(new)[1]
    np.testing.assert_allclose(functions(new[[250, 3]])[1], whole[:, [250, 3]], atol=1e-6)
    np.testing.assert_array_equal(two.functions(8, seed=3)(new)[1], whole)
    assert np.abs(two.functions(8, seed=4)(new)[1] - whole).max() > 1e-3


@pytest.mark.parametrize("fidelity", ORDER)
def test_variance_reduction_is_what_the_label_brings(three, fidelity):
    level = three.fidelities.index(fidelity)
    row = int(torch.nonzero(three.tensors.level == level)[1])
    # the label's noise is that of its fidelity; a doubtful label would have more
    three = MultiFidelityHead(replace(three.tensors, row_noise=three.tensors.noise[three.tensors.level]), ORDER)
    without = three.keeping(np.delete(np.arange(90), row))
    x = (three.tensors.x[[row]] * three.tensors.scale + three.tensors.centre).numpy()
    falls = np.diag(textbook(without, x, 2)[1]) - np.diag(textbook(three, x, 2)[1])
    np.testing.assert_allclose(without.variance_reduction(x, fidelity), falls, rtol=1e-6, atol=1e-9)
    reference, _ = crystals(40, 9)
    mean_fall = np.diag(textbook(without, reference, 2)[1] - textbook(three, reference, 2)[1]).mean()
    np.testing.assert_allclose(without.variance_reduction(x, fidelity, reference), [mean_fall], rtol=1e-4)


def test_a_label_that_is_wanted_is_worth_more_than_a_cheap_one(two):
    new, _ = crystals(50, 9)
    dear, cheap = two.variance_reduction(new, "dft"), two.variance_reduction(new, "agl")
    assert (dear > cheap).all()
    assert (cheap > 0).all()


def test_round_trip_on_disk(two):
    content = save({name: tensor.contiguous() for name, tensor in two.tensors.to_tensors().items()})
    again = MultiFidelityHead(MultiFidelityTensors.from_tensors(load(content)), two.fidelities)
    new, _ = crystals(15, 9)
    for fidelity in two.fidelities:
        for found, expected in zip(again.predict(new, fidelity), two.predict(new, fidelity), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_the_same_seed_gives_the_same_process(two):
    again = MultiFidelityHead.fit(*labels({"agl": 60, "dft": 12}), GROUPS, 0, order=ORDER)
    for name, tensor in two.tensors.to_tensors().items():
        assert torch.equal(tensor, again.tensors.to_tensors()[name]), name


def test_bad_labels(two):
    x, y, names = labels({"agl": 20, "dft": 3})
    with pytest.raises(TooFewLabelsError, match="at least 4 labels, dft has 3"):
        MultiFidelityHead.fit(x, y, names, GROUPS, 0, order=ORDER)
    cheap = names == "agl"
    with pytest.raises(TooFewLabelsError, match="no label of dft"):
        MultiFidelityHead.fit(x[cheap], y[cheap], names[cheap], GROUPS, 0, order=ORDER)
    with pytest.raises(TrainingError, match="fidelity agl, the order is mlip, dft"):
        MultiFidelityHead.fit(x, y, names, GROUPS, 0, order=("mlip", "dft"))
    with pytest.raises(TrainingError, match="no fidelity 'mlip' in this process; it has learned agl, dft"):
        two.predict(x, "mlip")


def test_four_labels_of_the_wanted_fidelity_are_enough():
    head = MultiFidelityHead.fit(*labels({"agl": 60, "dft": 4}), GROUPS, 0, order=ORDER)
    new, truth = crystals(200, 9)
    mean, std = head.predict(new)
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert spearmanr(mean, truth["dft"])[0] > 0.8


def test_cheap_labels_help_on_real_crystals(shared, backbone):
    """Fifteen first-principles labels and 250 of AGL against the fifteen alone, on rocksalts and the like."""
    from engine.materials.loading import load as read

    materials = {}
    for name, count in (("aflow_agl", 250), ("ltc_l96", 95)):
        materials[name] = next(read([shared(f"data/{name}.jsonl.gz")], workers=1))[:count]
    cheap, dear = (backbone.embed_crystals([m.crystal for m in materials[name]]) for name in materials)
    low = np.log10([float(m.properties["kappa_agl_300K_W_mK"]) for m in materials["aflow_agl"]])
    high = np.log10([float(m.properties["kappa_300K_W_mK"]) for m in materials["ltc_l96"]])
    lowest = MultiFidelityHead.of(GaussianProcessHead.fit(cheap, low, backbone.groups, 0), "agl")
    gain = []
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(95)
        some, rest = rows[:15], rows[15:]
        joint, _ = lowest.above("dft", dear[some], high[some], 0).predict(dear[rest])
        alone, _ = GaussianProcessHead.fit(dear[some], high[some], backbone.groups, 0).predict(dear[rest])
        error, error_alone = np.abs(joint - high[rest]).mean(), np.abs(alone - high[rest]).mean()
        gain.append(error / error_alone)
    assert np.mean(gain) < 0.85


def test_values_of_the_same_property_differ_by_a_factor_unless_they_say_more():
    """Labels of one end of the scale, which tell nothing of a slope, leave it; many that differ change it."""
    x, values = crystals(160, 3)
    lower = MultiFidelityHead.of(GaussianProcessHead.fit(x[:100], values["dft"][:100], GROUPS, 0), "published")
    truth, rng = values["dft"], np.random.default_rng(5)
    predicted = lower.predict(x)[0]
    lowest = 100 + np.argsort(predicted[100:])[:12]
    own = truth + 0.4 + 0.1 * rng.normal(size=160)
    head = lower.above("own", x[lowest], own[lowest], 0, expected=SAME_PROPERTY)
    assert float(head.tensors.slope[1]) == pytest.approx(1, abs=0.1)
    rest = np.setdiff1d(np.arange(100, 160), lowest)
    assert np.mean(head.predict(x[rest])[0] - predicted[rest]) == pytest.approx(0.4, abs=0.15)
    other = lower.above("own", x[100:], 0.3 * truth[100:], 0, expected=SAME_PROPERTY)
    assert float(other.tensors.slope[1]) < 0.7
