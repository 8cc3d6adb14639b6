-- The public SQL contract, documented in docs/sql.md. Times are written @time(epoch seconds), which becomes
-- a timestamp on PostgreSQL and ISO 8601 text in UTC on SQLite. @then is a JOIN that SQLite is told to make in
-- this order: left to choose, it would begin with a small table, and no index would give the order of a list.
-- @now is the database's clock in epoch seconds. Columns are added here, never taken away.
--
-- What stands as JSON is shown whole, never taken apart: its fields are known to the dataclass alone that wrote
-- it. The one exception is the detector in the config of a monitor, which MonitorSpec (pipelines/monitor.py) wrote.

CREATE VIEW flagged_intervals AS
SELECT
    event.id AS event_id,
    CASE
        WHEN EXISTS (SELECT 1 FROM target_series more WHERE more.target_id = target.id AND more.position = 1)
        THEN target.key ELSE series.key
    END AS series,
    series.metric AS metric,
    series.labels AS labels,
    monitor.name AS monitor,
    model_version.detector AS detector,
    event.version_id AS model_version_id,
    event.kind AS kind,
    @time(coalesce(review_start, start_ts)) AS start_at,
    @time(coalesce(review_end, end_ts)) AS end_at,
    coalesce(review_start, start_ts) AS start_ts,
    coalesce(review_end, end_ts) AS end_ts,
    coalesce(review_end, end_ts) - coalesce(review_start, start_ts) + (
        SELECT max(each.step_seconds) FROM target_series member JOIN series each ON each.id = member.series_id
        WHERE member.target_id = target.id
    ) AS duration_seconds,
    event.status AS status,
    event.direction AS direction,
    CASE WHEN event.peak_score >= 2.5 THEN 'high' WHEN event.peak_score >= 1.5 THEN 'medium' ELSE 'low' END AS severity,
    @time(event.peak_ts) AS peak_at,
    event.peak_score AS peak_score,
    event.mean_score AS mean_score,
    event.n_points AS n_points,
    event.y_at_peak AS y_at_peak,
    event.yhat_at_peak AS yhat_at_peak,
    event.impact AS impact,
    event.channel AS channel,
    event.channel_shares AS channel_shares,
    event.review_verdict AS review_verdict,
    event.review_cause AS review_cause,
    @time(event.reviewed_at) AS reviewed_at,
    event.added AS added,
    @time(event.first_detected_at) AS first_detected_at,
    @time(event.updated_at) AS updated_at,
    event.revision AS revision,
    suggested.verdict AS suggested_verdict,
    nullif(suggested.cause, '') AS suggested_cause,
    suggested.probability AS suggestion_probability,
    event.monitor_id AS monitor_id,
    event.target_id AS target_id,
    series.timezone AS timezone
FROM event
@then target ON target.id = event.target_id
@then monitor ON monitor.id = target.monitor_id
@then target_series ON target_series.target_id = target.id AND target_series.position = 0
@then series ON series.id = target_series.series_id
LEFT JOIN model_version ON model_version.id = event.version_id
LEFT JOIN event_look AS suggested ON suggested.event_id = event.id AND suggested.verdict <> ''
    AND (event.review_verdict IS NULL OR event.review_verdict = 'unsure')
WHERE event.status NOT IN ('merged_into', 'outdated');

CREATE VIEW review_queue AS
SELECT
    event_id, series, metric, labels, monitor, detector, kind, start_at, end_at, start_ts, end_ts, duration_seconds,
    status, direction, severity, peak_at, peak_score, y_at_peak, yhat_at_peak, impact, channel, channel_shares,
    review_verdict, first_detected_at, suggested_verdict, suggested_cause, suggestion_probability,
    revision, monitor_id, target_id
FROM flagged_intervals
WHERE status IN ('open', 'closed') AND (review_verdict IS NULL OR review_verdict = 'unsure')
ORDER BY peak_score DESC, event_id DESC;

CREATE VIEW open_events AS
SELECT * FROM flagged_intervals WHERE status = 'open';

