"""What no service could live with is refused when the config is checked, with file, line and a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_service.config.errors import ConfigError
from anomaly_service.config.load import load
from anomaly_service.config.params import check_params

CONFIG = """\
sources:
  t: {{kind: csv, path: "d/*.csv", timestamp: ts, step: 5min{source}}}
monitors:
  m: {{series: {{}}, detector: gaussian, params: {{{params}}}{monitor}}}
{top}
"""


def refusal(tmp_path: Path, **more: str) -> str:
    """Return what is said of a config that would be good without these."""
    path = tmp_path / "anomaly.yaml"
    path.write_text(CONFIG.format(**(dict.fromkeys(("source", "params", "monitor", "top"), "") | more)))
    with pytest.raises(ConfigError) as refused:
        check_params(load(path))
    said = str(refused.value)
    assert said.startswith(f"{path}:")
    return said.removeprefix(f"{path}:")


def test_the_config_is_good_without_them(tmp_path: Path) -> None:
    path = tmp_path / "anomaly.yaml"
    path.write_text(CONFIG.format(source="", params="window: 24, trim: 0.1", monitor="", top=""))
    check_params(load(path))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            "window: 24.5",
            "4: monitors.m.params.window: expected a whole number up to 2,147,483,647, got 24.5",
        ),
        ("window: '24'", "expected a whole number up to 2,147,483,647, got '24'"),
        ("window: true", "expected a whole number up to 2,147,483,647, got True"),
        ("window: [24]", "expected a whole number up to 2,147,483,647, got [24]"),
        ("window: 100000000000000000000", "expected a whole number up to 2,147,483,647"),
        ("window: 1000000000", "expected at most 12,096 steps, as many of 5min as fit.window (42d) holds"),
        ("trim: lots", "expected a finite number, got 'lots'"),
        ("trim: '.nan'", "expected a finite number, got '.nan'"),
        ("window: -3", "refused by gaussian: window must be at least 1 step, got -3"),
    ],
)
def test_a_setting_of_a_detector_has_its_type_and_a_window_that_fits(
    tmp_path: Path, params: str, said: str
) -> None:
    assert said in refusal(tmp_path, params=params)


@pytest.mark.parametrize(
    ("where", "text", "said"),
    [
        ("source", ", delay: 99999d", "2: sources.t.delay: expected a duration of at most 50 years"),
        ("source", ", every: 99999d", "expected a duration of at most 50 years; got '99999d'"),
        ("source", ", future_tolerance: 1h", "unknown key"),
        ("top", "future_tolerance: 9999999d", "expected a duration of at most 1,000 years"),
        ("top", "retention: {points: 9999999d}", "expected a duration of at most 1,000 years"),
        ("top", "nightly: {window: 9999999d}", "expected a duration of at most 1,000 years"),
        ("top", "retention: {model_versions: 99999999999}", "expected at most 2147483647"),
        ("top", "workers: 100000", "expected at most 1024; got '100000'"),
        ("monitor", ", threshold: {alarms_per_week: 1.0e300}", "expected at most 1000000"),
        ("monitor", ", policy: {missing_after_steps: 99999999999}", "expected at most 2147483647"),
    ],
)
def test_numbers_and_durations_have_an_end(tmp_path: Path, where: str, text: str, said: str) -> None:
    assert said in refusal(tmp_path, **{where: text})


@pytest.mark.parametrize(
    ("where", "text", "meant"),
    [
        ("source", ", name_metric: x", "metric_name"),
        ("source", ", label_file: x", "file_label"),
        ("monitor", ", every_fit: 7d", "fit.every"),
        ("monitor", ", window: 7d", "fit.window"),
        ("monitor", ", policy: {gap_max_merge: 7d}", "merge_max_gap"),
        ("top", "points: {retention: 400d}", "retention.points"),
    ],
)
def test_a_key_whose_words_are_swapped_is_recognised(
    tmp_path: Path, where: str, text: str, meant: str
) -> None:
    assert f"did you mean '{meant}'?" in refusal(tmp_path, **{where: text})


def test_aliases_that_multiply_without_end_are_refused(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    said = refusal(tmp_path, top="\n".join(bomb))
    assert "expected at most 250,000 values, aliases (*name) counted as often as they stand" in said


def test_sections_that_lie_in_each_other_without_end_are_refused(tmp_path: Path) -> None:
    assert "lie in each other too deep" in refusal(tmp_path, top="deep: " + "[" * 20_000)


def test_a_file_that_is_far_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    assert "is this a config file?" in refusal(tmp_path, top="# " + "x" * 10_000_000)
