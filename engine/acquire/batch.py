"""Choice of a batch from the whole pool: which rows to compute next, in order.

Functions of the batch as a whole are maximised by sequential greedy optimisation (:mod:`engine.acquire.sequential`).
A maximum over D draws saturates as the batch grows. When no row has a gain above the numerical
resolution, the rest is chosen by the marginal upper confidence bound, with a note; a seeded permutation breaks ties.

Feasibility, diversity and cost enter as factors of the acquisition value: added as logarithms where it is one,
multiplied where it is positive, and applied to the excess over the candidates' median where it has no natural zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.acquire.builder import Batch, BatchBuilder
from engine.acquire.functions import acquisition_function
from engine.acquire.limits import BatchLimits
from engine.acquire.pool import CandidatePool, Criterion
from engine.acquire.request import BatchRequest
from engine.exceptions import AcquisitionError

__all__ = ["Batch", "choose_batch"]


def choose_batch(criteria: Sequence[Criterion], request: BatchRequest) -> Batch:
    """Choose rows among the candidates that are not pending.

    Parameters
    ----------
    criteria
        One property with its objective, or several over the same pool for ``qLogNEHVI`` and ``qLogNParEGO``:
        predicted (an ensemble's posterior) or known (:class:`engine.posteriors.posterior.KnownValues`), with as many
        joint draws each.
    request
        Number of rows and how they are chosen.

    Raises
    ------
    AcquisitionError
        For a request that cannot be met, before any expensive computation.
    """
    criteria = tuple(criteria)
    function = acquisition_function(request.acquisition)
    function.check(request, len(criteria))
    for criterion in criteria:
        request.check_pool(criterion.posterior.n_rows)
    sizes = {(c.posterior.n_rows, c.posterior.n_draws) for c in criteria} if len(criteria) > 1 else set()
    if len(sizes) > 1:
        raise AcquisitionError(f"the objectives' posteriors have {sorted(sizes)} rows and draws; make them agree")
    n_rows, free = criteria[0].posterior.n_rows, request.free
    log_weights = request.log_weights(n_rows)
    priority = request.rng.integers(2**63, size=len(free))
    pool = CandidatePool(criteria, free, priority, request.chunk, request.targets(n_rows))
    limits = BatchLimits(free, request.limits, request.cost, request.budget, request.relatives, request.pending_rows)
    builder = BatchBuilder(pool, request, limits, log_weights)
    n = len(free) if request.q is None else request.q
    function.extend(builder, n)
    notes = [note for criterion in criteria for note in criterion.posterior.notes]
    return builder.batch(n, notes)
