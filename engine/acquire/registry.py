"""Base class of acquisition functions, and their registry by name.

A new one is a class: subclass :class:`AcquisitionFunction`, give its name, description, source and what it needs, write
``build`` and decorate the class with :func:`register`. Batches, reasons and ``campaign.toml`` read the
registry.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, TypeVar

from engine.exceptions import AcquisitionError
from engine.naming import suggestion

if TYPE_CHECKING:
    from engine.acquire.builder import BatchBuilder
    from engine.acquire.explanation import ChosenRow, ReasonContext
    from engine.acquire.pool import CandidatePool
    from engine.acquire.request import BatchRequest
    from engine.acquire.sequential import Acquisition

FALLBACK = "ucb"
"""Function that ranks the rest of a batch when another resolves no further gain."""


class Needs(StrEnum):
    """Data that an acquisition function uses."""

    JOINT = "joint"  # joint draws, conditioned on what is pending and already chosen
    GAUSSIAN = "gaussian"  # the joint Gaussian of the draws, conditioned on what is pending and already chosen
    PARETO = "pareto"  # joint draws of several properties, conditioned on what is pending and already chosen
    DRAW = "draw"  # one joint draw for each entry
    MARGINAL = "marginal"  # mean and standard deviation of each row
    NOTHING = "nothing"
    OTHERS = "others"  # a mixture of other functions

    @property
    def label(self) -> str:
        """Description."""
        return {
            Needs.JOINT: "joint draws",
            Needs.GAUSSIAN: "joint Gaussian of the draws",
            Needs.PARETO: "joint draws of several properties",
            Needs.DRAW: "one draw for each pick",
            Needs.MARGINAL: "mean and spread of each row",
            Needs.NOTHING: "nothing",
            Needs.OTHERS: "other functions",
        }[self]


class AcquisitionFunction:
    """A rule that ranks rows of a pool; all are maximised, goal ``min`` negates the values."""

    name: ClassVar[str]
    """Name in ``[acquisition] function`` and in a queue entry's reason."""
    description: ClassVar[str]
    """Why it chooses a row, in a few words: ``best predicted value``."""
    source: ClassVar[str]
    """Source of the formula."""
    needs: ClassVar[Needs]
    goals: ClassVar[tuple[str, ...]] = ("min", "max", "window")
    """Kinds of objective that it fits; a target is a window."""
    counts_fidelities: ClassVar[bool] = False
    """Whether it values labels of a lower fidelity by their information about the target fidelity."""
    can_hallucinate: ClassVar[bool] = False
    """Whether the diversity ``hallucinate`` can condition it on earlier picks."""

    is_diverse: ClassVar[bool] = False
    """Whether its rows are diverse by construction, so that no diversity can be set."""

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Acquisition to be maximised row by row over a pool; ``request.taken`` is conditioned on afterwards.

        Functions that do not value rows one by one override :meth:`choose` instead.
        """
        raise NotImplementedError(f"{self.name} has neither build nor choose")

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """Add up to q rows to a batch; returns the number of rows without any gain left."""
        builder.notes += self.notes(builder.pool, builder.request)
        return builder.maximise(self.build(builder.pool, builder.request), self.name, q)

    def notes(self, pool: CandidatePool, request: BatchRequest) -> list[str]:
        """Notes for the user on assumptions of the function."""
        return []

    def extend(self, builder: BatchBuilder, q: int) -> None:
        """Add up to q rows to a batch, the rest by ``ucb`` where the function resolves no further gain."""
        if not builder.limits.left:
            return
        missing = self.choose(builder, q)
        if missing and self.name != FALLBACK and builder.limits.left:
            builder.fall_back(self.name, FALLBACK, q, missing)

    def check(self, request: BatchRequest, n_objectives: int) -> None:
        """Refuse a request that does not fit the function, before any expensive computation.

        Raises
        ------
        AcquisitionError
            For a wrong number of objectives, or an unsuitable diversity.
        """
        if n_objectives != 1:
            raise AcquisitionError(
                f"{self.name} has one objective and got {n_objectives}; use qLogNEHVI or qLogNParEGO"
            )
        if request.diverse == "hallucinate" and not self.can_hallucinate:
            able = " and ".join(name for name, function in FUNCTIONS.items() if function.can_hallucinate)
            raise AcquisitionError(
                f"diversity 'hallucinate' is for {able}, not for {self.name}; use 'penalise', or 'none'"
            )

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Why it chose this row, as text that ends with its name."""
        return f"{self.description} ({self.name})"


FUNCTIONS: dict[str, AcquisitionFunction] = {}
"""All acquisition functions by name; filled by :mod:`engine.acquire.functions`."""

_Class = TypeVar("_Class", bound=type[AcquisitionFunction])


def register(function: _Class) -> _Class:
    """Class decorator: add an acquisition function under its name.

    Raises
    ------
    AcquisitionError
        If the name is taken.
    """
    if function.name in FUNCTIONS:
        raise AcquisitionError(
            f"an acquisition function {function.name!r} is registered already "
            f"({FUNCTIONS[function.name].description}); give another name"
        )
    FUNCTIONS[function.name] = function()
    return function


def acquisition_function(name: str) -> AcquisitionFunction:
    """Acquisition function of this name.

    Raises
    ------
    AcquisitionError
        If there is none, with the nearest name.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AcquisitionError(
        f"unknown acquisition function {name!r}; {suggestion(name, FUNCTIONS)}known are {', '.join(FUNCTIONS)}, and a "
        "class of your own once the module that registers it is imported"
    )
