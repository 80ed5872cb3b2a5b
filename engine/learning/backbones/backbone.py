"""Backbones: pre-trained MatGL bodies that turn a crystal into an embedding, loaded by name or path and checked.

Three kinds of file are read: a backbone shipped with this package (by name), a folder written by :meth:`Backbone.save`,
and a MatGL model of formation energies or potential (a folder, or a name that MatGL fetches from its hub). Each is
refused, by name and number, if it does not give the right values on known compounds: weights made before MatGL 3 load
without a word and are wrong.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import BackboneError, UnknownElementError
from engine.graphs.crystal_graph import build_graph, build_graphs, collate, pack
from engine.learning.backbones.bodies import body_arguments, build_body, node_types
from engine.learning.backbones.column_statistics import ColumnStatistics
from engine.learning.features.bonding import BONDING_STATISTICS, CUTOFF
from engine.learning.features.composition import COMPOSITION_STATISTICS
from engine.learning.features.statistics import crystal_statistics
from engine.materials.crystal import Crystal
from engine.pretrained import find_model, model_class, read_model

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.learning.backbones.network import GraphNetwork

WEIGHTS = "weights.safetensors"
CARD = "card.json"
BLOCK = 2048
"""Crystals that are embedded together, their graphs all in memory."""
_CARD_KEYS = ("name", "body", "readout_size", "trunk_size", "properties", "sha256", "checks")
DEFAULT_BACKBONE = "megnet-multiproperty"
"""What a campaign stands on, which scores its whole pool every round."""
SIDE_BY_SIDE = (DEFAULT_BACKBONE, "megnet-taught")
"""What a model stands on that is trained once: more accurate, and slower to read."""

FORMATION_ENERGIES = {"NaCl": -2.11, "MgO": -3.08, "LiF": -3.16}
"""eV/atom, PBE with Materials Project corrections, of the compounds in :func:`known_compounds`."""
_FORMATION_ENERGY_TOLERANCE = 0.15  # eV/atom; wrong message direction is off by 0.35 and more
_CHECK_TOLERANCE = 1e-3  # of a standardised output; float32 noise is 1e-6


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network with an embedding.

    An embedding is N x d float32, in the column groups of :attr:`groups`: composition statistics, the body's readout,
    and the trunk shared by the properties it was pre-trained on, where it has one.
    """

    name: str
    network: GraphNetwork
    card: Mapping[str, Any] = field(repr=False)
    """How it was made: architecture, recipe, data, seeds, held-out errors, expected outputs on known compounds."""

    @cached_property
    def sha256(self) -> str:
        """Of the weights as :meth:`save` writes them."""
        return hashlib.sha256(self._weights()).hexdigest()

    @property
    def body(self) -> nn.Module:
        """The MatGL model, or our composition network."""
        return self.network.body

    @property
    def parts(self) -> tuple[Backbone, ...]:
        """Backbones it is made of: itself; see :class:`engine.learning.backbones.stack.BackboneStack`."""
        return (self,)

    @property
    def trained(self) -> tuple[Backbone, ...]:
        """Backbones that networks are fine-tuned from."""
        return (self,)

    @property
    def is_potential(self) -> bool:
        """Whether it is the network inside a potential."""
        return "potential" in self.card

    @property
    def block(self) -> int:
        """Crystals that are embedded together."""
        return BLOCK

    @property
    def vouched(self) -> str:
        """Name of the file of :meth:`save` whose SHA-256 is :attr:`sha256`."""
        return WEIGHTS

    @property
    def cutoff(self) -> float:
        """Neighbour cutoff of its graphs in Angstrom."""
        return float(self.body.cutoff)  # type: ignore[arg-type]

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements it knows."""
        return frozenset(self.body.element_types)  # type: ignore[arg-type]

    @property
    def groups(self) -> dict[str, slice]:
        """Column groups of an embedding, in order."""
        widths = {
            "composition": len(COMPOSITION_STATISTICS),
            "bonding": len(BONDING_STATISTICS),
            "readout": self.network.readout_size,
        }
        if self.network.trunk_size:
            widths["trunk"] = self.network.trunk_size
        ends = np.cumsum(list(widths.values()))
        return {
            name: slice(int(end) - width, int(end)) for (name, width), end in zip(widths.items(), ends, strict=True)
        }

    @property
    def embedding_size(self) -> int:
        """Columns of an embedding."""
        return max(s.stop for s in self.groups.values())

    @cached_property
    def column_statistics(self) -> ColumnStatistics:
        """Of the embeddings of the crystals it was trained on, where its card tells."""
        entry = self.card.get("population")
        return ColumnStatistics.unknown(self.embedding_size) if entry is None else ColumnStatistics.from_card(entry)

    @property
    def node_types(self) -> NDArray[np.int64]:
        """Element index of the model by atomic number, -1 for an element it does not know."""
        return node_types(self.body)

    def check_elements(self, crystal: Crystal) -> None:
        """Raise :class:`UnknownElementError` if the backbone does not know an element of ``crystal``."""
        unknown = sorted(set(crystal.symbols) - self.elements)
        if unknown:
            raise UnknownElementError(
                f"{crystal.formula}: backbone {self.name} does not know {', '.join(unknown)}; "
                "exclude these elements or choose another backbone"
            )

    def embed(self, graphs: Sequence[CrystalGraph], statistics: NDArray[np.float32]) -> NDArray[np.float32]:
        """N x d embeddings of N graphs and their statistics (N x 88); on the CPU, in halves where memory runs out."""
        import torch

        from engine.learning.memory import in_halves

        self.network.eval()
        types = self.node_types
        out = np.empty((len(graphs), self.embedding_size), dtype=np.float32)
        with torch.no_grad():
            for packed in pack([g.n_edges for g in graphs]):
                for rows, made in in_halves(packed, lambda rows: self._embed(graphs, statistics, rows, types)):
                    out[rows] = made.numpy()
        return out

    def _embed(
        self,
        graphs: Sequence[CrystalGraph],
        statistics: NDArray[np.float32],
        rows: NDArray[np.int64],
        types: NDArray[np.int64],
    ) -> Tensor:
        import torch

        known = torch.from_numpy(statistics[rows])
        return torch.cat([known, *self.network.embed(collate([graphs[i] for i in rows], types), known)], dim=1)

    def embed_crystals(self, crystals: Iterable[Crystal]) -> NDArray[np.float32]:
        """N x d embeddings without any cache."""
        crystals = list(crystals)
        for crystal in crystals:
            self.check_elements(crystal)
        return self.embed([build_graph(c, self.cutoff) for c in crystals], crystal_statistics(crystals))

    def embed_with_graphs(self, crystals: Sequence[Crystal]) -> tuple[NDArray[np.float32], list[CrystalGraph]]:
        """N x d embeddings and the N graphs that they were made from; elements must have been checked before."""
        both = [build_graphs(crystal, (self.cutoff, CUTOFF)) for crystal in crystals]
        graphs = [graph for graph, _ in both]
        return self.embed(graphs, crystal_statistics(crystals, (wide for _, wide in both))), graphs

    def save(self, folder: Path | str) -> Path:
        """Write weights and card under ``folder``; the card is completed with expected outputs on known compounds."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(self._weights())
        card = {
            **self.card,
            "name": self.name,
            "body": {"class": type(self.body).__name__, "arguments": body_arguments(self.body)},
            "readout_size": self.network.readout_size,
            "trunk_size": self.network.trunk_size,
            "properties": list(self.network.properties),
            "sha256": self.sha256,
            "checks": _outputs(self.network),
        }
        partial = folder / f".{CARD}"  # written last and whole: it vouches for the weights
        partial.write_text(json.dumps(card, indent=1) + "\n")
        partial.replace(folder / CARD)
        return folder

    def _weights(self) -> bytes:
        from safetensors.torch import save

        return save({k: v.contiguous() for k, v in self.network.state_dict().items()})


