"""Every registered detector keeps the contract; a new one is held to it by being registered."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from anomaly_service.testing.contract import Check
from anomaly_service.testing.detectors import CONTRACT, WINDOW, Held, check_detector, series
from detectors import registry
from detectors.windows import Windows


@cache
def held(name: str) -> Held:
    return Held(registry.get(name))


@pytest.mark.parametrize("check", CONTRACT.checks, ids=str)
@pytest.mark.parametrize("name", registry.names())
def test_a_detector_keeps_its_promises(name: str, check: Check) -> None:
    check(held(name))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(bad: float) -> None:
    values = series(1, 100, seed=12)
    values[0, 50] = bad
    with pytest.raises(ValueError, match=r"not marked missing; mark or drop them"):
        Windows.of(values, WINDOW, missing=torch.zeros_like(values, dtype=torch.bool))


@pytest.mark.parametrize("wrong", [None, 3, dict])
def test_what_is_no_class_of_detectors_is_told_at_once(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"expected a class that derives from detectors\.base\.Detector, got"):
        check_detector(wrong)  # type: ignore[arg-type]  # that is the point