CREATE VIEW series_health AS
WITH moment AS (
    SELECT coalesce((SELECT at FROM clock WHERE abs(at - wall) > 3600), @now) AS now
),
newest AS (
    SELECT
        series.source AS source,
        max(series.last_ts) AS last_ts,
        max(source.live_at) IS NOT NULL AS live,
        max(series.last_ts + 3 * series.step_seconds + series.delay_seconds) AS stale_from,
        CASE WHEN max(source.live_at) IS NULL THEN max(series.last_ts) ELSE max(moment.now) END AS until
    FROM series
    CROSS JOIN moment
    LEFT JOIN source ON source.name = series.source
    GROUP BY series.source
),
watched AS (
    SELECT
        target_series.series_id AS series_id,
        count(*) AS monitors,
        min(coalesce(target.scored_until, -1)) AS scored_until,
        count(CASE WHEN NOT EXISTS (
            SELECT 1 FROM model_version WHERE model_version.target_id = target.id AND model_version.status = 'accepted'
        ) THEN 1 END) AS learning,
        CAST(sum((
            SELECT count(*) FROM event WHERE event.target_id = target.id AND event.status = 'open'
        )) AS bigint) AS open_events,
        CAST(sum((
            SELECT count(*) FROM event
            WHERE event.target_id = target.id AND event.status = 'open' AND event.kind = 'unscored'
        )) AS bigint) AS unscored
    FROM target_series
    JOIN target ON target.id = target_series.target_id
    JOIN monitor ON monitor.id = target.monitor_id AND monitor.enabled
    GROUP BY target_series.series_id
)
SELECT
    series.id AS series_id,
    series.key AS series,
    series.metric AS metric,
    series.labels AS labels,
    series.source AS source,
    series.step_seconds AS step_seconds,
    series.delay_seconds AS delay_seconds,
    series.timezone AS timezone,
    @time(series.first_ts) AS first_at,
    @time(series.last_ts) AS last_at,
    series.first_ts AS first_ts,
    series.last_ts AS last_ts,
    newest.until - series.last_ts AS behind_seconds,
    CASE
        WHEN series.last_ts IS NULL THEN 'empty'
        WHEN newest.until - series.last_ts > 3 * series.step_seconds + series.delay_seconds THEN 'stale'
        WHEN watched.series_id IS NULL THEN 'unmonitored'
        WHEN watched.learning > 0 THEN 'learning'
        WHEN watched.unscored > 0 THEN 'unscored'
        WHEN series.last_ts - nullif(watched.scored_until, -1) > 3 * series.step_seconds + series.delay_seconds + 3600
        THEN 'unscored'
        ELSE 'ok'
    END AS state,
    coalesce(watched.monitors, 0) AS monitors,
    @time(nullif(watched.scored_until, -1)) AS scored_until,
    coalesce(watched.open_events, 0) AS open_events,
    CASE
        WHEN series.last_ts IS NULL THEN 'no point came yet'
        WHEN newest.until > newest.stale_from THEN 'its source stopped: none of its series has points'
        WHEN newest.until - series.last_ts > 3 * series.step_seconds + series.delay_seconds
        THEN 'no point came for more than three steps and the delay'
        WHEN watched.series_id IS NULL THEN 'no monitor selects it'
        WHEN watched.learning > 0 THEN 'no model yet'
        WHEN watched.unscored > 0 THEN 'points come and have no score: they do not keep to the step'
        WHEN series.last_ts - nullif(watched.scored_until, -1) > 3 * series.step_seconds + series.delay_seconds + 3600
        THEN 'points came and were not scored yet'
    END AS reason,
    newest.live AS live
FROM series
JOIN newest ON newest.source = series.source
LEFT JOIN watched ON watched.series_id = series.id;

CREATE VIEW source_health AS
WITH moment AS (
    SELECT coalesce((SELECT at FROM clock WHERE abs(at - wall) > 3600), @now) AS now
)
SELECT
    series.source AS source,
    count(*) AS series,
    @time(max(series.last_ts)) AS newest_at,
    @time(max(source.last_batch_at)) AS last_batch_at,
    coalesce(max(source.points_new), 0) AS points_new,
    coalesce(max(source.points_changed), 0) AS points_changed,
    coalesce(max(source.rows_rejected), 0) AS rows_rejected,
    CASE
        WHEN max(series.last_ts) IS NULL THEN 'empty'
        WHEN max(source.live_at) IS NULL THEN 'archive'
        WHEN max(moment.now) > max(series.last_ts + 3 * series.step_seconds + series.delay_seconds) THEN 'stale'
        ELSE 'ok'
    END AS state,
    max(moment.now) - max(series.last_ts) AS behind_seconds,
    max(series.last_ts + 3 * series.step_seconds + series.delay_seconds) AS stale_from_ts,
    max(source.live_at) IS NOT NULL AS live
FROM series
CROSS JOIN moment
LEFT JOIN source ON source.name = series.source
GROUP BY series.source;

CREATE VIEW source_events AS
SELECT
    id AS source_event_id,
    source,
    kind,
    @time(start_ts) AS start_at,
    @time(end_ts) AS end_at,
    start_ts,
    end_ts,
    status,
    @time(first_detected_at) AS first_detected_at,
    @time(updated_at) AS updated_at
FROM source_event;

CREATE VIEW monitor_health AS
WITH counted AS (
    SELECT
        target.monitor_id AS monitor_id,
        count(*) AS targets,
        count(CASE WHEN NOT EXISTS (
            SELECT 1 FROM model_version WHERE model_version.target_id = target.id AND model_version.status = 'accepted'
        ) THEN 1 END) AS learning,
        min(target.scored_until) AS scored_until,
        min(target.settled_until) AS settled_until,
        CAST(sum((
            SELECT count(*) FROM event WHERE event.target_id = target.id AND event.status = 'open'
        )) AS bigint) AS open_events
    FROM target
    GROUP BY target.monitor_id
)
SELECT
    monitor.id AS monitor_id,
    monitor.name AS monitor,
    monitor.enabled AS enabled,
    coalesce(monitor.config ->> 'detector', '') AS detector,
    coalesce(counted.targets, 0) AS targets,
    coalesce(counted.learning, 0) AS learning,
    @time(counted.scored_until) AS scored_until,
    @time(counted.settled_until) AS settled_until,
    coalesce(counted.open_events, 0) AS open_events,
    monitor.config AS config
