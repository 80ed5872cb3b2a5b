"""Losses by name, over labels that are known, and how several properties are balanced against each other."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from engine.exceptions import TrainingError

Loss = Literal["huber", "l1", "nll"]
"""``huber``: smooth L1; ``l1``; ``nll``: Gaussian negative log-likelihood, where the network predicts its noise."""
Balance = Literal["equal", "size", "uncertainty"]
"""``equal``: every property counts the same, so that a large set does not drown a small one; ``size``: every label
does; ``uncertainty``: by learned homoscedastic noise, Kendall, Gal and Cipolla, CVPR 2018, arXiv 1705.07115."""

_LOG_VARIANCE_LIMIT = 8.0
"""A standardised label with a noise below exp(-4) would have an unbounded gain from one lucky row."""


def check_loss(loss: str, balance: str) -> None:
    """Raise :class:`TrainingError` for words that are not known, or that do not go together."""
    for kind, value, known in (("loss", loss, Loss), ("balance", balance, Balance)):
        if value not in get_args(known):
            raise TrainingError(f"unknown {kind} {value!r}; choose one of {', '.join(get_args(known))}")
    if loss == "nll" and balance == "uncertainty":
        raise TrainingError("loss 'nll' and balance 'uncertainty' both learn the noise; use one of them")


def masked_loss(
    prediction: Tensor,
    target: Tensor,
    log_variance: Tensor | None = None,
    *,
    loss: Loss = "huber",
    balance: Balance = "equal",
    log_noise: Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Loss averaged over the rows of each property that have a label, then over properties by ``balance``.

    Parameters
    ----------
    prediction, target
        n x P, standardised; a target is NaN where it is unknown.
    log_variance
        n x P, predicted logarithm of the noise variance; of ``nll``.
    log_noise
        P, learned logarithm of the noise variance of each property; of ``uncertainty``.
    labels
        P, number of labels of the whole batch where these rows are a part of it; the losses of the parts then add up to
        that of the batch.
    """
    known = torch.isfinite(target)
    filled = torch.where(known, target, prediction.detach())
    here = known.sum(0)
    labels = here if labels is None else labels
    present = labels > 0
    terms = ((_errors(prediction, filled, log_variance, loss) * known).sum(0)[present]) / labels[present]
    if balance == "size":
        return (terms * labels[present]).sum() / labels.sum()
    if log_noise is not None:
        share = here[present] / labels[present]  # 1 unless these rows are a part of a batch
        terms = torch.exp(-log_noise[present]) * terms + 0.5 * log_noise[present] * share
    return terms.mean()


def _errors(prediction: Tensor, target: Tensor, log_variance: Tensor | None, loss: Loss) -> Tensor:
    if loss == "huber":
        return nn.functional.smooth_l1_loss(prediction, target, reduction="none")
    if loss == "l1":
        return nn.functional.l1_loss(prediction, target, reduction="none")
    if log_variance is None:
        raise TrainingError("loss 'nll' needs a network that predicts its noise; build it with predicts_noise=True")
    bounded = log_variance.clamp(-_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT)
    return 0.5 * (bounded + torch.square(target - prediction) * torch.exp(-bounded))
