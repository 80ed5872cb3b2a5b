"""Verbs on the settings of a campaign."""

import typer

from campaigns.cli.options import Dir, OutFormat
from campaigns.output import Format, emit, message

app = typer.Typer(no_args_is_help=True, help="Look at the settings of a campaign, and bring them up to date.")


@app.command("show")
def config_show(directory: Dir, format: OutFormat = Format.TABLE) -> None:
    """List every setting with its value, and whether that is the default."""
    from campaigns.configuration import FILE, read_configuration, setting_rows, toml_value

    rows = setting_rows(read_configuration(directory / FILE))
    if format is Format.TABLE:
        rows = [row | {"value": "-" if row["value"] is None else toml_value(row["value"])} for row in rows]
    emit(rows, format, columns=["section", "key", "value", "is_default"])


@app.command("upgrade")
def config_upgrade(directory: Dir) -> None:
    """Rewrite campaign.toml with today's keys; comments stay, and the old file is kept as campaign.toml.old."""
    from campaigns.configuration import FILE, upgrade_configuration

    path = directory / FILE
    for change in upgrade_configuration(path):
        message(change)
    message(f"{path} is up to date")
