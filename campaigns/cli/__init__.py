"""The ``kappascout`` command."""

from campaigns.cli.command import app, main

__all__ = ["app", "main"]
