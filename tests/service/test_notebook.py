"""``detect`` takes what people have in a notebook, and finds what the service would find."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from torch import Tensor

from anomaly_service import Detected, detect
from anomaly_service.config.errors import ConfigError
from anomaly_service.config.load import load
from anomaly_service.db.migrate import migrate
from anomaly_service.errors import SeriesError, TooShortError
from anomaly_service.service import Service
from anomaly_service.sources.ingest import ingest_from
from detectors.base import UnknownSettingError
from detectors.gaussian import GaussianDetector
from detectors.robust_z import RobustZDetector
from detectors.windows import Windows
from pipelines.executor import Inline

ROOT = Path(__file__).parents[2]
N = 24 * 28
OUTAGE = slice(400, 406)
FAST: dict[str, Any] = {"detector": "gaussian", "params": {"window": 6}, "season": "daily"}


def course(seed: int = 0, n: int = N) -> NDArray[np.float64]:
    """Return hours of a daily rhythm around 100 with noise of 2 and an outage."""
    values = 100 + 20 * np.sin(2 * np.pi * np.arange(n) / 24) + np.random.default_rng(seed).normal(0, 2, n)
    values[OUTAGE] -= 70
    return values


def hours(n: int = N, start: str = "2024-01-01", **given: Any) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=n, freq="1h", **given)


def series(seed: int = 0) -> pd.Series[float]:
    return pd.Series(course(seed), hours(), name="logins")


@pytest.fixture(scope="module")
def plain() -> Detected:
    return detect(series(), **FAST)


def same(one: Detected, other: Detected) -> None:
    """Hold that two results have the same scores and intervals, whatever their rows are called."""
    # What goes through decimals may differ in the last bit.
    np.testing.assert_allclose(one.scores.anomaly_score, other.scores.anomaly_score, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(one.scores.yhat_lower, other.scores.yhat_lower, rtol=1e-9)
    told = ["kind", "duration_seconds", "direction", "peak_score", "y_at_peak", "yhat_at_peak"]
    pd.testing.assert_frame_equal(one.intervals[told], other.intervals[told])


# -- the same as the service --------------------------------------------------------

CONFIG = """
database: sqlite:///{folder}/anomaly.db
sources:
  t:
    {{kind: csv, path: "{folder}/t.csv", timestamp: ts, value: [ccu, logins], step: 15min,
     timezone: Europe/Berlin}}
monitors:
  m:
    {watched}
    detector: {detector}
    fit: {{every: 42d, window: 42d, stagger: false}}
    threshold: {{alarms_per_week: 2, per: series}}
    policy: {{detection_direction: below_expected, min_duration: 30min, merge_max_gap: 2h}}
calendar:
  patch: {{every: "FREQ=WEEKLY;BYDAY=TU;BYHOUR=6", lasts: 2h, masked: true}}
nightly: {{at: "02:10"}}
"""


def telemetry() -> pd.DataFrame:
    """Return two series of a fortnight and three hours, which end before the night of their first fit."""
    index = pd.date_range("2024-01-01", periods=4 * (14 * 24 + 3) + 1, freq="15min", name="ts")
    t, rng = np.arange(len(index)), np.random.default_rng(4)
    day = np.sin(2 * np.pi * t / 96)
    ccu = np.round(1000 + 300 * day + rng.normal(0, 20, len(t)))
    logins = 50 + 10 * day + rng.normal(0, 1, len(t))
    ccu[700:720] -= 500
    logins[1000:1010] -= 30
    logins[300:310] = np.nan
    return pd.DataFrame({"ccu": ccu, "logins": logins}, index)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Returns a service that has backfilled the telemetry from a file."""
    opened: list[Service] = []

    def serve(**given: str) -> Service:
        telemetry().to_csv(tmp_path / "t.csv")
        (tmp_path / "anomaly.yaml").write_text(CONFIG.format(folder=tmp_path, **given))
        config = load(tmp_path / "anomaly.yaml")
        migrate(config.database)
        service = Service(config, now=datetime(2024, 1, 15, 2, 10, tzinfo=UTC), executor=Inline())
        opened.append(service)
        ingest_from(service.config, service.store, service.now)
        service.backfill()
        return service

    yield serve
    for service in opened:
        service.close()


