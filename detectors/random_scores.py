"""The baseline that knows nothing: what a figure is worth is what it is above this one's."""

from __future__ import annotations

from torch import Tensor

from detectors.base import Density
from detectors.baseline import Baseline
from detectors.windows import Windows

GOLDEN = 0x9E3779B97F4A7C15
"""What SplitMix64's counter grows by: 2^64 divided by the golden ratio."""

BITS = 24
"""Bits of a score: as many as float32 holds below 1 without rounding up to it."""


class RandomDetector(Baseline):
    """The score of a step is uniform in [0, 1), whatever its value.

    It is a hash of the seed and of the step's index on the UTC grid, so that it depends neither on the slice
    nor on the bank; all targets have the same score at the same index. Kim et al. 2022 (arXiv 2109.05257)
    show that such scores reach the state of the art under point adjustment. The hash is SplitMix64 (Steele,
    Lea & Flood 2014, doi 10.1145/2660193.2660195).

    Departures: a hash instead of a generator's next number.

    Blind to spike, level, variance and shape: that is its purpose, it shows what no information gives.
    """

    density = Density.NONE
    family = "Uniform noise"
    paper = "Kim et al. 2022"
    blind_to = frozenset({"spike", "level", "variance", "shape"})

    def _score(self, windows: Windows) -> Tensor:
        return uniform(windows.grid, self.config.seed).unfold(1, windows.window, 1)


def uniform(index: Tensor, seed: int) -> Tensor:
    """Return one float32 in [0, 1) for every index (int64), a function of index and seed alone."""
    return _shifted(split_mix(index, seed), 64 - BITS).float() / 2**BITS


def split_mix(index: Tensor, seed: int) -> Tensor:
    """Return SplitMix64's output number ``index`` from a seed, as int64 of the same 64 bits.

    int64 wraps as uint64 does in sums and products; only right shifts differ.
    """
    z = (index + 1) * _signed(GOLDEN) + _signed(seed)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right with zeros from the left, as for uint64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (number + 2**63) % 2**64 - 2**63
