"""Presets are tables of data; keys of [dft] replace single ones of them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from campaigns.configuration import NEW_PRESET, DftSection, parse_configuration
from campaigns.configuration.incar import checked_incar
from campaigns.exchange.presets import choices_of, presets
from tests.campaigns.helpers import done


def choices(key: str) -> tuple[str, ...]:
    """Values that a key of [dft] may have."""
    return get_args(get_args(DftSection.model_fields[key].annotation)[0])


def test_the_table_and_the_settings_agree() -> None:
    assert set(presets()) == set(choices("preset"))
    for preset in presets().values():
        for key in ("potcar_release", "magnetism", "hubbard_u", "van_der_waals"):
            assert preset.model_dump()[key] in choices(key)
        tags = preset.incar | preset.dispersion
        assert checked_incar(tags) == tags, "a preset holds what a user may write"
        assert not {"KPAR", "NCORE", "NPAR"} & set(tags)


@pytest.mark.parametrize("preset", [None, "phonon-pbesol", "phonon-pbe"])
@pytest.mark.parametrize("key", ["potcar_release", "magnetism", "hubbard_u", "van_der_waals"])
def test_a_key_replaces_that_of_the_preset(preset: str | None, key: str) -> None:
    plain = choices_of(DftSection.model_validate({"preset": preset}))
    assert plain.are_named is plain.decides_spin is (preset is not None)
    for value in choices(key):
        found = choices_of(DftSection.model_validate({"preset": preset, key: value}))
        assert found.are_named
        assert found.decides_spin is (preset is not None or key == "magnetism")
        kept = {name: getattr(found, name) for name in vars(plain) if name not in (key, "are_named", "decides_spin")}
        assert getattr(found, key) == value
        assert kept == {name: getattr(plain, name) for name in kept}


def test_new_campaigns_have_a_preset_and_old_files_none(tmp_path: Path) -> None:
    done("init", tmp_path / "c", "--cold", "--goal", "min")
    text = (tmp_path / "c" / "campaign.toml").read_text()
    assert f'\npreset = "{NEW_PRESET}"' in text
    old = text.replace(f'\npreset = "{NEW_PRESET}"', "\n")
    assert parse_configuration(old, "old").dft.preset is None