def stored(service: Service, name: str, found: Detected) -> None:
    """Hold that what the service stored of a target is what was detected."""
    (target,) = [each for each in service.store.targets(1) if each.key == name]
    block = service.store.scores([target.id], 0, 2**40)
    ours = found.scores.anomaly_score.dropna()
    assert isinstance(ours.index, pd.DatetimeIndex)
    seconds = ours.index.tz_localize("Europe/Berlin").as_unit("s").asi8
    assert seconds.tolist() == block.ts.tolist()
    np.testing.assert_allclose(block.settled_anomaly, ours, rtol=1e-6)
    rows = [row for row in service.store.rows("flagged_intervals") if row["series"] == name]
    rows.sort(key=lambda row: (row["start_at"], row["kind"]))
    assert [row["kind"] for row in rows] == found.intervals.kind.tolist()
    assert "anomaly" in found.intervals.kind.tolist()
    for column in found.intervals.columns.difference(["series"]):
        own = found.intervals[column]
        if column.endswith("_at"):
            theirs = [datetime.fromisoformat(row[column]).timestamp() for row in rows]
            seconds = own.dt.tz_localize("Europe/Berlin").dt.as_unit("s").astype("int64")
            known = own.notna()
            assert [at for at, k in zip(theirs, known, strict=True) if k] == seconds[known].tolist(), column
        elif own.dtype == float:
            theirs = [np.nan if row[column] is None else row[column] for row in rows]
            np.testing.assert_allclose(theirs, own, rtol=1e-6, err_msg=column)
        elif column == "channel_shares":
            shares = [pytest.approx(row[column]) if row[column] else None for row in rows]
            assert own.tolist() == shares
        else:
            assert [row[column] for row in rows] == own.tolist(), column


SETTINGS: dict[str, Any] = {
    "alarms_per_week": 2,
    "detection_direction": "below_expected",
    "min_duration": "30min",
    "merge_max_gap": "2h",
    "timezone": "Europe/Berlin",
    "calendar": {"patch": {"every": "FREQ=WEEKLY;BYDAY=TU;BYHOUR=6", "lasts": "2h", "masked": True}},
}


@pytest.mark.parametrize(("detector", "name"), [("auto", "ccu"), ("gaussian", "logins")])
def test_it_finds_what_the_service_finds(served: Callable[..., Service], detector: str, name: str) -> None:
    service = served(detector=detector, watched=f"series: {{metric: {name}}}")
    stored(service, name, detect(telemetry()[name], detector, **SETTINGS))


def test_together_it_finds_what_the_service_finds_of_channels(served: Callable[..., Service]) -> None:
    found = detect(telemetry(), "autoregressive", together=True, **SETTINGS)
    service = served(detector="autoregressive", watched="series: {}\n    channels: [ccu, logins]")
    stored(service, "ccu,logins", found)


def test_every_column_of_the_intervals_is_one_of_the_view(served: Callable[..., Service]) -> None:
    service = served(detector="gaussian", watched="series: {}")
    view = service.store.rows("flagged_intervals")[0]
    assert set(detect(telemetry(), together=True, **FAST).intervals.columns) <= set(view)


# -- importing ----------------------------------------------------------------------


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "from anomaly_service import detect; import anomaly_service, sys; assert callable(detect);"
        "assert 'detect' in dir(anomaly_service); print(*(m for m in sys.modules if '.' not in m))"
    )
    run = [sys.executable, "-c", program]
    loaded = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    heavy = {"torch", "pandas", "numpy", "sklearn", "pyarrow", "pydantic", "sqlalchemy"}
    assert not heavy & set(loaded.split())


def test_what_is_not_there_is_no_attribute() -> None:
    import anomaly_service

    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        anomaly_service.detekt  # noqa: B018  # to see it fail


def test_it_leaves_the_threads_of_torch_alone() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    detect(series()[:200], **FAST)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


# -- what comes back ----------------------------------------------------------------


