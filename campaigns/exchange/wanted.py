"""What is wanted of results that are imported, and what became of each folder of them."""

from __future__ import annotations

from dataclasses import dataclass

from campaigns.exceptions import ExchangeError


@dataclass(frozen=True)
class Wanted:
    """What is asked of results that come in."""

    temperatures: tuple[float, ...] = ()
    """Kelvin, beside that of the campaign's property."""
    as_method: str = ""
    """Name for conductivities of another method than exported; without one they are refused."""
    force: bool = False
    """Whether values are taken that are judged not to be the crystal's."""

    def __post_init__(self) -> None:
        """Refuse names of exported methods for anything but what was exported."""
        if self.as_method.lower().startswith("phono3py "):
            raise ExchangeError(f"--as-method {self.as_method!r} is how exported results are named; give another name")
        if self.as_method != self.as_method.strip():
            raise ExchangeError(f"--as-method {self.as_method!r} begins or ends with a space; give a plain name")


@dataclass(frozen=True)
class EntryOutcome:
    """What became of one folder."""

    folder: str
    id: str
    state: str
    """``not started``, ``running``, ``done``, ``failed`` or ``refused``."""
    message: str = ""
