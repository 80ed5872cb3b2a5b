"""A potential as a backbone: columns of any cell, known by what they were made with, refused when that has changed."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from engine.exceptions import BackboneError, ModelFileError, TrainingError, UnknownElementError
from engine.learning.backbones.backbone import CARD
from engine.learning.backbones.potential_backbone import POTENTIAL, PotentialBackbone, load_potential_backbone
from engine.learning.backbones.stack import make_featuriser, stacked
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import load_ensemble, load_start, load_starts, save_ensemble
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.features.statistics import STATISTICS
from engine.learning.networks.finetune import check_start
from engine.materials.crystal import Crystal
from engine.physics.calculator_specs import with_python
from tests.engine.physics.described import HOME, SHELLS, Shells
from tests.engine.physics.environments import borrowing_environment
from tests.engine.physics.salts import rocksalt

N = len(STATISTICS)


@pytest.fixture(scope="module")
def shells() -> PotentialBackbone:
    return load_potential_backbone(SHELLS)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the Python of an environment that has our packages."""
    return borrowing_environment(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def both(backbone, shells, materials, tmp_path_factory):
    """Featuriser of the shipped backbone with the potential beside it."""
    featuriser = make_featuriser(stacked([backbone, shells]), tmp_path_factory.mktemp("both"))
    featuriser.add({m.content_hash: m.crystal for m in materials})
    return featuriser


def test_columns_are_statistics_mean_and_spread(shells, backbone, materials):
    crystals = [m.crystal for m in materials[:5]]
    found = shells.embed_crystals(crystals)
    assert found.dtype == np.float32
    assert found.shape == (5, shells.embedding_size) == (5, N + 16)
    assert list(shells.groups) == ["composition", "bonding", "readout", "spread"]
    np.testing.assert_array_equal(found[:, :N], backbone.embed_crystals(crystals)[:, :N])
    for row, crystal in zip(found, crystals, strict=True):
        descriptors = Shells().get_descriptors(crystal.to_atoms())
        np.testing.assert_allclose(row[shells.groups["readout"]], descriptors.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(row[shells.groups["spread"]], descriptors.std(axis=0), rtol=1e-5, atol=1e-6)
    assert shells.embed_crystals([]).shape == (0, N + 16)


def test_a_crystal_has_one_embedding_in_every_cell(shells):
    primitive = rocksalt("NaCl")
    conventional = Crystal.from_structure(primitive.to_structure().make_supercell([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))
    twice = Crystal.from_structure(primitive.to_structure().make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 2]]))
    first, *rest = shells.embed_crystals([primitive, conventional, twice])
    for other_cell in rest:
        np.testing.assert_allclose(other_cell[N:], first[N:], rtol=1e-4, atol=1e-5)


def test_beside_another_it_gives_its_own_groups_and_keeps_no_graphs(both, shells, materials, tmp_path):
    assert list(both.backbone.groups) == ["composition", "bonding", "readout", "trunk", "readout_2", "spread_2"]
    keys = [m.content_hash for m in materials]
    own = shells.embed_crystals([m.crystal for m in materials])
    np.testing.assert_array_equal(both.embeddings(keys)[:, both.backbone.groups["spread_2"]], own[:, -8:])
    alone = make_featuriser(shells, tmp_path)
    told = []
    alone.add({m.content_hash: m.crystal for m in materials}, lambda name, made: told.append((name, made)))
    assert told == []  # one block
    assert not alone.missing(keys)
    assert not list((tmp_path / "graphs").rglob("*.arrow"))
    np.testing.assert_array_equal(alone.embeddings(keys), own)


def test_it_is_known_by_what_decides_its_columns(shells, other, tmp_path):
    elsewhere = load_potential_backbone(with_python(SHELLS, other))
    assert elsewhere.sha256 == shells.sha256
    assert elsewhere.python == other
    assert elsewhere.card["potential"]["environment"]
    assert len({b.sha256 for b in (shells, load_potential_backbone(f"{SHELLS}[Ar, Na]"))}) == 2
    again = PotentialBackbone.of_folder(elsewhere.save(tmp_path))
    assert (again.sha256, again.python, again.name) == (shells.sha256, other, SHELLS)
    np.testing.assert_allclose(
        again.embed_crystals([rocksalt("MgO")]), shells.embed_crystals([rocksalt("MgO")]), rtol=1e-6
    )
    assert shells.card["training_data"] == "unknown"


