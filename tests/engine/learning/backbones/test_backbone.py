"""Backbones are what they say: hashes, known compounds, old weights, unknown elements, any MatGL model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.exceptions import BackboneError, PotentialError, UnknownElementError
from engine.graphs.crystal_graph import build_graph, collate
from engine.learning.backbones.backbone import (
    Backbone,
    known_compounds,
    load_backbone,
    node_types,
    shipped_backbones,
)
from engine.learning.backbones.bodies import body_arguments, build_body
from engine.learning.backbones.network import GraphNetwork, body_readout
from engine.learning.pretraining.recipes import read_recipe, read_stage
from engine.materials.crystal import Crystal

MEGNET = "pretrained/MEGNet-MP-2018.6.1-Eform"
TENSORNET = "pretrained/TensorNet-MatPES-PBE-v2025.1-PES"
ELEMENTS = ("Na", "Cl", "Mg", "O", "Li", "F", "Si", "C")


@pytest.fixture
def copy_of(backbone, tmp_path) -> Path:
    return backbone.save(tmp_path / "copy")


def small_body(name: str, **settings) -> torch.nn.Module:
    from matgl import models

    torch.manual_seed(3)
    return getattr(models, name)(**{"element_types": ELEMENTS, **settings})


def edit_card(folder: Path, edit) -> None:
    card = json.loads((folder / "card.json").read_text())
    edit(card)
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("name", shipped_backbones())
def test_a_shipped_backbone_is_as_its_card_says(name):
    backbone = load_backbone(name)
    assert backbone.name == name == backbone.card["name"]
    assert backbone.sha256 == backbone.card["sha256"]
    stage = read_recipe(name).stages[-1]
    assert [t.name for t in stage.tasks] == list(backbone.network.properties) == backbone.card["properties"]
    assert read_stage(backbone.card["recipe"]) == stage
    assert set(backbone.card["checks"]) == set(known_compounds()) == {"NaCl", "MgO", "LiF"}
    for figures in backbone.card["held_out"].values():
        assert figures["mae"] < 0.8 * figures["mae_of_the_mean"]
    embedding = backbone.embed_crystals(known_compounds().values())
    assert embedding.shape == (3, backbone.embedding_size)
    assert np.isfinite(embedding).all()


def test_one_shipped_backbone_has_seen_no_kappa():
    seen = load_backbone("megnet-multiproperty").card["seen"]
    assert not [name for name in seen if "kappa" in name or "agl" in name.lower()]


def test_groups_share_out_the_columns(backbone):
    ends = [(s.start, s.stop) for s in backbone.groups.values()]
    assert list(backbone.groups) == ["composition", "bonding", "readout", "trunk"]
    assert ends == [(0, 28), (28, 88), (88, 248), (248, 376)]
    assert backbone.embedding_size == 376


def test_embeddings_do_not_depend_on_the_company(backbone, materials):
    crystals = [m.crystal for m in materials]
    together = backbone.embed_crystals(crystals)
    np.testing.assert_allclose(together[7:8], backbone.embed_crystals(crystals[7:8]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(together[::-1], backbone.embed_crystals(crystals[::-1]), rtol=1e-4, atol=1e-4)


def test_a_crystal_without_any_edge_has_an_embedding(backbone):
    lonely = Crystal.from_symbols(30 * np.eye(3), ["Xe"], [[0, 0, 0]])
    assert np.isfinite(backbone.embed_crystals([lonely, known_compounds()["MgO"]])).all()


def test_a_saved_backbone_is_the_same_backbone(backbone, copy_of):
    again = load_backbone(copy_of)
    assert again.sha256 == backbone.sha256
    crystals = list(known_compounds().values())
    np.testing.assert_array_equal(again.embed_crystals(crystals), backbone.embed_crystals(crystals))


def test_altered_weights_are_refused(copy_of):
    path = copy_of / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="SHA-256"):
        load_backbone(copy_of)
    path.unlink()
    with pytest.raises(BackboneError, match="no weights"):
        load_backbone(copy_of)


def test_a_backbone_that_computes_something_else_is_refused_by_compound_and_number(copy_of):
    expected = json.loads((copy_of / "card.json").read_text())["checks"]["MgO"]
    edit_card(copy_of, lambda card: card["checks"]["MgO"].__setitem__(0, expected[0] + 0.25))
    with pytest.raises(BackboneError, match=rf"\[{round(expected[0], 3)}.*MgO"):
        load_backbone(copy_of)


def test_a_card_that_does_not_describe_the_weights(copy_of):
    edit_card(copy_of, lambda card: card["body"]["arguments"].__setitem__("nblocks", 2))
    with pytest.raises(BackboneError, match="do not fit the network"):
        load_backbone(copy_of)
    edit_card(copy_of, lambda card: card.pop("checks"))
    with pytest.raises(BackboneError, match="lacks checks"):
        load_backbone(copy_of)
    (copy_of / "card.json").write_text("{")
    with pytest.raises(BackboneError, match="not JSON"):
        load_backbone(copy_of)


def test_unknown_elements_are_named(backbone, tmp_path):
    rare = Crystal.from_symbols(4 * np.eye(3), ["Po", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(UnknownElementError, match=r"PoO: .*megnet-multiproperty .*Po"):
        backbone.embed_crystals([rare])
    from engine.learning.features.featuriser import Featuriser

    with pytest.raises(UnknownElementError, match="Po"):
        Featuriser(backbone, tmp_path).add({"rare": rare})


def test_unknown_names_and_paths(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"no backbone 'nonsense'.*materialyze/nonsense.*megnet-multiproperty"):
        load_backbone("nonsense")
    with pytest.raises(BackboneError, match="MatGL model"):
        load_backbone(tmp_path)
    with pytest.raises(BackboneError, match="MatGL model"):
        load_backbone("./nowhere")


class TestMatGLModels:
    """MatGL's own files: checked against formation energies of compounds."""

    def test_the_current_weights_are_right(self, shared):
        backbone = load_backbone(shared(MEGNET))
        assert list(backbone.groups) == ["composition", "bonding", "readout"]
        assert backbone.embedding_size == 248

    def test_old_weights_are_refused_by_compound_and_number(self, shared, tmp_path):
        import matgl

        model = matgl.load_model(shared(MEGNET))
        turn_messages(model)
        model.save(tmp_path, metadata=metadata(shared))
        with pytest.raises(BackboneError, match=r"-1\.7\d eV/atom for NaCl.*-2\.11"):
            load_backbone(tmp_path)

    def test_a_model_that_scales_its_own_output(self, shared, tmp_path):
        """Such files hold a pickled Normalizer, which torch must be told to admit."""
        import matgl
        from matgl.data.transformer import Normalizer
        from matgl.models import TransformedTargetModel

        given = metadata(shared)
        scaled = TransformedTargetModel(
            matgl.load_model(shared(MEGNET)), Normalizer(given["target_mean"], given["target_std"])
        )
        scaled.save(tmp_path, metadata={"target": given["target"]})
        crystals = list(known_compounds().values())
        expected = load_backbone(shared(MEGNET)).embed_crystals(crystals)
        np.testing.assert_array_equal(load_backbone(tmp_path).embed_crystals(crystals), expected)

    def test_a_potential_is_repaired_and_gives_its_atoms_features(self, shared, tmp_path):
        backbone = load_backbone(shared(TENSORNET))
        assert list(backbone.groups) == ["composition", "bonding", "readout"]
        assert backbone.embedding_size == 88 + 128
        crystals = list(known_compounds().values())
        again = load_backbone(backbone.save(tmp_path))
        assert again.card["potential"]["name"] == Path(TENSORNET).name
        np.testing.assert_array_equal(again.embed_crystals(crystals), backbone.embed_crystals(crystals))

    def test_weights_whose_meaning_matgl_changed_are_refused(self, shared, tmp_path):
        folder = shutil.copytree(shared(TENSORNET), tmp_path / "changed")
        folder.chmod(0o755)
        path = folder / "state.pt"
        path.chmod(0o644)
        state = torch.load(path, map_location="cpu", weights_only=True)
        torch.save({**state, "data_std": state["data_std"] * 1.001}, path)
        with pytest.raises(PotentialError, match="changed "):
            load_backbone(folder)

    def test_a_model_nothing_is_known_of_is_refused(self, tmp_path):
        small_body("M3GNet").save(tmp_path)
        with pytest.raises(BackboneError, match="does not say what it predicts"):
            load_backbone(tmp_path)

    def test_tensors_that_matgl_leaves_out_are_counted(self, shared, tmp_path):
        shutil.copytree(shared(MEGNET), tmp_path / "model")
        path = tmp_path / "model" / "state.pt"
        path.chmod(0o644)
        path.parent.chmod(0o755)
        state = torch.load(path, weights_only=True)
        torch.save({**state, "blocks.9.extra": torch.zeros(1)}, path)
        with pytest.raises(BackboneError, match=r"stores \d+ tensors, MEGNet has \d+ \(differing: blocks.9.extra"):
            load_backbone(tmp_path / "model")
        state.pop(next(iter(state)))
        torch.save(state, path)
        with pytest.raises(BackboneError, match="would be left randomly initialized"):
            load_backbone(tmp_path / "model")


