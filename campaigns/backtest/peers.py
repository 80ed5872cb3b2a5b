"""Peers: other methods that choose labels, on the same pool, embedding, initial labels, batches and seeds.

A peer gets the embedding of the whole pool (composition statistics, readout, trunk) and the labels acquired so far.

- ``random`` draws uniformly without replacement.
- ``extra-trees`` (P. Geurts et al., Mach. Learn. 63, 3 (2006)) and ``random-forest`` (L. Breiman, Mach. Learn. 45, 5
  (2001)), scikit-learn: 500 trees, mean less the standard deviation over trees.
- ``gp``: BoTorch's ``SingleTaskGP`` with one length scale of a Matern-5/2 kernel, mean less one standard deviation.
- ``botorch-qlognei``: the same Gaussian process with ``qLogNoisyExpectedImprovement`` (S. Ament et al., NeurIPS 36
  (2023)) through ``optimize_acqf_discrete``.
- ``baybe`` (Merck KGaA): a campaign over one custom discrete parameter with its default recommender; its own
  decorrelation reduces the columns. ``baybe-pca``: over 20 principal components, for pools of thousands.
- ``physbo`` (Y. Motoyama et al., Comput. Phys. Commun. 278, 108405 (2022)): Thompson sampling by Bayesian linear
  regression on 2,000 random features. A batch is the maxima of as many draws; PHYSBO's own batches take minutes.

BayBE and PHYSBO are installed by the extra ``bench``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from campaigns.exceptions import CampaignError

if TYPE_CHECKING:
    from botorch.models.model import Model
    from numpy.typing import NDArray
    from torch import Tensor

TREES = 500
COMPONENTS = 20
RANDOM_FEATURES = 2000
SAMPLES = 128
"""Samples of qLogNEI's Monte Carlo integral, as in BoTorch's own examples."""
ALIASES = {"trees": "extra-trees", "forest": "random-forest"}


class Peer(Protocol):
    """A method that chooses rows of the pool."""

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Rows to acquire next.

        Parameters
        ----------
        acquired
            Acquired rows of the pool, in order of acquisition.
        target
            Their labels, to be minimised, on the model's scale.
        batch
            Number of rows to acquire.
        """


