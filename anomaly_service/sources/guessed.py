"""What a file seems to hold: the config that reads it, and why each of its keys is as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_service.config.values import duration_text
from anomaly_service.printable import printable
from anomaly_service.sources import containers, numbers
from anomaly_service.sources.columns import Layout
from anomaly_service.sources.watched import Watched
from pipelines.times import DAY, WEEK

LEARNING_STEPS = 250
"""A first model of the default window needs 192 points; some may be missing."""

WHY_WRITTEN = {
    "decimal": "stands before the decimals of the values",
    "thousands": "parts the thousands of the values",
    "unit": "stands beside the values, and is passed over",
}


@dataclass(frozen=True)
class Guess:
    """What a file holds, and the config that reads it.

    Attributes:
        path: file or pattern as it was given, the first of several.
        layout: which columns hold what; an empty ``metric_name`` stands for the file's name.
        file_label: label that takes the file's name, where several wide files match.
        timezone: of timestamps without a zone; None where they carry one.
        start, stop: first and last time seen, epoch seconds.
        n_series: series in the part that was looked at.
        words: what was guessed, one sentence each.
        watched: what values and their absence stand for; None where each is its own value.
        reading: how the text of the file is come by.
        others: files and patterns that were given besides.
        aggregate: what is made of the events of a bucket, and its length in seconds.
        because: why a key of the section is as it is, and what else somebody who changes it should know.
        left_out: columns that are not read, and why.
    """

    path: str
    layout: Layout
    delimiter: str
    file_label: str | None
    step_seconds: int
    timezone: str | None
    start: int
    stop: int
    n_series: int
    words: tuple[str, ...]
    watched: Watched | None = None
    reading: containers.Reading = containers.USUAL
    others: tuple[str, ...] = ()
    aggregate: tuple[str, int] | None = None
    because: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def names_files(self) -> str | None:
        """The label, or ``metric``, by which every series names its file; None where they do not."""
        layout = self.layout
        if self.file_label is None and layout.metric is None and not layout.metric_name:
            return "metric" if len(layout.values) == 1 else None
        return self.file_label

    def section(self, folder: Path | None = None) -> dict[str, Any]:
        """Return the source's section of a config file that lies in ``folder``, the current one if None."""
        layout = self.layout
        section: dict[str, Any] = {
            "kind": "csv",
            "path": self._paths_from(folder),
            "timestamp": list(layout.times) if layout.more_times else layout.timestamp,
        }
        if layout.timestamp_format is not None:
            section["timestamp_format"] = layout.timestamp_format
        section["value"] = layout.values[0] if len(layout.values) == 1 else list(layout.values)
        if layout.metric is not None:
            section["metric"] = layout.metric
        if layout.metric_name:
            section["metric_name"] = layout.metric_name
        section |= _written(layout.forms)
        if layout.labels:
            section["labels"] = list(layout.labels)
        if self.file_label is not None:
            section["file_label"] = self.file_label
        if self.delimiter != ",":
            section["delimiter"] = self.delimiter
        section |= self.reading.keys()
        if self.aggregate is not None:
            by, every = self.aggregate
            section["aggregate"] = {"every": duration_text(every), "by": by}
        section["step"] = duration_text(self.step_seconds)
        section |= {} if self.watched is None else self.watched.section()
        if self.timezone is not None:
            section["timezone"] = self.timezone
        return section

    def comments(self) -> dict[str, str]:
        """Return for every guessed key of the section why it is so, in a line."""
        found = {
            "metric_name": "what is measured, called as its column",
            "step": "the distance that a series' points keep",
            "file_label": "the name of each file tells its series apart",
            **WHY_WRITTEN,
            **self.reading.comments(),
            **({} if self.watched is None else self.watched.comments()),
            **self.because,
        }
        if self.aggregate is not None:
            found["aggregate"] = "rows are events, several a moment: what is made of those of a bucket"
            found["step"] = "the length of a bucket"
        section = self.section()
        return {key: printable(why) for key, why in found.items() if key in section}

    def remark(self) -> str:
        """Return which columns are not read, and why, in a line; nothing where all are."""
        told = ", ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return printable(f"not read: {told}") if told else ""

    def _paths_from(self, folder: Path | None) -> str | list[str]:
        paths = [self._path_from(path, folder) for path in (self.path, *self.others)]
        return paths if self.others else paths[0]

    @staticmethod
    def _path_from(path: str, folder: Path | None) -> str:
        """Return the path as a config file in that folder must name it."""
        if folder is None or folder.absolute() == Path.cwd():
            return path
        whole = Path(path).absolute()
        return str(whole.relative_to(folder.absolute()) if whole.is_relative_to(folder.absolute()) else whole)

    @property
    def fit_first_seconds(self) -> int:
        """Return what a first model should wait for: three weeks, or all but a day of a shorter history.

        Three weeks tell a habit from an incident by which of the weeks differ; what a first model learned
        from is scored as well, by models that did not see it. One of a short history needs its steps.
        """
        all_but_a_day = max(self.stop - self.start - DAY, (self.stop - self.start) * 3 // 4)
        wanted = min(max(3 * WEEK, LEARNING_STEPS * self.step_seconds), all_but_a_day)
        unit = DAY if wanted >= DAY else 60
        return max(wanted // unit, 1) * unit

    @property
    def retention_seconds(self) -> int:
        """Return how long points must be kept for all of the history to stay."""
        span = int((self.stop - self.start) * 1.1)
        return max(400 * DAY, (span // DAY + 1) * DAY)


def _written(forms: Sequence[numbers.Form]) -> dict[str, Any]:
    """Return the keys of a source's section that say how numbers are written."""
    if not forms:
        return {}
    section: dict[str, Any] = {}
    if forms[0].decimal != ".":
        section["decimal"] = forms[0].decimal
    if forms[0].thousands:
        section["thousands"] = forms[0].thousands
    units = [form.unit for form in forms]
    if any(units):
        section["unit"] = units[0] if len(set(units)) == 1 else units
    return section
