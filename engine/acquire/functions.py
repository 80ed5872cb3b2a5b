"""Acquisition functions by name, with their sources; all are maximised, a goal ``min`` negates the draws.

``ucb`` is the classical mean + sqrt(beta) std; with beta = 1 and goal ``min`` it ranks by mean - sd from below.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from enum import StrEnum

from engine.exceptions import AcquisitionError


class Needs(StrEnum):
    """What an acquisition function looks at."""

    JOINT = "joint"  # joint draws, conditioned on what is pending and already chosen
    GAUSSIAN = "gaussian"  # the joint Gaussian of the draws, conditioned on what is pending and already chosen
    PARETO = "pareto"  # joint draws of several properties, conditioned on what is pending and already chosen
    DRAW = "draw"  # one joint draw an entry
    MARGINAL = "marginal"  # mean and standard deviation of each row
    NOTHING = "nothing"
    OTHERS = "others"  # a mixture of other functions


@dataclass(frozen=True)
class AcquisitionFunction:
    """A rule that ranks rows: its name, what it looks at, where it comes from, and why it chooses a row, in words."""

    name: str
    needs: Needs
    source: str
    words: str


_AMENT = (
    "Ament, Daulton, Eriksson, Balandat, Bakshy, Unexpected improvements to expected improvement, NeurIPS 2023, "
    "arXiv:2310.20708"
)
_WILSON = (
    "Wilson, Moriconi, Hutter, Deisenroth, The reparameterization trick for acquisition functions, arXiv:1712.00424, "
    "appendix A"
)
_TOGETHER = "chosen jointly with the rest of the batch"

FUNCTIONS = {
    function.name: function
    for function in (
        AcquisitionFunction("qLogEI", Needs.JOINT, _AMENT, _TOGETHER),
        AcquisitionFunction(
            "qLogNEI",
            Needs.JOINT,
            f"{_AMENT}; noisy: Letham, Karrer, Ottoni, Bakshy, Bayesian Anal. 14, 495, 2019",
            f"{_TOGETHER}, labels not taken as exact",
        ),
        AcquisitionFunction("qUCB", Needs.JOINT, _WILSON, _TOGETHER),
        AcquisitionFunction(
            "qPI",
            Needs.JOINT,
            f"Kushner, J. Basic Eng. 86, 97, 1964; in batches: {_WILSON}",
            "makes it likeliest, with the rest of the batch, that one beats the best known",
        ),
        AcquisitionFunction(
            "GIBBON",
            Needs.GAUSSIAN,
            "Moss, Leslie, Gonzalez, Rayson, J. Mach. Learn. Res. 22, 235, 2021, arXiv:2102.03324",
            "tells most about the best value of the pool",
        ),
        AcquisitionFunction(
            "qMES",
            Needs.GAUSSIAN,
            "Wang, Jegelka, Max-value entropy search for efficient Bayesian optimization, ICML 2017, arXiv:1703.01968; "
            "Takeno et al., ICML 2020, arXiv:1901.08275",
            "tells most about the best value of the pool",
        ),
        AcquisitionFunction(
            "qKG",
            Needs.GAUSSIAN,
            "Frazier, Powell, Dayanik, INFORMS J. Comput. 21, 599, 2009",
            "its label is expected to raise the best prediction most",
        ),
        AcquisitionFunction(
            "variance",
            Needs.GAUSSIAN,
            "Seo, Wallat, Graepel, Obermayer, Gaussian process regression: active data selection, IJCNN 2000; Cohn, "
            "Ghahramani, Jordan, J. Artif. Intell. Res. 4, 129, 1996",
            "its label makes the predictions of all others surest",
        ),
        AcquisitionFunction(
            "level_set",
            Needs.GAUSSIAN,
            "Bryan, Nichol, Genovese, Schneider, Miller, Wasserman, Active learning for identifying function threshold "
            "boundaries, NIPS 2005",
            "near the threshold, and uncertain on which side",
        ),
        AcquisitionFunction(
            "qLogNEHVI",
            Needs.PARETO,
            f"Daulton, Balandat, Bakshy, NeurIPS 2021, arXiv:2105.08195; {_AMENT}",
            "widens the front of the objectives most",
        ),
        AcquisitionFunction(
            "qLogNParEGO",
            Needs.PARETO,
            f"Knowles, IEEE Trans. Evol. Comput. 10, 50, 2006; {_AMENT}",
            "improves a random compromise of the objectives most",
        ),
        AcquisitionFunction(
            "ucb",
            Needs.MARGINAL,
            "Cox, John, SDO: a statistical method for global optimization, 1992; Srinivas, Krause, Kakade, Seeger, "
            "ICML 2010, arXiv:0912.3995",
            "the best it may be",
        ),
        AcquisitionFunction(
            "top_share",
            Needs.MARGINAL,
            "expected improvement (Jones, Schonlau, Welch, J. Global Optim. 13, 455, 1998) beyond a quantile (as in "
            "Bergstra, Bardenet, Bengio, Kegl, NIPS 2011), here of the pool's predictions",
            "reaches furthest beyond the bound of the pool's best",
        ),
        AcquisitionFunction(
            "greedy", Needs.MARGINAL, "the posterior mean alone (pure exploitation)", "best predicted value"
        ),
        AcquisitionFunction(
            "thompson",
            Needs.DRAW,
            "Thompson, Biometrika 25, 285, 1933; in batches: Kandasamy et al., AISTATS 2018, arXiv:1705.09236; "
            "Hernandez-Lobato et al., ICML 2017, arXiv:1706.01825",
            "best of a draw from the posterior",
        ),
        AcquisitionFunction("random", Needs.NOTHING, "uniform without replacement (the yardstick)", "drawn at random"),
        AcquisitionFunction(
            "epsilon_greedy",
            Needs.OTHERS,
            "Sutton, Barto, Reinforcement learning, 2nd ed., 2018, section 2.2; De Ath, Everson, Rahat, Fieldsend, "
            "Greed is good, ACM TELO 1, 1, 2021, arXiv:1911.12809",
            "best predicted value, or at random",
        ),
        AcquisitionFunction(
            "portfolio",
            Needs.OTHERS,
            "Hoffman, Brochu, de Freitas, Portfolio allocation for Bayesian optimization, UAI 2011, arXiv:1009.5419",
            "by the function that has done well",
        ),
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


def scheduled_beta(n_rows: int, round_number: int, delta: float = 0.1) -> float:
    """Weight of the variance that grows with the rounds: ``2 log(n t^2 pi^2 / (6 delta))`` for n rows in round t.

    Srinivas, Krause, Kakade, Seeger, ICML 2010, arXiv:0912.3995, theorem 1: with it the regret of ucb on n rows is
    sublinear with probability ``1 - delta``. As they did in section 6, it is divided by 5, being too cautious.
    """
    if n_rows < 1 or round_number < 1 or not 0 < delta < 1:
        raise AcquisitionError(
            f"no schedule of beta for {n_rows} rows, round {round_number} and delta {delta:g}; rows and rounds count "
            "from 1, delta lies between 0 and 1"
        )
    return 2 * math.log(n_rows * round_number**2 * math.pi**2 / (6 * delta)) / 5
