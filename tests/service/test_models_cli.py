"""`anomaly models` and `anomaly sample` as a person meets them: what is listed, drawn and refused."""

from __future__ import annotations

import builtins
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Result, anomaly

START = datetime(2025, 1, 6, tzinfo=UTC)
DAYS = 24
NOW = START + timedelta(days=DAYS)
WINDOW = 6
EU, US = "logins{realm=eu-1}", "logins{realm=us-1}"

CONFIG = f"""
database: sqlite:///anomaly.db
sources:
  telemetry:
    {{kind: csv, path: "drop/*.csv", timestamp: ts, value: value, metric: metric, labels: [realm],
     step: 1h, timezone: UTC}}
monitors:
  logins-odd:
    series: {{metric: logins}}
    detector: gaussian
    params: {{window: {WINDOW}}}
    season: daily
    fit: {{every: 7d, window: 14d, stagger: false}}
  latency-odd:
    series: {{metric: latency}}
    detector: kde
    params: {{window: {WINDOW}}}
    season: none
    fit: {{every: 7d, window: 14d, stagger: false}}
  idle:
    series: {{metric: nothing}}
http: {{port: 0}}
workers: 1
"""


@dataclass(frozen=True)
class Place:
    """A folder with a config and a database that was backfilled."""

    folder: Path

    def __call__(self, *args: object) -> Result:
        return anomaly(*args, "--config", self.folder / "anomaly.yaml", "--now", NOW.isoformat())

    def sample(self, *args: object) -> Any:
        """Return the rows of windows drawn."""
        done = self("sample", "--json", *args)
        assert done.code == 0, done.err
        return done.rows


def logins(seed: int) -> np.ndarray:
    """Whole logins of hours that follow the day."""
    hours = np.arange(DAYS * 24)
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, len(hours)))
    return np.round(1000 * (1.5 + np.sin(2 * np.pi * hours / 24)) * noise)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("place"))
    latency = 40 + 4 * np.random.default_rng(3).standard_normal(DAYS * 24)
    lines = ["ts,metric,realm,value"]
    for metric, realm, values in (
        ("logins", "eu-1", logins(1)),
        ("logins", "us-1", logins(2)),
        ("latency", "eu-1", latency),
    ):
        lines += [
            f"{START + timedelta(hours=hour):%Y-%m-%dT%H:%M:%SZ},{metric},{realm},{value}"
            for hour, value in enumerate(values)
        ]
    (made.folder / "drop").mkdir()
    (made.folder / "drop" / "points.csv").write_text("\n".join(lines) + "\n")
    (made.folder / "anomaly.yaml").write_text(CONFIG)
    for command in ("migrate", "ingest", "backfill"):
        done = made(command)
        assert done.code == 0, done.err
    return made


# -- models -------------------------------------------------------------------------


def test_models_lists_the_one_in_use_of_every_series(place: Place) -> None:
    done = place("models")
    assert done.code == 0
    assert {(row[1], row[2], row[3]) for row in done.table} == {
        (EU, "logins-odd", "gaussian"),
        (US, "logins-odd", "gaussian"),
        ("latency{realm=eu-1}", "latency-odd", "kde"),
    }


def test_older_models_are_listed_when_asked_for(place: Place) -> None:
    in_use = place("models", "--series", EU, "--json").rows
    every = place("models", "--series", EU, "--all", "--json").rows
    assert [row["is_current"] for row in in_use] == [True]
    assert [row["is_current"] for row in every] == [True, False]
    assert every[0]["card"]["n_windows"] == 14 * 24 - WINDOW + 1
    assert every[0]["card"]["missing_share"] == 0.0


def test_a_card_says_how_well_a_model_knows_what_it_has_not_seen(place: Place) -> None:
    for row in place("models", "--json").rows:
        card = row["card"]
        assert row["status"] == "accepted"
        assert card["broken"] == []
        assert card["held_out_windows"] > 40
        assert 0 < card["nll"] < 2
        assert card["nll"] == pytest.approx(card["nll_gaussian"], abs=0.2)
        assert 0 < card["rmse"] < 1.1 * card["rmse_gaussian"]
        assert 0.5 < card["sample_variance"] < 2
        assert card["c2st_low"] < card["c2st_difference"] < card["c2st_high"]


def test_models_prints_likelihood_and_two_sample_test(place: Place) -> None:
    done = place("models", "--series", EU)
    (row,) = place("models", "--series", EU, "--json").rows
    assert "nll" in done.out.splitlines()[0]
    assert "c2st" in done.out.splitlines()[0]
    nll, c2st = (float(cell) for cell in done.table[0][-4:-2])
    assert nll == pytest.approx(row["card"]["nll"], abs=0.006)
    assert c2st == pytest.approx(row["card"]["c2st_difference"], abs=0.006)


def test_models_of_one_monitor(place: Place) -> None:
    assert {row["monitor"] for row in place("models", "--monitor", "latency-odd", "--json").rows} == {
        "latency-odd"
    }


def test_a_short_list_says_how_it_goes_on(place: Place) -> None:
    done = place("models", "--limit", 1)
    assert len(done.table) == 1
    cursor = done.err.strip().removeprefix("More follow: --after ")
    everything = [row["model_version_id"] for row in place("models", "--json").rows]
    rest = [row["model_version_id"] for row in place("models", "--json", "--after", cursor).rows]
    assert rest == everything[1:]


