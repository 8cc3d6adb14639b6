"""Linear and quadratic discriminant analysis: a normal distribution for each class of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectors.classifier import Classifier
from detectors.maths.normal import Normal

EXAMPLES = 3
"""Examples for each dimension from which on a covariance of its own is worth more than a shared one."""


@dataclass(frozen=True)
class DiscriminantConfig:
    """What the classifier can be told.

    Attributes:
        form: 'linear' for one covariance shared by all classes, 'quadratic' for one each, 'auto' for
            'quadratic' where every class has 3 examples a dimension, else 'linear'.
        alpha: a vector of whose like a class has fewer than this share is refused by it.
        noise: variance added in every direction, in squared units of the vectors: what their digits hold.
    """

    form: Literal["auto", "linear", "quadratic"] = "auto"
    alpha: float = 0.01
    noise: float = 1e-9

    def __post_init__(self) -> None:
        if self.form not in ("auto", "linear", "quadratic"):
            raise ValueError(f"form must be 'auto', 'linear' or 'quadratic', got {self.form!r}")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be at least 0 and below 1, got {self.alpha}")
        if self.noise <= 0:
            raise ValueError(f"noise must be above 0, got {self.noise}")


class DiscriminantClassifier(Classifier):
    """Normal distribution of every class, with a covariance of its own or one for all.

    A vector's log-posterior is the normalised log-density plus log-prior. It is refused where Hotelling's
    test of one new observation puts it, for every class, among the rarest ``alpha`` of that class: exact for
    normal classes however few examples there are. The least density seen in training would be no bar: it
    refuses a quarter to a half of the same class at 20 examples.

    Fisher 1936 (doi 10.1111/j.1469-1809.1936.tb02137.x); Hotelling 1931 (doi 10.1214/aoms/1177732979).

    Departures: no discriminant axes are formed, as the densities say more; covariances are the likeliest ones
    (divided by the number of examples); priors are smoothed frequencies.
    """

    Config = DiscriminantConfig
    family = "linear and quadratic discriminant analysis"
    paper = "Fisher 1936"

    _normal: Normal
    _counts: Tensor
    """Examples of each class."""
    _shared: Tensor
    """Examples from which the covariance of each class was learned."""
    _freedom: Tensor
    _log_prior: Tensor

    def p_value(self, Z: Tensor) -> Tensor:
        """Return which share of each class lies further out than each vector, ``(n, K)``."""
        self._check_match(Z)
        return self._p_value(Z.to(torch.float64))

    # -- hooks ----------------------------------------------------------------------

    def _fit(self, Z: Tensor, y: Tensor, counts: Tensor, prior: Tensor) -> None:
        d = Z.shape[1]
        linear = self.config.form == "linear" or (
            self.config.form == "auto" and int(counts.min()) < EXAMPLES * d
        )
        shared = counts.sum().expand(len(counts)) if linear else counts
        freedom = shared - (len(counts) if linear else 1)
        if int(freedom.min()) < d:
            raise ValueError(
                f"the examples leave {int(freedom.min())} degrees of freedom to the covariance of {d} "
                f"dimensions, expected at least {d}; give more examples or fewer dimensions"
            )
        member = torch.nn.functional.one_hot(y, len(counts)).to(torch.float64)
        mean = (member.T @ Z) / counts.unsqueeze(1)
        off = Z - mean[y]
        scatter = torch.einsum("nk,ni,nj->kij", member, off, off)
        if linear:
            scatter = scatter.sum(0, keepdim=True).expand_as(scatter)
        unit = torch.eye(d, dtype=torch.float64)
        self._normal = Normal.of(mean, scatter / shared[:, None, None] + self.config.noise * unit)
        self._counts, self._shared, self._freedom, self._log_prior = counts, shared, freedom, prior.log()

    def _log_posterior(self, Z: Tensor) -> Tensor:
        x = self._about(Z)
        log_density = self._normal.log_prob(x, torch.zeros_like(x, dtype=torch.bool))
        return (log_density.T + self._log_prior).log_softmax(1)

    def _abstains(self, Z: Tensor) -> Tensor:
        return (self._p_value(Z) < self.config.alpha).all(1)

    def _p_value(self, Z: Tensor) -> Tensor:
        from scipy import stats  # costs a second at start

        energy = (self._about(Z) @ self._normal.whitener.transpose(1, 2)).square().sum(2).T
        # The mean was estimated too, from n examples: a new one is off by 1 + 1/n of the variance, and
        # the likeliest covariance is the unbiased one times freedom / examples.
        squared = energy * self._counts / (self._counts + 1) * self._freedom / self._shared
        d = Z.shape[1]
        left = self._freedom - d + 1
        ratio = squared * left / (self._freedom * d)
        return torch.from_numpy(stats.f.sf(ratio.numpy(), d, left.numpy()))

    def _about(self, Z: Tensor) -> Tensor:
        """Vectors about every class's mean, ``(K, n, d)``."""
        return Z - self._normal.mean.unsqueeze(1)
