"""Untrained bodies that a chain of stages may start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.exceptions import TrainingError
from engine.graphs.crystal_graph import build_graph, collate
from engine.learning.backbones.backbone import Backbone, known_compounds
from engine.learning.backbones.bodies import body_sizes, build_body, node_types
from engine.learning.seeding import seeded

SCRATCH: dict[str, tuple[str, dict[str, Any]]] = {
    "megnet": ("MEGNet", {}),
    "m3gnet": ("M3GNet", {"units": 32, "dim_node_embedding": 32, "dim_edge_embedding": 32, "nblocks": 2}),
    "tensornet": ("TensorNet", {"units": 32, "nblocks": 2}),
    "composition": ("CompositionNetwork", {}),
}
"""Untrained bodies by name: class and sizes, small enough for a few minutes on one core. The last one reads formulas
alone, for comparison."""


def scratch_backbone(start: str, sizes: Mapping[str, Any], seed: int) -> Backbone:
    """Untrained body, ``scratch:megnet`` or its like, of the sizes given and otherwise those of :data:`SCRATCH`."""
    import torch

    from engine.learning.backbones.network import GraphNetwork, body_readout

    class_name, settings = SCRATCH[scratch_kind(start)]
    known = body_sizes(class_name)
    if unknown := sorted(set(sizes) - set(known)):  # MatGL takes any
        raise TrainingError(f"{class_name} has no size {unknown[0]!r}; there are {', '.join(known)}")
    with seeded(seed):
        try:
            body: Any = build_body(class_name, {**settings, **sizes})
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"{class_name} cannot be built with {dict(sizes)} ({error}); mend these sizes"
            ) from error
    batch = collate([build_graph(known_compounds()["NaCl"], float(body.cutoff))], node_types(body))
    with torch.no_grad():
        width = int(body_readout(body.eval(), batch).shape[1])
    return Backbone(start.replace(":", "-"), GraphNetwork(body, width, ()).eval(), {"untrained": True})


def scratch_kind(start: str) -> str:
    """Name of an untrained body in ``scratch:NAME``.

    Raises
    ------
    TrainingError
        If there is none of this name.
    """
    kind = start.removeprefix("scratch:")
    if kind not in SCRATCH:
        raise TrainingError(f"unknown start {start!r}; from scratch is one of scratch:{', scratch:'.join(SCRATCH)}")
    return kind
