"""What every registered classifier owes; a new one is held to it by being registered."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detectors import registry
from detectors.classifier import Classifier
from detectors.errors import NotFittedError

D = 3


def two_classes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors of two classes, four standard deviations apart, three of the second to four of the first."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(n) % 7 >= 4).to(torch.int64)
    Z = torch.randn(n, D, generator=generator)
    Z[:, 0] += 4.0 * y
    return Z, y


@pytest.fixture(params=registry.classifier_names())
def cls(request: pytest.FixtureRequest) -> type[Classifier]:
    return registry.classifier(request.param)


@pytest.fixture
def fitted(cls: type[Classifier]) -> Classifier:
    return cls().fit(*two_classes(42))


def test_posteriors_are_probabilities(fitted: Classifier) -> None:
    Z, _ = two_classes(100, seed=1)
    found = fitted.log_posterior(Z)
    assert found.shape == (100, 2)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(100, dtype=torch.float64))


def test_most_new_vectors_are_put_into_their_own_class(fitted: Classifier) -> None:
    Z, y = two_classes(700, seed=1)
    assert (fitted.log_posterior(Z).argmax(1) == y).double().mean() > 0.95


def test_far_from_every_class_it_abstains_and_among_them_it_does_not(fitted: Classifier) -> None:
    Z, y = two_classes(42)
    middle = torch.stack([Z[y == k].mean(0) for k in (0, 1)])
    assert fitted.abstains(middle).tolist() == [False, False]
    far = torch.eye(D) * 30
    assert fitted.abstains(torch.cat([far, -far, far * 1e6])).all()


@pytest.mark.parametrize("examples", [20, 40])
def test_few_examples_are_enough_to_refuse_at_most_a_twentieth_of_their_own_class(
    cls: type[Classifier], examples: int
) -> None:
    refused = []
    for seed in range(200):
        model = cls().fit(*two_classes(examples, seed))
        refused.append(model.abstains(two_classes(50, 1000 + seed)[0]).double().mean())
    assert 0 < torch.stack(refused).mean() <= 0.05


def test_a_vector_is_judged_without_its_neighbours(fitted: Classifier) -> None:
    Z, _ = two_classes(20, seed=2)
    torch.testing.assert_close(fitted.log_posterior(Z)[3:4], fitted.log_posterior(Z[3:4]))
    assert fitted.abstains(Z * 5)[7] == fitted.abstains(Z[7:8] * 5)[0]


def test_the_order_of_examples_does_not_matter(cls: type[Classifier], fitted: Classifier) -> None:
    Z, y = two_classes(42)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(3))
    probe, _ = two_classes(20, seed=2)
    again = cls().fit(Z[order], y[order])
    torch.testing.assert_close(again.log_posterior(probe), fitted.log_posterior(probe))


def test_the_numbers_of_the_classes_do_not_matter(cls: type[Classifier], fitted: Classifier) -> None:
    Z, y = two_classes(42)
    probe, _ = two_classes(20, seed=2)
    swapped = cls().fit(Z, 1 - y)
    torch.testing.assert_close(swapped.log_posterior(probe).flip(1), fitted.log_posterior(probe))


def test_a_class_that_is_likelier_beforehand_is_likelier_afterwards(cls: type[Classifier]) -> None:
    Z, y = two_classes(42)
    probe, _ = two_classes(20, seed=2)
    even, odd = (cls().fit(Z, y, prior=torch.tensor(p)).log_posterior(probe) for p in ([1.0, 1], [1.0, 9]))
    gained = (odd[:, 1] - odd[:, 0]) - (even[:, 1] - even[:, 0])
    torch.testing.assert_close(gained, torch.full((20,), math.log(9), dtype=torch.float64))


def test_priors_are_smoothed_frequencies_where_none_is_given(cls: type[Classifier]) -> None:
    Z, y = two_classes(42)
    probe, _ = two_classes(20, seed=2)
    counts = torch.bincount(y)
    given = cls().fit(Z, y, prior=(counts + 1) / (counts.sum() + 2))
    torch.testing.assert_close(given.log_posterior(probe), cls().fit(Z, y).log_posterior(probe))


def test_what_was_given_stays_as_it_was(cls: type[Classifier]) -> None:
    Z, y = two_classes(42)
    model = cls().fit(Z, y)
    model.log_posterior(Z)
    model.abstains(Z)
    again, labels = two_classes(42)
    assert torch.equal(Z, again)
    assert torch.equal(y, labels)


def test_unfitted_use_says_how_to_fit(cls: type[Classifier]) -> None:
    Z, _ = two_classes(5)
    for use in (cls().log_posterior, cls().abstains):
        with pytest.raises(NotFittedError, match=r"is not fitted; call fit\(Z, y\)"):
            use(Z)


def test_vectors_of_other_dimensions_are_refused(fitted: Classifier) -> None:
    for use in (fitted.log_posterior, fitted.abstains):
        with pytest.raises(ValueError, match="expected vectors of 3 dimensions, got 2; use those of fit"):
            use(torch.zeros(4, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(cls: type[Classifier], bad: float) -> None:
    Z, y = two_classes(42)
    model = cls().fit(Z, y)
    Z[5, 1] = bad
    for use in (lambda: cls().fit(Z, y), lambda: model.log_posterior(Z), lambda: model.abstains(Z)):
        with pytest.raises(ValueError, match="hold NaN or infinite values; fill or drop"):
            use()


def test_labels_that_make_no_sense_are_refused(cls: type[Classifier]) -> None:
    Z, y = two_classes(42)
    with pytest.raises(ValueError, match=r"classes \[1\] have no example; number the classes"):
        cls().fit(Z, y * 2)
    with pytest.raises(ValueError, match=r"a class for each of 42 vectors, got shape \(41,\)"):
        cls().fit(Z, y[1:])
    with pytest.raises(ValueError, match="at least one example, with classes that count from 0"):
        cls().fit(Z, y - 1)
    with pytest.raises(ValueError, match="expected 2 prior probabilities above 0, got"):
        cls().fit(Z, y, prior=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"shape \(n, d\) with d of at least 1, got \(42,\)"):
        cls().fit(Z[:, 0], y)


def test_an_unknown_classifier_is_refused_by_name() -> None:
    with pytest.raises(registry.UnknownClassifierError, match=r"no classifier named 'x'; installed: .*discr"):
        registry.classifier("x")