# -- sample -------------------------------------------------------------------------


def drawn(rows: Sequence[dict[str, Any]], series: str) -> np.ndarray:
    """Return the values of rows as ``(n, window)``."""
    return np.array([row[series] for row in rows]).reshape(-1, WINDOW)


@pytest.mark.parametrize("hour", [6, 18])
def test_windows_have_the_season_and_the_unit_of_their_time(place: Place, hour: int) -> None:
    end = NOW - timedelta(days=1) + timedelta(hours=hour)
    rows = place.sample("-m", "logins-odd", "--series", EU, "-n", 300, "--at", end.isoformat())
    hours = [datetime.fromisoformat(row["at"]).hour for row in rows[:WINDOW]]
    assert hours == [(end - timedelta(hours=back)).hour for back in range(WINDOW, 0, -1)]
    values = drawn(rows, EU)
    usual = 1000 * (1.5 + np.sin(2 * np.pi * np.array(hours) / 24))
    assert np.abs(values.mean(0) / usual - 1).max() < 0.03
    assert 0.012 < (values.std(0) / usual).mean() < 0.03


def test_windows_of_counts_are_whole(place: Place) -> None:
    values = drawn(place.sample("-m", "logins-odd", "--series", US), US)
    assert values.shape == (20, WINDOW)
    assert (values == np.round(values)).all()
    assert (values >= 0).all()


def test_equal_seeds_draw_equal_windows(place: Place) -> None:
    one, again, other = (
        place.sample("-m", "logins-odd", "--series", EU, "--seed", seed) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_the_only_series_of_a_monitor_need_not_be_named(place: Place) -> None:
    rows = place.sample("-m", "latency-odd", "-n", 200)
    values = drawn(rows, "latency{realm=eu-1}")
    assert abs(values.mean() - 40) < 1
    assert 3 < values.std() < 5


def test_without_a_file_a_table_tells_samples_beside_what_was_observed(place: Place) -> None:
    done = place("sample", "-m", "latency-odd")
    assert len(done.table) == WINDOW
    at, series, observed, low, median, high = done.table[-1]
    assert at == f"{NOW - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    assert series == "latency{realm=eu-1}"
    assert float(low) < float(median) < float(high)
    assert 20 < float(observed) < 60


def test_windows_are_written_as_a_table_of_steps(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "windows.csv"
    done = place("sample", "-m", "latency-odd", "-n", 3, "--csv", file)
    assert f"wrote {file}: 3 windows of {WINDOW} steps" in done.err
    assert done.out == ""
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [row["sample"] for row in rows] == [str(n) for n in (1, 2, 3) for _ in range(WINDOW)]
    assert (
        float(rows[0]["latency{realm=eu-1}"])
        == place.sample("-m", "latency-odd", "-n", 3)[0]["latency{realm=eu-1}"]
    )


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_written(place: Place, tmp_path: Path, suffix: str, begins: bytes) -> None:
    file = tmp_path / f"windows{suffix}"
    assert place("sample", "-m", "latency-odd", "--plot", file).code == 0
    assert file.read_bytes().startswith(begins)


def test_drawing_writes_nothing_into_the_database(place: Place) -> None:
    before = (place.folder / "anomaly.db").read_bytes()
    place.sample("-m", "latency-odd")
    assert (place.folder / "anomaly.db").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-m", "logins"), "no monitor named 'logins'; the config declares logins-odd, latency-odd, idle"),
        (("-m", "logins-odd"), f"monitor logins-odd watches {EU}, {US}; name one with --series"),
        (("-m", "logins-odd", "--series", "x"), "there is no 'x' among them"),
        (("-m", "idle"), "monitor idle watches no series yet"),
        (
            ("-m", "latency-odd", "--at", "2025-01-08"),
            "latency{realm=eu-1} has no model that old; `anomaly models` lists those there are",
        ),
    ],
)
def test_what_cannot_be_drawn_is_told(place: Place, args: Sequence[str], message: str) -> None:
    done = place("sample", *args)
    assert done.code == 1
    assert message in done.err


@pytest.mark.parametrize(
    ("file", "message"),
    [("windows.gif", "--plot writes .png, .svg, .pdf; got"), ("none/windows.png", "there is no folder")],
)
def test_a_picture_that_cannot_be_written_is_refused_first(
    place: Place, tmp_path: Path, file: str, message: str
) -> None:
    done = place("sample", "-m", "latency-odd", "--plot", tmp_path / file)
    assert done.code == 2
    assert message in done.told


def test_a_monitor_that_never_worked_says_what_to_do(place: Place, tmp_path: Path) -> None:
    (tmp_path / "anomaly.yaml").write_text(CONFIG)
    anomaly("migrate", "--config", tmp_path / "anomaly.yaml")
    done = anomaly("sample", "-m", "logins-odd", "--config", tmp_path / "anomaly.yaml")
    assert done.code == 1
    assert "monitor 'logins-odd' has not been at work yet; run: anomaly backfill" in done.err


def test_without_matplotlib_a_picture_says_what_to_install(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    done = place("sample", "-m", "latency-odd", "--plot", tmp_path / "windows.png")
    assert done.code == 1
    assert "pip install 'anomaly-service[plot]'" in done.err
