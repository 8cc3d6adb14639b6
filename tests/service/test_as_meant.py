"""A shop's hours, buckets left out and a counter as people have them: a real pass finds what happened."""

from __future__ import annotations

import numpy as np
import pytest
from commands import anomaly

DETECTOR = ("--detector", "robust_z")
START = np.datetime64("2026-01-05T00:00:00")  # a Monday


def write(path, minutes, values):
    rows = [f"{START + np.timedelta64(int(m), 'm')},{v:g}" for m, v in zip(minutes, values, strict=True)]
    path.write_text("\n".join(["time,value", *rows]) + "\n", "utf-8")
    return path


def found(done):
    return [(row["kind"], row["start_at"], row["end_at"]) for row in done.rows]


def overlaps(row, start, end):
    return row[1] <= end and row[2] >= start


def test_a_shop_that_stayed_closed_one_morning_is_the_only_gap(tmp_path):
    minutes = np.arange(0, 42 * 1440, 30)
    is_open = (minutes % 1440 >= 420) & (minutes % 1440 < 1320) & (minutes % 10080 < 6 * 1440)
    closed = (minutes >= 30 * 1440 + 540) & (minutes < 30 * 1440 + 720)
    values = np.random.default_rng(1).normal(50, 3, len(minutes)).round(1)
    keep = is_open & ~closed
    file = write(tmp_path / "shop.csv", minutes[keep], values[keep])
    config = ("--config", tmp_path / "kept" / "anomaly.yaml")
    anomaly("init", file, *DETECTOR, "--fit-window", "42d", *config)
    anomaly("ingest", *config)
    anomaly("backfill", *config)
    gaps = [row for row in found(anomaly("intervals", "--json", *config)) if row[0] != "anomaly"]
    assert gaps == [("data_missing", "2026-02-04T09:00:00Z", "2026-02-04T11:30:00Z")]
    (series,) = anomaly("series", "--json", *config).rows
    assert series["habit"] == "absent Mon-Sat 00:00-07:00, 22:00-24:00; Sun"


def test_buckets_that_were_left_out_are_zeros_and_a_burst_stands_out(tmp_path):
    counts = np.random.default_rng(2).poisson(0.3, 28 * 288)
    counts[6_000:6_010] += 8
    minutes = np.arange(len(counts)) * 5
    file = write(tmp_path / "errors.csv", minutes[counts > 0], counts[counts > 0])
    rows = found(anomaly("try", file, *DETECTOR, "--json"))
    assert not [row for row in rows if row[0] in ("data_missing", "unscored", "stale")]
    assert any(overlaps(row, "2026-01-25T20:00:00Z", "2026-01-25T20:45:00Z") for row in rows)
    assert len(rows) <= 3


def test_a_counter_is_watched_as_its_rate_and_its_restarts_are_nothing(tmp_path):
    rise = np.random.default_rng(3).poisson(300, 28 * 288)
    rise[6_000:6_024] = 0
    counter = np.cumsum(rise)
    for restart in (2_000, 4_500, 7_100):
        counter[restart:] -= counter[restart] - 50
    file = write(tmp_path / "requests_total.csv", np.arange(len(counter)) * 5, counter)
    rows = found(anomaly("try", file, *DETECTOR, "--json"))
    stall = [row for row in rows if overlaps(row, "2026-01-25T20:00:00Z", "2026-01-25T21:55:00Z")]
    assert stall
    # Four weeks at an alarm a week; none of them is a restart.
    assert len(rows) - len(stall) <= 3
    for restart in ("2026-01-07T22:40:00Z", "2026-01-16T15:00:00Z", "2026-01-25T15:40:00Z"):
        assert not any(overlaps(row, restart, restart) for row in rows)


@pytest.mark.parametrize("extra", [(), ("--timezone", "Europe/Berlin")])
def test_the_same_config_from_init_reads_it_the_same(tmp_path, extra):
    counts = np.random.default_rng(4).poisson(0.3, 7 * 288)
    write(tmp_path / "errors.csv", np.arange(len(counts))[counts > 0] * 5, counts[counts > 0])
    config = tmp_path / "anomaly.yaml"
    done = anomaly("init", tmp_path / "errors.csv", "--config", config, *extra)
    assert "absent: zero" in done.err
    assert "absent: zero" in config.read_text("utf-8")
