"""``scope: group``: one model for all, and on loan for those who have too little history to be part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from monitor_jobs import END, HOUR, START, Course, events, hours, ingest, job, monitor, readiness_of, spans

from anomaly_service.db.store import SqlStore
from pipelines import batches
from pipelines.executor import Inline
from pipelines.jobs import passes
from pipelines.jobs.group_loans import due_loans
from pipelines.jobs.monitor_job import MonitorJob
from pipelines.jobs.refit import due
from pipelines.names import Kind, Mode
from pipelines.records import VersionRow
from pipelines.steps.bodies import CalibrationEntry
from pipelines.store import NewVersion
from pipelines.times import DAY
from pipelines.workers.fit import fit_targets

# Both serve passes alike: test_passes holds them to that, and the contract of the store to what is asked.
pytestmark = pytest.mark.databases("sqlite")

SPEC = monitor("load", scope="group")
JOINED = END - 9 * DAY + 5 * HOUR
"""When the newcomer's first point comes: two days after the group's second fit, at five in the morning."""
WINDOW = 6 * HOUR


def course(seed: int, ts: np.ndarray, size: float = 1.0) -> Course:
    """Return a rhythm that the group shares, around 100 and with noise of 3, times a size."""
    noise = np.random.default_rng(seed).normal(0, 3, len(ts))
    return ts, size * (100 + 20 * np.sin(2 * np.pi * ts / DAY + 1) + noise)


MEMBERS = {str(seed): course(seed, hours()) for seed in range(3)}


def grown(store: SqlStore, joined: Course, until: int) -> MonitorJob:
    """Return the job of a group whose members are fitted, once the newcomer's points came up to a time."""
    ingest(store, "load", MEMBERS)
    passes.backfill(job(store, SPEC), int(joined[0][0]) - 2 * HOUR)
    ts, value = joined
    ingest(store, "load", {"new": (ts[ts < until], value[ts < until])})
    return job(store, SPEC)


def newcomer(at: MonitorJob) -> int:
    return next(t.id for t in at.targets() if "new" in t.key)


def versions(at: MonitorJob) -> tuple[list[VersionRow], dict[int, list[VersionRow]]]:
    """Return the newcomer's versions, and the members' by when their training ended."""
    found = at.versions(at.targets())
    fits: dict[int, list[VersionRow]] = {}
    for target_id, rows in found.items():
        for version in rows if target_id != newcomer(at) else ():
            fits.setdefault(version.train_stop, []).append(version)
    return found[newcomer(at)], fits


def days(store: SqlStore, until: int = END) -> MonitorJob:
    """Do the ticks and nights from the newcomer's first point on, a day at a time."""
    for now in range(JOINED - JOINED % DAY + DAY, until + 1, DAY):
        passes.tick(job(store, SPEC), now - 12 * HOUR)
        passes.nightly(job(store, SPEC), now - 20 * HOUR, now)
    return job(store, SPEC)


def test_a_newcomer_is_scored_by_the_tick_that_sees_the_end_of_its_first_window(store: SqlStore) -> None:
    joined = course(7, hours(JOINED))
    at = grown(store, joined, JOINED + WINDOW)
    passes.tick(at, JOINED + WINDOW - HOUR)
    assert {t.scored_until for t in at.targets() if t.id == newcomer(at)} == {None}
    learning = readiness_of(at)[-1]
    assert (learning["state"], learning["ready_by"]) == ("learning", JOINED + WINDOW)
    # The window is over, but nothing after it is there to be scored.
    passes.tick(at, JOINED + WINDOW)
    assert len(store.scores([newcomer(at)], 0, END).ts) == 0

    more = joined[0] < JOINED + WINDOW + 3 * HOUR
    ingest(store, "load", {"new": (joined[0][more], joined[1][more])})
    passes.tick(at := job(store, SPEC), JOINED + WINDOW + 3 * HOUR)
    scores = store.scores([newcomer(at)], 0, END)
    assert scores.ts.tolist() == [JOINED + WINDOW + hour * HOUR for hour in range(3)]
    assert np.isfinite(scores.live_anomaly).all()
    (loan,), fits = versions(at)
    assert loan.on_loan
    assert (loan.train_start, loan.train_stop) == (JOINED, JOINED + WINDOW)
    assert {loan.weights_id} == {v.weights_id for v in fits[max(fits)]}
    assert readiness_of(at)[-1]["state"] == "ready"


