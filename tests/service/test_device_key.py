"""``device``: one key of the config, and what workers make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monitor_jobs import ingest, job, monitor, waves

from anomaly_service import readiness
from anomaly_service.config.load import load
from anomaly_service.db.store import SqlStore
from anomaly_service.errors import UnavailableError
from anomaly_service.service import Service
from pipelines.jobs import passes
from pipelines.monitor import MonitorSpec
from pipelines.workers.fit import FitTask, fit_targets
from pipelines.workers.judge import score_targets
from pipelines.workers.recount import ObserveTask, observe_targets
from pipelines.workers.tasks import ScoreTask

CONFIG = "database: sqlite:///{folder}/anomaly.db\n{more}monitors:\n  load: {{series: {{metric: load}}}}\n"


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("named", ["auto", "cpu", "cuda"])
def test_every_monitor_knows_the_device_of_the_config(tmp_path: Path, named: str) -> None:
    file = tmp_path / "anomaly.yaml"
    more = "" if named == "auto" else f"device: {named}\n"
    file.write_text(CONFIG.format(folder=tmp_path, more=more))
    (spec,) = load(file).monitor_specs().values()
    assert spec.device == MonitorSpec.from_json(spec.to_json()).device == named


@pytest.mark.parametrize(
    ("work", "task"),
    [
        (fit_targets, lambda spec: FitTask(spec, ())),
        (score_targets, lambda spec: ScoreTask(spec, (), {})),
        (observe_targets, lambda spec: ObserveTask(spec, (), {})),
    ],
)
def test_workers_refuse_a_device_that_is_not_there(no_cuda: None, work: Any, task: Any) -> None:
    assert list(getattr(work(task(monitor("load", device="auto"))), "fitted", [])) == []
    with pytest.raises(UnavailableError, match="finds no CUDA device here"):
        work(task(monitor("load", device="cuda")))


def test_validate_refuses_a_device_that_is_not_there(
    no_cuda: None, tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "anomaly.yaml"
    file.write_text(CONFIG.format(folder=tmp_path, more="device: cuda\n"))
    config = load(file)
    with (
        Service(config.model_copy(update={"database": database_url})) as service,
        pytest.raises(UnavailableError, match="set device: auto or cpu"),
    ):
        readiness.validate(service.store, service.config)


def test_a_change_of_device_fits_nothing_again(store: SqlStore) -> None:
    ingest(store, "load", {"a": waves(1)})
    end = int(waves(1)[0][-1]) + 1
    assert passes.backfill(job(store, monitor("load", device="cpu")), end)["fitted"] > 0
    assert passes.backfill(job(store, monitor("load", device="auto")), end)["fitted"] == 0
