"""Verbs that keep a campaign: archives of it, and its store."""

from pathlib import Path
from typing import Annotated

import typer

from campaigns.cli.options import Dir, OutFormat, Quiet, open_campaign
from campaigns.output import Format, Progress, emit_one, message

app = typer.Typer(no_args_is_help=True, help="A whole campaign as one file, checked by hash.")
store_app = typer.Typer(no_args_is_help=True, help="Keep the store up to date.")

Archive = Annotated[Path, typer.Argument(metavar="FILE", help="Archive that `archive create` wrote.")]


@app.command("create")
def archive_create(
    directory: Dir,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="File to write: .tar.zst or .tar.gz.")],
    caches: Annotated[
        bool, typer.Option("--caches", help="Include graphs and embeddings, which can also be made again.")
    ] = False,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Write a campaign, its store and artifacts into one file."""
    from campaigns.archive import create_archive

    with open_campaign(directory) as campaign, Progress(quiet) as progress:
        manifest = create_archive(campaign, to, caches, progress.say)
    emit_one(manifest.summary(), format)
    message(f"{directory} written to {to}")


@app.command("verify")
def archive_verify(file: Archive, format: OutFormat = Format.TABLE, quiet: Quiet = False) -> None:
    """Check the hash of every file of an archive; exit code 1 if one is missing or changed."""
    from campaigns.archive import verify_archive

    with Progress(quiet) as progress:
        manifest = verify_archive(file, progress.say)
    emit_one(manifest.summary(), format)
    message(f"{file} is intact")


@app.command("extract")
def archive_extract(
    file: Archive,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New campaign directory.")],
    store: Annotated[
        str,
        typer.Option("--store", metavar="URL", help="URL of a database for the store; without it store.sqlite in DIR."),
    ] = "",
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Make a campaign directory from an archive, whichever database its store was in."""
    from campaigns.archive import extract_archive

    with Progress(quiet) as progress:
        manifest = extract_archive(file, directory, store, progress.say)
    emit_one(manifest.summary(), format)
    message(f"{file} extracted to {directory}; go on with `kappascout status {directory}`")


@store_app.command("upgrade")
def db_upgrade(directory: Dir) -> None:
    """Upgrade the store of a campaign to this version of the program."""
    from campaigns.workspace import upgrade_store

    before, after = upgrade_store(directory)
    message(f"store of {directory}: version {before} -> {after}" if before != after else "the store is up to date")