def test_scores_stand_beside_the_rows_that_were_passed(plain: Detected) -> None:
    scores = plain.scores
    assert scores.index.equals(series().index)
    assert list(scores) == ["y", "yhat", "yhat_lower", "yhat_upper", "anomaly_score", "is_anomaly"]
    assert scores.y.tolist() == series().tolist()
    assert (scores.yhat_lower < scores.yhat).all()
    assert (scores.yhat < scores.yhat_upper).all()
    assert np.flatnonzero(scores.is_anomaly).tolist() == list(range(400, 406))
    assert (scores.anomaly_score[scores.is_anomaly] >= 1).all()
    pd.testing.assert_frame_equal(plain.expected, scores[["yhat", "yhat_lower", "yhat_upper"]])


def test_an_interval_is_told_in_the_times_of_the_rows(plain: Detected) -> None:
    (interval,) = plain.intervals.to_dict("records")
    told = (interval["series"], interval["kind"], interval["direction"])
    assert told == ("logins", "anomaly", "below_expected")
    assert series().loc[interval["start_at"] : interval["end_at"]].tolist() == series()[OUTAGE].tolist()
    assert (interval["duration_seconds"], interval["n_points"], interval["status"]) == (6 * 3600, 6, "closed")
    assert interval["y_at_peak"] == series()[interval["peak_at"]]
    assert interval["yhat_at_peak"] == plain.scores.yhat[interval["peak_at"]]
    assert interval["first_detected_at"] == interval["start_at"] + pd.Timedelta("1h")


def test_nothing_flagged_is_an_empty_table_of_the_same_columns(plain: Detected) -> None:
    none = detect(series(), **FAST, min_duration="2d").intervals
    assert len(none) == 0
    assert none.dtypes.drop("first_detected_at").equals(plain.intervals.dtypes.drop("first_detected_at"))


def test_columns_are_series_each_on_its_own(plain: Detected) -> None:
    frame = pd.DataFrame({"logins": course(), 7: course(3)[::-1]}, hours())
    found = detect(frame, **FAST)
    assert list(found) == ["logins", 7]
    same(found["logins"], plain)
    columns = [(name, column) for name in ("logins", 7) for column in plain.scores]
    assert found.scores.columns.tolist() == columns
    assert found.expected[7].equals(found[7].expected)
    assert set(found.intervals.series) == {"logins", 7}
    assert found.intervals.start_at.is_monotonic_increasing
    with pytest.raises(KeyError, match="no result for 'login'; there are: 'logins', 7"):
        found["login"]


def test_together_columns_are_channels_of_one_target() -> None:
    frame = pd.DataFrame({"logins": course(), "ccu": np.roll(course(3), 50)}, hours())
    found = detect(frame, together=True, detector="autoregressive", params={"window": 6}, season="daily")
    assert list(found) == ["logins, ccu"]
    assert list(found.scores) == ["anomaly_score", "is_anomaly"]
    assert found.expected.columns.tolist()[:2] == [("logins", "yhat"), ("logins", "yhat_lower")]
    assert found.intervals.channel.tolist() == ["logins", "ccu"]
    assert found.intervals.channel_shares[0].keys() == {"logins", "ccu"}


def test_one_series_that_cannot_be_learned_from_is_left_out_alone(plain: Detected) -> None:
    new = np.where(np.arange(N) < N - 20, np.nan, course())
    found = detect(pd.DataFrame({"logins": course(), "new": new}, hours()), **FAST)
    same(found, plain)
    assert found.left_out == {
        "new": "'new' has 20 points to learn from; 'gaussian' needs 48, 8 windows of 6: "
        "pass more history, or a detector by name with params={'window': 2}"
    }
    assert "note: left out: 'new' has 20 points" in repr(found)
    with pytest.raises(KeyError, match="no result for 'new': 'new' has 20 points"):
        found["new"]


def test_a_repr_reads_well(plain: Detected) -> None:
    first, header, row = repr(plain).splitlines()
    assert first == (
        "1 interval flagged in 'logins' by gaussian: "
        "672 rows from 2024-01-01 00:00 to 2024-01-28 23:00, every 1h"
    )
    assert header.split() == [
        "kind", "start_at", "end_at", "direction", "peak_score", "y_at_peak", "yhat_at_peak"
    ]  # fmt: skip
    assert row.split()[:4] == ["anomaly", "2024-01-17", "16:00:00", "2024-01-17"]
    shown = plain._repr_html_()
    assert shown.startswith("<p>1 interval flagged in &#x27;logins&#x27; by gaussian")
    assert "<td>below_expected</td>" in shown


