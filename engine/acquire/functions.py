"""Acquisition functions by name, with their sources; all are maximised, a goal ``min`` negates the draws.

``ucb`` is the classical mean + sqrt(beta) std; with beta = 1 and goal ``min`` it ranks by mean - sd from below.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from engine.exceptions import AcquisitionError


class Needs(StrEnum):
    """What an acquisition function looks at."""

    JOINT = "joint"  # joint draws, conditioned on what is pending and already chosen
    DRAW = "draw"  # one joint draw an entry
    MARGINAL = "marginal"  # mean and standard deviation of each row
    NOTHING = "nothing"


@dataclass(frozen=True)
class AcquisitionFunction:
    """A rule that ranks rows: its name, what it looks at and where it comes from."""

    name: str
    needs: Needs
    source: str


FUNCTIONS = {
    function.name: function
    for function in (
        AcquisitionFunction(
            "qLogEI",
            Needs.JOINT,
            "Ament, Daulton, Eriksson, Balandat, Bakshy, Unexpected improvements to expected improvement, "
            "NeurIPS 2023, arXiv:2310.20708",
        ),
        AcquisitionFunction(
            "qUCB",
            Needs.JOINT,
            "Wilson, Moriconi, Hutter, Deisenroth, The reparameterization trick for acquisition functions, "
            "arXiv:1712.00424, appendix A",
        ),
        AcquisitionFunction(
            "ucb",
            Needs.MARGINAL,
            "Cox, John, SDO: a statistical method for global optimization, 1992; Srinivas, Krause, Kakade, Seeger, "
            "ICML 2010, arXiv:0912.3995",
        ),
        AcquisitionFunction("greedy", Needs.MARGINAL, "the posterior mean alone (pure exploitation)"),
        AcquisitionFunction(
            "thompson",
            Needs.DRAW,
            "Thompson, Biometrika 25, 285, 1933; in batches: Kandasamy et al., AISTATS 2018, arXiv:1705.09236; "
            "Hernandez-Lobato et al., ICML 2017, arXiv:1706.01825",
        ),
        AcquisitionFunction("random", Needs.NOTHING, "uniform without replacement (the yardstick)"),
    )
}


def acquisition_function(name: str) -> AcquisitionFunction:
    """Look an acquisition function up by name; an unknown one raises, naming the nearest."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    folded = {known.lower(): known for known in FUNCTIONS}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    raise AcquisitionError(f"unknown acquisition function {name!r}; {hint}known are {', '.join(FUNCTIONS)}")
