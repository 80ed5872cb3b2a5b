"""A network that reads a crystal's formula and nothing of its structure: attention between the elements of the formula.

It shows what a property owes to composition alone, as CrabNet does in the comparison of Klochko et al. (arXiv
2411.18259). Like CrabNet (Wang et al., npj Comput. Mater. 7, 77 (2021)) it joins a vector of each element with its
fraction, lets elements attend to each other, and averages them by fraction. It is not CrabNet: the vectors are learned,
with six tabulated properties of the element beside them in place of mat2vec vectors, and it is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from engine.exceptions import UnknownElementError
from engine.materials.elements import (
    ATOMIC_MASS,
    ATOMIC_NUMBERS,
    ATOMIC_RADIUS,
    ELECTRONEGATIVITY,
    GROUP,
    MENDELEEV,
    PERIOD,
)

if TYPE_CHECKING:
    from torch_geometric.data import Data

_LEAST_FRACTION = 1e-3
"""Smaller fractions have this one's logarithm."""


class CompositionNetwork(nn.Module):
    """Formula in, crystal embedding (N x ``units``) out, in the place of a MatGL body.

    Parameters
    ----------
    element_types
        Symbols of the elements it knows; those of MatGL's models if not given.
    units
        Width of the vector of an element, and of the embedding.
    nblocks
        Number of layers of attention.
    heads
        Attention heads of a layer, a divisor of ``units``.
    """

    cutoff = 0.1
    """Angstrom: no two atoms are so close, so that its graphs hold atoms and no pairs."""
    table: Tensor

    def __init__(self, element_types: Sequence[str] | None = None, units: int = 64, nblocks: int = 2, heads: int = 4):
        super().__init__()
        if units % heads:
            raise ValueError(f"units must be a multiple of heads, got {units} and {heads}")
        if element_types is None:
            from matgl.config import DEFAULT_ELEMENTS

            element_types = DEFAULT_ELEMENTS
        self.element_types = tuple(element_types)
        self._init_args = {"units": units, "nblocks": nblocks, "heads": heads}
        self.feature_dict: dict[str, Tensor] = {}
        self.register_buffer("table", _element_table(self.element_types))
        self.vectors = nn.Embedding(len(self.element_types), units)
        self.properties = nn.Linear(self.table.shape[1], units)
        self.fractions = nn.Linear(2, units)
        self.blocks = nn.ModuleList([_AttentionBlock(units, heads) for _ in range(nblocks)])
        self.norm = nn.LayerNorm(units)

    def forward(self, g: Data, state_attr: Tensor | None = None) -> Tensor:
        """Embedding (N x ``units``) of a batch of N crystals, left in ``feature_dict["readout"]`` too."""
        fractions = formula_fractions(g.node_type, g.batch, g.num_graphs, len(self.element_types))
        most = int((fractions > 0).sum(1).max())
        share, element = fractions.topk(most, dim=1)  # N x elements of the longest formula, 0 where there are fewer
        encoded = torch.stack([share, share.clamp_min(_LEAST_FRACTION).log10()], dim=2)
        x = self.vectors(element) + self.properties(self.table[element]) + self.fractions(encoded)
        present = share > 0
        for block in self.blocks:
            x = block(x, present)
        readout = (self.norm(x) * share.unsqueeze(2)).sum(1)
        self.feature_dict = {"readout": readout}
        return readout


def formula_fractions(node_types: Tensor, crystals: Tensor, n_crystals: int, n_elements: int) -> Tensor:
    """Fraction of each element in each crystal (N x ``n_elements``), the same for every multiple of a formula.

    ``node_types`` is the element index of each atom, ``crystals`` the crystal that it belongs to.

    Raises
    ------
    UnknownElementError
        If an atom has an index outside the elements of the network.
    """
    outside = (node_types < 0) | (node_types >= n_elements)
    if bool(outside.any()):
        raise UnknownElementError(
            f"{int(outside.sum())} atoms have an element outside the {n_elements} that the composition network knows "
            f"(index {int(node_types[outside][0])}); exclude crystals with such elements or choose another backbone"
        )
    counts = torch.zeros(n_crystals, n_elements, device=node_types.device)
    counts.index_put_((crystals, node_types), torch.ones(len(node_types), device=counts.device), accumulate=True)
    return counts / counts.sum(1, keepdim=True)


class _AttentionBlock(nn.Module):
    """Elements of a formula attend to each other, then each passes a perceptron (pre-norm, Xiong et al. 2020)."""

    def __init__(self, units: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(units), nn.LayerNorm(units)
        self.query_key_value, self.out = nn.Linear(units, 3 * units), nn.Linear(units, units)
        self.perceptron = nn.Sequential(nn.Linear(units, 2 * units), nn.SiLU(), nn.Linear(2 * units, units))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """New vectors (N x elements x units) of the elements that are ``present`` (N x elements)."""
        n, length, units = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(n, length, 3, self.heads, units // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, units))
        return x + self.perceptron(self.before_perceptron(x))


def _element_table(symbols: Sequence[str]) -> Tensor:
    """Six tabulated properties of each element (E x 6), standardised over these elements."""
    numbers = [ATOMIC_NUMBERS[symbol] for symbol in symbols]
    columns = (ATOMIC_MASS, ELECTRONEGATIVITY, ATOMIC_RADIUS, PERIOD, GROUP, MENDELEEV)
    values = np.stack([column[numbers] for column in columns], axis=1)
    spread = np.where(values.std(0) > 0, values.std(0), 1.0)
    return torch.from_numpy(((values - values.mean(0)) / spread).astype(np.float32))
