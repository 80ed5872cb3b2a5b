"""What the user does: configuration, the round, labelers, backtests, reports and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

__all__ = ["Campaign"]


def __getattr__(name: str) -> type[Campaign]:
    """Import late: ``import campaigns`` must not load torch."""
    if name == "Campaign":
        from campaigns.campaign import Campaign

        return Campaign
    raise AttributeError(f"module 'campaigns' has no attribute {name!r}")
