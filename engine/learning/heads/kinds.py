"""Heads by name, and what settings have to know of each; read by the configuration and the help without loading torch.

A head of one's own is a class of members with its own :class:`HeadKind`, see :mod:`engine.learning.heads.members`;
:func:`engine.learning.heads.registry.register` adds it to :data:`KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.exceptions import TrainingError
from engine.naming import suggestion


@dataclass(frozen=True)
class HeadKind:
    """A value of the setting ``head``."""

    name: str
    description: str
    """What predicts, in a few words: ``small networks on embeddings``."""
    is_network: bool = False
    """Whether the heads are fine-tuned networks, so that a strategy has to say what is trained."""
    is_stacked: bool = False
    """Whether fine-tuned networks and trees may stand beside them, see :mod:`engine.learning.ensemble.stacking`."""
    has_process: bool = False
    """Whether a model of a higher fidelity may be learned on top of them."""


GAUSSIAN_PROCESS = HeadKind(
    "gp",
    "Gaussian processes on embeddings, stacked with extra-trees and with networks where these are trained",
    is_stacked=True,
    has_process=True,
)
PERCEPTRON = HeadKind("mlp", "small networks on embeddings")
NETWORK = HeadKind("network", "the fine-tuned networks alone", is_network=True)

KINDS: dict[str, HeadKind] = {kind.name: kind for kind in (GAUSSIAN_PROCESS, PERCEPTRON, NETWORK)}
"""Heads by name, in the order in which messages name them; :func:`engine.learning.heads.registry.register` adds."""


def head_kind(name: str) -> HeadKind:
    """What is known of the head with this name.

    Raises
    ------
    TrainingError
        If there is none, with the names that there are.
    """
    if name not in KINDS:
        raise TrainingError(
            f"unknown head {name!r}; {suggestion(name, KINDS)}known are {', '.join(KINDS)}, and a class of your own "
            "once the module that registers it is imported"
        )
    return KINDS[name]


def described() -> str:
    """All heads with what predicts in each, for help texts: ``gp: Gaussian processes ...; mlp: ...``."""
    return "; ".join(f"{kind.name}: {kind.description}" for kind in KINDS.values())


def heads_with_networks() -> str:
    """Quoted names of the heads that fine-tuned networks are part of: ``'gp' or 'network'``."""
    return " or ".join(repr(kind.name) for kind in KINDS.values() if kind.is_network or kind.is_stacked)


def heads_with_process() -> str:
    """Quoted names of the heads that can be learned on top of a lower fidelity: ``'gp'``."""
    return " or ".join(repr(kind.name) for kind in KINDS.values() if kind.has_process)