def test_a_loan_brings_the_calibration_of_the_member_in_the_middle(store: SqlStore) -> None:
    at = grown(store, course(7, hours(JOINED)), JOINED + 2 * WINDOW)
    passes.tick(at, JOINED + 2 * WINDOW)
    (loan,), fits = versions(at)
    bodies = {
        row.version_id: fit
        for row in store.calibrations([loan.id, *(v.id for v in fits[max(fits)])])
        if row.mode is Mode.SETTLED and (fit := CalibrationEntry.from_json(row.body).fit)
    }
    lent = bodies.pop(loan.id)
    assert lent == sorted(bodies.values(), key=lambda body: body.u)[1]


def test_an_incident_of_a_newcomer_is_found_and_nothing_else_is(store: SqlStore) -> None:
    ts, value = course(7, hours(JOINED), size=2.0)
    value[60:66] *= 0.3
    grown(store, (ts, value), END)
    found = spans(events(days(store), Kind.ANOMALY)["new"])
    drop = (JOINED - START) // HOUR + 60
    assert [(kind, a <= drop + 5, b >= drop) for kind, a, b in found] == [("anomaly", True, True)]


def test_a_loan_is_looked_at_anew_as_history_doubles_and_ends_with_the_own_fit(store: SqlStore) -> None:
    short = replace(SPEC, fit_window_seconds=6 * DAY)
    ingest(store, "load", {**MEMBERS, "new": course(7, hours(JOINED))})
    passes.backfill(at := job(store, short), END)
    own, fits = versions(at)
    loans = [v for v in own if v.on_loan]
    (first_own,) = (v.train_stop for v in own if not v.on_loan)
    assert first_own == own[-1].train_stop == max(fits)
    history = [v.train_stop - JOINED for v in loans]
    assert history[0] == WINDOW
    assert len(loans) >= 3
    for before, after, version in zip(history, history[1:], loans[1:], strict=False):
        assert after >= 2 * before or version.train_stop in fits
    assert [v.weights_id for v in own] == [
        fits[max(stop for stop in fits if stop <= v.train_stop)][0].weights_id for v in own
    ]


def test_no_member_of_a_group_has_a_model_of_its_own(store: SqlStore) -> None:
    ingest(store, "load", {**MEMBERS, "new": course(7, hours(START + 5 * DAY))})
    passes.backfill(at := job(store, SPEC), END)
    own, fits = versions(at)
    assert any(not v.on_loan for v in own)
    assert {v.train_stop for v in own if not v.on_loan} < set(fits)
    scores = store.scores([newcomer(at)], 0, min(v.train_stop for v in own if not v.on_loan))
    assert set(scores.version.tolist()) == {v.id for v in own if v.on_loan}
    by_fit: dict[int, set[int]] = {}
    for version in [*own, *(v for rows in fits.values() for v in rows)]:
        if not version.on_loan:
            by_fit.setdefault(version.train_stop, set()).add(version.weights_id)
    assert [len(weights) for weights in by_fit.values()] == [1] * len(fits)


def test_a_target_with_too_few_points_for_the_fit_is_lent_its_model(store: SqlStore) -> None:
    ts, value = course(7, hours())
    few = np.arange(len(ts)) % 24 < 4
    few[: 3 * 24] = False  # 40 points in ten days; eight windows of six need 48
    few[-3 * 24 :] = True
    few[0] = True
    ingest(store, "load", {**MEMBERS, "new": (ts[few], value[few])})
    out = passes.backfill(at := job(store, SPEC), END)
    own, fits = versions(at)
    assert own[0].on_loan
    assert own[0].train_stop == min(fits)
    assert out["not_ready"] == 0
    assert np.isfinite(store.scores([newcomer(at)], END - 2 * DAY, END).live).all()


def test_before_the_group_has_a_model_there_is_none_to_lend(store: SqlStore) -> None:
    ingest(store, "load", {**MEMBERS, "new": course(7, hours(START + 3 * DAY))})
    at = job(store, SPEC)
    passes.tick(at, START + 8 * DAY)
    passes.nightly(at, START + 8 * DAY, START + 8 * DAY)
    assert not any(at.versions(at.targets()).values())


