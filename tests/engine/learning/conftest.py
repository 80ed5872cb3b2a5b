"""Crystals of the embedded reference with their first-principles kappa, featurised by the shipped backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.materials.crystal import Material
from engine.materials.identity import identify
from engine.materials.reference import reference_crystals, reference_labels

if TYPE_CHECKING:
    from engine.learning.backbones.backbone import Backbone
    from engine.learning.features.featuriser import Featuriser


@dataclass(frozen=True)
class Labelled:
    """n crystals by content hash, and log10 of their kappa in W/(m K)."""

    featuriser: Featuriser
    keys: list[str]
    values: np.ndarray

    @property
    def embeddings(self) -> np.ndarray:
        return self.featuriser.embeddings(self.keys)


@pytest.fixture(scope="session")
def materials() -> list[Material]:
    """Sixty crystals, each with ``kappa`` among its properties."""
    crystals = reference_crystals()
    kappa = {label["id"]: label["value"] for label in reference_labels("dft")}
    found = [identify(id_, crystals[id_], {"kappa": value}) for id_, value in kappa.items()]
    return found[:: len(found) // 60][:60]


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    from engine.learning.backbones.backbone import load_backbone

    return load_backbone("megnet-multiproperty")


@pytest.fixture(scope="session")
def labelled(materials, backbone, tmp_path_factory) -> Labelled:
    from engine.learning.features.featuriser import Featuriser

    featuriser = Featuriser(backbone, tmp_path_factory.mktemp("features"))
    featuriser.add({m.content_hash: m.crystal for m in materials})
    values = np.log10([float(m.properties["kappa"]) for m in materials])
    return Labelled(featuriser, [m.content_hash for m in materials], values)


@pytest.fixture(scope="session")
def crystals_of(materials):
    """Give the sixty crystals as a backbone's graphs with standardised log10 kappa, and their rows."""
    from engine.graphs.crystal_graph import build_graph
    from engine.learning.features.statistics import crystal_statistics
    from engine.learning.networks.graph_data import GraphData

    values = np.log10([float(m.properties["kappa"]) for m in materials])
    targets = ((values - values.mean()) / values.std())[:, None].astype(np.float32)

    def make(backbone: Backbone) -> tuple[GraphData, np.ndarray]:
        graphs = [build_graph(m.crystal, backbone.cutoff) for m in materials]
        statistics = crystal_statistics(m.crystal for m in materials)
        return GraphData(graphs, statistics, targets, backbone.node_types), np.arange(len(materials))

    return make
