"""Which weights of a network learn: strategies by name, and what each of them means for a given network.

``full``, ``head``, ``last`` and the freezing of leading layers are those compared by Devi, Butler and Gopalakrishnan,
npj Comput. Mater. 10, 300 (2024). ``gradual`` unfreezes from the output down with a learning rate that falls with depth
(Howard and Ruder, ULMFiT, arXiv 1801.06146).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.exceptions import TrainingError

if TYPE_CHECKING:
    from torch import nn

    from engine.learning.backbones.network import GraphNetwork

STRATEGIES = {
    "full": "every weight",
    "frozen": "trunk and head, going on from the start's trunk where it has one; the body stays",
    "last": "the last linear layer alone",
    "head": "a new trunk and a new head; the body stays",
    "blocks": "blocks:K, the last K blocks of message passing and all that follows",
    "embedding_frozen": "all but the embedding of elements and bonds",
    "gradual": "every weight, from the output down, layer by layer, deeper layers slower",
}
"""What each strategy trains."""

READOUT = "readout"
TRUNK = "trunk"
HEAD = "head"

_DEPTH_DECAY = 0.7  # ULMFiT halves more steeply (1 / 2.6); these networks have 5 depths, not 4 big layers
_UNFROZEN_BY = 0.5  # of the epochs: by then all layers learn


@dataclass(frozen=True)
class Layout:
    """Where a MatGL model keeps its layers, as attribute names."""

    embedding: tuple[str, ...]
    """What makes the first features of atoms and bonds."""
    blocks: tuple[str, ...]
    """Lists with one entry a block of message passing."""
    after: tuple[str, ...]
    """Between the last block and the readout."""


LAYOUTS = {
    "MEGNet": Layout(
        ("embedding", "edge_encoder", "node_encoder", "state_encoder", "bond_expansion"),
        ("blocks",),
        ("edge_s2s", "node_s2s"),
    ),
    "M3GNet": Layout(("embedding",), ("three_body_interactions", "graph_layers"), ("readout",)),
    "TensorNet": Layout(("tensor_embedding",), ("layers",), ("out_norm", "linear")),
}
"""Of the bodies whose layers can be frozen in part; their own output layers are not used by any network of ours."""


@dataclass(frozen=True)
class Plan:
    """What a strategy trains of one network."""

    strategy: str
    parts: tuple[str, ...]
    """In words, from input to output."""
    tensors: tuple[str, ...]
    parameters: int
    frozen_parameters: int

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"{self.strategy} trains {len(self.tensors)} tensors, {self.parameters:,} of "
            f"{self.parameters + self.frozen_parameters:,} parameters: {', '.join(self.parts)}"
        )


@dataclass(frozen=True)
class Strategy:
    """A parsed strategy; see :data:`STRATEGIES`."""

    name: str = "full"
    blocks: int = 0
    """Blocks that learn, of ``blocks:K``."""

    def __str__(self) -> str:
        """As :func:`parse` reads it."""
        return f"{self.name}:{self.blocks}" if self.name == "blocks" else self.name

    @property
    def keeps_body(self) -> bool:
        """Whether no weight of the body learns, so that readouts can be computed once."""
        return self.name in ("frozen", "last", "head")

    def describe(self, network: GraphNetwork) -> Plan:
        """Tensors and number of parameters that learn.

        Raises
        ------
        TrainingError
            If the network has no such layers: ``blocks:9`` of 3, or a body whose layers are not known.
        """
        parts = self.parts(network)
        sizes = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
        tensors = tuple(self.trained(network))
        used = [name for name in sizes if _below(name, network_parts(network).values())]
        learning = sum(sizes[name] for name in tensors)
        return Plan(str(self), tuple(parts), tensors, learning, sum(sizes[name] for name in used) - learning)

    def parts(self, network: GraphNetwork) -> dict[str, tuple[str, ...]]:
        """Paths of the modules that learn, by part, from input to output."""
        every = network_parts(network)
        if self.name in ("full", "gradual"):
            if self.name == "gradual":
                self._layout(network)
            return every
        kept = {"frozen": (TRUNK, HEAD), "head": (TRUNK, HEAD), "last": (HEAD,)}.get(self.name)
        if kept is None:
            frozen = self.frozen_blocks(network)
            kept = (*(f"block {i + 1}" for i in range(frozen, n_blocks(network.body))), READOUT, TRUNK, HEAD)
        return {name: every[name] for name in kept}

    def frozen_blocks(self, network: GraphNetwork) -> int:
        """Leading blocks that stay, of ``blocks:K`` and ``embedding_frozen``; the embedding stays too."""
        self._layout(network)
        there = n_blocks(network.body)
        wanted = there if self.name == "embedding_frozen" else self.blocks
        if wanted > there:
            raise TrainingError(
                f"{self} asks for {wanted} blocks, {type(network.body).__name__} of this backbone has {there}; "
                f"choose blocks:1 to blocks:{there}"
            )
        return there - wanted

    def groups(self, network: GraphNetwork, learning_rate: float) -> list[tuple[dict[str, tuple[str, ...]], float]]:
        """Parts that learn at one rate, and that rate; deepest (nearest to the output) first."""
        parts = self.parts(network)
        if self.name != "gradual":
            return [(parts, learning_rate)]
        depths = _depths(parts)
        return [(group, learning_rate * _DEPTH_DECAY**depth) for depth, group in enumerate(depths)]

    def open_groups(self, n_groups: int, epoch: int, epochs: int) -> int:
        """How many of the groups learn in ``epoch`` (from 1): all, unless they are unfrozen one by one."""
        if self.name != "gradual":
            return n_groups
        span = max(1, math.floor(_UNFROZEN_BY * epochs))
        return min(n_groups, 1 + (epoch - 1) * (n_groups - 1) // span)

    def trained(self, network: GraphNetwork, parts: Collection[str] | None = None) -> list[str]:
        """Names of the parameters that learn in ``parts``, all of the strategy's unless given.

        Those that never learn (MatGL keeps the centres of its basis functions as such) have ``requires_grad`` off.
        """
        learning = self.parts(network)
        paths = [paths for name, paths in learning.items() if parts is None or name in parts]
        return [name for name, p in network.named_parameters() if p.requires_grad and _below(name, paths)]

    def set_training(self, network: GraphNetwork) -> None:
        """Set what learns to training mode; frozen layers must give the same in every pass, so dropout is off there."""
        learning = self.parts(network)
        network.train()
        for name, paths in network_parts(network).items():
            if name not in learning:
                for path in paths:
                    network.get_submodule(path).eval()

    def _layout(self, network: GraphNetwork) -> Layout:
        kind = type(network.body).__name__
        if kind not in LAYOUTS:
            raise TrainingError(
                f"{self} needs the layers of the body by name, which are not known of {kind}; use one of "
                f"{', '.join(LAYOUTS)}, or a strategy that takes the body as a whole: full, frozen, head, last"
            )
        return LAYOUTS[kind]


FULL = Strategy()
"""Every weight learns."""


def parse(text: str) -> Strategy:
    """Read a strategy's name.

    Raises
    ------
    TrainingError
        If there is no such strategy.
    """
    found = re.fullmatch(r"blocks:([1-9]\d?)", text)
    if found:
        return Strategy("blocks", int(found[1]))
    if text in STRATEGIES and text != "blocks":
        return Strategy(text)
    names = ", ".join("blocks:K" if name == "blocks" else name for name in STRATEGIES)
    raise TrainingError(f"unknown strategy {text!r}; choose one of {names} (K = 1, 2, ...)")


def n_blocks(body: nn.Module) -> int:
    """Blocks of message passing of a body with a known layout."""
    return len(getattr(body, LAYOUTS[type(body).__name__].blocks[-1]))


def network_parts(network: GraphNetwork) -> dict[str, tuple[str, ...]]:
    """Paths of all modules of a network that its outputs depend on, by part, from input to output."""
    body: Any = network.body
    layout = LAYOUTS.get(type(body).__name__)
    parts: dict[str, tuple[str, ...]] = {}
    if layout is None:
        parts["body"] = ("body",)
    else:
        parts["embedding"] = tuple(f"body.{name}" for name in layout.embedding)
        for i in range(n_blocks(body)):
            parts[f"block {i + 1}"] = tuple(f"body.{name}.{i}" for name in layout.blocks)
        parts[READOUT] = tuple(f"body.{name}" for name in layout.after if hasattr(body, name))
    if network.properties:
        parts[TRUNK] = (TRUNK,)
        own = {"noise": network.noise, "imitation": network.imitation}
        parts[HEAD] = ("heads", *(name for name, layer in own.items() if layer is not None))
    return parts


def _depths(parts: dict[str, tuple[str, ...]]) -> list[dict[str, tuple[str, ...]]]:
    """Trunk and head together, then one part at a time towards the input."""
    new = {name: parts[name] for name in (TRUNK, HEAD)}
    below = [{name: paths} for name, paths in parts.items() if name not in new]
    return [new, *reversed(below)]


def _below(name: str, groups: Collection[Sequence[str]]) -> bool:
    return any(name.startswith(f"{path}.") for paths in groups for path in paths)
