"""All settings of a campaign as rows."""

from __future__ import annotations

from collections.abc import Iterator

from campaigns.configuration.configuration import Configuration
from campaigns.configuration.section import Section

Row = dict[str, object]


def setting_rows(configuration: Configuration) -> list[Row]:
    """A row for each setting: section, key, value, default (None if there is none), whether both agree, meaning."""
    rows: list[Row] = []
    for name, part in configuration:
        if isinstance(part, Section):
            rows += _rows_of(name, part)
        else:  # a table of names or a list of tables, empty by default
            field = Configuration.model_fields[name]
            value = configuration.model_dump(mode="json", include={name})[name]
            rows.append(_row(name, "", value, field.get_default(call_default_factory=True), field.description))
    return rows


def _rows_of(name: str, section: Section) -> Iterator[Row]:
    values = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data=values)
        yield _row(name, key, values[key], default, field.description)


def _row(section: str, key: str, value: object, default: object, meaning: str | None) -> Row:
    plain = list(default) if isinstance(default, tuple) else default
    return {
        "section": section,
        "key": key,
        "value": value,
        "default": plain,
        "is_default": value == plain,
        "meaning": meaning or "",
    }
