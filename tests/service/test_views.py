"""The public views say the same on both databases, and docs/sql.md says what they say."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import inspect, text

from anomaly_service.db import views
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import InvalidError, NotFoundError
from pipelines.names import Kind, RunKind, RunState, Status, Verdict
from pipelines.records import EventChange, EventPortrait, Interval, PointBlock, ScoreBlock, SeriesSpec
from pipelines.store import Batch, Ingest, NewVersion

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)
T0 = int(NOON.timestamp())


def specs(n: int) -> list[SeriesSpec]:
    return [SeriesSpec("ccu", {"region": region}, 300, 60, "UTC", "telemetry") for region in "abcdef"[:n]]


def points(*rows: tuple[int, int, float]) -> PointBlock:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return PointBlock(columns[0].astype(int), columns[1].astype(int), columns[2].astype(float))


def scores(*rows: tuple[float, ...]) -> ScoreBlock:
    columns = [np.array(column, dtype=float) for column in zip(*rows, strict=True)]
    return ScoreBlock(*(column.astype(np.int64) for column in columns[:3]), *columns[3:])  # type: ignore[arg-type]


def interval(start: int = T0, end: int = T0 + 600, peak: float = 2.0, **changes: object) -> Interval:
    found = Interval(Kind.ANOMALY, start, end, 3, start + 300, peak, 1.25, "below_expected", 4.0, 9.0, -12.5)
    return Interval(**{**vars(found), **changes})


def watched(store: SqlStore, n: int = 2) -> list[int]:
    """Return the targets of a monitor over ``n`` series with one point each, the last without a model."""
    store.ingest(Ingest("telemetry", specs(n), points(*((k, T0, 1.0) for k in range(n)))))
    monitor = store.sync_monitors({"players": {"detector": "gaussian"}})[0]
    ids = {row.spec.key: row.id for row in store.series()}
    targets = store.sync_targets(monitor.id, [(spec.key, (ids[spec.key],)) for spec in specs(n)])
    store.add_versions(
        None,
        [
            NewVersion(target.id, "gaussian", T0 - 86400, T0, {}, {"window": 24}, b"12345", {"windows": 7})
            for target in targets[:-1]
        ],
    )
    return [target.id for target in targets]


def flag(store: SqlStore, target: int, found: Interval, status: Status = Status.CLOSED) -> int:
    change = EventChange(target, None, found, status, first_detected_at=found.start + 300)
    return store.commit(None, Batch(changes=[change]))[0].id


def test_a_flagged_interval_shows_everything(store: SqlStore) -> None:
    target = watched(store)[0]
    version = store.versions([target])[0].id
    event = flag(store, target, interval(version_id=version), Status.OPEN)
    row = store.rows("flagged_intervals")[0]
    assert row.pop("updated_at") > "2025-01-01T00:00:00Z"
    assert row == {
        "event_id": event,
        "series": "ccu{region=a}",
        "metric": "ccu",
        "labels": {"region": "a"},
        "monitor": "players",
        "detector": "gaussian",
        "model_version_id": version,
        "kind": "anomaly",
        "start_at": "2026-02-01T12:00:00Z",
        "end_at": "2026-02-01T12:10:00Z",
        "start_ts": T0,
        "end_ts": T0 + 600,
        "duration_seconds": 900,
        "status": "open",
        "direction": "below_expected",
        "severity": "medium",
        "peak_at": "2026-02-01T12:05:00Z",
        "peak_score": 2.0,
        "mean_score": 1.25,
        "n_points": 3,
        "y_at_peak": 4.0,
        "yhat_at_peak": 9.0,
        "impact": -12.5,
        "channel": None,
        "channel_shares": None,
        "review_verdict": None,
        "review_cause": None,
        "reviewed_at": None,
        "added": False,
        "first_detected_at": "2026-02-01T12:05:00Z",
        "revision": 1,
        "suggested_verdict": None,
        "suggested_cause": None,
        "suggestion_probability": None,
        "monitor_id": store.monitors()[0].id,
        "target_id": target,
        "timezone": "UTC",
    }
    assert [row["event_id"] for row in store.rows("open_events")] == [event]


def test_merged_and_outdated_events_are_not_shown_and_those_below_the_line_are(store: SqlStore) -> None:
    target = watched(store)[0]
    for k, status in enumerate(Status):
        flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k), status)
    shown = {row["status"] for row in store.rows("flagged_intervals")}
    assert shown == {"open", "closed", "below_line"}


@pytest.mark.parametrize(
    ("peak", "severity"),
    [(1.0, "low"), (1.49, "low"), (1.5, "medium"), (2.49, "medium"), (2.5, "high"), (40.0, "high")],
)
def test_severity_follows_the_peak(store: SqlStore, peak: float, severity: str) -> None:
    flag(store, watched(store)[0], interval(peak=peak))
    assert store.rows("flagged_intervals")[0]["severity"] == severity


def test_a_target_of_several_series_goes_by_its_own_name_and_step_and_tells_their_shares(
    store: SqlStore,
) -> None:
    watched(store)
    slower = SeriesSpec("logins", {"region": "a"}, 900, source="telemetry")
    store.ingest(Ingest("telemetry", [slower], points((0, T0, 1.0))))
    ids = {row.spec.key: row.id for row in store.series()}
    members = (ids["ccu{region=a}"], ids["logins{region=a}"])
    both = next(t for t in store.sync_targets(store.monitors()[0].id, [("both", members)]) if t.key == "both")
    assert both.step_seconds == 900
    event = flag(store, both.id, interval(shares={"ccu": 0.125, "logins": 0.875}))
    (row,) = store.rows("review_queue")
    assert (row["series"], row["duration_seconds"]) == ("both", 600 + 900)
    assert (row["channel"], row["channel_shares"]) == ("logins", {"ccu": 0.125, "logins": 0.875})
    share = "CAST(channel_shares ->> 'logins' AS double precision)"
    with store.engine.connect() as connection:
        found = connection.execute(text(f"SELECT event_id, {share} FROM flagged_intervals")).one()
    assert tuple(found) == (event, 0.875)


def test_the_review_queue_holds_what_nobody_judged_the_highest_first(store: SqlStore) -> None:
    target = watched(store)[0]
    ids = [flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k, peak=1.0 + k)) for k in range(4)]
    store.review(ids[3], Verdict.CONFIRMED)
    store.review(ids[1], Verdict.UNSURE)
    assert [row["event_id"] for row in store.rows("review_queue")] == [ids[2], ids[1], ids[0]]


def test_a_suggestion_is_shown_until_somebody_is_sure(store: SqlStore) -> None:
    target = watched(store)[0]
    ids = [flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k)) for k in range(4)]
    looks = [
        EventPortrait(ids[0], 1, None, "expected", "patch", 0.75),
        EventPortrait(ids[1], 1, None, "unknown"),
        EventPortrait(ids[2], 1, {"n_steps": 3}),
    ]
    store.write_event_portraits(None, looks)
    wanted = ("suggested_verdict", "suggested_cause", "suggestion_probability")

    def shown(view: str) -> dict[int, tuple[object, ...]]:
        return {row["event_id"]: tuple(row[name] for name in wanted) for row in store.rows(view)}

    nothing = (None, None, None)
    expected = {ids[0]: ("expected", "patch", 0.75), ids[1]: ("unknown", None, None)}
    expected |= {ids[2]: nothing, ids[3]: nothing}
    assert shown("flagged_intervals") == shown("review_queue") == expected
    store.review(ids[0], Verdict.UNSURE)
    assert shown("review_queue") == expected
    store.review(ids[0], Verdict.CONFIRMED)
    assert shown("flagged_intervals")[ids[0]] == nothing


def test_precision_counts_the_last_verdict_of_every_event(store: SqlStore) -> None:
    target = watched(store)[0]
    version = store.versions([target])[0].id
    verdicts = [
        Verdict.CONFIRMED,
        Verdict.NEW_TREND,
        Verdict.FALSE_POSITIVE,
        Verdict.EXPECTED,
        Verdict.UNSURE,
    ]
    for k, verdict in enumerate(verdicts):
        event = flag(store, target, interval(T0 + 3600 * k, T0 + 3600 * k, version_id=version))
        store.review(event, Verdict.UNSURE)
        store.review(event, verdict)
    flag(store, target, interval(T0 + 90000, T0 + 90000, version_id=version))
    assert store.rows("detector_precision") == [
        {
            "monitor": "players",
            "detector": "gaussian",
            "flagged": 6,
            "reviewed": 5,
            "confirmed": 1,
            "expected": 1,
            "false_positive": 1,
            "new_trend": 1,
            "unsure": 1,
            "precision": 0.5,
        }
    ]


def test_precision_is_null_without_a_verdict(store: SqlStore) -> None:
    flag(store, watched(store)[0], interval())
    assert store.rows("detector_precision")[0]["precision"] is None


def test_series_health_tells_the_states_apart(store: SqlStore) -> None:
    watched(store, 3)
    late = T0 + 3 * 300 + 60
    store.ingest(Ingest("telemetry", specs(6), points((1, late, 1.0), (2, late, 1.0), (4, late + 1, 1.0))))
    rows = {row["labels"]["region"]: row for row in store.rows("series_health")}
    states = {region: row["state"] for region, row in rows.items()}
    assert states == {
        "a": "stale",
        "b": "ok",
        "c": "learning",
        "d": "empty",
        "e": "unmonitored",
        "f": "empty",
    }
    assert (rows["a"]["behind_seconds"], rows["b"]["behind_seconds"], rows["d"]["behind_seconds"]) == (
        961,
        1,
        None,
    )
    assert (rows["a"]["monitors"], rows["e"]["monitors"]) == (1, 0)


def test_latest_scores_show_the_settled_one_where_both_stand(store: SqlStore) -> None:
    first, second = watched(store)
    nan = float("nan")
    store.commit(
        None,
        Batch(
            scores=scores(
                (first, T0, 1, 9.0, 3.0, 9.0, 3.0),
                (first, T0 + 300, 1, 5.0, 2.0, 4.0, 0.5),
                (second, T0, 2, 5.0, 1.0, nan, nan),
            )
        ),
    )
    found = {row["target_id"]: row for row in store.rows("latest_scores")}
    names = ("at", "score", "anomaly_score", "is_anomaly", "mode")
    assert [found[first][name] for name in names] == ["2026-02-01T12:05:00Z", 4.0, 0.5, False, "settled"]
    assert [found[second][name] for name in names] == ["2026-02-01T12:00:00Z", 5.0, 1.0, True, "live"]
    assert (found[first]["live_anomaly_score"], found[second]["settled_anomaly_score"]) == (2.0, None)


def test_model_cards_name_the_version_in_use(store: SqlStore) -> None:
    target = watched(store)[0]
    later = NewVersion(target, "gaussian", T0, T0 + 600, {}, {}, b"123", {"windows": 8}, status="candidate")
    store.add_versions(None, [later])
    rows = store.rows("model_cards", {"series": "ccu{region=a}"})
    assert [(row["status"], row["is_current"], row["weights_bytes"], row["card"]) for row in rows] == [
        ("accepted", True, 5, {"windows": 7}),
        ("candidate", False, 3, {"windows": 8}),
    ]


def test_monitor_and_source_health_count(store: SqlStore) -> None:
    first, second = watched(store)
    store.commit(None, Batch(scored_until={first: T0 + 300, second: T0}))
    flag(store, first, interval(), Status.OPEN)
    row = store.rows("monitor_health")[0]
    assert [
        row[name] for name in ("monitor", "enabled", "detector", "targets", "learning", "open_events")
    ] == [
        "players",
        True,
        "gaussian",
        2,
        1,
        1,
    ]
    assert (row["scored_until"], row["settled_until"]) == ("2026-02-01T12:00:00Z", None)
    source = store.rows("source_health")[0]
    assert (source["source"], source["series"], source["points_new"]) == ("telemetry", 2, 2)


def test_the_run_log_tells_what_became_of_a_run(store: SqlStore) -> None:
    store.schedule(RunKind.TICK, None, NOON)
    claim = store.claim("host-1", 60)
    assert claim is not None
    store.finish(claim, RunState.FAILED, {"points": 3}, "source unreachable")
    row = store.rows("run_log")[0]
    assert [row[name] for name in ("kind", "monitor", "state", "attempts", "owner", "error", "outcome")] == [
        "tick",
        None,
        "failed",
        1,
        "host-1",
        "source unreachable",
        {"points": 3},
    ]
    assert row["scheduled_for"] == "2026-02-01T12:00:00Z"
    assert 0 <= row["duration_seconds"] < 60


def test_rows_are_filtered_by_column_and_span(store: SqlStore) -> None:
    first, second = watched(store)
    a = flag(store, first, interval(T0, T0 + 600))
    b = flag(store, first, interval(T0 + 3600, T0 + 3600), Status.OPEN)
    c = flag(store, second, interval(T0 + 7200, T0 + 7200))

    def found(where: dict[str, object] | None = None, **more: datetime | int) -> list[int]:
        rows = store.rows("flagged_intervals", where, **more)  # type: ignore[arg-type]
        return [row["event_id"] for row in rows]

    assert sorted(found({"series": "ccu{region=a}"})) == [a, b]
    assert sorted(found({"status": ["closed"], "monitor": "players"})) == [a, c]
    assert sorted(found(since=NOON + timedelta(seconds=600))) == [a, b, c]
    assert sorted(found(since=NOON + timedelta(seconds=601))) == [b, c]
    assert found(until=NOON + timedelta(hours=1)) == [a]
    assert len(found(limit=2)) == 2
    assert found({"series": "' OR 1=1 --"}) == []


def test_an_unknown_view_or_column_is_refused_by_name(store: SqlStore) -> None:
    with pytest.raises(NotFoundError, match="no view named 'event'; there are flagged_intervals"):
        store.rows("event")
    with pytest.raises(InvalidError, match="view run_log has no column 'series'; it has run_id"):
        store.rows("run_log", {"series": "x"})
    with pytest.raises(InvalidError, match="view series_health has no time to filter by"):
        store.rows("series_health", since=NOON)


def test_every_query_of_the_page_runs(store: SqlStore) -> None:
    target = watched(store)[0]
    store.review(flag(store, target, interval()), Verdict.CONFIRMED, cause="deploy")
    flag(store, target, interval(T0 + 3600, T0 + 3600), Status.OPEN)
    queries = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(queries) >= 10
    with store.engine.connect() as connection:
        for query in queries:
            connection.execute(text(re.sub(r":(?=\d\d)", r"\\:", query))).all()


def test_the_page_names_every_view_and_column(store: SqlStore) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for view in views.names():
        section = re.search(rf"^## {view}\n(.*?)(?=^## |\Z)", page, flags=re.DOTALL | re.MULTILINE)
        assert section is not None, f"docs/sql.md has no section on {view}"
        if view == "open_events":
            continue  # the columns of flagged_intervals
        rows = re.findall(r"^\| (`.*?) \|", section[1], flags=re.MULTILINE)
        documented = set(re.findall(r"`(\w+)`", " ".join(rows)))
        assert documented == {column["name"] for column in inspect(store.engine).get_columns(view)}, view
