"""Masks: what an output sees, told by its derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.maths.masked import MaskedNetwork, hidden_order
from detectors.stacked import Params


def weights(network: MaskedNetwork, members: int = 1, seed: int = 0) -> Params:
    """Weights without a zero among them, so that whatever a mask lets through shows."""
    generator = torch.Generator().manual_seed(seed)
    fresh = network.initial(generator)
    return {
        name: 0.1 + torch.rand(members, *value.shape, generator=generator) for name, value in fresh.items()
    }


def seen_by(network: MaskedNetwork) -> Tensor:
    """True where an output of a value (rows) changes with a value (columns)."""
    size = len(network.order)
    params = weights(network)
    x = torch.rand(1, 1, size)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(params, x).sum((0, 1, 2)), x)
    return jacobian.view(size, size) != 0


@given(
    st.integers(1, 12).flatmap(lambda size: st.permutations(range(size))),
    st.lists(st.integers(12, 20), min_size=1, max_size=3),
)
def test_an_output_sees_all_inputs_before_it_and_none_else(order: list[int], hidden: list[int]) -> None:
    places = torch.tensor(order)
    found = seen_by(MaskedNetwork("net", tuple(order), tuple(hidden), outputs=2))
    assert torch.equal(found, places.unsqueeze(0) < places.unsqueeze(1))


def test_two_places_make_a_coupling() -> None:
    found = seen_by(MaskedNetwork("net", (0, 1, 0, 1), (8, 8), outputs=2))
    assert found.tolist() == [[False] * 4, [True, False, True, False]] * 2


@pytest.mark.parametrize(("size", "width"), [(100, 64), (100, 3), (24, 64), (2, 1)])
def test_the_newest_output_sees_everything_before_it_however_narrow_the_layer(size: int, width: int) -> None:
    found = seen_by(MaskedNetwork("net", tuple(range(size)), (width,), outputs=1))
    assert found[-1].tolist() == [True] * (size - 1) + [False]
    assert not found.triu().any()


def test_hidden_units_are_spread_evenly() -> None:
    assert hidden_order(range(5), 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert hidden_order(range(9), 4).tolist() == [1, 3, 5, 7]


def test_members_of_a_bank_do_not_see_each_other() -> None:
    network = MaskedNetwork("net", (0, 1, 2), (6,), outputs=2)
    params = weights(network, members=3)
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1))
    alone = network({name: value[1:2] for name, value in params.items()}, x[1:2])
    torch.testing.assert_close(network(params, x)[1:2], alone)


def test_a_fresh_network_says_nothing_and_its_units_have_unit_scale() -> None:
    network = MaskedNetwork("net", tuple(range(40)), (2000,), outputs=2)
    params = {
        name: value.unsqueeze(0) for name, value in network.initial(torch.Generator().manual_seed(2)).items()
    }
    x = torch.randn(1, 300, 40, generator=torch.Generator().manual_seed(3))
    assert not network(params, x).any()
    # He 2015: the mean square of a rectified unit is that of its inputs, however few the mask leaves it.
    squares = network.hidden_of(params, x).square().mean((0, 1))
    assert 0.9 < float(squares[:200].mean()) < 1.1
    assert 0.9 < float(squares[-200:].mean()) < 1.1
