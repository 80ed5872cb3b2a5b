"""Settings of VASP that a campaign chose: those of a preset, replaced by the keys of ``[dft]``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from campaigns.configuration.incar import Tags
from campaigns.configuration.section import Section

if TYPE_CHECKING:
    from campaigns.configuration import DftSection


class Preset(Section):
    """One table of ``presets.toml``."""

    potcar_release: str
    magnetism: str
    hubbard_u: str
    van_der_waals: str
    incar: Tags
    """Tags of all stages."""
    dispersion: Tags
    """Tags of the van der Waals correction, where one is used."""


@dataclass(frozen=True)
class Choices:
    """What ``[dft]`` decides about VASP's inputs."""

    preset: str | None = None
    potcar_release: str | None = None
    """Release whose names of pseudopotentials are used; None: the names of ``MPRelaxSet``."""
    magnetism: str = "ferromagnetic"
    """``refuse``, ``ferromagnetic`` or ``nonmagnetic``."""
    hubbard_u: str = "materials-project"
    """``never`` or ``materials-project``."""
    van_der_waals: str = "never"
    """``never``, ``layered`` or ``always``."""
    incar: Tags | None = None
    dispersion: Tags | None = None
    are_named: bool = False
    """Whether a preset or one of these keys is given; without one, inputs are those of ``MPRelaxSet``."""
    decides_spin: bool = False
    """Whether the relaxation decides if later stages have spin."""

    def tags(self, *, is_layered: bool) -> Tags:
        """INCAR tags of all stages of a crystal."""
        corrected = self.van_der_waals == "always" or (self.van_der_waals == "layered" and is_layered)
        tags = dict(self.incar or {})
        tags |= (self.dispersion or {}) if corrected else {}
        return tags | ({"LDAU": False} if self.hubbard_u == "never" else {})


def choices_of(dft: DftSection) -> Choices:
    """The settings of a campaign."""
    names = {"potcar_release", "magnetism", "hubbard_u", "van_der_waals"}
    given = dft.model_dump(include=names, exclude_none=True)
    found = Choices(dispersion={"IVDW": 12})
    if dft.preset is not None:
        found = Choices(preset=dft.preset, **presets()[dft.preset].model_dump())
    return replace(
        found,
        **given,
        are_named=dft.preset is not None or bool(given),
        decides_spin=dft.preset is not None or dft.magnetism is not None,
    )


@lru_cache(maxsize=1)
def presets() -> dict[str, Preset]:
    """All presets by name."""
    text = (resources.files("campaigns") / "exchange" / "presets.toml").read_text(encoding="utf-8")
    return {name: Preset.model_validate(table) for name, table in tomllib.loads(text).items()}
