"""One self-contained HTML page on the status of a campaign."""

from campaigns.report.page import write_report

__all__ = ["write_report"]
