"""One self-contained HTML page on where a campaign stands."""

from campaigns.report.page import write_report

__all__ = ["write_report"]
