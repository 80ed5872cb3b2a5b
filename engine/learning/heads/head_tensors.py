"""What a trained head is made of: named tensors, to be written to a safetensors file and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from torch import Tensor

Tensors = TypeVar("Tensors", bound="HeadTensors")


@dataclass(frozen=True, eq=False)
class HeadTensors:
    """Base of dataclasses whose fields are tensors; one that is ``None`` is not in the file."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Tensors by the names they have in a file."""
        named = {field.name: vars(self)[field.name] for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(cls: type[Tensors], tensors: Mapping[str, Tensor]) -> Tensors:
        """Inverse of :meth:`to_tensors`; names that are not known are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: tensor for name, tensor in tensors.items() if name in known})
