"""Discriminant analysis: scikit-learn's on the same data, and what it refuses is what it says it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis

from detectors.discriminant import DiscriminantClassifier, DiscriminantConfig

PRIOR = [0.5, 0.3, 0.2]


def three_classes(seed: int, per_class: int = 30, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three classes of different mean, covariance and size."""
    rng = np.random.default_rng(seed)
    sizes = [per_class, per_class + 7, 2 * per_class]
    parts = [rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=d) for n in sizes]
    return np.concatenate(parts), np.repeat(np.arange(3), sizes)


def posterior(form: str, Z: np.ndarray, y: np.ndarray, probe: np.ndarray) -> np.ndarray:
    model = DiscriminantClassifier(DiscriminantConfig(form=form, noise=1e-12))  # type: ignore[arg-type]
    model.fit(torch.from_numpy(Z), torch.from_numpy(y), prior=torch.tensor(PRIOR, dtype=torch.float64))
    return model.log_posterior(torch.from_numpy(probe)).exp().numpy()


@pytest.mark.parametrize("seed", range(5))
def test_linear_posteriors_are_those_of_scikit_learn(seed: int) -> None:
    Z, y = three_classes(seed)
    probe, _ = three_classes(seed + 100)
    other = LinearDiscriminantAnalysis(priors=PRIOR).fit(Z, y).predict_proba(probe)
    np.testing.assert_allclose(posterior("linear", Z, y, probe), other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_quadratic_posteriors_are_those_of_scikit_learn(seed: int) -> None:
    Z, y = three_classes(seed)
    probe, _ = three_classes(seed + 100)
    other = QuadraticDiscriminantAnalysis(priors=PRIOR).fit(Z, y).predict_proba(probe)
    np.testing.assert_allclose(posterior("quadratic", Z, y, probe), other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("per_class", "form"), [(11, "linear"), (12, "quadratic")])
def test_a_class_gets_a_covariance_of_its_own_from_three_examples_a_dimension_on(
    per_class: int, form: str
) -> None:
    Z, y = three_classes(1, per_class)
    np.testing.assert_array_equal(posterior("auto", Z, y, Z), posterior(form, Z, y, Z))
    other = {"linear": "quadratic", "quadratic": "linear"}[form]
    assert abs(posterior("auto", Z, y, Z) - posterior(other, Z, y, Z)).max() > 0.01


def test_p_values_are_those_of_the_two_sample_test_of_hotelling() -> None:
    """In one dimension Hotelling's test is Student's: of one observation against a class."""
    rng = np.random.default_rng(2)
    own, probe = rng.normal(3, 2, 9), np.linspace(-5, 10, 20)
    model = DiscriminantClassifier(DiscriminantConfig(form="quadratic", noise=1e-12))
    model.fit(torch.from_numpy(own[:, None]), torch.zeros(9, dtype=torch.int64))
    expected = [stats.ttest_ind([x], own).pvalue for x in probe]
    found = model.p_value(torch.from_numpy(probe[:, None]))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(("form", "per_class"), [("linear", 7), ("quadratic", 20)])
def test_a_hundredth_of_the_own_class_is_refused_however_few_examples_there_are(
    form: str, per_class: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(3).repeat(per_class)
    refused = []
    for _ in range(400):
        draws = torch.randn(3 * per_class + 100, 4, generator=generator)
        # Classes far apart: refused by its own is refused by all.
        model = DiscriminantClassifier(DiscriminantConfig(form=form))  # type: ignore[arg-type]
        model.fit(draws[: 3 * per_class] + 1000 * y.unsqueeze(1), y)
        refused.append(model.abstains(draws[3 * per_class :] + 1000).double().mean())
    assert 0.007 < float(torch.stack(refused).mean()) < 0.014


def test_the_least_density_in_training_would_refuse_many_of_the_same_class() -> None:
    generator = torch.Generator().manual_seed(6)
    refused = []
    for _ in range(100):
        own, new = torch.randn(20, 4, generator=generator), torch.randn(100, 4, generator=generator)
        model = DiscriminantClassifier().fit(own, torch.zeros(20, dtype=torch.int64))
        p = model.p_value(torch.cat([own, new]))[:, 0]
        refused.append((p[20:] < p[:20].min()).double().mean())
    assert float(torch.stack(refused).mean()) > 0.15


def test_too_few_examples_for_the_dimensions_are_refused() -> None:
    Z, y = torch.randn(5, 4), torch.tensor([0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"leave 3 degrees .* of 4 dimensions, expected at least 4; give"):
        DiscriminantClassifier().fit(Z, y)


def test_a_direction_in_which_nothing_varies_is_survived() -> None:
    Z, y = torch.randn(30, 3), torch.arange(30) % 2
    Z[:, 2] = 5.0
    model = DiscriminantClassifier().fit(Z, y)
    assert model.log_posterior(Z).isfinite().all()
    assert not model.abstains(Z).all()
    Z[:, 2] = 6.0
    assert model.abstains(Z).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"form": "cubic"}, "form must be 'auto', 'linear' or 'quadratic', got 'cubic'"),
        ({"alpha": 1.0}, "alpha must be at least 0 and below 1, got 1.0"),
        ({"noise": 0.0}, "noise must be above 0, got 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DiscriminantConfig(**given)  # type: ignore[arg-type]
