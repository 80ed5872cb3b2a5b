"""What the store can hold of a record: JSON objects, plain properties, structures; everything else is refused."""

from __future__ import annotations

import math
from typing import Any

from db.exceptions import InvalidRecordError

PropertyValue = float | int | str | bool
Json = dict[str, Any]
"""A JSON object: text keys, finite numbers, no NumPy arrays."""


def require_properties(properties: dict[str, PropertyValue], material_id: str) -> None:
    """Raise :class:`InvalidRecordError` unless every property is a plain, finite value."""
    for name, value in properties.items():
        if not isinstance(value, float | int | str | bool):
            raise InvalidRecordError(
                f"property {name!r} of {material_id!r} is a {type(value).__name__}; give a number, text or truth value"
            )
        require_json(value, f"property {name!r} of {material_id!r}")


def require_structure(structure: Json, material_id: str) -> None:
    """Raise unless a shard can store it.

    Raises
    ------
    InvalidRecordError
        Naming the material.
    """
    if structure.keys() == {"lattice", "numbers", "frac_coords"}:
        cell, species, sites = structure["lattice"], structure["numbers"], structure["frac_coords"]
        if len(cell) == 3 and len(species) == len(sites) and all(len(row) == 3 for row in (*cell, *sites)):
            return
    raise InvalidRecordError(
        f"the structure of {material_id!r} is not a lattice of 3 x 3, n numbers and n x 3 frac_coords "
        f"(it has {', '.join(structure) or 'nothing'}); give those"
    )


def require_text(noun: str, record: object, *names: str) -> None:
    """Refuse a record whose fields of these names are not text, or blank."""
    for name in names:
        value = getattr(record, name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidRecordError(f"{noun} needs a {name}, received {value!r}")


def require_json(value: object, where: str) -> None:
    """Check a JSON value; the error on a number that is not finite or a foreign type gives its path."""
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRecordError(f"{where} is {value}; leave it out or use None where it is not known")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidRecordError(f"{where} has the key {key!r}; keys must be text")
            require_json(item, f"{where}, {key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            require_json(item, f"{where}, item {i}")
    else:
        raise InvalidRecordError(
            f"{where} is a {type(value).__name__}; turn it into plain numbers, text or lists first"
        )
