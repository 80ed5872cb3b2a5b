"""Labels of the conductivities in files of phono3py, and the provenance stored with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.exceptions import ExchangeError
from campaigns.exchange.judgement import Problem, Subject, judge, remarks
from campaigns.exchange.kappa_files import COMPONENTS, Kappa, differences, listed, read_kappa
from campaigns.exchange.wanted import Wanted
from campaigns.property_names import Property, named_temperature
from db.records import KAPPA_UNIT, Json, LabelRecord
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from campaigns.workspace import Workspace


def require_conductivity(workspace: Workspace, what: str) -> None:
    """Refuse results of phono3py where the campaign's property is another.

    Raises
    ------
    ExchangeError
        If the campaign's property is not a conductivity.
    """
    property_ = workspace.configuration.campaign.property
    if not Property(property_).is_conductivity:
        raise ExchangeError(
            f"{what} holds a lattice thermal conductivity, but this campaign's property is {property_}; import it into "
            "a campaign of kappa"
        )


def kappa_labels(
    workspace: Workspace, path: Path, material_id: str, wanted: Wanted
) -> tuple[list[LabelRecord], list[str]]:
    """Labels of one ``kappa-*.hdf5`` of a material, at the fidelity of the campaign, and notes for the user.

    Raises
    ------
    ExchangeError
        If the file cannot be read, lacks a temperature, is of another method, or does not seem to be the material's.
    """
    require_conductivity(workspace, path.name)
    kappa = read_kappa(path, wanted_temperatures(workspace, wanted))
    other = ", ".join(differences(kappa, None))
    if other and not wanted.as_method:
        raise ExchangeError(
            f"{path} was computed by another method: {other}; store it as a separate label with `--as-method NAME`"
        )
    kappa = replace(kappa, given_method=wanted.as_method)
    stored = workspace.store.resolve_all([material_id])[material_id]
    (material,) = workspace.store.materials([stored])
    tolerance = workspace.configuration.dft.imaginary_tolerance
    subject = Subject(Crystal.from_dict(material.structure), False, tolerance)
    standing, forced = sorted_out(judge(kappa, wanted_temperatures(workspace, wanted), subject), wanted)
    if standing:
        raise ExchangeError(f"{path} is not the conductivity of {material_id}: {in_words(standing)}")
    fidelity = workspace.configuration.campaign.fidelity
    shared = {"source": str(path), "provenance": overridden(forced)}
    labels = list(labels_of(workspace, kappa, material_id, fidelity, wanted, shared))
    said = [*(f"forced: {words}" for words in forced), *remarks(kappa, wanted_temperatures(workspace, wanted))]
    return labels, said


def labels_of(
    workspace: Workspace,
    kappa: Kappa,
    material_id: str,
    fidelity: str,
    wanted: Wanted,
    shared: Json,
) -> Iterator[LabelRecord]:
    """One label for each temperature, that of the campaign's property first: the isotropic mean, and the tensor."""
    property_ = workspace.configuration.campaign.property
    named = named_temperature(property_)
    for temperature in wanted_temperatures(workspace, wanted):
        row = kappa.row(temperature)
        if row is None:
            raise ExchangeError(
                f"{kappa.name} has no value at {temperature:g} K (it has {listed(kappa)}); run phono3py with "
                f"--ts {temperature:g}"
            )
        yield LabelRecord(
            material_id=material_id,
            property=property_ if temperature == named else f"kappa_{temperature:g}K",
            value=float(np.mean(kappa.tensors[row][:3])),
            unit=KAPPA_UNIT,
            fidelity=fidelity,
            temperature=temperature,
            method=kappa.method,
            **shared | {"provenance": _provenance(kappa, row, temperature) | shared.get("provenance", {})},
        )


def sorted_out(problems: Sequence[Problem], wanted: Wanted) -> tuple[list[Problem], list[str]]:
    """Problems that remain, and as text those that were overridden."""
    standing = [p for p in problems if p.is_final or not wanted.force]
    return standing, [p.message for p in problems if p not in standing]


def in_words(problems: Sequence[Problem]) -> str:
    """All problems, and whether they can be overridden."""
    hint = "" if any(p.is_final for p in problems) else "; `--force` accepts it"
    return "; ".join(p.message for p in problems) + hint


def overridden(forced: Sequence[str]) -> Json:
    """Provenance of a value accepted in spite of its problems."""
    return {"forced": list(forced)} if forced else {}


def wanted_temperatures(workspace: Workspace, wanted: Wanted) -> tuple[float, ...]:
    """Temperatures of the labels in kelvin, that of the campaign's property first."""
    return tuple(dict.fromkeys([named_temperature(workspace.configuration.campaign.property), *wanted.temperatures]))


def _provenance(kappa: Kappa, row: int, temperature: float) -> Json:
    lowest, highest = kappa.frequencies or (None, None)
    found: Json = {
        "tensor": _components(kappa.tensors[row]),
        "mesh": list(kappa.mesh),
        "isotope": kappa.isotope,
        "interband": kappa.interband,
        "phono3py": kappa.version,
        "lowest_frequency_THz": _finite(lowest),
        "highest_frequency_THz": _finite(highest),
        "kappa_file": kappa.name,
        "kappa_sha256": kappa.sha256,
        "finished_at": kappa.written_at,
    }
    found |= {name: _finite(number) for name, number in kappa.numbers.items()}
    if kappa.given_method:
        found["computed_with"] = [f"{term} ({words})" for term, words in kappa.terms.items()]
    if kappa.parts:
        found["parts"] = {
            name: {"mean": _finite(float(np.mean(part[row][:3]))), "tensor": _components(part[row])}
            for name, part in kappa.parts.items()
        }
    if table := kappa.accumulated.get(temperature):
        found["accumulation"] = table
    return found


def _components(tensor: Any) -> dict[str, float | None]:
    return {name: _finite(float(value)) for name, value in zip(COMPONENTS, tensor, strict=True)}


def _finite(value: float | None) -> float | None:
    """The value as JSON can hold it."""
    return value if value is not None and np.isfinite(value) else None
