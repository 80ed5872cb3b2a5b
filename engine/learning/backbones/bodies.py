"""Bodies of backbones: MatGL models, and our composition network, by class name and constructor arguments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import BackboneError
from engine.materials.elements import ATOMIC_NUMBERS, MAX_Z

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


def node_types(body: nn.Module) -> NDArray[np.int64]:
    """Element index of a MatGL model by atomic number, -1 for an element it does not know."""
    types = np.full(MAX_Z + 1, -1, dtype=np.int64)
    for index, symbol in enumerate(body.element_types):  # type: ignore[arg-type]
        if symbol in ATOMIC_NUMBERS:  # some models know elements heavier than any crystal of ours
            types[ATOMIC_NUMBERS[symbol]] = index
    return types


def body_arguments(body: nn.Module) -> dict[str, Any]:
    """Constructor arguments that make the same MatGL body again, JSON-ready."""
    defaults = inspect.signature(type(body)).parameters
    arguments = {
        name: value
        for name, value in body._init_args.items()  # type: ignore[union-attr, operator]
        if value is not None and (_is_json(value) or name not in defaults or value != defaults[name].default)
    }
    arguments["element_types"] = list(body.element_types)  # type: ignore[arg-type]
    unwritable = [k for k, v in arguments.items() if not _is_json(v)]
    if unwritable:
        raise BackboneError(
            f"{type(body).__name__} was built with arguments that cannot be written as JSON: {', '.join(unwritable)}; "
            "build it from plain numbers and strings"
        )
    return arguments


def build_body(class_name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a MatGL model, or our composition network, from its class name and constructor arguments."""
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    return _body_class(class_name)(**plain)


def body_sizes(class_name: str) -> list[str]:
    """Names of the arguments that a body's constructor knows; MatGL's take others too, to no effect."""
    parameters = inspect.signature(_body_class(class_name)).parameters.values()
    return [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]


def _body_class(name: str) -> Callable[..., nn.Module]:
    from matgl import models

    from engine.learning.backbones.composition import CompositionNetwork

    found: dict[str, Callable[..., nn.Module]] = {CompositionNetwork.__name__: CompositionNetwork}
    found |= {known: vars(models)[known] for known in models.__all__}
    if name not in found:
        raise BackboneError(f"MatGL has no model {name!r}; known: {', '.join(found)}")
    return found[name]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
