"""What a Gaussian process over several fidelities is made of; tensors grow with every fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.learning.heads.head_tensors import HeadTensors


@dataclass(frozen=True, eq=False)
class MultiFidelityTensors(HeadTensors):
    """Of ``n`` labels, ``d`` columns, ``g`` kernels and ``t`` fidelities; float64, indices int64."""

    centre: Tensor
    scale: Tensor
    """Standardisation of the columns, d each."""
    x: Tensor
    """Standardised rows of the labels, n x d."""
    level: Tensor
    """Number of each label's fidelity, n, from the cheapest."""
    target: Tensor
    """Standardised values, n."""
    row_noise: Tensor
    """Variance of each label's noise in units of them, n."""
    columns: Tensor
    """Where each kernel's columns start and stop, g x 2; nowhere for a constant."""
    kernel_level: Tensor
    """Number of the fidelity whose discrepancy each kernel is of, g."""
    lengthscale: Tensor
    outputscale: Tensor
    """Length scale and variance of each kernel, g each."""
    slope: Tensor
    """What the fidelity beneath is multiplied by, for each fidelity (t; 0 for the lowest)."""
    noise: Tensor
    """Variance of a new label's noise of each fidelity, t."""
    mean: Tensor
    """Of the values of each fidelity, t."""
    std: Tensor
    """Of the values of the lowest fidelity."""

    def labels(self, chosen: Tensor) -> MultiFidelityTensors:
        """These labels alone; what was fitted stays."""
        kept = {name: tensor[chosen] for name, tensor in self._part(_OF_LABELS).items()}
        return replace(self, **kept)

    def beneath(self, top: int) -> MultiFidelityTensors:
        """Fidelities below number ``top``, and their labels."""
        kernels = self.kernel_level < top
        parts = {name: tensor[kernels] for name, tensor in self._part(_OF_KERNELS).items()}
        parts |= {name: tensor[:top] for name, tensor in self._part(_OF_FIDELITIES).items()}
        return replace(self.labels(self.level < top), **parts)

    def beyond(self, lower: MultiFidelityTensors) -> dict[str, Tensor]:
        """What these have behind those of ``lower``, by name."""
        shorter = lower.to_tensors()
        return {name: t[len(shorter[name]) :].contiguous() for name, t in self._part(_GROWING).items()}

    def joined(self, upper: Mapping[str, Tensor]) -> MultiFidelityTensors:
        """These with :meth:`beyond` of others behind them."""
        return replace(self, **{name: torch.cat([t, upper[name]]) for name, t in self._part(_GROWING).items()})

    def _part(self, names: Sequence[str]) -> dict[str, Tensor]:
        tensors = self.to_tensors()
        return {name: tensors[name] for name in names}


_OF_LABELS = ("x", "target", "level", "row_noise")
_OF_KERNELS = ("columns", "kernel_level", "lengthscale", "outputscale")
_OF_FIDELITIES = ("slope", "noise", "mean")
_GROWING = (*_OF_LABELS, *_OF_KERNELS, *_OF_FIDELITIES)
"""Tensors that grow with every fidelity."""