def test_a_tick_lends_nothing_that_a_fit_still_due_could_change(store: SqlStore) -> None:
    ingest(store, "load", MEMBERS)
    passes.backfill(at := job(store, SPEC), END - 9 * DAY)
    night = due(at, END)[0].slot
    ingest(store, "load", {"new": course(7, hours(night - 2 * HOUR))})
    at = job(store, SPEC)
    passes.tick(at, night + 8 * HOUR)
    assert versions(at)[0] == []
    passes.nightly(at, night, night + 8 * HOUR)
    passes.tick(at, night + 8 * HOUR)
    (loan,), fits = versions(at)
    assert loan.weights_id == fits[night][0].weights_id


def test_a_loan_that_was_not_scored_yet_repeats_no_fit(store: SqlStore) -> None:
    at = grown(store, course(7, hours(JOINED)), END)
    passes.nightly(at, END - 3 * DAY, END - 3 * DAY)
    loan = next(v for v in versions(at)[0] if v.train_stop in versions(at)[1])
    passes.backfill(at, END)
    unscored = NewVersion(
        target_id=newcomer(at),
        detector=loan.detector,
        train_start=loan.train_start,
        train_stop=loan.train_stop,
        recipe=loan.recipe,
        config=replace(loan.origin, generation=1).to_json(),
        weights=b"",
        card=loan.card,
        stored_weights=loan.weights_id,
    )
    store.add_versions(None, [unscored])
    assert due(at, END, missing=True) == []
    assert [each.slot for each in due_loans(at, END)] == [loan.train_stop]


