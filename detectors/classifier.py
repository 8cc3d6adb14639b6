"""What every classifier is: classes of labelled vectors, and the right to say that a vector is in none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from detectors.errors import NotFittedError


class Classifier(ABC):
    """Tells classes of vectors apart by a density of each, and abstains where a vector fits none.

    The public methods check their input and delegate to the underscored hooks.
    """

    Config: ClassVar[type[Any]]
    """A frozen dataclass; its defaults are a configuration to start from."""
    family: ClassVar[str]
    """One line for people."""
    paper: ClassVar[str]
    """Authors and year."""

    def __init__(self, config: Any | None = None) -> None:
        self.config: Any = config if config is not None else self.Config()
        self._size: tuple[int, int] | None = None

    def fit(self, Z: Tensor, y: Tensor, *, prior: Tensor | None = None) -> Self:
        """Learn the classes of labelled vectors; return self.

        Args:
            Z: shape ``(n, d)``, finite.
            y: shape ``(n,)``, int64, the class of every row: each of 0 to K - 1 at least once.
            prior: shape ``(K,)``, probability of each class before its vector is seen; None for the
                smoothed frequencies ``(n_k + 1) / (n + K)``.

        Raises:
            ValueError: values that are not finite, a class without example, shapes that do not match, or
                fewer examples than the density of a class needs.
        """
        _check_vectors(Z)
        counts = _counts(Z, y)
        self._fit(Z.to(torch.float64), y, counts, _prior(counts, prior))
        self._size = len(counts), Z.shape[1]
        return self

    def log_posterior(self, Z: Tensor) -> Tensor:
        """Return the log-probability of every class given each vector, ``(n, K)``, float64; rows sum to 1.

        Raises:
            NotFittedError: nothing was fitted.
            ValueError: other dimensions than fitted, or values that are not finite.
        """
        self._check_match(Z)
        return self._log_posterior(Z.to(torch.float64))

    def abstains(self, Z: Tensor) -> Tensor:
        """True for vectors that fit no class, ``(n,)``: a posterior says nothing of them. Raises as above."""
        self._check_match(Z)
        return self._abstains(Z.to(torch.float64))

    # -- hooks ----------------------------------------------------------------------

    @abstractmethod
    def _fit(self, Z: Tensor, y: Tensor, counts: Tensor, prior: Tensor) -> None:
        """Learn; ``counts`` are the examples of each class."""

    @abstractmethod
    def _log_posterior(self, Z: Tensor) -> Tensor: ...

    @abstractmethod
    def _abstains(self, Z: Tensor) -> Tensor: ...

    # -- checks ---------------------------------------------------------------------

    @property
    def _fitted(self) -> tuple[int, int]:
        if self._size is None:
            raise NotFittedError(f"{type(self).__name__} is not fitted; call fit(Z, y)")
        return self._size

    def _check_match(self, Z: Tensor) -> None:
        _, d = self._fitted
        _check_vectors(Z)
        if Z.shape[1] != d:
            raise ValueError(f"expected vectors of {d} dimensions, got {Z.shape[1]}; use those of fit")


def _check_vectors(Z: Tensor) -> None:
    if Z.ndim != 2 or Z.shape[1] == 0:
        raise ValueError(f"expected vectors of shape (n, d) with d of at least 1, got {tuple(Z.shape)}")
    if not torch.isfinite(Z).all():
        raise ValueError("vectors hold NaN or infinite values; fill or drop what is not known")


def _counts(Z: Tensor, y: Tensor) -> Tensor:
    """Return the examples of every class, ``(K,)``."""
    if y.shape != Z.shape[:1]:
        raise ValueError(f"expected a class for each of {Z.shape[0]} vectors, got shape {tuple(y.shape)}")
    if len(y) == 0 or int(y.min()) < 0:
        raise ValueError("expected at least one example, with classes that count from 0")
    counts = torch.bincount(y)
    if not bool((counts > 0).all()):
        empty = counts.eq(0).nonzero().flatten().tolist()
        raise ValueError(f"classes {empty} have no example; number the classes that have one from 0")
    return counts


def _prior(counts: Tensor, prior: Tensor | None) -> Tensor:
    if prior is None:
        return (counts + 1).to(torch.float64) / (counts.sum() + len(counts))
    if prior.shape != counts.shape or not bool((prior > 0).all()):
        raise ValueError(f"expected {len(counts)} prior probabilities above 0, got {prior.tolist()}")
    prior = prior.to(torch.float64)
    return prior / prior.sum()
