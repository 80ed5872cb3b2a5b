"""Labels among the properties of crystals: their fields, and which values are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from campaigns.exceptions import CampaignError
from campaigns.goals import default_scale, flaw
from campaigns.intake.label_files import TEMPERATURE_TOLERANCE
from campaigns.property_names import Property
from db.labels import Limits, beyond
from db.records import LabelRecord, RejectionRecord
from engine.materials.crystal import Material
from engine.materials.sources.kinds import KINDS

BAD_LABEL = "bad_label"
"""Reason of a rejection beside those of :class:`engine.materials.checks.RejectionReason`."""


@dataclass(frozen=True)
class LabelField:
    """Which field of the records' ``properties`` is a label: ``FIELD=PROPERTY@FIDELITY`` or ``...:UNIT``."""

    field: str
    property: str
    fidelity: str
    unit: str

    @classmethod
    def parse(cls, text: str) -> LabelField:
        """Read the command line's form; ``kappa*`` is in W/(m K) unless a unit is given, anything else needs one."""
        name, _, rest = text.partition("=")
        target, _, unit = rest.partition(":")
        property_, _, fidelity = target.partition("@")
        unit = unit or Property(property_).unit
        if not (name and property_ and fidelity and unit):
            raise CampaignError(
                f"cannot read --label {text!r}; write FIELD=PROPERTY@FIDELITY, and :UNIT behind it for anything but "
                "kappa, e.g. kappa_agl_300K_W_mK=kappa_300K@agl or bulk_modulus_vrh_GPa=bulk_modulus@agl:GPa"
            )
        wanted = Property(property_).temperature  # a name with two temperatures is refused here
        given = Property(name).temperature if Property(name).is_conductivity else None
        if wanted and given and abs(wanted - given) > TEMPERATURE_TOLERANCE * wanted:
            raise CampaignError(
                f"--label {text!r}: the field is the value at {given:g} K, the property that at {wanted:g} K; name the "
                f"property {Property(property_).at(given)}"
            )
        return cls(name, property_, fidelity, unit)


def own_labels(source: str) -> list[LabelField]:
    """Fields that are labels without ``--label`` in the records of a database, named as ``PREFIX:QUERY``."""
    return [LabelField.parse(text) for text in KINDS[source.partition(":")[0]].labels]


def bad_label(
    material: Material, label_fields: Sequence[LabelField], limits: Mapping[str, Limits]
) -> RejectionRecord | None:
    """Rejection of a material with an impossible label or one outside ``[labels] limits``; None if it has none."""
    for wanted in label_fields:
        if wanted.field in material.properties:
            value = material.properties[wanted.field]
            problem = flaw(value, default_scale(wanted.property))
            if not problem and (limit := beyond(wanted.property, float(value), limits)):
                problem = f"is {limit}"
            if problem:
                message = f"{wanted.field} is {value!r}, which {problem}"
                remedy = "correct the value or remove the field"
                return RejectionRecord(material.source, material.id, BAD_LABEL, message, remedy)
    return None


def labels_of(materials: Sequence[Material], label_fields: Sequence[LabelField]) -> list[LabelRecord]:
    """Labels in the properties of materials, one for each of the fields that a material has."""
    return [
        LabelRecord(
            material_id=material.id,
            property=wanted.property,
            value=float(material.properties[wanted.field]),
            unit=wanted.unit,
            fidelity=wanted.fidelity,
            source=material.source,
            provenance={"field": wanted.field},
            record_id=material.id,
        )
        for material in materials
        for wanted in label_fields
        if wanted.field in material.properties
    ]


def check_fields(label_fields: Sequence[LabelField], found: set[str]) -> None:
    """Refuse a field that no record has.

    Raises
    ------
    CampaignError
        With the names of the properties that were found.
    """
    absent = [f.field for f in label_fields if f.field not in found]
    if absent:
        raise CampaignError(
            f"no record has the property {', '.join(map(repr, absent))} that --label asks for (there are: "
            f"{', '.join(sorted(found)) or 'none'}); the crystals were kept without it: give the right name and "
            "ingest again, what is there already is skipped"
        )
