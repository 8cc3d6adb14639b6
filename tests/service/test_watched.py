"""What a file's values and their absence stand for, told when its config is written."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_service.config.load import load
from anomaly_service.config.starter import starter_for
from anomaly_service.errors import ConfigError
from anomaly_service.sources.guess import guess
from anomaly_service.sources.steps import usual_step
from anomaly_service.sources.watched import leaves_out_zeros
from pipelines.records import Points

N = 2_000
AT = np.datetime64("2026-01-05T00:00:00") + np.arange(N) * np.timedelta64(5, "m")


def write(path, values, keep=None, header="time,errors"):
    keep = np.ones(N, bool) if keep is None else keep
    rows = [
        f"{at},{','.join(str(each) for each in np.atleast_1d(value))}"
        for at, value in zip(AT[keep], values[keep], strict=True)
    ]
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return path


def loaded(folder, text):
    path = folder / "anomaly.yaml"
    path.write_text(text, "utf-8")
    return load(path)


def points(values, keep):
    return Points(np.arange(N)[keep] * 300, values[keep].astype(float))


@pytest.mark.parametrize("mean", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("rhythm", [0.0, 0.9])
def test_counts_without_their_zeros_are_told_by_their_mean(mean, rhythm):
    at = np.arange(N) * 300
    counts = np.random.default_rng(1).poisson(mean * (1 + rhythm * np.sin(2 * np.pi * at / 86400)))
    assert leaves_out_zeros(points(counts, counts > 0), 300)


def test_holes_in_large_counts_are_missing():
    rng = np.random.default_rng(2)
    assert not leaves_out_zeros(points(rng.poisson(100, N), rng.random(N) > 0.1), 300)


def test_nights_without_points_are_no_zeros():
    counts = np.random.default_rng(3).poisson(2.0, N)
    assert not leaves_out_zeros(points(counts, (counts > 0) & (np.arange(N) * 300 % 86400 < 30_000)), 300)


def test_counts_that_have_zeros_leave_none_out():
    rng = np.random.default_rng(4)
    assert not leaves_out_zeros(points(rng.poisson(0.5, N), rng.random(N) > 0.3), 300)


def test_what_a_group_by_left_out_is_said_and_written(tmp_path):
    counts = np.random.default_rng(5).poisson(0.3, N)
    found = guess(write(tmp_path / "errors.csv", counts, counts > 0))
    assert found.section()["absent"] == "zero"
    assert found.section()["step"] == "5min"
    assert "absent: zero" in " ".join(found.words)
    config = loaded(tmp_path, starter_for(found, folder=tmp_path))
    assert config.monitor_specs()["everything"].meanings["telemetry"].zero


def test_a_counter_is_said_and_written_by_column(tmp_path):
    rng = np.random.default_rng(6)
    counter = np.cumsum(rng.poisson(100, N)) % 150_000
    gauge = rng.normal(50, 5, N).round(1)
    found = guess(write(tmp_path / "a.csv", np.stack([counter, gauge], 1), header="time,requests_total,load"))
    assert found.section()["as"] == {"requests_total": "rate"}
    meant = loaded(tmp_path, starter_for(found, folder=tmp_path)).monitor_specs()["everything"].meanings
    assert [meant["telemetry"].is_rate(name) for name in ("requests_total", "load")] == [True, False]


def test_numbers_of_rows_and_gauges_are_no_counters(tmp_path):
    found = guess(write(tmp_path / "ramp.csv", np.arange(N) + 1, header="time,value"))
    assert "as" not in found.section()


@pytest.mark.parametrize("wrong", ["rates", "[rate]", "{m: auto}", "3"])
def test_another_way_to_watch_values_is_refused(tmp_path, wrong):
    text = f"database: sqlite:///a.db\nsources: {{s: {{kind: csv, path: a.csv, step: 5min, as: {wrong}}}}}\n"
    with pytest.raises(ConfigError, match="expected value, rate or auto, or metrics"):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("distances", "step"),
    [
        ([300] * 50 + [600, 900], 300),
        ([300, 600, 900, 1500, 2100] * 20, 300),
        ([86400] * 4 + [3 * 86400] * 10, 86400),
        ([298, 302, 301, 299] * 20, 300),
        ([1800] * 13 + [63000], 1800),
    ],
)
def test_the_step_holds_almost_all_distances(distances, step):
    ts = np.cumsum([0, *distances])
    assert usual_step(np.zeros(len(ts), np.int64), ts) == step
