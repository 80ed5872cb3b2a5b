"""Classes of heads by name: values of the setting ``head``."""

from __future__ import annotations

from typing import TypeVar

from engine.exceptions import TrainingError
from engine.learning.heads.gp_members import GaussianProcessMembers
from engine.learning.heads.kinds import KINDS, head_kind
from engine.learning.heads.members import AnyMembers
from engine.learning.heads.mlp import PerceptronMembers
from engine.learning.heads.network_members import NetworkMembers

Class = TypeVar("Class", bound=type[AnyMembers])

HEADS: dict[str, type[AnyMembers]] = {
    members.kind.name: members for members in (GaussianProcessMembers, PerceptronMembers, NetworkMembers)
}
"""Classes of members by the name of their kind."""


def register(members: Class) -> Class:
    """Make a class of members a value of the setting ``head``; a decorator.

    Raises
    ------
    TrainingError
        If there is a head of this name.
    """
    kind = members.kind
    if kind.name in KINDS:
        raise TrainingError(
            f"a head {kind.name!r} is registered already ({KINDS[kind.name].description}); give another name"
        )
    KINDS[kind.name], HEADS[kind.name] = kind, members
    return members


def members_class(name: str) -> type[AnyMembers]:
    """Class of members by the setting ``head``.

    Raises
    ------
    TrainingError
        If there is none of this name.
    """
    return HEADS[head_kind(name).name]
