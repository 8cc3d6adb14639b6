"""The wrapper keeps scikit-learn's contract, but for what is listed here with its reason."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_service.estimator import WindowDetector
from detectors.base import UnknownSettingError
from detectors.gaussian import GaussianDetector
from detectors.robust_z import RobustZDetector

WINDOW = 12
LEVEL = "its noise depends on where a window lies in time, which rows do not say: all rows score alike"

FLOAT32 = (
    "scores are float32: on some processors a batch of another size adds up 5e-7 apart, 1e-7 are allowed"
)

FAILING = {
    "autoregressive": {"check_methods_subset_invariance": FLOAT32},
    "random": {
        "check_outliers_train": LEVEL,
        "check_outliers_fit_predict": LEVEL,
    },
}
"""By detector, the checks of scikit-learn that it may not pass, and why; the others pass all."""


def failing(estimator: BaseEstimator) -> dict[str, str]:
    return FAILING.get(estimator.detector, {})


@parametrize_with_checks(
    [WindowDetector(each) for each in ("gaussian", "autoregressive", "kde", "random")],
    expected_failed_checks=failing,
)
def test_it_keeps_the_contract_of_scikit_learn(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


def windows(n: int = 300, seed: int = 0) -> NDArray[np.float64]:
    """Return windows of a wave around 1,000 with noise, in any phase."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (n, 1))
    return 1000 + 50 * np.sin(phase + np.arange(WINDOW) * 2 * np.pi / WINDOW) + rng.normal(0, 5, (n, WINDOW))


def spiked(n: int = 30, seed: int = 1) -> NDArray[np.float64]:
    odd = windows(n, seed)
    odd[np.arange(n), np.arange(n) % WINDOW] += 120
    return odd


@pytest.mark.parametrize("detector", ["gaussian", "gmm", "kde", "autoregressive"])
def test_odd_windows_score_lower_than_normal_ones(detector: str) -> None:
    fitted = WindowDetector(detector).fit(windows())
    normal, odd = fitted.score_samples(windows(seed=2)), fitted.score_samples(spiked())
    truth = np.repeat([1, 0], [len(normal), len(odd)])
    assert roc_auc_score(truth, np.concatenate([normal, odd])) > 0.95
    assert (fitted.predict(spiked()) == -1).mean() > 0.7
    assert (fitted.predict(windows(seed=2)) == 1).mean() > 0.95


def test_contamination_is_the_share_of_the_rows_fitted_on_below_the_line() -> None:
    found = WindowDetector(contamination=0.1).fit_predict(windows())
    assert np.count_nonzero(found == -1) == 30
    with pytest.raises(ValueError, match="contamination must be above 0 and at most"):
        WindowDetector(contamination=0.0).fit(windows())


def test_the_unit_of_the_values_does_not_matter() -> None:
    one, other = (WindowDetector().fit(windows() * unit) for unit in (1.0, 1e9))
    np.testing.assert_allclose(one.score_samples(spiked()), other.score_samples(spiked() * 1e9), rtol=1e-3)


def test_a_window_that_spans_two_rows_teaches_nothing() -> None:
    # Laid end to end these make a wave; each by itself is flat.
    flat = np.repeat([[0.0], [10.0]], 100, axis=0).repeat(WINDOW, axis=1) + windows(200) / 1000
    alternating = flat[np.arange(200).reshape(2, 100).T.ravel()]
    scores = [WindowDetector().fit(each).score_samples(flat) for each in (flat, alternating)]
    np.testing.assert_allclose(*scores, rtol=0.05, atol=0.05)


def test_a_detector_is_a_name_a_class_or_one_with_its_settings() -> None:
    ways = [
        WindowDetector("gaussian", params={"seed": 3}),
        WindowDetector(GaussianDetector, params={"seed": 3}),
        WindowDetector(GaussianDetector(seed=3)),
    ]
    scores = [each.fit(windows()).score_samples(spiked()) for each in ways]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])
    assert [each.detector_.config.window for each in ways] == [WINDOW] * 3
    with pytest.raises(UnknownSettingError, match="has no setting 'sed'; did you mean 'seed'"):
        WindowDetector(params={"sed": 3}).fit(windows())
    with pytest.raises(ValueError, match="expected 24 columns, params' window, got 12"):
        WindowDetector(params={"window": 24}).fit(windows())


def test_it_takes_part_in_pipelines_and_searches() -> None:
    pipe = make_pipeline(FunctionTransformer(np.log), WindowDetector(contamination=0.05))
    assert pipe.fit(windows()).predict(spiked()).shape == (30,)
    rows, truth = np.concatenate([windows(), spiked()]), np.repeat([1, -1], [300, 30])
    grid = {"windowdetector__detector": ["gaussian", "random"], "windowdetector__contamination": [0.02, 0.1]}
    search = GridSearchCV(pipe, grid, scoring="f1_macro", cv=2).fit(rows, truth)
    assert search.best_params_["windowdetector__detector"] == "gaussian"


def test_a_clone_is_unfitted_and_a_pickle_is_not() -> None:
    fitted = WindowDetector(GaussianDetector(seed=3), contamination=0.2).fit(windows())
    again = clone(fitted)
    assert again.get_params()["contamination"] == 0.2
    assert again.set_params(detector=RobustZDetector).fit(windows()).predict(spiked()).shape == (30,)
    with pytest.raises(NotFittedError):
        clone(fitted).predict(windows())
    loaded = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.score_samples(spiked()), fitted.score_samples(spiked()))