def shipped_backbones() -> tuple[str, ...]:
    """Names of the backbones inside this package."""
    folder = resources.files("engine.learning") / "backbones"
    return tuple(sorted(p.name for p in folder.iterdir() if (p / CARD).is_file()))


def load_backbone(name: str | Path = DEFAULT_BACKBONE) -> Backbone:
    """Load a backbone by shipped name, by path, or by MatGL name, and check it.

    Raises
    ------
    BackboneError
        If there is no such model, a file is not what its record says, or the model is wrong on known compounds.
    """
    if str(name) in shipped_backbones():
        with resources.as_file(resources.files("engine.learning") / "backbones" / str(name)) as folder:
            return _load_own(folder)
    path = Path(name)
    if (path / CARD).is_file():
        return _load_own(path)
    if not path.exists() and (close := difflib.get_close_matches(str(name), shipped_backbones(), n=1, cutoff=0.8)):
        raise BackboneError(f"no backbone {str(name)!r}; did you mean {close[0]!r}?")
    return _load_matgl(name)


def known_compounds() -> dict[str, Crystal]:
    """Build a few simple compounds (not elements, which hide a wrong message direction) at PBE lattice constants."""
    lengths = {"NaCl": 5.69, "MgO": 4.25, "LiF": 4.06}  # Angstrom, conventional rocksalt cell
    half = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    pairs = {"NaCl": ["Na", "Cl"], "MgO": ["Mg", "O"], "LiF": ["Li", "F"]}
    return {
        formula: Crystal.from_symbols(half * lengths[formula], pairs[formula], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for formula in pairs
    }


def _load_own(folder: Path) -> Backbone:
    from safetensors.torch import load

    from engine.learning.backbones.network import GraphNetwork

    card = _read_card(folder / CARD)
    if not (folder / WEIGHTS).is_file():
        raise BackboneError(f"{folder} holds a card but no {WEIGHTS}; get the backbone again")
    weights = (folder / WEIGHTS).read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != card["sha256"]:
        raise BackboneError(
            f"{folder / WEIGHTS} has SHA-256 {found[:12]}..., its card says {card['sha256'][:12]}...; "
            "the file was changed or cut short: get it again"
        )
    body = build_body(card["body"]["class"], card["body"]["arguments"])
    network = GraphNetwork(body, card["readout_size"], card["properties"], card["trunk_size"])
    try:
        network.load_state_dict(load(weights), strict=True)
    except RuntimeError as error:
        raise BackboneError(f"the weights in {folder} do not fit the network its card describes ({error})") from error
    _check_own(card, network)
    return Backbone(card["name"], network.eval(), card)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
    except ValueError as error:
        raise BackboneError(f"{path} is not JSON ({error}); get the backbone again") from error
    absent = sorted(set(_CARD_KEYS) - set(card))
    if absent:
        raise BackboneError(f"{path} lacks {', '.join(absent)}; it is not the card of a backbone of ours")
    return dict(card)


def _check_own(card: Mapping[str, Any], network: GraphNetwork) -> None:
    import torch

    outputs = _outputs(network)
    for formula, expected in card["checks"].items():
        found = outputs[formula]
        if not np.allclose(found, expected, atol=_CHECK_TOLERANCE):
            raise BackboneError(
                f"backbone {card['name']} gives {np.round(found, 3).tolist()} for {formula}, its card says "
                f"{np.round(expected, 3).tolist()}; the installed MatGL or torch ({torch.__version__}) computes it "
                "differently, or the card was changed: install the versions of constraints.txt or get it again"
            )


def _load_matgl(name: str | Path) -> Backbone:
    from matgl.models import TransformedTargetModel

    others = f"a backbone of ours: a folder with {CARD}, or one of {', '.join(shipped_backbones())}"
    folder = find_model(name, "backbone", others, BackboneError)
    if model_class(folder) == "Potential":
        return _of_potential(name)
    model = read_model(name, folder, BackboneError)
    body = model.model if isinstance(model, TransformedTargetModel) else model
    metadata = json.loads((folder / "model.json").read_text()).get("metadata") or {}
    _check_formation_energies(name, model, body, metadata)
    return _bare(name, body, {"metadata": metadata})


def _of_potential(name: str | Path) -> Backbone:
    """Backbone of the network inside a potential, which is checked on compounds and repaired where it is old."""
    from engine.physics.potentials import load_potential

    potential: Any = load_potential(name)
    return _bare(name, potential.module.model.requires_grad_(True), {"potential": potential.describe()})


def _bare(name: str | Path, body: nn.Module, card: Mapping[str, Any]) -> Backbone:
    from engine.learning.backbones.network import GraphNetwork

    network = GraphNetwork(body, _probe_readout(body), ()).eval()
    return Backbone(Path(name).name, network, {"name": Path(name).name, "properties": [], **card})


def _check_formation_energies(name: str | Path, model: nn.Module, body: nn.Module, metadata: Mapping[str, Any]) -> None:
    import torch

    target = str(metadata.get("target", ""))
    if "formation energy" not in target and "eform" not in str(name).lower():
        raise BackboneError(
            f"{name} does not say what it predicts (metadata 'target' in model.json is {target!r}), so it cannot be "
            "checked against known compounds and weights from before MatGL 3 would pass unnoticed; use a "
            "formation-energy model, a potential, or a backbone saved by kappascout"
        )
    mean, std = float(metadata.get("target_mean", 0.0)), float(metadata.get("target_std", 1.0))
    compounds = known_compounds()
    graphs = [build_graph(c, float(body.cutoff)) for c in compounds.values()]  # type: ignore[arg-type]
    batch = collate(graphs, node_types(body))
    with torch.no_grad():
        values = model.eval()(g=batch, state_attr=torch.zeros(len(graphs), 2)).numpy() * std + mean
    for formula, value in zip(compounds, values, strict=True):
        expected = FORMATION_ENERGIES[formula]
        if abs(value - expected) > _FORMATION_ENERGY_TOLERANCE:
            raise BackboneError(
                f"{name} gives a formation energy of {value:.2f} eV/atom for {formula}, known is {expected:.2f}; "
                "these weights were probably made before MatGL 3, which turned the direction of messages: "
                "get the current weights of this model"
            )


def _probe_readout(body: nn.Module) -> int:
    import torch

    from engine.learning.backbones.network import body_readout

    crystal = known_compounds()["NaCl"]
    batch = collate([build_graph(crystal, float(body.cutoff))] * 2, node_types(body))  # type: ignore[arg-type]
    with torch.no_grad():
        return int(body_readout(body, batch).shape[1])


def _outputs(network: GraphNetwork) -> dict[str, list[float]]:
    """Standardised outputs on the known compounds, or the start of the readout where there is no head."""
    import torch

    compounds = known_compounds()
    graphs = [build_graph(c, float(network.body.cutoff)) for c in compounds.values()]  # type: ignore[arg-type]
    batch = collate(graphs, node_types(network.body))
    statistics = torch.from_numpy(crystal_statistics(compounds.values()))
    network.eval()
    with torch.no_grad():
        values = network(batch, statistics) if network.properties else network.embed(batch, statistics)[0][:, :8]
    return {formula: row.tolist() for formula, row in zip(compounds, values.double(), strict=True)}
