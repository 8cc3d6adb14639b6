"""The report of a backtest is one page that needs nothing else: tables, and pictures of every series."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_service.measure.report import Report
from anomaly_service.measure.svg import NARROWEST, VALUE_HEIGHT, WIDTH, Pictures, draw
from pipelines.measure.backtest import Candidate, Labelled, Plotted, run
from pipelines.measure.scoreboard import summarise
from pipelines.monitor import MonitorSpec, Threshold
from pipelines.records import Json

START = 1_700_000_100
NASTY = "<script>alert('a & b')</script>\" 'x"
VOID = {"meta", "link", "br", "hr", "img", "input"}


def labelled(series: str, depth: float, seed: int = 0, labels: bool = True) -> Labelled:
    """Return four days of five minutes with an outage of an hour."""
    ts = START + 300 * np.arange(1200, dtype=np.int64)
    values = 100 + np.random.default_rng(seed).normal(size=len(ts))
    values[900:912] -= depth
    truth = ((int(ts[900]), int(ts[911])),) if labels else ()
    return Labelled("made", series, ts, values[:, np.newaxis], truth, 300)


def candidate(name: str) -> Candidate:
    spec = MonitorSpec("m", {}, detector=name, params={"window": 8}, threshold=Threshold(alarms_per_week=2.0))
    return Candidate(name, spec)


def report(
    *series: Labelled, detectors: tuple[str, ...] = ("gaussian", "moving_std"), **given: Any
) -> Report:
    rows: list[Json] = []
    pictures: dict[Any, Pictures] = {}
    for each in series:
        for name in detectors:
            tested = run(each, candidate(name))
            rows.append(tested.row)
            pictures[each.dataset, each.series, name] = draw(tested.course)
    usual: dict[str, Any] = {
        "title": "A backtest",
        "summary": summarise(rows),
        "rows": rows,
        "pictures": pictures,
    }
    return Report(**(usual | given))


@dataclass
class Page(HTMLParser):
    """A page taken apart: every element with its attributes and what it stands in, and all text."""

    html: str
    open: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture(scope="module")
def made() -> Report:
    """Three labelled series, the second of which hides its outage, one without labels and one too short."""
    short = labelled("short", 40)
    short = replace(short, ts=short.ts[:30], values=short.values[:30], truth=())
    series = (
        labelled(NASTY, 40),
        labelled("hidden", 0.0, 1),
        labelled("shown", 15, 2),
        labelled("unlabelled", 40, 3, labels=False),
        short,
    )
    return report(*series, problems=("bad.csv: <no> timestamps",))


@pytest.fixture(scope="module")
def page(made: Report) -> Page:
    return Page(made.html())


# -- the page -----------------------------------------------------------------------


def test_the_page_is_balanced(page: Page) -> None:
    assert page.open == []
    assert page.elements[0][0] == "html"


def test_the_page_needs_nothing_from_elsewhere(made: Report, page: Page) -> None:
    html = made.html()
    assert not re.search(r"(https?:)?//[a-z]", html)
    assert not re.search(r"url\(|@import", html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _, _ in page.elements}
    for _, attributes, _ in page.elements:
        assert not {"src", "href", "xlink:href"} & set(attributes)


def test_names_are_text_and_never_markup(made: Report, page: Page) -> None:
    assert "<script" not in made.html()
    assert NASTY in page.text
    assert f"made/{NASTY}" in [section["id"] for section in page.all("section")]
    assert any(NASTY in str(svg.get("aria-label")) for svg in page.all("svg"))
    assert "bad.csv: <no> timestamps" in page.text


def test_a_title_and_a_reason_are_text_too() -> None:
    row = {**run(labelled("a", 40), candidate("gaussian")).row, "why": "<b>no</b>"}
    key = ("made", "a", "gaussian")
    shown = Report("<i>x</i> & $title", [], [row], {key: Pictures("<svg></svg>", "<svg></svg>")}).html()
    page = Page(shown)
    assert not any(tag == "b" and "span" in inside for tag, _, inside in page.elements)
    assert page.all("i") == []
    assert "no model: <b>no</b>" in page.text
    assert "<i>x</i> & $title" in page.text


def test_the_worst_series_comes_first_and_those_without_labels_last(page: Page) -> None:
    names = [str(section["id"]).removeprefix("made/") for section in page.all("section")]
    assert names[0] == "hidden"
    assert set(names[1:3]) == {"shown", NASTY}
    assert names[3:] == ["unlabelled", "short"]


def test_a_series_is_as_bad_as_its_models_are_not_as_its_baselines() -> None:
    rows = [
        {**row, "series": series, "vus_pr": figure, "detector": name, "baseline": name == "random"}
        for row in [run(labelled("a", 40), candidate("gaussian")).row]
        for series, name, figure in (
            ("good", "kde", 0.9), ("good", "random", 0.0), ("bad", "kde", 0.2), ("bad", "random", 0.9),
        )
    ]  # fmt: skip
    ids = [section["id"] for section in Page(Report("t", [], rows, {}).html()).all("section")]
    assert ids == ["made/bad", "made/good"]


def test_every_series_has_one_picture_of_its_values_and_one_of_every_detector_s_scores(page: Page) -> None:
    labels = [str(svg["aria-label"]) for svg in page.all("svg") if svg.get("role") == "img"]
    assert len([label for label in labels if label.startswith("values of ")]) == 5
    assert len([label for label in labels if label.startswith("scores of ")]) == 10


def test_the_baselines_are_folded_and_the_models_are_not(page: Page) -> None:
    shown = [
        ("details" in inside, attributes["aria-label"])
        for tag, attributes, inside in page.elements
        if tag == "svg" and str(attributes.get("aria-label")).startswith("scores of")
    ]
    assert sorted(folded for folded, _ in shown) == [False] * 5 + [True] * 5
    assert not any("open" in attributes for attributes in page.all("details"))


def test_baselines_alone_are_not_folded_away() -> None:
    page = Page(report(labelled("a", 40), detectors=("random", "robust_z")).html())
    (details,) = page.all("details")
    assert "open" in details


def test_tables_hold_every_detector_with_its_figures_live_in_brackets(made: Report, page: Page) -> None:
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", made.html())
    (row,) = [each for each in made.summary if each["detector"] == "gaussian"]
    assert "gaussian" in cells
    assert "moving_std" in cells
    assert f"{row['vus_pr']:.3f}" in cells
    assert f"{row['overlap_f1']:.3f} ({row['overlap_f1_live']:.3f})" in cells
    assert f"{100 * row['share_flagged']:.1f} %" in cells
    assert "5 (3 labelled, 1 without a model)" in cells
    assert len(page.all("th")) == len(cells) / 2
    assert all(head["title"] for head in page.all("th"))


def test_the_best_figures_are_set_apart_and_baselines_marked(made: Report, page: Page) -> None:
    best = re.findall(r'<td class="best">([^<]*)</td>', made.html())
    assert f"{max(row['vus_pr'] for row in made.summary):.3f}" in best
    assert [row.get("class") for row in page.all("tr")] == [None, None, "baseline"]


def test_a_series_tells_its_size_and_why_it_has_no_model(page: Page) -> None:
    assert "made · 1,200 rows, a step of 5 min, 1 label" in page.text
    assert "made · 30 rows, a step of 5 min, 0 labels" in page.text
    assert "no model: " in page.text


def test_several_channels_are_counted() -> None:
    one = labelled("a", 40)
    page = Page(report(replace(one, values=np.repeat(one.values, 2, axis=1))).html())
    assert "2 channels (shown is the one that deviates most)" in page.text


def test_a_page_of_nothing_is_one() -> None:
    page = Page(Report("nothing", [], [], {}).html())
    assert page.all("section") == []


def test_a_browser_shows_the_sections_in_order(made: Report, page: Page, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("a browser (chromium) is not installed")
    (tmp_path / "index.html").write_text(made.html(), encoding="utf-8")
    switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    shown = subprocess.run(
        [browser, *switches, (tmp_path / "index.html").as_uri()],
        capture_output=True, text=True, encoding="utf-8", check=True,
    ).stdout  # fmt: skip
    seen = Page(shown)
    assert [section["id"] for section in seen.all("section")] == [
        section["id"] for section in page.all("section")
    ]
    assert len(seen.all("svg")) == len(page.all("svg"))
    assert seen.all("script") == []


# -- the pictures -------------------------------------------------------------------


def course(y: np.ndarray, **given: Any) -> Plotted:
    """Return a course of values with nothing usual, scored or flagged."""
    nothing, none = np.full(len(y), np.nan), np.empty((0, 2), dtype=np.int64)
    ts = START + 60 * np.arange(len(y), dtype=np.int64)
    usual: dict[str, Any] = {"low": nothing, "high": nothing, "score": nothing}
    usual |= dict.fromkeys(("flagged", "flagged_live", "truth"), none)
    return Plotted(Labelled("d", "s", ts, y[:, np.newaxis], (), 60), 0, y, **(usual | given))


def path(picture: str, name: str) -> str:
    (found,) = re.findall(rf'<path class="{name}" d="([^"]*)"', picture)
    return str(found)


def points(line: str) -> list[tuple[float, float]]:
    """Return every point that a path of M, L, V and h0 goes through."""
    out: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MLVh])([^MLVh]*)", line):
        given = [float(number) for number in numbers.split()]
        out.append(
            (given[0], given[1])
            if command in "ML"
            else (out[-1][0], given[0] if command == "V" else out[-1][1])
        )
    return out


@pytest.mark.parametrize("size", [12.0, 1e9, -1e9])
def test_no_spike_is_lost_however_long_the_series(size: float) -> None:
    y = np.random.default_rng(0).normal(size=100_000)
    y[61_803] = size
    seen = points(path(draw(course(y)).values, "value"))
    extreme = min(seen, key=lambda p: p[1]) if size > 0 else max(seen, key=lambda p: p[1])
    assert extreme[0] == pytest.approx(61_803 / 100_000 * WIDTH, abs=1)
    assert extreme[1] < 5 if size > 0 else extreme[1] > VALUE_HEIGHT - 5
    rest = [y for _, y in seen if y != extreme[1]]
    assert abs(extreme[1] - (min(rest) if size > 0 else max(rest))) > 10


def test_one_spike_does_not_flatten_everything_else() -> None:
    y = np.random.default_rng(0).normal(size=100_000)
    y[61_803] = 1e9
    heights = [at for _, at in points(path(draw(course(y)).values, "value"))]
    assert np.ptp(np.sort(heights)[10:]) > VALUE_HEIGHT / 4


def test_a_long_series_takes_no_more_room_than_the_page_is_wide() -> None:
    short, long = (len(draw(course(np.random.default_rng(0).normal(size=n))).values) for n in (3000, 300_000))
    assert long < 1.2 * short < 60_000


def test_gaps_break_lines_and_a_value_alone_is_a_dot() -> None:
    y = np.arange(20.0)
    y[[4, 5, 12, 14]] = np.nan
    line = path(draw(course(y)).values, "value")
    pieces = line.split("M")[1:]
    assert len(pieces) == 4
    assert [piece.count("L") for piece in pieces] == [3, 5, 0, 4]
    assert pieces[2].endswith("h0")


def test_gaps_break_the_band_and_the_scores() -> None:
    y = np.zeros(20)
    gaps = np.where(np.isin(np.arange(20), [7, 8]), np.nan, 1.0)
    pictures = draw(course(y, low=-gaps, high=gaps, score=gaps))
    assert path(pictures.values, "band").count("Z") == 2
    assert path(pictures.scores, "score").count("Z") == 2


def test_scores_far_above_the_line_touch_the_upper_edge() -> None:
    score = np.full(50, 0.5)
    score[20:25] = 1e6
    picture = draw(course(np.zeros(50), score=score)).scores
    heights = [
        float(y) for _, y in (pair.split() for pair in re.findall(r"[\d.]+ [-\d.]+", path(picture, "score")))
    ]
    line = float(re.findall(r'class="line" d="M0 ([\d.]+)H', picture)[0])
    assert 0 < min(heights) < line < max(heights)


@pytest.mark.parametrize("row", [0, 61_803, 99_999])
def test_an_interval_of_one_step_is_seen_inside_the_picture(row: int) -> None:
    one = np.array([[row, row]])
    pictures = draw(course(np.zeros(100_000), truth=one, flagged=one, flagged_live=one))
    for picture, name in (
        (pictures.values, "truth"),
        (pictures.scores, "settled"),
        (pictures.scores, "live"),
    ):
        ((left, wide),) = re.findall(rf'class="{name}" x="([\d.]+)" y="\d+" width="([\d.]+)"', picture)
        assert float(wide) >= NARROWEST
        assert float(left) + float(wide) <= WIDTH + 0.1
        assert abs(float(left) - row / 100_000 * WIDTH) <= NARROWEST


def test_intervals_lie_over_their_rows() -> None:
    picture = draw(course(np.zeros(100), flagged=np.array([[10, 19], [50, 99]]))).scores
    bars = re.findall(r'class="settled" x="([\d.]+)" y="0" width="([\d.]+)"', picture)
    assert [(float(left), float(wide)) for left, wide in bars] == [(120.0, 120.0), (600.0, 600.0)]


def test_pictures_of_odd_values_hold_numbers_only() -> None:
    for y in (np.full(50, np.nan), np.full(50, 7.0), np.zeros(3), np.where(np.arange(50) % 9, 1.0, 1e100)):
        pictures = draw(course(y))
        assert not re.search("nan|inf", pictures.values + pictures.scores)


def test_the_axis_is_dated_with_the_time_of_day_where_days_are_few() -> None:
    few, many = draw(course(np.zeros(1000))).values, draw(course(np.zeros(30_000))).values
    assert "2023-11-14 22:15</text>" in few
    assert "2023-11-14</text>" in many
    assert few.count("<text") == many.count("<text") == 6
