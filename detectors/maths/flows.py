"""Normalizing flows of a bank: invertible maps of a latent to a standard normal one."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from detectors.maths.masked import MaskedNetwork
from detectors.maths.normal import log_standard
from detectors.stacked import Network, Params, TrainingBatch

Transform = Literal["autoregressive", "coupling", "spline"]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

STEEPEST = 2.0
"""Largest log-scale of one transform: steep enough for narrow ridges, finite for every window."""

SPLINES = "spline."
"""Prefix of a spline flow's weights."""


class Flow(Network, Protocol):
    """A flow that can be trained as a bank; its weights may stand in a larger state."""

    def forward(self, params: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return images ``(n_targets, n, latent)`` of latents, and log-determinants ``(n_targets, n)``."""

    def inverse(self, params: Params, u: Tensor) -> Tensor:
        """Return the latents that map to ``u``, same shape."""


def flow(transform: Transform, latent: int, transforms: int, hidden: int) -> Flow:
    """Return a flow of some transforms, each with one hidden layer."""
    if transform == "spline":
        return SplineFlow(latent, transforms, hidden)
    return AffineFlow(transform == "coupling", latent, transforms, hidden)


def log_prob(flow: Flow, params: Params, z: Tensor) -> Tensor:
    """Return the log-density of latents ``(n_targets, n, latent)`` under a flow, ``(n_targets, n)``."""
    u, log_det = flow.forward(params, z)
    return log_det + log_standard(u)


@dataclass(frozen=True)
class AffineFlow:
    """Masked affine transforms one after another; in the next one the order is the other way round.

    Every value is stretched and shifted by what its network makes of the values before it: one after another
    (Papamakarios 2017, arXiv 1705.07057), or with coupling one half after the other (Dinh 2017, arXiv
    1605.08803).
    """

    coupling: bool
    latent: int
    transforms: int
    hidden: int

    @cached_property
    def networks(self) -> list[MaskedNetwork]:
        return [
            MaskedNetwork(f"transform.{i}", self._order(i), (self.hidden,), outputs=2)
            for i in range(self.transforms)
        ]

    def _order(self, i: int) -> tuple[int, ...]:
        if self.coupling:
            return tuple((place + i) % 2 for place in range(self.latent))
        order = range(self.latent)
        return tuple(reversed(order) if i % 2 else order)

    def initial(self, generator: torch.Generator) -> Params:
        """Return fresh weights of one member: the map that changes nothing."""
        return {name: value for net in self.networks for name, value in net.initial(generator).items()}

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        return -log_prob(self, params, batch.values)

    def forward(self, params: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(())
        for network in self.networks:
            log_scale, shift = self._stretch(network, params, z)
            z = torch.addcmul(shift, z, log_scale.exp())
            total = total + log_scale.sum(2)
        return z, total

    def inverse(self, params: Params, u: Tensor) -> Tensor:
        for network in reversed(self.networks):
            z, places = torch.zeros_like(u), torch.tensor(network.order)
            # Values of one place need those of the places before it: a pass for every place.
            for place in range(int(places.max()) + 1):
                log_scale, shift = self._stretch(network, params, z)
                z = torch.where(places == place, (u - shift) * (-log_scale).exp(), z)
            u = z
        return u

    @staticmethod
    def _stretch(network: MaskedNetwork, params: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        # asinh: a value far off must not make the others follow it.
        raw, shift = network(params, z.asinh()).unbind(2)
        return STEEPEST * (raw / STEEPEST).tanh(), shift


@dataclass(frozen=True)
class SplineFlow:
    """Neural spline flow of the package zuko, which knows no banks: members are looped over.

    Durkan et al. 2019, arXiv 1906.04032. Outside of [-5, 5] a value stays as it is.
    """

    latent: int
    transforms: int
    hidden: int

    def initial(self, generator: torch.Generator) -> Params:
        """Return one member's fresh weights, which the generator alone decides."""
        seed = int(torch.randint(2**31, (), generator=generator))
        fresh = _spline_module(self, seed)
        return {SPLINES + name: value.detach().clone() for name, value in fresh.named_parameters()}

    def loss(self, params: Params, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        return -log_prob(self, params, batch.values)

    def forward(self, params: Params, z: Tensor) -> tuple[Tensor, Tensor]:
        mapped = [self._call(params, i, z[i]) for i in range(len(z))]
        return torch.stack([u for u, _ in mapped]), torch.stack([log_det for _, log_det in mapped])

    def inverse(self, params: Params, u: Tensor) -> Tensor:
        return torch.stack([self._call(params, i, u[i], inverse=True)[0] for i in range(len(u))])

    def _call(self, params: Params, i: int, x: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        own = {
            name.removeprefix(SPLINES): value[i] for name, value in params.items() if name.startswith(SPLINES)
        }
        return torch.func.functional_call(self._module, own, (x, inverse))

    @cached_property
    def _module(self) -> torch.nn.Module:
        return _spline_module(self, seed=0)


def splines_are_installed() -> bool:
    return importlib.util.find_spec("zuko") is not None


class _Both(torch.nn.Module):
    """A lazy transform of zuko as a function of its input, either way."""

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        transform = self.transform(None)
        return (transform.inv if inverse else transform).call_and_ladj(x)


def _spline_module(flow: SplineFlow, seed: int) -> torch.nn.Module:
    """Return a fresh module; the random numbers of the process stay as they were."""
    from zuko.flows import NSF

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spline = NSF(flow.latent, transforms=flow.transforms, hidden_features=(flow.hidden,))
    return _Both(spline.transform)
