"""A portfolio of acquisition functions that hedges between them by past success.

GP-Hedge (Hoffman, Brochu, de Freitas, UAI 2011, arXiv:1009.5419; the weights are Hedge of Auer et al., FOCS 1995): each
function is used with probability proportional to exp(eta gain). Their reward is the model's mean at what each function
would have chosen; here it is the label of what each did choose, as its rank among all labels, so that an outlier does
not dominate. A function that chose nothing gets the mean reward. Gains are plain numbers by name, to
be stored with a round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEMBERS = ("ucb", "qLogEI", "thompson", "greedy")
"""Default functions of a portfolio."""
ETA = 4.0
"""Temperature: a function with only the best labels is e^4 = 55 times as likely as one with only the worst."""


def probabilities(gains: Mapping[str, float], eta: float = ETA) -> dict[str, float]:
    """Probability of each function, from its gain."""
    if not gains:
        raise AcquisitionError("a portfolio without functions chooses nothing; name some, such as ucb and qLogEI")
    import numpy as np

    raw = np.array(list(gains.values()), dtype=np.float64)
    if not np.isfinite(raw).all():
        raise AcquisitionError(f"the gains of a portfolio are {dict(gains)}; all have to be finite, 0 to begin")
    weights = np.exp(eta * (raw - raw.max()))
    return dict(zip(gains, (weights / weights.sum()).tolist(), strict=True))


def updated_gains(
    gains: Mapping[str, float],
    rules: Sequence[str],
    utilities: NDArray[np.float64],
    earlier: NDArray[np.float64],
) -> dict[str, float]:
    """Gains after a round's labels have arrived.

    Parameters
    ----------
    gains
        Before the round.
    rules
        The function that chose each labelled row of the round (:attr:`engine.acquire.batch.Batch.rules`).
    utilities
        Utilities of the labels of these rows; larger is better.
    earlier
        Utilities of all labels known before.
    """
    import numpy as np

    known = np.sort(np.concatenate([earlier, utilities]))
    places = (np.searchsorted(known, utilities, "left") + np.searchsorted(known, utilities, "right")) / (2 * len(known))
    rewards = {name: float(places[[rule == name for rule in rules]].mean()) for name in gains if name in rules}
    if not rewards:
        return dict(gains)
    average = float(np.mean(list(rewards.values())))
    return {name: gain + rewards.get(name, average) for name, gain in gains.items()}
