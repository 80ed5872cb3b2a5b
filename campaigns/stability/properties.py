"""Results of relaxations and phonons as properties of materials."""

from __future__ import annotations

from collections.abc import Mapping

from campaigns.stability.calculations import FAILURE, FIGURES, Method
from campaigns.stability.names import (
    DISPLACEMENT,
    LOWEST_FREQUENCY,
    LOWEST_WITH,
    PHONON_FAILURE,
    RELAXATION_FAILURE,
    RELAXED_ENERGY,
    RELAXED_WITH,
    VOLUME_CHANGE,
)
from db.records import Json, PropertyValue

Properties = Mapping[str, PropertyValue | None]
"""Values by name; None for one that is to be removed."""


def relaxation_properties(result: Json, method: Method) -> Properties:
    """Figures of a relaxation, or its failure; figures from before stay beside a failure."""
    if FAILURE in result:
        return {RELAXATION_FAILURE: _failure(result, method)}
    figures = result[FIGURES]
    return {
        RELAXED_ENERGY: figures["energy_per_atom_eV"],
        VOLUME_CHANGE: figures["volume_change"],
        DISPLACEMENT: figures["displacement_A"],
        RELAXED_WITH: str(method),
        RELAXATION_FAILURE: None,
    }


def phonon_properties(result: Json, method: Method) -> Properties:
    """Lowest frequency of a crystal, or the failure."""
    if FAILURE in result:
        return {PHONON_FAILURE: _failure(result, method)}
    return {
        LOWEST_FREQUENCY: result[FIGURES]["lowest_frequency_THz"],
        LOWEST_WITH: str(method),
        PHONON_FAILURE: None,
    }


def _failure(result: Json, method: Method) -> str:
    failure = result[FAILURE]
    return f"{failure['reason']}: {failure['message']} ({method})"
