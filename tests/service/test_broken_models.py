"""A fit whose card says that it is broken: kept to be looked at, never used, and not tried again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from monitor_jobs import DAY, DAYS, END, HOUR, START, ingest, job, monitor, readiness_of, waves

from anomaly_service.db.store import SqlStore
from pipelines.jobs import passes
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.plan import fingerprint
from pipelines.records import VersionRow
from pipelines.steps.bodies import LineEntry
from pipelines.workers import card
from pipelines.workers.card import Card, Trial

# Both serve passes alike: test_passes holds them to that, and the contract of the store to what is asked.
pytestmark = pytest.mark.databases("sqlite")

SPEC = monitor("load")
WHY = "its samples have 0.01 of the real windows' variance"

Break = Callable[..., list[int]]


@pytest.fixture
def break_fits(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Makes fits come out broken; returns the list of training starts that are judged from then on."""
    judge = card.judge

    def breaking(when: Callable[[int, int], bool]) -> list[int]:
        judged: list[int] = []

        def judge_some(trial: Trial) -> list[Card]:
            starts = [int(start) * HOUR for start in trial.windows.start]
            judged.extend(starts)
            return [
                Card(found.figures, (WHY,) if when(row, start) else found.broken)
                for row, (start, found) in enumerate(zip(starts, judge(trial), strict=True))
            ]

        monkeypatch.setattr(card, "judge", judge_some)
        return judged

    return breaking


def ingested(store: SqlStore, *hosts: str) -> MonitorJob:
    ingest(store, "load", {host: waves(seed) for seed, host in enumerate(hosts)})
    return job(store, SPEC)


def stored(at: MonitorJob) -> dict[int, list[VersionRow]]:
    """Return every version of each target, broken ones too."""
    rows: dict[int, list[VersionRow]] = {target.id: [] for target in at.targets()}
    for version in at.store.versions(list(rows), every=True):
        rows[version.target_id].append(version)
    return rows


def scoring(at: MonitorJob, target_id: int) -> set[int]:
    """Return the versions that scores name."""
    return {int(version) for version in at.store.scores([target_id], 0, 2**40).version}


def test_a_broken_model_is_kept_and_the_one_before_it_scores_on(store: SqlStore, break_fits: Break) -> None:
    at = ingested(store, "a", "b")
    first, second = (target.id for target in at.targets())
    break_fits(lambda row, start: row == 0 and start > START + DAY)
    outcome = passes.backfill(at, END)
    statuses = {i: [version.status for version in rows] for i, rows in stored(at).items()}
    assert statuses[first][0] == "accepted"
    assert set(statuses[first][1:]) == {"candidate"}
    assert set(statuses[second]) == {"accepted"}
    assert len(statuses[first]) == len(statuses[second]) >= 3
    assert scoring(at, first) == {stored(at)[first][0].id}
    assert len(scoring(at, second)) == len(statuses[second])
    assert {target.scored_until for target in at.targets()} == {END - HOUR + 1}
    assert outcome["fitted"] == 1 + len(statuses[second])
    assert outcome["broken"] == len(statuses[first]) - 1
    assert outcome["broken_why"] == [f"load{{host=a}}: {WHY}"] * outcome["broken"]


def test_the_view_says_which_model_is_in_use_and_why_others_are_not(
    store: SqlStore, break_fits: Break
) -> None:
    at = ingested(store, "a")
    break_fits(lambda row, start: start > START + DAY)
    passes.backfill(at, END)
    rows = sorted(store.rows("model_cards"), key=lambda row: row["train_stop_at"])
    assert [bool(row["is_current"]) for row in rows] == [True] + [False] * (len(rows) - 1)
    assert [row["card"]["broken"] for row in rows] == [[]] + [[WHY]] * (len(rows) - 1)


def test_no_line_is_drawn_from_a_broken_model(new_store: Callable[[], SqlStore], break_fits: Break) -> None:
    courses = {"a": waves(0), "b": waves(1)}
    lines = []
    for hosts, broken in (("ab", "a"), ("b", "")):
        store = new_store()
        ingest(store, "load", {host: courses[host] for host in hosts})
        at = job(store, SPEC)
        break_fits(lambda row, start, broken=broken: row == 0 and broken == "a")
        passes.backfill(at, END)
        lines.append(
            {
                (line.mode, line.valid_from): LineEntry.from_json(line.body).line.surprise
                for line in store.lines(at.monitor.id)
            }
        )
    assert lines[0]
    assert lines[0] == pytest.approx(lines[1])


