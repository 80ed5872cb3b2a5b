"""The commented ``campaign.toml`` of a new campaign, written from the settings' own descriptions and defaults."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from campaigns.configuration.acquisition import AcquisitionSection
from campaigns.configuration.configuration import Configuration
from campaigns.configuration.goals import ObjectiveSection
from campaigns.configuration.labels import LabelerSection
from campaigns.configuration.machines import SlurmSection
from campaigns.configuration.section import Section
from campaigns.configuration.toml_text import toml_value
from campaigns.exceptions import CampaignError

TEMPLATES = ("default",)
_HEAD = """\
# A kappascout campaign: choose which crystals are worth a first-principles calculation.
# Lines that begin with # are off; they show a key's default, or an example where the default is to have none.
"""
_WRITTEN = {
    "campaign": ("name", "goal", "property", "unit", "fidelity", "batch", "budget", "seed"),
    "model": ("backbone", "networks", "head", "members"),
    "acquisition": ("function", "beta"),
    "labeler": ("kind",),
}
"""Keys that are written although they have their default: those that most people change."""
_COLUMN, _WIDTH = 30, 120
"""Columns where comments begin and lines end."""


def campaign_toml(settings: Mapping[str, Mapping[str, object]], template: str = "default") -> str:
    """Text of a new ``campaign.toml`` with these settings; every other key is commented out.

    Parameters
    ----------
    settings
        Values by section and key; ``[campaign] name`` and ``goal`` have no default.
    template
        Name of the template; there is one.

    Raises
    ------
    CampaignError
        If there is no such template.
    """
    if template not in TEMPLATES:
        raise CampaignError(f"no template {template!r}; there are: {', '.join(TEMPLATES)}")
    lines = [_HEAD]
    for name, field in Configuration.model_fields.items():
        lines += [*_section(name, field, settings.get(name, {})), ""]
    return "\n".join(lines)


def with_settings(text: str, settings: Mapping[str, Mapping[str, object]]) -> str:
    """Text of a ``campaign.toml`` with some settings changed and its comments kept; None removes a key."""
    import tomlkit
    from tomlkit.items import Table

    document = tomlkit.parse(text)
    for section, values in settings.items():
        table = document.setdefault(section, tomlkit.table())
        assert isinstance(table, Table)
        for key, value in values.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
    return document.as_string()


def _section(name: str, field: FieldInfo, given: Mapping[str, object]) -> Iterator[str]:
    if name == "objectives":
        yield from _off("[[objectives]]", ObjectiveSection, _example_of(ObjectiveSection))
        return
    annotation = field.annotation
    if not (isinstance(annotation, type) and issubclass(annotation, Section)):  # a table of names, [costs]
        yield from _line(f"[{name}]", field.description or "")
        for key, value in _example(field).items():
            yield from _line(f"# {key} = {toml_value(value)}", "")
        return
    yield from _line(f"[{name}]", annotation.__doc__ or "")
    written = {key: _default(annotation.model_fields[key], given) for key in _WRITTEN.get(name, ())} | dict(given)
    for key, setting in annotation.model_fields.items():
        if _is_table(annotation, key):
            continue
        if key in written:
            yield from _line(f"{key} = {toml_value(written[key])}", _comment(annotation, key))
        else:
            yield from _line(f"# {key} = {toml_value(_shown(setting))}", _comment(annotation, key))
    # unknown keys are written, too, so that the check of the file reports them
    yield from (f"{key} = {toml_value(value)}" for key, value in written.items() if key not in annotation.model_fields)
    if annotation is LabelerSection:
        tables = annotation.model_fields["fidelities"]
        for fidelity, values in _example(tables).items():
            assert isinstance(values, dict)
            yield from _off(f"[labeler.{fidelity}]", LabelerSection, values, tables.description)
    if "slurm" in annotation.model_fields and name == "execution":
        yield from _off("[execution.slurm]", SlurmSection, _example_of(SlurmSection))


def _is_table(section: type[Section], key: str) -> bool:
    """Whether a key is a separate section, below the keys of this one."""
    return (section is LabelerSection and key == "fidelities") or (
        key == "slurm" and section.model_fields[key].annotation == SlurmSection | None
    )


def _off(header: str, section: type[Section], shown: Mapping[str, object], words: str | None = None) -> Iterator[str]:
    """A whole section that is commented out."""
    yield from _line(f"# {header}", words or section.__doc__ or "")
    for key, value in shown.items():
        yield from _line(f"#  {key} = {toml_value(value)}", _comment(section, key) if words is None else "")


def _line(assignment: str, comment: str) -> Iterator[str]:
    """A key and its comment, wrapped below itself where it is long."""
    if not comment:
        yield assignment
        return
    margin = ("#" if assignment.startswith("#") else "").ljust(_COLUMN)
    start = assignment.ljust(_COLUMN - 2) + "  # "
    yield from textwrap.wrap(
        comment,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=f"{margin}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _comment(section: type[Section], key: str) -> str:
    words = section.model_fields[key].description or ""
    if section is AcquisitionSection and key == "function":
        from engine.acquire.functions import FUNCTIONS

        several = [name for name in FUNCTIONS if AcquisitionSection.model_construct(function=name).is_pareto]
        single = [name for name in FUNCTIONS if name not in several]
        return f"{words} {' | '.join(single)}; with [[objectives]] {' | '.join(several)}."
    return words


def _example_of(section: type[Section]) -> dict[str, object]:
    return {key: _shown(field) for key, field in section.model_fields.items()}


def _shown(field: FieldInfo) -> object:
    """Value shown for a key that is commented out: its default, or an example where that is empty."""
    default = _default(field, {})
    return field.examples[0] if field.examples and default in (None, "", (), {}) else default


def _default(field: FieldInfo, given: Mapping[str, object]) -> object:
    """Default of a key in a section with these values; None if it must be given."""
    return None if field.is_required() else field.get_default(call_default_factory=True, validated_data=dict(given))


def _example(field: FieldInfo) -> dict[str, object]:
    found = (field.examples or [{}])[0]
    assert isinstance(found, dict)
    return found
