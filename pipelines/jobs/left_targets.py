"""Events of targets that a monitor no longer asks for: nobody scores them on, so they are over."""

from __future__ import annotations

from dataclasses import replace

from pipelines.jobs.monitor_job import MonitorJob
from pipelines.names import Status
from pipelines.records import EventChange
from pipelines.store import Batch
from pipelines.times import WEEK

WHY = "its series is no longer one of the monitor's"
FOREVER = 2**40


def close(job: MonitorJob) -> list[EventChange]:
    """Close what is open of targets that left the monitor; return what changed.

    One that comes back is scored on from where it stood, and its events go on.

    Raises:
        LostClaimError: another holds the job's claim by now.
    """
    asked = {target.id for target in job.targets()}
    left = [target for target in job.store.targets(job.monitor.id) if target.id not in asked]
    if not left:
        return []
    # What is open reaches the newest point that was scored, or what should have come after it.
    since = min(target.scored_until or 0 for target in left) - WEEK
    changes = [
        EventChange(
            event.target_id,
            event.id,
            replace(event.interval, open=False),
            Status.CLOSED,
            event.first_detected_at,
            event.merged_into,
            WHY,
        )
        for event in job.store.events([target.id for target in left], since, FOREVER)
        if event.status is Status.OPEN
    ]
    if changes:
        job.store.commit(job.claim, Batch(changes=changes))
    return changes