def turn_messages(model) -> None:
    """Undo the repair of hazards.md: MatGL 2 had source and target of a message the other way round."""
    for block in model.blocks:
        weight = block.conv.edge_func.layers[0].weight
        with torch.no_grad():
            weight[:, :64] = torch.cat([weight[:, 32:64], weight[:, :32]], dim=1)


def metadata(shared) -> dict:
    return json.loads((shared(MEGNET) / "model.json").read_text())["metadata"]


BODIES = [
    ("MEGNet", {"dim_state_embedding": 3}, 160),
    ("M3GNet", {"units": 16}, 16),
    ("M3GNet", {"include_state": True, "dim_state_embedding": 4}, 68),
    ("M3GNet", {"is_intensive": False, "dim_node_embedding": 24}, 24),
    ("TensorNet", {"units": 16}, 16),
    ("TensorNet", {"units": 16, "is_intensive": False, "element_types": (*ELEMENTS, "Rf")}, 16),
    ("SO3Net", {"target_property": "graph", "dim_node_embedding": 16, "units": 16}, 16),
]


class TestAnyMatGLBody:
    """Every MatGL model with an embedding fits the same interface."""

    @pytest.mark.parametrize(("name", "settings", "width"), BODIES, ids=[f"{b[0]}-{i}" for i, b in enumerate(BODIES)])
    @pytest.mark.parametrize("properties", [(), ("a", "b")], ids=["bare", "heads"])
    def test_it_embeds_and_comes_back_from_disk(self, name, settings, width, properties, tmp_path):
        network = GraphNetwork(small_body(name, **settings), width, properties, trunk_size=8)
        backbone = Backbone("small", network, {})
        crystals = list(known_compounds().values())
        embedding = backbone.embed_crystals(crystals)
        assert embedding.shape == (3, 88 + width + (8 if properties else 0))
        assert np.isfinite(embedding).all()
        assert len(np.unique(embedding[:, 88:], axis=0)) == 3
        again = load_backbone(backbone.save(tmp_path))
        np.testing.assert_array_equal(again.embed_crystals(crystals), embedding)
        assert again.elements == backbone.elements

    def test_a_body_without_a_readout_is_refused(self):
        body = small_body("CHGNet")
        with pytest.raises(BackboneError, match=r"CHGNet .*'readout'"):
            body_readout(body, nacl_batch(body))

    def test_a_body_that_wants_a_state_of_each_crystal_is_refused(self):
        body = small_body("M3GNet", include_state=True, ntypes_state=3, dim_state_embedding=4)
        with pytest.raises(BackboneError, match="wants a learned state"):
            body_readout(body, nacl_batch(body))

    def test_a_pass_leaves_nothing_behind(self):
        from copy import deepcopy

        body = small_body("TensorNet", units=8)
        assert body_readout(body, nacl_batch(body)).requires_grad
        deepcopy(body)  # impossible while it holds tensors of the pass

    def test_arguments_that_json_cannot_hold(self):
        from matgl.layers import BondExpansion

        body = small_body("MEGNet", bond_expansion=BondExpansion(rbf_type="Gaussian", final=5.0))
        with pytest.raises(BackboneError, match="bond_expansion"):
            body_arguments(body)
        assert "dtype" not in body_arguments(small_body("TensorNet"))

    def test_an_unknown_class(self):
        with pytest.raises(BackboneError, match=r"no model .AlphaNet.; known: .*MEGNet"):
            build_body("AlphaNet", {})


def nacl_batch(body):
    return collate([build_graph(known_compounds()["NaCl"], 5.0)] * 2, node_types(body))
