"""Numbers as people write them: decimal commas, marks of thousands, units and currencies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Values

SPACES = "[ \u00a0\u2009\u202f]"
MARKS = {"": "(?!)", ".": r"\.", ",": ",", " ": SPACES, "'": "['\u2019]"}
"""What may stand for a mark of thousands; spaces and apostrophes have typographers' twins."""

CURRENCY = r"(?:[A-Z]{0,2}[$€£¥₹₽₩]|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|BRL|kr)"
SUFFIX = r"(?:[%‰°µμΩ€$£¥₹₽₩a-zA-Zäöüß][%‰°µμΩ€$£¥₹₽₩a-zA-Zäöüß/²³·^ 0-9]{0,15})"
WRITTEN = re.compile(
    rf"(?P<sign>[-+]?)(?P<before>{CURRENCY}?)\s*"
    rf"(?P<body>[-+]?[.,]?\d[\d.,'\u2019 \u00a0\u2009\u202f]*?(?:[eE][-+]?\d+)?)"
    rf"\s*(?P<behind>{SUFFIX}?)"
)

SURE = 0.95
"""Share of the cells of a column that must be numbers of a form."""


@dataclass(frozen=True)
class Form:
    """How the numbers of a column are written.

    Attributes:
        decimal: ``.`` or ``,``.
        thousands: mark between groups of digits: ``.``, ``,``, a space or an apostrophe; empty for none.
        unit: text before or behind every number; empty for none.
    """

    decimal: str = "."
    thousands: str = ""
    unit: str = ""

    @property
    def is_plain(self) -> bool:
        return self == PLAIN

    @cached_property
    def body(self) -> re.Pattern[str]:
        """Return what a number without its unit looks like; groups of two digits are India's."""
        mark, point = MARKS[self.thousands], re.escape(self.decimal)
        whole = rf"(?:[1-9]\d{{0,2}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}|\d+)"
        return re.compile(rf"[-+]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][-+]?\d+)?")

    def number(self, body: str) -> float:
        """Return the number; NaN where it is none of this form."""
        if not self.body.fullmatch(body):
            return float("nan")
        return float(re.sub(MARKS[self.thousands], "", body).replace(self.decimal, "."))


PLAIN = Form()
"""As programs write numbers."""


def split_unit(text: str) -> tuple[str, str] | None:
    """Return a number without its unit, and the unit; None where it is no number with a unit.

    >>> split_unit("-$1,234.50"), split_unit("36,7 %"), split_unit("(12 €)"), split_unit("host-1")
    (('-1,234.50', '$'), ('36,7', '%'), ('-12', '€'), None)
    """
    text = text.strip().replace("\u2212", "-")
    is_negative = text.startswith("(") and text.endswith(")")
    found = WRITTEN.fullmatch(text[1:-1].strip() if is_negative else text)
    if found is None or (found["before"] and found["behind"]) or (found["sign"] and found["body"][0] in "+-"):
        return None
    sign = "-" if is_negative else found["sign"]
    return sign + found["body"], found["before"] or found["behind"].strip()


def parse(texts: Any, form: Form) -> tuple[Values, NDArray[np.bool_]]:
    """Return the numbers of a Series, an array or a list of texts, NaN for none, and which have another unit.

    Numbers of another unit are never scaled; each different text is looked at once.
    """
    import pandas as pd

    codes, different = pd.factorize(np.asarray(texts, object))
    read = [_one(str(text), form) for text in different]
    # Missing texts have the code -1, the last of these.
    numbers = np.array([number for number, _ in read] + [np.nan])
    strange = np.array([other for _, other in read] + [False])
    return numbers[codes], strange[codes]


def _one(text: str, form: Form) -> tuple[float, bool]:
    found = split_unit(text)
    if found is None:
        return float("nan"), False
    number = form.number(found[0])
    is_other = found[1] != form.unit and number == number
    return (float("nan"), True) if is_other else (number, False)


def unit_of(texts: list[str]) -> str | None:
    """Return the unit that almost all texts carry, empty for none; None where they are no numbers of one."""
    found = [split_unit(text) for text in texts]
    units = [each[1] for each in found if each is not None]
    if not units:
        return None
    most = max(sorted(set(units)), key=units.count)
    return most if units.count(most) >= SURE * len(texts) else None


def forms(texts: list[str]) -> list[Form]:
    """Return the forms in which texts are numbers: none, one, or one per decimal mark where both fit.

    Texts without any mark are of the first form alone.
    """
    unit = unit_of(texts)
    if unit is None:
        return []
    bodies = [found[0] for text in texts if (found := split_unit(text)) and found[1] == unit]
    tried = [Form(point, _thousands(bodies, point), unit) for point in ".,"]
    shares = [sum(bool(form.body.fullmatch(body)) for body in bodies) / len(texts) for form in tried]
    fits = [form for form, share in zip(tried, shares, strict=True) if share >= SURE and share == max(shares)]
    same = len(fits) == 2 and all(fits[0].number(b) == fits[1].number(b) for b in bodies)
    return fits[:1] if same else fits


def _thousands(bodies: list[str], decimal: str) -> str:
    """Return the mark of thousands that texts hold beside a decimal mark; empty for none."""
    others = [mark for mark in (".", ",", " ", "'") if mark != decimal]
    return next((m for m in others if any(re.search(rf"\d{MARKS[m]}\d", body) for body in bodies)), "")


def thousands_of(forms: list[Form]) -> str:
    """Return the mark of thousands of columns that are read alike; empty where none has one."""
    return next((form.thousands for form in forms if form.thousands), "")
