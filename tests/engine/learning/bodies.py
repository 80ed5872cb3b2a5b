"""Small bodies of every kind whose layers can be frozen in part, untrained, for real crystals."""

from __future__ import annotations

import torch

from engine.learning.backbones.backbone import Backbone, known_compounds
from engine.learning.backbones.bodies import node_types
from engine.learning.backbones.network import GraphNetwork, body_readout

SMALL = {
    "MEGNet": {
        "dim_edge_embedding": 12,
        "hidden_layer_sizes_input": (12, 8),
        "hidden_layer_sizes_conv": (12, 8),
        "hidden_layer_sizes_output": (8,),
        "nblocks": 3,
    },
    "M3GNet": {"units": 8, "dim_node_embedding": 8, "dim_edge_embedding": 8, "nblocks": 2, "cutoff": 4.0},
    "TensorNet": {"units": 8, "num_rbf": 8, "nblocks": 2, "cutoff": 4.0},
}


def small_backbone(kind: str, trunk: bool = False, **settings) -> Backbone:
    """Backbone of a random body, with a random trunk and a head for ``start`` if asked for."""
    from matgl import models

    from engine.graphs.crystal_graph import build_graph, collate

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        body = getattr(models, kind)(**{**SMALL[kind], **settings})
        crystal = known_compounds()["NaCl"]
        batch = collate([build_graph(crystal, body.cutoff)], node_types(body))
        with torch.no_grad():
            width = body_readout(body.eval(), batch).shape[1]
        network = GraphNetwork(body, width, ("start",) if trunk else (), 16)
    return Backbone(f"small-{kind}", network.eval(), {})
