"""The ``kappascout`` command: thin verbs over the Python interface.

Reports go to standard output, progress and messages to standard error. Exit codes: 0 done, 1 the request cannot be met
(the message says what to do), 2 wrong usage.

The modules of verbs do without ``from __future__ import annotations``: Typer would compile the annotations of every
verb whenever the command starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from campaigns.cli import archive, campaign, cluster, configuration, intake, models, queue, stability, trials
from campaigns.output import message, messages_for_warnings

app = typer.Typer(
    name="kappascout",
    help="Choose which crystals are worth a first-principles calculation of lattice thermal conductivity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    campaign.demo,
    campaign.init,
    intake.ingest,
    intake.rejections,
    campaign.run,
    campaign.status,
    campaign.rounds,
    campaign.report,
    models.train,
    models.predict,
    models.estimate,
    stability.relax,
    cluster.submit,
    cluster.watch,
    cluster.collect,
    trials.backtest,
    models.pretrain,
    trials.study,
):
    app.command()(verb)
for name, verbs in (
    ("label", intake.app),
    ("queue", queue.app),
    ("models", models.app),
    ("config", configuration.app),
    ("db", archive.store_app),
    ("archive", archive.app),
):
    app.add_typer(verbs, name=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of campaigns, engine and store become one message and exit code 1."""
    try:
        with messages_for_warnings():
            app(arguments)
    except OSError as error:
        _fail(error)
    except Exception as error:
        from campaigns.exceptions import CampaignError
        from db.exceptions import StoreError
        from engine.exceptions import EngineError

        if isinstance(error, CampaignError | EngineError | StoreError):
            _fail(error)
        raise


def _fail(error: Exception) -> None:
    message(f"error: {error}")
    sys.exit(1)
