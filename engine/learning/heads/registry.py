"""Heads by name: values of the setting ``head`` and the class of each."""

from __future__ import annotations

from typing import TypeVar

from engine.exceptions import TrainingError
from engine.learning.heads.gp_members import GaussianProcessMembers
from engine.learning.heads.members import AnyMembers
from engine.learning.heads.mlp import PerceptronMembers
from engine.learning.heads.network_members import NetworkMembers

Class = TypeVar("Class", bound=type[AnyMembers])

HEADS: dict[str, type[AnyMembers]] = {}
"""Kinds of members, in the order in which messages name them."""


def register(members: Class) -> Class:
    """Make a kind of members a value of the setting ``head``; a decorator."""
    HEADS[members.kind] = members
    return members


def members_class(kind: str) -> type[AnyMembers]:
    """Class of members by the setting ``head``.

    Raises
    ------
    TrainingError
        If there is none of this name.
    """
    if kind not in HEADS:
        raise TrainingError(f"unknown head {kind!r}; choose one of {', '.join(HEADS)}")
    return HEADS[kind]


for _built_in in (GaussianProcessMembers, PerceptronMembers, NetworkMembers):
    register(_built_in)
