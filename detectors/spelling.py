"""What somebody may have meant who wrote a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word most like this one, or None where none is near.

    >>> nearest("min_duraton", ["min_duration", "cooldown"])
    'min_duration'
    >>> nearest("label_file", ["labels", "file_label"])
    'file_label'
    """
    by_lower = {name.lower(): name for name in allowed}
    for lower, name in by_lower.items():
        if _parts(lower) == _parts(word):
            return name
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _parts(word: str) -> list[str]:
    """Return the parts of a name, whatever their order: ``every_fit`` is ``fit.every``."""
    return sorted(word.lower().replace(".", "_").replace("-", "_").split("_"))


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``; did you mean '...'?``, or nothing where no allowed word is near.

    >>> did_you_mean("gausian", ["gaussian", "kde"])
    "; did you mean 'gaussian'?"
    """
    guess = nearest(word, allowed)
    return f"; did you mean {guess!r}?" if guess else ""