def test_of_many_intervals_the_repr_shows_the_highest(plain: Detected) -> None:
    found = detect(series(), contamination=0.2, detector="robust_z", season="daily", merge_max_gap=0)
    lines = repr(found).splitlines()
    assert len(lines) == 13
    assert lines[-1] == f"and {len(found.intervals) - 10} more with lower scores: .intervals"
    told = sorted(float(line.split()[-3]) for line in lines[2:12])
    assert told == pytest.approx(sorted(found.intervals.peak_score)[-10:], rel=1e-3)


def test_a_budget_that_cannot_be_held_is_told() -> None:
    found = detect(series(), alarms_per_week=1e6, **FAST)
    assert found.notes[0].startswith("logins: alarms_per_week of 1e+06 needs a line that more than half")
    assert f"note: {found.notes[0]}" in repr(found)


# -- pictures -----------------------------------------------------------------------


def test_a_picture_shows_values_intervals_and_scores(plain: Detected) -> None:
    figure = plain.plot("2024-01-17", "2024-01-18")
    values, scores = figure.axes
    assert values.get_ylabel() == "logins"
    assert len(values.patches) == len(scores.patches) == 1
    np.testing.assert_array_equal(values.lines[-1].get_ydata(), course())
    assert scores.get_xlim() == (19739.0, 19740.0)
    assert [line.get_ydata()[0] for line in scores.lines][-1] == 1.0


def test_a_picture_of_several_series_has_panels_for_each() -> None:
    frame = pd.DataFrame({"logins": course(), "ccu": course(3)}, hours())
    labels = ["logins", "score", "ccu", "score"]
    assert [panel.get_ylabel() for panel in detect(frame, **FAST).plot().axes] == labels
    together = detect(frame, together=True, **FAST).plot()
    assert [panel.get_ylabel() for panel in together.axes] == ["logins", "ccu", "score"]