def test_a_first_model_that_is_broken_leaves_the_series_without_one(
    store: SqlStore, break_fits: Break
) -> None:
    at = ingested(store, "a", "b")
    break_fits(lambda row, start: row == 0)
    outcome = passes.backfill(at, END)
    assert outcome["fitted"] > 0
    assert [(each["target"], each["state"]) for each in readiness_of(at)] == [
        ("load{host=a}", "learning"),
        ("load{host=b}", "ready"),
    ]
    without, with_one = at.targets()
    assert without.scored_until is None
    assert with_one.scored_until is not None
    assert not scoring(at, without.id)


def test_the_first_model_in_order_scores_what_lies_before_it_too(store: SqlStore, break_fits: Break) -> None:
    at = ingested(store, "a")
    break_fits(lambda row, start: start < START + 7 * DAY)
    for day in range(10, DAYS + 1):
        passes.fit(job(store, SPEC), START + day * DAY)
    (rows,) = stored(at).values()
    assert [version.status for version in rows[:2]] == ["candidate"] * 2
    first = next(version for version in rows if version.status == "accepted")
    scores = store.scores([rows[0].target_id], 0, 2**40)
    assert int(scores.ts.min()) <= first.train_start + 6 * HOUR
    assert rows[0].id not in scoring(at, rows[0].target_id)


def test_no_score_of_the_training_span_comes_from_a_broken_model(store: SqlStore, break_fits: Break) -> None:
    at = ingested(store, "a")
    break_fits(lambda row, start: start < START + 3 * DAY)
    passes.backfill(at, END)
    (rows,) = stored(at).values()
    assert [version.status for version in rows[:2]] == ["candidate", "accepted"]
    assert scoring(at, rows[0].target_id) == {version.id for version in rows[1:]}


@pytest.mark.parametrize("scope", ["series", "group"])
def test_a_broken_fit_is_not_tried_again(store: SqlStore, break_fits: Break, scope: str) -> None:
    ingest(store, "load", {host: waves(seed) for seed, host in enumerate("ab")})
    at = job(store, monitor("load", scope=scope))
    judged = break_fits(lambda row, start: start > START + DAY)
    passes.backfill(at, END)
    before = len(judged)
    assert before
    passes.fit(at, END)
    passes.nightly(at, END, END)
    passes.backfill(at, END)
    assert len(judged) == before


def test_another_configuration_is_tried_where_one_came_out_broken(store: SqlStore, break_fits: Break) -> None:
    at = ingested(store, "a")
    break_fits(lambda row, start: True)
    passes.backfill(at, END)
    other = job(store, monitor("load", params={"window": 8}))
    judged = break_fits(lambda row, start: False)
    outcome = passes.fit(other, END)
    assert judged
    assert outcome["fitted"] >= 1
    (versions,) = other.versions(other.targets()).values()
    assert {version.origin.fingerprint for version in versions} == {fingerprint(other.spec)}


def test_a_refit_on_request_that_comes_out_broken_leaves_the_model_of_its_night(
    store: SqlStore, break_fits: Break
) -> None:
    at = ingested(store, "a")
    passes.backfill(at, END)
    before = at.versions(at.targets())
    break_fits(lambda row, start: True)
    passes.rescore(at, START + 14 * DAY, END, END, again=True)
    assert at.versions(at.targets()) == before
    assert any(version.status == "candidate" for rows in stored(at).values() for version in rows)


def test_of_two_models_of_one_night_the_newer_is_in_use(store: SqlStore) -> None:
    at = ingested(store, "a", "b")
    passes.backfill(at, END)
    passes.rescore(at, START + 14 * DAY, END, END, again=True)
    current = [row["model_version_id"] for row in store.rows("model_cards") if row["is_current"]]
    in_force = at.versions(at.targets()).values()
    assert sorted(current) == sorted(rows[-1].id for rows in in_force)
