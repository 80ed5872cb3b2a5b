"""Properties and fidelities that a campaign knows, so that a mistyped one is refused rather than stored unused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.property_names import probably_meant
from db.exceptions import LabelProblem
from db.records import LabelRecord

if TYPE_CHECKING:
    from campaigns.configuration import Configuration
    from db.store import Store

USUAL_PROPERTIES = ("kappa_300K",)
_NAMES_OF_KAPPA = (*USUAL_PROPERTIES, "kappa", "kappa_300K_W_mK")
USUAL_FIDELITIES = ("dft", "experiment", "agl", "mlip")


def check_new_property(name: str) -> None:
    """Refuse the property of a new campaign where its name is close to one of kappa and is none.

    Raises
    ------
    CampaignError
        With the probable name.
    """
    if meant := probably_meant(name, _NAMES_OF_KAPPA):
        raise CampaignError(_mistake("property", name, meant))


def _mistake(noun: str, name: str, meant: str) -> str:
    return (
        f"{noun} {name!r} is close to {meant!r}; write {meant!r}, or use --new-property (new_property=True) if "
        f"{name!r} is another"
    )


@dataclass(frozen=True)
class LabelNames:
    """Known names of properties and fidelities."""

    properties: frozenset[str]
    fidelities: frozenset[str]

    @classmethod
    def of(cls, configuration: Configuration, store: Store) -> LabelNames:
        """Collect the names of a campaign's settings, of its current labels, and the usual ones."""
        section, labeler = configuration.campaign, configuration.labeler
        return cls(
            properties=frozenset(
                {
                    *USUAL_PROPERTIES,
                    section.property,
                    *(objective.property for objective in configuration.objectives),
                    *configuration.labels.limits,
                    *store.labelled_properties(),
                }
            ),
            fidelities=frozenset(
                {
                    *USUAL_FIDELITIES,
                    section.fidelity,
                    *configuration.lower_fidelities,
                    *configuration.acquisition.fidelities,
                    *configuration.costs,
                    *labeler.fidelities,
                    *store.labelled_fidelities(),
                }
            ),
        )

    def mistakes(self, names: Iterable[tuple[str, str]]) -> list[str]:
        """A message for each property and fidelity that is probably mistyped; a good one is known from then on."""
        properties, fidelities = set(self.properties), set(self.fidelities)
        found: dict[tuple[str, str], str] = {}
        mistakes = []
        for pair in names:
            if pair not in found:
                found[pair] = "; ".join(
                    _mistake(noun, name, meant)
                    for noun, name, known in zip(("property", "fidelity"), pair, (properties, fidelities), strict=True)
                    if (meant := probably_meant(name, known))
                )
                if not found[pair]:
                    properties.add(pair[0])
                    fidelities.add(pair[1])
            mistakes.append(found[pair])
        return mistakes

    def problems(self, labels: Sequence[LabelRecord], places: Sequence[str]) -> list[LabelProblem]:
        """Labels whose property or fidelity is probably mistyped."""
        mistakes = self.mistakes((label.property, label.fidelity) for label in labels)
        return [
            LabelProblem(place, label.material_id, label.value, mistake)
            for place, label, mistake in zip(places, labels, mistakes, strict=True)
            if mistake
        ]