def test_without_matplotlib_a_picture_says_what_to_install(
    plain: Detected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(Exception, match=r"pip install 'anomaly-service\[plot\]'"):
        plain.plot()


# -- what people pass ---------------------------------------------------------------


def shuffled(one: pd.Series[float]) -> pd.Series[float]:
    return one.sample(frac=1, random_state=1)


FORMS: dict[str, Callable[[pd.Series[float]], Any]] = {
    "a series": lambda s: s,
    "a frame with one column": lambda s: s.to_frame(),
    "a frame with a column of times": lambda s: s.rename_axis("when").reset_index(),
    "a frame with a column of texts named like a time": lambda s: pd.DataFrame(
        {"value": s.to_numpy(), "ts": s.index.astype(str)}
    ),
    "newest first": lambda s: s[::-1],
    "aware times": lambda s: s.tz_localize("UTC"),
    "times on another clock": lambda s: s.tz_localize("UTC").tz_convert("+05:30"),
    "periods": lambda s: s.to_period("h"),
    "milliseconds": lambda s: s.set_axis(s.index.as_unit("ms")),
    "an arrow table": lambda s: pa.table({"ts": s.index, "y": s.to_numpy()}),
    "an arrow table of chunks": lambda s: pa.concat_tables(
        [pa.table({"ts": part.index, "y": part.to_numpy()}) for part in (s[:300], s[300:])]
    ),
    "a stream of arrow": lambda s: Stream(pa.table({"at": s.index.tz_localize("UTC"), "v": s.to_numpy()})),
    "dates as texts in arrow": lambda s: pa.table({"date": s.index.astype(str), "y": s.to_numpy()}),
    "decimals": lambda s: s.map(lambda each: Decimal(repr(each))),
    "a type that knows missing values": lambda s: s.astype("Float64"),
    "an arrow type": lambda s: s.astype("double[pyarrow]"),
}


class Stream:
    """A table that speaks Arrow and nothing else, as those of polars and duckdb do."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_values_give_the_same_in_every_form(form: str, plain: Detected) -> None:
    passed = FORMS[form](series())
    found = detect(passed, **FAST)
    if form == "newest first":
        found_scores = found.scores[::-1]
        np.testing.assert_array_equal(found_scores.anomaly_score, plain.scores.anomaly_score)
    else:
        same(found, plain)
    if isinstance(passed, pd.Series | pd.DataFrame):
        assert found.scores.index.equals(passed.index)
    else:
        assert isinstance(found.scores.index, pd.DatetimeIndex)


@pytest.mark.parametrize("step", ["1h", "60min", pd.Timedelta("1h")])
def test_an_array_needs_the_distance_of_its_rows(step: Any, plain: Detected) -> None:
    same(detect(course(), step=step, **FAST), plain)
    both = detect(np.stack([course(), course(3)], axis=1), step=step, start="2024-01-01T00:00+00:00", **FAST)
    same(both[0], plain)
    assert both.scores.index.equals(hours(tz="UTC"))
    with pytest.raises(SeriesError, match=r'an array has no times; .* such as step="5min"'):
        detect(course(), **FAST)
    with pytest.raises(SeriesError, match="one or two dimensions, got 3"):
        detect(course().reshape(2, -1, 2), step=step)


def test_rows_in_any_order_give_the_same_and_keep_their_order(plain: Detected) -> None:
    passed = shuffled(series())
    found = detect(passed, **FAST)
    assert found.scores.index.equals(passed.index)
    pd.testing.assert_frame_equal(found.scores.sort_index(), plain.scores, check_freq=False)


def test_of_rows_with_one_time_the_last_counts(plain: Detected) -> None:
    wrong = series()[100:140] + 1000
    found = detect(pd.concat([wrong, series()]), **FAST)
    pd.testing.assert_frame_equal(found.scores[40:], plain.scores, check_freq=False)
    assert found.notes == ("40 rows with the time of another: the last one counts",)


def test_gaps_are_intervals_and_rows_without_value_have_no_score() -> None:
    values = series()
    values[50:60] = np.nan
    found = detect(values.drop(values.index[200:204]), **FAST)
    gaps = found.intervals[found.intervals.kind == "data_missing"]
    assert gaps.start_at.tolist() == [hours()[50], hours()[200]]
    assert gaps.duration_seconds.tolist() == [10 * 3600, 4 * 3600]
    assert found.scores.anomaly_score[50:60].isna().all()
    assert not found.scores.is_anomaly[50:60].any()
    assert found.scores.yhat[50:60].notna().all()


def test_times_that_jitter_belong_to_the_nearest_step(plain: Detected) -> None:
    jitter = pd.to_timedelta(np.random.default_rng(1).integers(-300, 300, N), unit="s")
    found = detect(series().set_axis(hours() + jitter), **FAST)
    assert found.scores.anomaly_score.notna().sum() >= N - 6
    assert found.scores.is_anomaly.tolist() == plain.scores.is_anomaly.tolist()
    assert "every 1h" in repr(found)


@pytest.mark.parametrize("kind", [bool, "boolean", int, "float32", "int8"])
def test_numbers_of_every_kind_are_taken(kind: Any) -> None:
    values = pd.Series((course() > 60).astype(float), hours())
    found = detect(values.astype(kind), **FAST)
    same(found, detect(values, **FAST))
    assert found.scores.is_anomaly[OUTAGE].all()


def test_infinite_values_are_left_out_and_told() -> None:
    values = series()
    values.iloc[[3, 7]] = [np.inf, -np.inf]
    found = detect(values, **FAST)
    assert found.notes == ("2 values of logins left out: value is infinite",)
    assert found.scores.anomaly_score.iloc[[3, 7]].isna().all()
    assert len(found.intervals) == 1


def test_a_constant_series_has_no_interval_until_it_moves() -> None:
    values = pd.Series(5.0, hours(), name="up")
    assert len(detect(values, **FAST).intervals) == 0
    values.iloc[300] = 4.0
    (interval,) = detect(values, **FAST).intervals.to_dict("records")
    assert interval["peak_at"] == hours()[300]


def test_an_hour_that_comes_twice_and_one_that_does_not_come_are_told_apart() -> None:
    index = pd.date_range("2024-10-20", periods=504, freq="30min", tz="Europe/Berlin")
    aware = pd.Series(course(n=504), index, name="logins")
    local = detect(aware.tz_localize(None), timezone="Europe/Berlin", **FAST)
    same(local, detect(aware, **FAST))
    assert local.scores.index.equals(index.tz_localize(None))
    turned = detect(aware.tz_localize(None)[::-1], timezone="Europe/Berlin", **FAST)
    np.testing.assert_array_equal(turned.scores.anomaly_score[::-1], local.scores.anomaly_score)
    doubtful = detect(shuffled(aware.tz_localize(None)), timezone="Europe/Berlin", **FAST)
    assert doubtful.notes == ("4 rows left out: local time comes twice, and nothing tells which is meant",)
    spring = hours(504, "2024-03-20")
    skipped = detect(pd.Series(course(n=504), spring), timezone="Europe/Berlin", **FAST)
    assert skipped.notes == ("1 row left out: local time does not exist: the clock skips it",)
    assert skipped.scores.anomaly_score.isna().sum() == 1


def test_days_are_those_of_the_rows_own_clock() -> None:
    index = hours(tz="Europe/Berlin")
    one = detect(pd.Series(course(), index), **FAST)
    assert one._targets[0].history.target.timezone == "Europe/Berlin"
    other = detect(pd.Series(course(), index), timezone="Asia/Tokyo", **FAST)
    assert other._targets[0].history.target.timezone == "Asia/Tokyo"
    assert one.intervals.start_at[0] == index[400]
    assert str(one.intervals.start_at.dt.tz) == "Europe/Berlin"


def test_series_of_different_steps_in_one_frame_have_each_its_own(plain: Detected) -> None:
    fast = pd.Series(np.repeat(course(3), 4), pd.date_range("2024-01-01", periods=4 * N, freq="15min"))
    found = detect(pd.concat({"logins": series(), "fast": fast}, axis=1, sort=True), **FAST)
    assert [each.step_seconds for each in found._targets] == [3600, 900]
    same(detect(found["logins"].scores.y.dropna(), **FAST), plain)


def test_one_column_of_many_is_looked_at_where_it_is_named(plain: Detected) -> None:
    frame = pd.DataFrame({"realm": "kr-1", "logins": course(), "created": hours(), "at": hours()})
    same(detect(frame, value="logins", **FAST), plain)
    same(detect(frame, value=["logins"], timestamp="created", **FAST), plain)


# -- what is refused ----------------------------------------------------------------

FRAME = pd.DataFrame({"realm": "kr-1", "logins": course(), "first": hours()}, hours())

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "texts": (FRAME, {}, r"something else: 'realm' \(texts\), 'first' \(times\); name the columns"),
    "a series of texts": (series().astype(str), {}, r"'logins' \(texts\)"),
    "categories": (series().round(-1).astype("category"), {}, r"'logins' \(categories\)"),
    "mixed cells": (series().astype(object).where(series() > 60, "low"), {}, "'logins' cannot be read"),
    "no times": (series().reset_index(drop=True), {}, "expected a DatetimeIndex or a column of times"),
    "times as texts": (series().rename(str), {}, "set the index with pandas.to_datetime"),
    "no column of that name": (FRAME, {"value": "login"}, "there is no column 'login'; columns: 'realm'"),
    "no time of that name": (FRAME, {"timestamp": "ts"}, "there is no column 'ts'"),
    "several times": (
        pd.DataFrame({"a": hours(), "b": hours(), "y": course()}), {}, "several columns hold times: 'a', 'b'"
    ),
    "no value": (series() * np.nan, {}, "'logins' has no value at all"),
    "empty": (series()[:0], {}, "'logins' has no value at all"),
    "an empty frame": (pd.DataFrame(index=hours()), {}, "no column of values beside the time"),
    "a dict": ({"y": course()}, {}, "expected a pandas Series or DataFrame, .* got dict"),
    "arrow without times": (pa.table({"y": course()}), {}, "no column looks like a time; columns: 'y'"),
    "names twice": (pd.concat([series(), series()], axis=1), {}, "several columns are called 'logins'"),
    "faster than seconds": (
        series().set_axis(pd.date_range("2024-01-01", periods=N, freq="10ms")), {}, "rows have 7 different"
    ),
    "long form": (pd.concat([series(), series(), series()]), {}, "2,016 rows have 672 different .*pivot"),
    "nothing to learn from": (series(), {"train_until": "2023-12-31"}, "nothing of the rows from 2024-01-01"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_series_is_refused_by_name(what: str) -> None:
    data, given, told = REFUSED[what]
    with pytest.raises(SeriesError, match=told):
        detect(data, **given, **FAST)


def test_a_series_that_is_too_short_says_how_many_points_are_needed() -> None:
    with pytest.raises(TooShortError, match="'logins' has 40 points to learn from; 'auto' needs 80") as told:
        detect(series()[:40])
    assert (told.value.points, told.value.needed) == (40, 80)
    assert isinstance(told.value, ValueError)


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"detector": "gausian"}, ConfigError, "detect: detector: expected an .*did you mean 'gaussian'"),
        ({"min_duration": "5 apples"}, ConfigError, "detect: min_duration: expected a duration .*'5 apples'"),
        ({"season": "yearly"}, ConfigError, "detect: season: expected one of auto, daily, none, weekly"),
        ({"alarms_per_week": 0}, ConfigError, "detect: alarms_per_week: expected more than 0; got 0"),
        ({"contamination": 0.7}, ConfigError, "detect: contamination: expected less than 0.5; got 0.7"),
        ({"calendar": {"patch": {"evry": "x"}}}, ConfigError, r"calendar.patch.evry: .* mean 'every'"),
        ({"step": "5"}, ConfigError, "detect: step: expected a duration"),
        ({"timezone": "Europe/Berlun"}, ConfigError, "detect: timezone: .*did you mean 'Europe/Berlin'"),
        ({"params": {"windw": 5}, "detector": "gaussian"}, UnknownSettingError, "did you mean 'window'"),
        ({"params": {"window": 5}}, ValueError, "auto chooses its models itself"),
        ({"params": {"window": 5}, "detector": GaussianDetector()}, TypeError, "params beside the name"),
        ({"detector": 5}, TypeError, "expected the name of a detector, a Detector or its class, got 5"),
        ({"contamination": 0.1, "alarms_per_week": 1}, TypeError, "alarms_per_week or .*, got both"),
    ],
)  # fmt: skip
def test_a_setting_that_a_config_may_not_hold_is_refused_by_its_name(
    given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        detect(series(), **given)


# -- settings -----------------------------------------------------------------------


def test_a_detector_is_a_name_a_class_or_one_with_its_settings(plain: Detected) -> None:
    same(detect(series(), GaussianDetector(window=6), season="daily"), plain)
    same(detect(series(), GaussianDetector, params={"window": 6}, season="daily"), plain)


def test_a_detector_of_your_own_needs_no_entry_point() -> None:
    class Mine(RobustZDetector):
        def _score(self, windows: Windows) -> Tensor:
            return windows.values.abs().amax(3)

    found = detect(series(), Mine(window=6), season="daily")
    assert found.scores.is_anomaly[OUTAGE].all()
    assert "Mine:" in repr(found)


def test_slow_series_are_allowed_fewer_alarms_and_longer_gaps() -> None:
    spec = detect(series(), **FAST)._targets[0].model.spec
    assert (spec.threshold.alarms_per_week, spec.policy.merge_max_gap_seconds) == (1.0, 3 * 3600)
    days = pd.Series(course(n=500), pd.date_range("2022-01-01", periods=500, freq="1D"))
    spec = detect(days, "robust_z")._targets[0].model.spec
    assert (spec.threshold.alarms_per_week, spec.policy.merge_max_gap_seconds) == (0.042, 3 * 86400)


def test_rows_outside_of_what_is_learned_are_scored_by_a_model_that_has_not_seen_them() -> None:
    changed = series()
    changed[600:] += 40
    found = detect(changed, learn_from="2024-01-03", train_until=hours()[500], **FAST)
    assert found.scores.anomaly_score.notna().all()
    assert (found.scores.anomaly_score[601:] > 1).mean() > 0.9
    again = detect(changed[:620], learn_from="2024-01-03", train_until=hours()[500], **FAST)
    np.testing.assert_allclose(again.scores.anomaly_score[:610], found.scores.anomaly_score[:610], rtol=1e-5)


# -- going on -----------------------------------------------------------------------


def test_new_rows_are_scored_as_they_come_without_a_fit(
    plain: Detected, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = course(n=N + 48)
    whole[N + 20 : N + 24] -= 70
    index = hours(N + 48)
    monkeypatch.setattr("pipelines.workers.alone.fit_targets", None)
    later = plain.score(pd.Series(whole[N:], index[N:]))
    assert later.scores.index.equals(index[N:])
    assert np.flatnonzero(later.scores.is_anomaly).tolist() == [20, 21, 22, 23]
    assert later.scores.anomaly_score.notna().all()
    (interval,) = later.intervals.to_dict("records")
    assert (interval["start_at"], interval["end_at"]) == (index[N + 20], index[N + 23])


def test_what_is_scored_bit_by_bit_equals_what_is_scored_at_once(plain: Detected) -> None:
    rows = pd.Series(course(7, n=N + 30)[N:], hours(N + 30)[N:])
    at_once = plain.score(rows)
    found, parts = plain, []
    for first in range(0, 30, 10):
        found = found.score(rows[first : first + 10])
        parts.append(found.scores)
    np.testing.assert_allclose(pd.concat(parts).anomaly_score, at_once.scores.anomaly_score, rtol=1e-5)


def test_an_interval_that_began_before_the_new_rows_is_told_whole(plain: Detected) -> None:
    whole, index = course(n=N + 24), hours(N + 24)
    whole[N + 17 : N + 23] -= 70
    before = plain.score(pd.Series(whole[N : N + 20], index[N : N + 20]))
    assert before.intervals.status.tolist() == ["open"]
    (interval,) = before.score(pd.Series(whole[N + 20 :], index[N + 20 :])).intervals.to_dict("records")
    assert (interval["start_at"], interval["end_at"]) == (index[N + 17], index[N + 22])
    assert interval["status"] == "closed"


def test_a_gap_before_new_rows_is_told(plain: Detected) -> None:
    later = plain.score(pd.Series(course(n=N + 30)[N + 10 :], hours(N + 30)[N + 10 :]))
    assert later.intervals.kind.tolist()[0] == "data_missing"
    assert later.intervals.start_at[0] == hours(N + 1)[N]


def test_new_columns_are_found_by_their_name() -> None:
    frame = pd.DataFrame({"a": course(), "b": course(3)}, hours())
    found = detect(frame, **FAST)
    rows = pd.DataFrame({"b": course(3, N + 9)[N:], "a": course(0, N + 9)[N:]}, hours(N + 9)[N:])
    later = found.score(rows)
    assert later.scores["a"].y.tolist() == rows.a.tolist()
    with pytest.raises(SeriesError, match="there is no column 'b'; pass the columns that were fitted"):
        found.score(rows[["a"]].rename(columns={"a": "x"}).assign(a=1.0))
    with pytest.raises(SeriesError, match="no row has both a time and a value"):
        found.score(rows * np.nan)


def test_new_rows_of_an_array_go_on_where_the_last_ended() -> None:
    found = detect(course(), step="1h", **FAST)
    later = found.score(course(n=N + 5)[N:])
    assert later.scores.index[0] == found.scores.index[-1] + pd.Timedelta("1h")


def test_samples_are_windows_at_the_end_of_the_history(plain: Detected) -> None:
    drawn = plain.sample(200, seed=1)
    assert drawn.shape == (6, 200)
    assert drawn.index.equals(series().index[-6:])
    np.testing.assert_allclose(drawn.mean(axis=1), series()[-6:], atol=8)
    assert drawn.equals(plain.sample(200, seed=1))
    both = detect(pd.DataFrame({"a": course(), "b": course(3)}, hours()), **FAST).sample(2)
    assert both.columns.tolist() == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_times_that_cannot_be_stored_are_told_as_such() -> None:
    long_ago = pd.date_range("1800-01-01", periods=500, freq="5min", tz="UTC")
    with pytest.raises(SeriesError, match=r"no row can be used: .*; got times from 1800-01-01"):
        detect(pd.Series(np.arange(500.0), long_ago))
