"""Lists of very many events: a page by an index beside reading all of them, as was done once.

Usage: python benchmarks/bench_lists.py [--events 50000 200000] [--database both]
Runs on an SQLite file and on a PostgreSQL server of its own, as pip installs it, with its default settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench_storage import Database, databases
from measure import Clock, Took, figure, machine, title

from anomaly_service.db.pages import Asked
from anomaly_service.db.store import SqlStore
from anomaly_service.insight import intervals
from anomaly_service.insight.intervals import Filters

# What the tests read the plans of is what is timed here.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))
from many_events import EVERY, START, fill

REPEATS = 5

Work = Callable[[], object]


def lists(store: SqlStore, n: int) -> dict[str, tuple[Work, Work | None]]:
    """Return what is timed by name: the page, and how it was read before, where it was."""
    recent = datetime.fromtimestamp(START + (n - 500) * EVERY, UTC)
    half = Filters(until=datetime.fromtimestamp(START + n // 2 * EVERY, UTC), limit=1)
    middle = intervals.page(store, half).after

    def everything(**where: str) -> Work:
        def read() -> object:
            rows = store.rows("flagged_intervals", where)
            rows.sort(key=lambda row: (row["start_at"], row["event_id"]), reverse=True)
            return rows[:50]

        return read

    def page(filters: Filters) -> Work:
        return lambda: intervals.page(store, filters)

    every = Filters()
    return {
        "newest, first page of 50": (page(every), everything()),
        "newest, from the middle": (page(replace(every, after=middle)), None),
        "of a monitor": (page(Filters(monitor="players")), everything(monitor="players")),
        "of a monitor with few": (page(Filters(monitor="rare")), everything(monitor="rare")),
        "of a series": (page(Filters(series="ccu{realm=7}")), everything(series="ccu{realm=7}")),
        "with a label": (page(Filters(labels={"realm": "7"})), None),
        "not judged": (page(Filters(unreviewed=True)), None),
        "since a few days": (page(Filters(since=recent)), None),
        "worst": (page(Filters(order="worst")), None),
        "review queue, first page of 50": (
            lambda: store.page(Asked("review_queue", "worst", limit=50)),
            lambda: store.rows("review_queue")[:50],
        ),
        "open events": (lambda: store.rows("open_events"), None),
        "one event": (lambda: store.rows("flagged_intervals", {"event_id": n // 2}), None),
        "detector_precision": (lambda: store.rows("detector_precision"), None),
    }


def timed(clock: Clock, work: Work, repeats: int) -> Took:
    """Return the quickest of some runs, after one that fills the caches."""
    work()
    found = []
    for _ in range(repeats):
        with clock.timed() as took:
            work()
        found.append(took)
    return min(found, key=lambda took: took.wall)


def bench(database: Database, n: int) -> None:
    url, clock = database.fresh(), database.clock()
    with SqlStore(url) as store:
        fill(store, n)
        for name, (page, before) in lists(store, n).items():
            took = timed(clock, page, REPEATS)
            beside = (
                "" if before is None else f"reading all: x {timed(clock, before, 1).wall / took.wall:.0f}"
            )
            figure(f"{database.name}: {name}", f"{took.wall * 1e3:.1f} ms", beside=beside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, nargs="*", default=[50_000, 200_000])
    parser.add_argument("--database", choices=["both", "sqlite", "postgresql"], default="both")
    asked = parser.parse_args()
    machine()
    with databases(asked.database) as found:
        for n in asked.events:
            title(f"lists of {n:,} events")
            for database in found:
                bench(database, n)


if __name__ == "__main__":
    main()
