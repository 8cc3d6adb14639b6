"""`anomaly try --open`: one page with pictures that needs nothing else, whatever the file is called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_service.cli.tried_page import TriedPage
from anomaly_service.insight.surroundings import Course, Surroundings
from tests.service.test_tried import LONGER, lines

NASTY = '<script>alert("1")</script>\x1b[31m'


def interval(kind: str, start: int, end: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind, "series": NASTY, "monitor": "m", "timezone": "Asia/Seoul", "status": "closed",
        "start_ts": start, "end_ts": end, "start_at": "", "peak_at": "1970-01-01T01:00:00Z",
        "duration_seconds": end - start + 60, "peak_score": 2.5, "y_at_peak": 9.0, "yhat_at_peak": 3.0,
        "direction": "above_expected", "channel": None, "channel_shares": None, "suggested_verdict": None,
        "suggestion_probability": None,
    } | more  # fmt: skip


def shown() -> str:
    """Return a page of one anomaly and one gap."""
    ts = np.arange(0, 6000, 60)
    y = np.sin(ts / 600.0)
    odd = interval("anomaly", 1200, 1740)
    gap = interval("data_missing", 3000, 3540, y_at_peak=None, yhat_at_peak=None, direction=None)
    course = Course(NASTY, "Asia/Seoul", ts, y, [odd, gap], [(20, 30), (50, 60)])
    page = TriedPage(NASTY, [f"metric: {NASTY}"], [odd, gap], [Surroundings(odd, ts, y, (20, 30))], [course])
    return page.html()


def test_names_from_a_file_are_text_and_nothing_else() -> None:
    page = shown()
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") > 5


def test_the_page_needs_no_network_and_knows_dark_and_light() -> None:
    page = shown()
    assert "http" not in page
    assert "prefers-color-scheme: dark" in page
    assert "$" not in page


def test_intervals_of_values_and_gaps_are_marked_apart_and_where_they_lie() -> None:
    around, whole = re.findall(r"<svg viewBox.*?</svg>", shown())
    assert re.findall(r'class="(flagged|missing)" x="([\d.]+)" y="0" width="([\d.]+)"', around) == [
        ("flagged", "240.0", "120.0")
    ]
    assert re.findall(r'class="(flagged|missing)" x="([\d.]+)" y="0" width="([\d.]+)"', whole) == [
        ("missing", "600.0", "120.0"),
        ("flagged", "240.0", "120.0"),
    ]
    assert "1970-01-01 09:00" in whole  # in the zone of the series


def test_a_page_of_nothing_says_so() -> None:
    page = TriedPage("a.csv", [], [], [], []).html()
    assert "Nothing is flagged." in page
    assert "<h2>" not in page


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    """A browser that notes the address it is to open; returns where."""
    script, opened = tmp_path / "browser", tmp_path / "opened"
    script.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    script.chmod(0o755)
    return opened


def test_try_opens_the_page_beside_the_config_that_is_kept(tmp_path: Path, browser: Path) -> None:
    file, kept = tmp_path / "logins.csv", tmp_path / "kept"
    file.write_text("\n".join(["time,value", *lines(LONGER)]) + "\n")
    arguments = ["try", file, "--detector", "robust_z", "--keep", kept, "--open"]
    done = subprocess.run(
        [sys.executable, "-m", "anomaly_service", *map(str, arguments)],
        env={**os.environ, "BROWSER": f"{browser.parent / 'browser'} %s", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = kept / "report.html"
    assert f"Report: {path}" in done.stderr
    assert browser.read_text().strip() == path.as_uri()
    assert "logins fell to" in path.read_text(encoding="utf-8")
