"""The method of first principles of an entry, from its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from campaigns.exchange.functional import functional_of, hubbard_u
from campaigns.exchange.manifest import Method
from campaigns.exchange.presets import choices_of
from campaigns.exchange.spin import Spin

if TYPE_CHECKING:
    from campaigns.configuration import DftSection
    from campaigns.exchange.pseudopotentials import Pseudopotential
    from campaigns.exchange.vasp import VaspInputs


def _moments(incar: Mapping[str, object]) -> str:
    """MAGMOM as one line."""
    given = incar.get("MAGMOM", "")
    return " ".join(f"{moment:g}" for moment in given) if isinstance(given, list) else str(given)


def method_of(
    inputs: Mapping[str, VaspInputs], chosen: Sequence[Pseudopotential], dft: DftSection
) -> tuple[Method | None, list[str]]:
    """The method, None where ``[dft]`` has neither a preset nor one of its keys, and notes on it.

    Parameters
    ----------
    inputs
        Inputs by stage; those of the forces, where there are any, are decisive.
    chosen
        Pseudopotentials in the order of the elements in POSCAR.
    dft
        Settings of the campaign.
    """
    choices = choices_of(dft)
    if not choices.are_named:
        return None, []
    main = inputs.get("forces") or inputs["relax"]
    functionals = {stage: functional_of(each.tags) for stage, each in inputs.items()}
    functional = functional_of(main.tags)
    notes = []
    if "relax" in functionals and functionals["relax"] != functional:
        functional = f"{functional}, relaxed with {functionals['relax']}"
        notes.append(f"forces are of {functional}: [dft] incar has tags of one stage")
    of_u = hubbard_u(main.tags)
    method = Method(
        preset=choices.preset,
        functional=functional,
        potcar_release=choices.potcar_release,
        potcar={one.element: one.name for one in chosen},
        spin=str(main.spin),
        moments=_moments(main.tags) if main.spin is Spin.GIVEN else "",
        magnetism=choices.magnetism if main.spin in (Spin.TESTED, Spin.PARALLEL) else "",
        hubbard_u={one.element: u for one, u in zip(chosen, of_u, strict=False) if u},
    )
    return method, notes