def test_a_copy_for_another_process_starts_the_potential_anew(shells):
    copy = pickle.loads(pickle.dumps(shells))
    assert set(vars(copy)) == {"spec", "python", "card"}
    np.testing.assert_array_equal(copy.embed_crystals([rocksalt("KCl")]), shells.embed_crystals([rocksalt("KCl")]))


def test_changed_files_are_refused(shells, tmp_path):
    shells.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | {"size": 4}))
    with pytest.raises(BackboneError, match="were changed"):
        PotentialBackbone.of_folder(tmp_path)
    (tmp_path / POTENTIAL).unlink()
    with pytest.raises(BackboneError, match="restore"):
        PotentialBackbone.of_folder(tmp_path)


def test_another_version_is_refused_with_what_changed(shells):
    was = {**shells.card["potential"], "version": "0.1.2"}
    old = PotentialBackbone(shells.spec, "", {**shells.card, "potential": was})
    with pytest.raises(BackboneError) as raised:
        old.embed_crystals([rocksalt("NaCl")])
    assert "version was 0.1.2" in str(raised.value)
    assert shells.card["potential"]["version"] in str(raised.value)


def test_other_columns_of_the_same_version_are_refused(tmp_path):
    factor = tmp_path / "factor"
    factor.write_text("1.0")
    made = load_potential_backbone(f"{HOME}:Scaled?" + json.dumps({"file": str(factor)}))
    folder = made.save(tmp_path / "saved")
    factor.write_text("1.01")
    with pytest.raises(BackboneError, match="weights_sha256 was" if "weights_sha256" in made.card["potential"] else ""):
        PotentialBackbone.of_folder(folder).embed_crystals([rocksalt("NaCl")])
    checks = {"NaCl": [1.1 * value for value in made.card["checks"]["NaCl"]]}
    unlike = PotentialBackbone(made.spec, "", {**load_potential_backbone(made.spec).card, "checks": checks})
    with pytest.raises(BackboneError, match="columns for NaCl"):
        unlike.embed_crystals([rocksalt("NaCl")])


def test_what_cannot_be_embedded_is_named():
    named = load_potential_backbone(f"{SHELLS}[Na, Cl]")
    with pytest.raises(UnknownElementError, match="MgO"):
        named.embed_crystals([rocksalt("NaCl"), rocksalt("MgO")])
    failing = load_potential_backbone(f"{HOME}:Failing")
    sulfide = Crystal.from_symbols(np.eye(3) * 3, ["Li", "S"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(BackboneError, match=r"LiS.*too many electrons"):
        failing.embed_crystals([rocksalt("NaCl"), sulfide])


def test_no_network_is_trained_from_it(shells, both, labelled):
    assert shells.trained == ()
    assert both.backbone.trained == (both.backbone.parts[0],)
    with pytest.raises(TrainingError, match="embeddings only"):
        check_start(shells, "full")
    with pytest.raises(TrainingError, match="embeddings only"):
        EnsembleSettings(strategy="auto", head="network").resolved(60, shells)
    assert EnsembleSettings(strategy="auto").resolved(10_000, shells).strategy == "frozen"
    with pytest.raises(BackboneError, match="embeddings only"):
        load_start(SHELLS)


def test_a_model_keeps_and_finds_its_potential(both, labelled, other, tmp_path):
    labels = Labels(labelled.keys[:30], labelled.values[:30], "kappa", "log10")
    ensemble = train_ensemble(both, labels, EnsembleSettings(members=3, seed=1))
    save_ensemble(ensemble, tmp_path)
    again = load_ensemble(tmp_path)
    assert again.backbone.sha256 == both.backbone.sha256
    expected = ensemble.predict(both, labelled.keys[30:]).total(1.0)
    np.testing.assert_allclose(again.predict(both, labelled.keys[30:]).total(1.0), expected, rtol=1e-6)
    assert load_starts(tmp_path).sha256 == both.backbone.sha256
    moved = load_ensemble(tmp_path, potential_python=other)
    assert moved.backbone.parts[1].python == other
    assert moved.backbone.sha256 == both.backbone.sha256
    save_ensemble(moved, tmp_path / "moved")
    assert load_ensemble(tmp_path / "moved").backbone.parts[1].python == other
    with pytest.raises(ModelFileError, match="leave it out"):
        load_ensemble("kappa-300K", potential_python=other)
