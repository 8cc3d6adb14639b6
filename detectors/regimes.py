"""Normal windows of known regimes: workday, weekend, maintenance, each with a normal distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectors.base import Density, Detector, Expected, TrimmedConfig
from detectors.maths import stored, surprise_parts
from detectors.maths.moments import Moments, regular, trimmed, within
from detectors.maths.normal import Normal, conditionals, expected, log_density
from detectors.maths.normal_parts import raw_parts
from detectors.pieces import Progress, fit_in_pieces, in_pieces
from detectors.windows import Windows

LEAST = 4
"""Windows laid end to end that a regime needs to be known by itself; until then it goes by what all do."""


@dataclass(frozen=True)
class RegimesConfig(TrimmedConfig):
    """What the detector can be told.

    Attributes:
        form: 'linear' for one covariance about the mean of every regime, 'quadratic' for one each.
        components: most principal components where a window is more than 128 values.
        share: share of the variance the components explain.
    """

    form: Literal["linear", "quadratic"] = "linear"
    components: int = 32
    share: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("linear", "quadratic"):
            raise ValueError(f"form must be 'linear' or 'quadratic', got {self.form!r}")
        self._check_counts("components")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")


class DiscriminantDetector(Detector):
    """Normal distribution of windows for each known regime, with a covariance of its own or one for all.

    A window's regime is that of its newest step, and its score is how unlikely it is there: the energy of the
    window, the likelihood of a shift of its level, and each step's innovation, as the Gaussian joins them.
    `log_prob` is the density under its own regime, `log_posterior` says which regime fits best.

    Fisher 1936 (doi 10.1111/j.1469-1809.1936.tb02137.x).

    Departures: no discriminant axes are formed, as the densities say more; covariances are shrunken (Ledoit &
    Wolf 2004); a regime seen for fewer than four windows goes by the distribution of all of them.
    """

    Config = RegimesConfig
    by_regime = True
    density = Density.TRACTABLE
    family = "LDA, QDA over known regimes (supervised)"
    paper = "Fisher 1936"

    # -- fit ------------------------------------------------------------------------

    def _fit(self, windows: Windows, on_progress: Progress) -> dict[str, Tensor]:
        n_regimes = 1 + int(windows.regimes.max())
        return fit_in_pieces(windows, lambda piece: self._fit_members(piece, n_regimes), on_progress)

    def _fit_members(self, windows: Windows, n_regimes: int) -> dict[str, Tensor]:
        found, stays = [], torch.zeros_like(windows.weight)
        for k in range(n_regimes):
            # Trimmed one by one: the rarest regime would be the worst blocks of all.
            moments, kept = trimmed(
                windows.weighted(windows.weight * (windows.regimes == k)), self.config.trim
            )
            found.append(moments)
            stays += kept.weight
        state = self._distributions(found, windows.n_channels)
        kept = windows.weighted(stays)

        def raw(values: Tensor, mask: Tensor | None, starts: Tensor) -> Tensor:
            regimes = kept.regimes.gather(1, starts - kept.start.unsqueeze(1))
            return self._by_own(state, regimes, lambda normal: raw_parts(normal, values, mask))

        return state | surprise_parts.scale_of(raw, kept)

    def _distributions(self, found: list[Moments], n_channels: int) -> dict[str, Tensor]:
        """The distributions of all regimes, as they are stored; a shared covariance only once."""
        size = self.config.window * n_channels
        own = found if self.config.form == "quadratic" else [within(found)]
        covariances = [self._stored(regular(each, self.config.window), size) for each in own]
        return {
            "mean": torch.stack([each.mean for each in found], dim=1).to(torch.float32),
            "count": torch.stack([each.count for each in found], dim=1).to(torch.float32),
            **{name: torch.stack([each[name] for each in covariances], dim=1) for name in covariances[0]},
        }

    def _stored(self, covariance: Tensor, size: int) -> dict[str, Tensor]:
        if size <= stored.LARGEST_FULL:
            return stored.packed(covariance)
        return stored.principal(covariance, self.config.components, self.config.share)

    # -- use ------------------------------------------------------------------------

    def _score(self, windows: Windows) -> Tensor:
        def scores(members: slice, piece: Windows) -> Tensor:
            state, values, mask = self._state_of(members), piece.values, surprise_parts.missing_in(piece)
            raw = self._by_own(state, piece.regimes, lambda normal: raw_parts(normal, values, mask))
            return surprise_parts.combined(raw, state)

        return in_pieces(windows, scores)

    def _expect(self, windows: Windows) -> Expected:
        return expected(windows, lambda members, piece: self._told(members, piece, conditionals))

    def log_prob(self, windows: Windows) -> Tensor:
        """Return the log-density of every window under its own regime, ``(n_targets, n_windows)``."""
        self._check_match(windows)
        return in_pieces(windows, lambda members, piece: self._told(members, piece, log_density))

    def log_posterior(self, windows: Windows) -> Tensor:
        """Return the log-probability of every regime given each window, ``(n_targets, n_windows, K)``.

        Priors are smoothed frequencies in training. A regime that is not known by itself has the density of
        all windows together.
        """
        self._check_match(windows)

        def posterior(members: slice, piece: Windows) -> Tensor:
            state = self._state_of(members)
            prior = (state["count"] + 1).log()
            density = [log_density(self._normal(state, k), piece) for k in range(prior.shape[1])]
            return (torch.stack(density, dim=2) + prior.unsqueeze(1)).log_softmax(2)

        return in_pieces(windows, posterior)

    def sample_of(self, regime: int, n: int) -> Tensor:
        """Return n new windows of one regime per target, ``(n_targets, n, window, n_channels)``, seeded."""
        self._check_fitted()
        generator = torch.Generator().manual_seed(self.config.seed)
        return self._drawn(torch.full((self.n_targets, n), regime), generator)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        """As many windows of every regime as training had, in a random order."""
        upto = self._state["count"].cumsum(1)
        wanted = (torch.randperm(n, generator=generator) + 0.5) / n * upto[:, -1:]
        regimes = torch.searchsorted(upto.contiguous(), wanted.contiguous())
        return self._drawn(regimes.clamp_max(upto.shape[1] - 1), generator)

    def _drawn(self, regimes: Tensor, generator: torch.Generator) -> Tensor:
        # Every regime draws the same noise, so that a sample does not depend on how many there are.
        n, start = regimes.shape[1], generator.get_state()

        def draws(normal: Normal) -> Tensor:
            return normal.sample(n, generator.set_state(start)).to(torch.float32)

        flat = self._by_own(self._state, regimes, draws)
        return flat.view(-1, n, self.config.window, self._n_channels())

    def _told(self, members: slice, piece: Windows, work: Callable[[Normal, Windows], Tensor]) -> Tensor:
        return self._by_own(self._state_of(members), piece.regimes, lambda normal: work(normal, piece))

    def _by_own(self, state: dict[str, Tensor], regimes: Tensor, work: Callable[[Normal], Tensor]) -> Tensor:
        """Return what work says of every window under the distribution of its own regime.

        Args:
            regimes: shape ``(n_targets, k)``, int64.
            work: maps the distributions of one regime to ``(n_targets, k, ...)``, for all windows.
        """
        there = torch.bincount(regimes.flatten()).nonzero().flatten().cpu().tolist()
        result = work(self._normal(state, there[0]))
        for regime in there[1:]:
            own = (regimes == regime).view(*regimes.shape, *[1] * (result.ndim - 2))
            result = torch.where(own, work(self._normal(state, regime)), result)
        return result

    def _normal(self, state: dict[str, Tensor], regime: int) -> Normal:
        """The distributions of one regime; of members that do not know it, that of all their windows."""
        count, means = state["count"].to(torch.float64), state["mean"].to(torch.float64)
        known = torch.zeros(len(count), dtype=torch.bool)
        if regime < count.shape[1]:
            known = count[:, regime] >= LEAST * self.config.window
            mean, covariance = means[:, regime], _covariance(state, regime)
            if bool(known.all()):
                return Normal.of(mean, covariance)
        common_mean, common_covariance = _common(count, means, state)
        if not bool(known.any()):
            return Normal.of(common_mean, common_covariance)
        return Normal.of(
            torch.where(known[:, None], mean, common_mean),
            torch.where(known[:, None, None], covariance, common_covariance),
        )

    def _n_channels(self) -> int:
        return self._state["mean"].shape[2] // self.config.window


def _covariance(state: dict[str, Tensor], regime: int) -> Tensor:
    """Covariances of one regime, ``(n_targets, size, size)``: its own, or the shared one."""
    own: dict[str, Tensor] = {}
    for name in {"covariance", "factors", "noise"} & set(state):
        own[name] = state[name][:, min(regime, state[name].shape[1] - 1)]
    return stored.covariance_of(own, state["mean"].shape[2])


def _common(count: Tensor, means: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all windows of every member, by those of its regimes."""
    # Where there were no windows at all, every regime is as good.
    share = (count + 1e-9) / (count + 1e-9).sum(1, keepdim=True)
    mean = torch.einsum("nk,nki->ni", share, means)
    off = means - mean.unsqueeze(1)
    covariance = torch.einsum("nk,nki,nkj->nij", share, off, off)
    for k in range(count.shape[1]):
        covariance += share[:, k, None, None] * _covariance(state, k)
    return mean, covariance
