"""Known ways in which VASP and the queueing system end a calculation, and what to change: ``crashes.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from db.states import FailureReason


@dataclass(frozen=True)
class Crash:
    """A message that explains why VASP did not come to its end; fields as in ``crashes.toml``."""

    name: str
    reason: FailureReason
    """Reason of the failure where there is no second attempt, or that ends so too."""
    pattern: str
    """Extended regular expression of the message, also valid in Python."""
    example: str
    means: str
    change: tuple[tuple[str, str], ...]
    """INCAR tags of a second attempt with their values; empty: there is none."""

    @property
    def tags(self) -> str:
        """Tags of a second attempt as lines of an INCAR, joined by ``; ``."""
        return "; ".join(f"{tag} = {value}" for tag, value in self.change)


@cache
def known_crashes() -> tuple[Crash, ...]:
    """All rules, in the order in which they are asked."""
    text = (resources.files("campaigns.exchange") / "crashes.toml").read_text(encoding="utf-8")
    return tuple(
        Crash(
            rule["name"],
            FailureReason[rule.get("reason", FailureReason.CRASHED.value).upper()],
            rule["pattern"],
            rule["example"],
            rule["means"],
            tuple((tag, str(value)) for tag, value in rule.get("change", {}).items()),
        )
        for rule in tomllib.loads(text)["crash"]
    )
