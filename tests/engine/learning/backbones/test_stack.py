"""Several backbones are read as one, one alone stays what it is, and networks take turns."""

from __future__ import annotations

import numpy as np
import pytest

from engine.exceptions import BackboneError, UnknownElementError
from engine.learning.backbones.stack import BackboneStack, make_featuriser, stacked
from engine.learning.ensemble.records import backbone_parts
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import load_ensemble, load_start, load_starts, save_ensemble
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.features.featuriser import Featuriser
from engine.learning.networks.schedule import Schedule
from tests.engine.learning.bodies import small_backbone
from tests.engine.learning.trained import Trained

SCHEDULE = Schedule(epochs=2, batch_size=8)
SETTINGS = {
    "gp": EnsembleSettings(members=3, seed=1),
    "network": EnsembleSettings(strategy="full", head="network", members=3, seed=1, schedule=SCHEDULE),
    "blended": EnsembleSettings(strategy="full", members=3, seed=1, schedule=SCHEDULE),
}


@pytest.fixture(scope="module")
def parts():
    return small_backbone("MEGNet", trunk=True), small_backbone("TensorNet"), small_backbone("M3GNet")


@pytest.fixture(scope="module")
def mixture(parts) -> BackboneStack:
    return stacked(parts)


@pytest.fixture(scope="module")
def featuriser(mixture, materials, tmp_path_factory):
    made = make_featuriser(mixture, tmp_path_factory.mktemp("mixed"))
    made.add({m.content_hash: m.crystal for m in materials})
    return made


@pytest.fixture(scope="module")
def ensembles(featuriser, labelled):
    labels = Labels(labelled.keys[:24], labelled.values[:24], "kappa", "log10")
    return Trained(lambda name: train_ensemble(featuriser, labels, SETTINGS[name]))


def test_one_backbone_alone_stays_what_it_is(backbone, labelled, tmp_path):
    assert stacked([backbone]) is backbone
    assert type(make_featuriser(backbone, tmp_path)) is Featuriser
    assert load_starts("megnet-multiproperty").sha256 == load_starts(["megnet-multiproperty"]).sha256 == backbone.sha256
    settings = SETTINGS["gp"]
    keys, values = labelled.keys[:20], labelled.values[:20]
    save_ensemble(
        train_ensemble(labelled.featuriser, Labels(keys, values, "kappa", "log10"), settings), tmp_path / "model"
    )
    assert {p.name for p in (tmp_path / "model").iterdir() if p.is_dir()} == {"backbone"}


def test_columns_stand_side_by_side(mixture, parts, featuriser, materials):
    megnet, tensornet, m3gnet = parts
    assert list(mixture.groups) == ["composition", "bonding", "readout", "trunk", "readout_2", "readout_3"]
    assert max(s.stop for s in mixture.groups.values()) == mixture.embedding_size
    crystals = [m.crystal for m in materials[:5]]
    found = mixture.embed_crystals(crystals)
    assert found.shape == (5, mixture.embedding_size)
    np.testing.assert_array_equal(found[:, : megnet.embedding_size], megnet.embed_crystals(crystals))
    for part, name in ((tensornet, "readout_2"), (m3gnet, "readout_3")):
        own = part.embed_crystals(crystals)[:, part.groups["readout"]]
        np.testing.assert_array_equal(found[:, mixture.groups[name]], own)
    cached = featuriser.embeddings([m.content_hash for m in materials[:5]])
    np.testing.assert_allclose(cached, found, rtol=1e-4, atol=1e-4)


def test_each_backbone_keeps_its_own_embeddings(featuriser, parts, materials, tmp_path):
    crystals = {m.content_hash: m.crystal for m in materials[:3]}
    Featuriser(parts[0], tmp_path).add(crystals)
    both = make_featuriser(stacked(parts[:2]), tmp_path)
    assert both.missing(list(crystals)) == list(crystals), "the second has none yet"
    both.add(crystals)
    assert not both.missing(list(crystals))
    assert {p.name for p in (tmp_path / "embeddings").iterdir()} == {p.sha256[:32] for p in parts[:2]}


