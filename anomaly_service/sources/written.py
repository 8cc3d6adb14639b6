"""How the numbers of a file are written: which columns hold some, with which marks and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anomaly_service.errors import GuessError
from anomaly_service.sources import numbers
from anomaly_service.sources.sample import SURE, Columns


@dataclass(frozen=True)
class Written:
    """The numbers of one file.

    Attributes:
        decimal: what somebody said stands before the decimals; None finds out.
        readings: how each column that was asked about can be read.
    """

    file: Path
    columns: Columns
    delimiter: str
    decimal: str | None
    readings: dict[str, list[numbers.Form]] = field(default_factory=dict)

    def holds(self, name: str, filled: Any) -> bool:
        """Return whether a column holds numbers, and keep how they can be read."""
        import pandas as pd

        is_plain = pd.to_numeric(filled, errors="coerce").notna().mean() >= SURE
        # Where commas part the columns, 1.234 has a decimal point; elsewhere it may be a thousand and more.
        if not is_plain or self.delimiter != "," or self.decimal is not None:
            self.readings[name] = numbers.forms(list(filled.iloc[:: len(filled) // 10_000 + 1]))
        return is_plain or bool(self.readings[name])

    def forms(self, values: Sequence[str]) -> tuple[numbers.Form, ...]:
        """Return how the numbers of each value column are written; one decimal mark for all of them.

        Raises:
            GuessError: two readings fit, and nothing decides between them; or none fits all columns.
        """
        if not values:
            return ()
        readings = [self._marked(name) for name in values]
        decimal = self._decimal(values, readings)
        forms = [
            next((form for form in each if form.decimal == decimal), replace(each[0], decimal=decimal))
            for each in readings
        ]
        thousands = numbers.thousands_of(forms)
        forms = [replace(form, thousands=thousands) for form in forms]
        return () if all(form.is_plain for form in forms) else tuple(forms)

    def _marked(self, name: str) -> list[numbers.Form]:
        """Return the readings of a column; the one with a point where the file's commas are delimiters."""
        found = self.readings.get(name) or [numbers.Form()]
        if self.decimal is not None:
            return [form for form in found if form.decimal == self.decimal] or found[:1]
        return found[:1] if len(found) > 1 and self.delimiter == "," else found

    def _decimal(self, values: Sequence[str], readings: Sequence[Sequence[numbers.Form]]) -> str:
        """Return what stands before the decimals in all columns."""
        if self.decimal is not None:
            return self.decimal
        shown = {
            each[0].decimal
            for name, each in zip(values, readings, strict=True)
            if len(each) == 1 and self.columns[name].str.contains("[.,]", regex=True).any()
        }
        if len(shown) > 1:
            raise GuessError(
                f"{self.file}: some columns have decimal points and others decimal commas; name one of them "
                "with --value"
            )
        unsure = [(n, each) for n, each in zip(values, readings, strict=True) if len(each) > 1]
        if unsure and not shown:
            raise GuessError(self._which_decimal(*unsure[0]))
        return shown.pop() if shown else "."

    def _which_decimal(self, name: str, readings: Sequence[numbers.Form]) -> str:
        """Return the question that two readings of a column put, with its first marked rows in both."""
        cells = self.columns[name]
        first = list(cells[cells.str.contains("[.,]", regex=True)].head(3))
        both = "; ".join(
            f"--decimal {form.decimal} reads {', '.join(f'{n:.15g}' for n in numbers.parse(first, form)[0])}"
            for form in readings
        )
        return f"{self.file}: column {name} ({', '.join(first)}) can be read in two ways: {both}. Say which"


def in_words(forms: Sequence[numbers.Form]) -> str:
    """Return how numbers are written; nothing where that is as programs do."""
    if not forms:
        return ""
    written = []
    if forms[0].decimal == ",":
        written.append("decimal comma")
    if forms[0].thousands:
        written.append(f"thousands marked by {forms[0].thousands!r}")
    units = dict.fromkeys(form.unit for form in forms if form.unit)
    if units:
        written.append(f"unit {', '.join(units)}")
    return f"numbers: {'; '.join(written)}" if written else ""