def test_a_newcomer_of_another_step_than_all_members_waits_for_its_own_fit(store: SqlStore) -> None:
    ingest(store, "load", MEMBERS)
    ts, value = course(7, np.arange(END - 3 * DAY, END, HOUR // 2))
    ingest(store, "load", {"new": (ts, value)}, step_seconds=HOUR // 2)
    assert passes.backfill(at := job(store, SPEC), END)["lent"] == 0
    assert versions(at)[0] == []


def test_a_monitor_of_single_series_lends_nothing(store: SqlStore) -> None:
    alone = replace(SPEC, scope="series")
    ingest(store, "load", {**MEMBERS, "new": course(7, hours(JOINED))})
    assert passes.backfill(at := job(store, alone), END)["lent"] == 0
    assert at.versions(at.targets())[newcomer(at)] == []


def left(at: MonitorJob) -> Left:
    """Return what passes leave: the versions, the settled scores, and the events."""
    found = [
        (v.target_id, v.train_stop, v.on_loan, str(v.recipe))
        for rows in at.versions(at.targets()).values()
        for v in rows
    ]
    block = at.store.scores([t.id for t in at.targets()], 0, 2**40)
    settled = {
        (int(t), int(ts)): float(s)
        for t, ts, s in zip(block.target, block.ts, block.settled, strict=True)
        if not np.isnan(s)
    }
    return found, settled, {host: spans(own) for host, own in events(at).items()}


Left = tuple[list[tuple[object, ...]], dict[tuple[int, int], float], dict[str, object]]


@pytest.fixture
def calm(new_store: Callable[[], SqlStore]) -> Left:
    """What one backfill and one night leave; the same on both databases, so one run serves all tests."""
    if not _CALM:
        _CALM.append(after([], new_store()))
    return _CALM[0]


_CALM: list[Left] = []
Passes = Sequence[tuple[str, float]]


def after(order: Passes, store: SqlStore) -> Left:
    """Return what passes leave, each at a time in days since the newcomer's first point."""
    ingest(store, "load", {**MEMBERS, "new": course(7, hours(JOINED))})
    at = job(store, SPEC)
    for kind, day in order:
        now = JOINED + int(day * DAY)
        match kind:
            case "tick":
                passes.tick(at, now)
            case "nightly":
                passes.nightly(at, now, now)
            case "backfill":
                passes.backfill(at, now)
            case "rescore":
                passes.rescore(at, JOINED, now, now)
    passes.backfill(at, END)
    passes.nightly(at, END, END)
    return left(at)


@pytest.mark.parametrize(
    "order",
    [
        [("tick", 1.0), ("nightly", 1.5), ("tick", 3.2), ("nightly", 6.2), ("nightly", 6.2)],
        [("nightly", 7.9), ("backfill", 3.0), ("tick", 8.5), ("tick", 0.5)],
        [("backfill", -1.0), ("tick", 0.6), ("tick", 2.4), ("nightly", 2.5), ("rescore", 6.0)],
    ],
    ids=lambda order: "-".join(kind for kind, _ in order),
)
def test_passes_in_any_order_lend_the_same(
    new_store: Callable[[], SqlStore], calm: Left, order: Passes
) -> None:
    found = after(order, new_store())
    assert found[0] == calm[0]
    assert found[1].keys() == calm[1].keys()
    np.testing.assert_allclose(
        [found[1][key] for key in calm[1]], list(calm[1].values()), rtol=1e-5, atol=1e-7
    )
    assert found[2] == calm[2]


def test_a_night_repeated_lends_nothing_again(store: SqlStore) -> None:
    grown(store, course(7, hours(JOINED)), END)
    at = days(store)
    before = left(at)
    assert passes.nightly(at, END - 20 * HOUR, END)["lent"] == 0
    assert left(at) == before


def test_an_explicit_refit_lends_the_new_models(store: SqlStore) -> None:
    ingest(store, "load", {**MEMBERS, "new": course(7, hours(JOINED))})
    passes.backfill(at := job(store, SPEC), END)
    before, _ = versions(at)
    passes.rescore(at, END - 8 * DAY, END, END, again=True)
    after, fits = versions(at)
    assert [v.train_stop for v in after] == [v.train_stop for v in before]
    newest = {stop: max(v.weights_id for v in rows) for stop, rows in fits.items()}
    again = [v for v in after if v.train_stop >= END - 8 * DAY]
    assert again
    for version in again:
        assert version.origin.generation == 1
        assert version.weights_id == newest[max(stop for stop in newest if stop <= version.train_stop)]


def test_a_large_group_is_fitted_on_some_and_the_others_take_the_model(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_steps = SPEC.fit_window_seconds // HOUR
    monkeypatch.setattr(batches, "STEPS_PER_GROUP", 3 * n_steps)
    monkeypatch.setattr(batches, "STEPS_PER_TASK", 2 * n_steps)
    many = {f"{seed:02}": course(seed, hours(), 1.0 + seed) for seed in range(8)}
    many["05"][1][-30:-24] *= 0.3
    ingest(store, "load", many)
    sizes: list[int] = []

    class Counting(Inline):
        def map(self, work: Any, tasks: Any) -> Any:
            for task, result in super().map(work, tasks):
                sizes.append(len(task.targets) if work is fit_targets else 0)
                yield task, result

    at = replace(job(store, SPEC), executor=Counting())
    done = passes.backfill(at, END)
    assert max(sizes) == 3
    assert done["not_ready"] == 0
    found = at.versions(at.targets())
    nights = {v.train_stop for rows in found.values() for v in rows}
    assert len(nights) > 2
    for night in nights:
        own = [v for rows in found.values() for v in rows if v.train_stop == night]
        assert len(own) == len(many)
        assert len({v.weights_id for v in own}) == 1
        assert not any(v.on_loan for v in own)
    assert len(store.weights({v.weights_id for rows in found.values() for v in rows})) == len(nights)
    assert any(e.interval.direction == "below_expected" for e in events(at, Kind.ANOMALY)["05"])
    scored = store.scores([t.id for t in at.targets()], 0, 2**40)
    assert {int(np.count_nonzero(scored.target == t.id)) for t in at.targets()} == {572}
    before = {v.id for rows in found.values() for v in rows}
    assert passes.backfill(at, END)["fitted"] == 0
    assert {v.id for rows in at.versions(at.targets()).values() for v in rows} == before


def test_where_those_chosen_have_too_little_the_next_ones_are_fitted(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "STEPS_PER_GROUP", SPEC.fit_window_seconds // HOUR)
    ts = hours()
    gaps = {f"gap {n}": (ts[::40], course(n, ts)[1][::40]) for n in range(4)}
    ingest(store, "load", {**MEMBERS, **gaps})
    passes.backfill(job(store, SPEC), END)
    own = [v for rows in job(store, SPEC).versions(job(store, SPEC).targets()).values() for v in rows]
    assert {v.target_id for v in own if not v.on_loan} == {
        t.id for t in job(store, SPEC).targets() if "gap" not in t.key
    }