@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_survive_the_disk(ensembles, featuriser, labelled, parts, name, tmp_path):
    first = ensembles[name]
    save_ensemble(first, tmp_path / "model", tmp_path / "backbones")
    again = load_ensemble(tmp_path / "model")
    assert again.backbone.sha256 == first.backbone.sha256
    assert [p.name for p in again.backbone.parts] == [p.name for p in parts]
    assert {p.name for p in (tmp_path / "backbones").iterdir()} == {p.sha256[:32] for p in parts}
    expected, found = (e.predict(featuriser, labelled.keys) for e in (first, again))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)


def test_a_model_holds_its_backbones(ensembles, tmp_path):
    record = save_ensemble(ensembles["gp"], tmp_path)
    assert [part["path"] for part in backbone_parts(record)] == ["backbone-1", "backbone-2", "backbone-3"]
    assert load_starts(tmp_path).sha256 == ensembles["gp"].backbone.sha256
    with pytest.raises(BackboneError, match="3 backbones"):
        load_start(tmp_path)


def test_networks_take_turns(ensembles, parts, tmp_path):
    bodies = [type(head.network.body).__name__ for head in ensembles["network"].members.heads]
    assert bodies == ["MEGNet", "TensorNet", "M3GNet"]
    save_ensemble(ensembles["network"], tmp_path / "tuned")
    start = load_start(tmp_path / "tuned")
    assert type(start.body).__name__ == "MEGNet"
    assert start.card["lineage"][-1]["properties"] == ["kappa"]


def test_a_gaussian_process_has_a_length_scale_for_each_backbone(ensembles):
    kernel = ensembles["gp"].members.heads[0].kernel
    columns = [(c.start, c.stop) for c in kernel.groups]
    assert len(columns) == 10, "statistics, readout, trunk, readout_2, readout_3"
    assert columns[5:] == columns[:5], "a linear kernel for each"
    assert kernel.lengthscale.isinf().tolist() == [False] * 5 + [True] * 5


def test_potentials_are_read_beside_others_and_not_trained(parts):
    from engine.learning.backbones.backbone import Backbone

    potential = Backbone("pes", parts[1].network, {"potential": {}})
    assert stacked([parts[0], potential]).trained == (parts[0],)
    assert not stacked([parts[0], potential]).is_potential
    auto = EnsembleSettings(strategy="auto")
    assert auto.resolved(3000, stacked([parts[0], potential])).strategy == "full"
    assert auto.resolved(3000, potential).strategy == "frozen"


def test_what_all_have_seen_counts(parts):
    from engine.learning.backbones.backbone import Backbone

    one = Backbone("one", parts[0].network, {"seen": {"kappa": ["a"]}, "lineage": [{"stage": "first"}]})
    two = Backbone("two", parts[1].network, {"seen": {"kappa": ["b"], "gap": ["c"]}, "lineage": [{"stage": "second"}]})
    card = stacked([one, two]).card
    assert card["seen"] == {"kappa": ["a", "b"], "gap": ["c"]}
    assert [(s["stage"], s["backbone"]) for s in card["lineage"]] == [("first", "one"), ("second", "two")]


def test_wrong_mixtures(parts, materials):
    with pytest.raises(BackboneError, match=r"small-MEGNet \+ small-MEGNet"):
        stacked([parts[0], parts[0]])
    few, other = small_backbone("TensorNet"), small_backbone("M3GNet")
    few.body.element_types, other.body.element_types = ("Na", "Cl"), ("Mg", "O")
    with pytest.raises(BackboneError, match="no element in common"):
        stacked([few, other])
    narrow = stacked([parts[0], small_backbone("M3GNet", element_types=("Na", "Cl", "Mg", "O", "Li", "F"))])
    assert narrow.elements == {"Na", "Cl", "Mg", "O", "Li", "F"}
    unknown = next(m.crystal for m in materials if set(m.crystal.symbols) - narrow.elements)
    with pytest.raises(UnknownElementError, match="small-M3GNet"):
        narrow.embed_crystals([unknown])


def test_a_strategy_that_one_backbone_cannot_have(featuriser, labelled):
    settings = EnsembleSettings(strategy="last", head="network", members=3, schedule=SCHEDULE)
    with pytest.raises(BackboneError, match=r"small-TensorNet for strategy last match; not .*trunk"):
        train_ensemble(featuriser, Labels(labelled.keys[:24], labelled.values[:24], "kappa", "log10"), settings)
