"""Why a row was set aside."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """What is wrong with one row; the text goes to the rejects file."""

    NONE = 0
    NO_TIME = 1
    BAD_TIME = 2
    NO_ZONE = 3
    SKIPPED_TIME = 4
    DOUBTFUL_TIME = 5
    TIME_RANGE = 6
    NO_VALUE = 7
    BAD_VALUE = 8
    INFINITE_VALUE = 9
    NO_METRIC = 10
    COLUMNS = 11
    QUOTES = 12
    ENCODING = 13
    CARRIAGE = 14
    LONG_LINE = 15
    NUL = 16
    LONG_NAME = 17
    FAR_FUTURE = 18
    FAR_PAST = 19
    UNIT = 20

    @property
    def text(self) -> str:
        return TEXTS[self]


TEXTS = {
    Reason.NONE: "",
    Reason.NO_TIME: "no timestamp",
    Reason.BAD_TIME: "timestamp is not readable: expected ISO 8601 or epoch seconds",
    Reason.NO_ZONE: "timestamp carries no zone and the source has no timezone",
    Reason.SKIPPED_TIME: "local time does not exist: the clock skips it",
    Reason.DOUBTFUL_TIME: "local time comes twice, and nothing tells which is meant",
    Reason.TIME_RANGE: "timestamp lies outside 1970 to 2262",
    Reason.NO_VALUE: "no value",
    Reason.BAD_VALUE: "value is not a number",
    Reason.INFINITE_VALUE: "value is infinite",
    Reason.NO_METRIC: "no metric",
    Reason.COLUMNS: "wrong number of columns",
    Reason.QUOTES: "quotation marks do not close on the line",
    Reason.ENCODING: "not UTF-8",
    Reason.CARRIAGE: "a carriage return stands inside the line",
    Reason.LONG_LINE: "the line is longer than 1 MiB",
    Reason.NUL: "metric or label holds a NUL character",
    Reason.LONG_NAME: "metric and labels together are longer than 2,000 bytes",
    Reason.FAR_FUTURE: "timestamp lies far in the future, by the database's clock too",
    Reason.FAR_PAST: "timestamp lies far before the rest of its series: further than ten times their span",
    Reason.UNIT: "value carries another unit than the source's unit, or none",
}