FROM monitor
LEFT JOIN counted ON counted.monitor_id = monitor.id;

CREATE VIEW latest_scores AS
SELECT
    target.id AS target_id,
    monitor.name AS monitor,
    target.key AS series,
    @time(scores.ts) AS at,
    scores.ts AS ts,
    scores.version_id AS model_version_id,
    coalesce(scores.settled, scores.live) AS score,
    coalesce(scores.settled_anomaly, scores.live_anomaly) AS anomaly_score,
    coalesce(scores.settled_anomaly, scores.live_anomaly) >= 1 AS is_anomaly,
    CASE WHEN scores.settled IS NULL THEN 'live' ELSE 'settled' END AS mode,
    scores.live_anomaly AS live_anomaly_score,
    scores.settled_anomaly AS settled_anomaly_score
FROM target
@then monitor ON monitor.id = target.monitor_id
@then scores ON scores.target_id = target.id
    AND scores.ts = (SELECT max(newest.ts) FROM scores newest WHERE newest.target_id = target.id);

CREATE VIEW model_cards AS
SELECT
    model_version.id AS model_version_id,
    monitor.name AS monitor,
    target.key AS series,
    model_version.detector AS detector,
    model_version.status AS status,
    @time(model_version.train_start) AS train_start_at,
    @time(model_version.train_stop) AS train_stop_at,
    model_version.train_start AS train_start_ts,
    model_version.train_stop AS train_stop_ts,
    @time(model_version.created_at) AS created_at,
    NOT EXISTS (
        SELECT 1 FROM model_version later
        WHERE later.target_id = model_version.target_id AND later.status = 'accepted'
            AND (later.train_stop > model_version.train_stop
                OR later.train_stop = model_version.train_stop AND later.id > model_version.id)
    ) AND model_version.status = 'accepted' AS is_current,
    length(weights.data) AS weights_bytes,
    model_version.config AS config,
    model_version.card AS card
FROM model_version
JOIN target ON target.id = model_version.target_id
JOIN monitor ON monitor.id = target.monitor_id
JOIN weights ON weights.id = model_version.weights_id;

CREATE VIEW detector_precision AS
WITH counted AS (
    SELECT monitor_id, version_id, review_verdict, count(*) AS n
    FROM event
    WHERE status NOT IN ('merged_into', 'outdated') AND NOT (added AND status = 'below_line')
    GROUP BY monitor_id, version_id, review_verdict
),
verdicts AS (
    SELECT
        monitor.name AS monitor,
        model_version.detector AS detector,
        CAST(sum(n) AS bigint) AS flagged,
        CAST(sum(CASE WHEN review_verdict IS NOT NULL THEN n ELSE 0 END) AS bigint) AS reviewed,
        CAST(sum(CASE WHEN review_verdict = 'confirmed' THEN n ELSE 0 END) AS bigint) AS confirmed,
        CAST(sum(CASE WHEN review_verdict = 'expected' THEN n ELSE 0 END) AS bigint) AS expected,
        CAST(sum(CASE WHEN review_verdict = 'false_positive' THEN n ELSE 0 END) AS bigint) AS false_positive,
        CAST(sum(CASE WHEN review_verdict = 'new_trend' THEN n ELSE 0 END) AS bigint) AS new_trend,
        CAST(sum(CASE WHEN review_verdict = 'unsure' THEN n ELSE 0 END) AS bigint) AS unsure
    FROM counted
    JOIN monitor ON monitor.id = counted.monitor_id
    LEFT JOIN model_version ON model_version.id = counted.version_id
    GROUP BY monitor.name, model_version.detector
)
SELECT
    monitor, detector, flagged, reviewed, confirmed, expected, false_positive, new_trend, unsure,
    CAST(confirmed + new_trend AS double precision) / nullif(reviewed - unsure, 0) AS precision
FROM verdicts;

CREATE VIEW run_log AS
SELECT
    run.id AS run_id,
    run.kind AS kind,
    monitor.name AS monitor,
    @time(run.scheduled_for) AS scheduled_for,
    run.scheduled_for AS scheduled_ts,
    run.state AS state,
    run.attempts AS attempts,
    run.owner AS owner,
    @time(run.started_at) AS started_at,
    @time(run.finished_at) AS finished_at,
    run.finished_at AS finished_ts,
    run.finished_at - run.started_at AS duration_seconds,
    @time(run.lease_until) AS lease_until,
    run.outcome AS outcome,
    run.error AS error,
    nullif(run.source, '') AS source,
    @time(run.retry_at) AS retry_at
FROM run
LEFT JOIN monitor ON monitor.id = run.monitor_id