class RandomPeer:
    """Draws uniformly without replacement."""

    def __init__(self, features: NDArray[np.float64], rng: np.random.Generator):
        self._rows = len(features)
        self._rng = rng

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Draw rows that have not been acquired."""
        drawn: list[int] = self._rng.choice(_free(self._rows, acquired), batch, replace=False).tolist()
        return drawn


class TreesPeer:
    """A forest; the trees' spread is its uncertainty."""

    def __init__(self, features: NDArray[np.float64], seed: int, kind: str):
        self._x = features.astype(np.float32)
        self._seed = seed
        self._kind = kind

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Take the rows of the lowest mean less standard deviation over trees."""
        from sklearn import ensemble

        if self._kind == "extra-trees":
            forest = ensemble.ExtraTreesRegressor(TREES, max_features=0.5, n_jobs=1, random_state=self._seed)
        else:
            forest = ensemble.RandomForestRegressor(TREES, n_jobs=1, random_state=self._seed)
        forest.fit(self._x[acquired], target)
        free = _free(len(self._x), acquired)
        predicted = np.stack([tree.predict(self._x[free]) for tree in forest.estimators_])
        return _lowest(free, predicted.mean(0) - predicted.std(0), batch)


class GaussianProcess:
    """One Gaussian process on standardised features."""

    def __init__(self, features: NDArray[np.float64]):
        varying = _standardised(features)
        self._x = varying / np.sqrt(varying.shape[1])  # keeps distances near one for any number of columns

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Take the rows of the lowest mean less standard deviation."""
        import torch

        free = _free(len(self._x), acquired)
        model = self._fit(acquired, target)
        with torch.no_grad():
            posterior = model.posterior(torch.from_numpy(self._x[free]))
        bound = posterior.mean[:, 0] - posterior.variance[:, 0].clamp_min(0).sqrt()
        return _lowest(free, bound.numpy(), batch)

    def predict(
        self, acquired: Sequence[int], target: NDArray[np.float64], rows: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of a new label (noise included) of each of ``rows``, in units of the target."""
        import torch

        model = self._fit(acquired, target)
        with torch.no_grad():
            posterior = model.posterior(torch.from_numpy(self._x[list(rows)]), observation_noise=True)
            mean, std = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].clamp_min(0).sqrt().numpy()
        scale = float(target.std()) or 1.0
        return mean * scale + float(target.mean()), std * scale

    def _fit(self, acquired: Sequence[int], target: NDArray[np.float64]) -> Any:
        """Fit to standardised targets, which do not change the order of the pool."""
        import torch
        from botorch import settings
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.kernels import MaternKernel, ScaleKernel
        from gpytorch.mlls import ExactMarginalLogLikelihood

        y = (target - target.mean()) / (target.std() or 1.0)
        with settings.validate_input_scaling(False):  # BoTorch expects features between 0 and 1
            model = SingleTaskGP(
                torch.from_numpy(self._x[list(acquired)]),
                torch.from_numpy(y)[:, None],
                covar_module=ScaleKernel(MaternKernel(nu=2.5)),
                outcome_transform=None,
            )
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        return model


class QLogNEI(GaussianProcess):
    """BoTorch's noisy expected improvement, one pick after another, each joint with those before."""

    def __init__(self, features: NDArray[np.float64], seed: int):
        super().__init__(features)
        self._seed = seed

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Optimise over the rows that have not been acquired."""
        import torch
        from botorch.acquisition.logei import qLogNoisyExpectedImprovement
        from botorch.optim import optimize_acqf_discrete
        from botorch.sampling.normal import SobolQMCNormalSampler

        torch.manual_seed(1000 * self._seed + len(acquired))
        lookup = _lookup(self._fit(acquired, -target), torch.from_numpy(self._x))  # BoTorch maximises
        rows = torch.arange(len(self._x), dtype=torch.float64)[:, None]
        acquisition = qLogNoisyExpectedImprovement(
            lookup,
            X_baseline=rows[list(acquired)],
            sampler=SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=self._seed),
            prune_baseline=True,
        )
        free = rows[_free(len(rows), acquired)]
        chosen, _ = optimize_acqf_discrete(acquisition, q=batch, choices=free, max_batch_size=1024, unique=True)
        return [round(row) for row in chosen[:, 0].tolist()]


class Baybe:
    """A BayBE campaign."""

    def __init__(self, features: NDArray[np.float64], seed: int, components: int | None = None):
        import pandas as pd

        gc.freeze()  # importing BayBE runs the garbage collector dozens of times over everything that is loaded
        from baybe import Campaign, Settings
        from baybe.parameters import CustomDiscreteParameter
        from baybe.targets import NumericalTarget

        gc.unfreeze()
        Settings(random_seed=seed).activate()
        x = _standardised(features)
        if components:
            from sklearn.decomposition import PCA

            x = PCA(min(components, *x.shape), random_state=0).fit_transform(x)
        # BayBE refuses equal rows: the first represents all of them
        _, first, inverse = np.unique(x, axis=0, return_index=True, return_inverse=True)
        self._first = first[inverse.ravel()]
        rows = np.unique(first)
        table = pd.DataFrame(x[rows], index=rows.astype(str), columns=[f"x{j}" for j in range(x.shape[1])])
        parameter = CustomDiscreteParameter("material", table, decorrelate=components is None)
        # by default a campaign may propose what it has measured already
        self._campaign = Campaign(
            parameter.to_searchspace(),
            NumericalTarget("value", minimize=True).to_objective(),
            allow_recommending_already_measured=False,
        )
        self._told = 0

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Add the new labels to the peer's own campaign, and ask it for a batch."""
        import pandas as pd

        new = [str(self._first[row]) for row in acquired[self._told :]]
        self._campaign.add_measurements(pd.DataFrame({"material": new, "value": target[self._told :]}))
        self._told = len(acquired)
        return [int(row) for row in self._campaign.recommend(batch_size=batch)["material"]]


class Physbo:
    """PHYSBO's discrete policy."""

    def __init__(self, features: NDArray[np.float64], seed: int):
        import physbo

        self._policy = physbo.search.discrete.Policy(test_X=_standardised(features))
        self._policy.set_seed(seed)
        self._rows = len(features)
        self._told = 0

    def propose(self, acquired: Sequence[int], target: NDArray[np.float64], batch: int) -> list[int]:
        """Fit, then take the maximum of one posterior draw after another."""
        self._policy.write(np.array(acquired[self._told :]), -target[self._told :])  # PHYSBO maximises
        self._told = len(acquired)
        self._policy.bayes_search(max_num_probes=0, is_disp=False, num_rand_basis=RANDOM_FEATURES)
        free = _free(self._rows, acquired).tolist()
        chosen: list[int] = []
        for _ in range(batch):
            draw = self._policy.get_score("TS", actions=np.array(free))
            chosen.append(free.pop(int(np.argmax(draw))))
        return chosen


PEERS: dict[str, Callable[[NDArray[np.float64], int, np.random.Generator], Peer]] = {
    "random": lambda x, seed, rng: RandomPeer(x, rng),
    "extra-trees": lambda x, seed, rng: TreesPeer(x, seed, "extra-trees"),
    "random-forest": lambda x, seed, rng: TreesPeer(x, seed, "random-forest"),
    "gp": lambda x, seed, rng: GaussianProcess(x),
    "botorch-qlognei": lambda x, seed, rng: QLogNEI(x, seed),
    "baybe": lambda x, seed, rng: Baybe(x, seed),
    "baybe-pca": lambda x, seed, rng: Baybe(x, seed, COMPONENTS),
    "physbo": lambda x, seed, rng: Physbo(x, seed),
}
"""Peers by name, from N x d features, the seed, and a generator in its state after the initial draw."""
_PACKAGES = {
    "extra-trees": "scikit-learn", "random-forest": "scikit-learn", "gp": "botorch", "botorch-qlognei": "botorch",
    "baybe": "baybe", "baybe-pca": "baybe", "physbo": "physbo",
}  # fmt: skip


def is_installed(name: str) -> bool:
    """Whether a peer's package is installed."""
    package = _PACKAGES.get(name)
    return package not in {"baybe", "physbo"} or find_spec(package) is not None


def package_version(name: str) -> dict[str, str]:
    """Package of a peer, and its version.

    Raises
    ------
    CampaignError
        If it is not installed.
    """
    if not is_installed(name):
        raise CampaignError(
            f"{name} is not installed; `pip install 'kappascout[bench]'` brings BayBE and PHYSBO, or leave it out of "
            "--against"
        )
    package = _PACKAGES.get(name)
    return {package: version(package)} if package else {}


def _free(rows: int, acquired: Sequence[int]) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(rows), acquired)


def _lowest(rows: NDArray[np.int64], score: NDArray[np.float64], batch: int) -> list[int]:
    chosen: list[int] = rows[np.argsort(score, kind="stable")[:batch]].tolist()
    return chosen


def _standardised(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of mean 0 and standard deviation 1; constant columns are left out."""
    spread = features.std(0)
    varying = spread > 1e-9
    standardised: NDArray[np.float64] = (features - features.mean(0))[:, varying] / spread[varying]
    return standardised


def _lookup(model: Any, x: Tensor) -> Model:
    """Read the joint posterior over the pool by row number: it is computed once a round, not once a pick.

    The mathematics stays that of the acquisition function on the model itself.
    """
    import torch
    from botorch.models.model import Model
    from botorch.posteriors.gpytorch import GPyTorchPosterior
    from gpytorch.distributions import MultivariateNormal

    with torch.no_grad():
        joint = model.posterior(x).distribution
        mean, covariance = joint.mean, joint.covariance_matrix
    jitter = 1e-8

    class Lookup(Model):
        num_outputs = 1
        batch_shape = torch.Size([])

        def posterior(self, X: Tensor, *_: Any, **__: Any) -> GPyTorchPosterior:
            rows = X[..., 0].round().long()
            own = covariance[rows.unsqueeze(-1), rows.unsqueeze(-2)]
            return GPyTorchPosterior(MultivariateNormal(mean[rows], own + jitter * torch.eye(rows.shape[-1]).to(own)))

    return Lookup()
