"""What must never be shown: passwords and tokens, wherever a message may carry them along.

Everything that people or programs read goes through ``hidden``: log lines, errors of commands, answers of
the daemon's port, and what the run table keeps. It knows secrets by their shape, and those of this process
by name: whatever reads one says so with ``remember``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote, unquote_plus

T = TypeVar("T")

STARS = "***"

SHORTEST = 4
"""Characters of the shortest secret that is looked for by name: a shorter one is part of many words."""

_SOUNDS_SECRET = r"\w*(?:pass(?:word|wd|phrase)?|pwd|secret|token|api_?key|access_?key|credential)s?"
_USER_PART = re.compile(r"(\w://[^:/@\s'\"]*:)[^\s'\"]+(@)")
_NAMED = re.compile(
    rf"(?<![\w-])({_SOUNDS_SECRET}\s*=\s*)(?!\*\*\*)('[^']*'|\"[^\"]*\"|[^\s&;,'\")\]}}]+)", re.IGNORECASE
)
_SECRET_NAME = re.compile(_SOUNDS_SECRET, re.IGNORECASE)
_SCHEME = re.compile(r"[\w.+-]+://")

_known: dict[str, re.Pattern[str]] = {}
"""What to look for, by the secret itself."""


def sounds_secret(name: str) -> bool:
    """True for the name of a setting or variable that holds a secret.

    >>> sounds_secret("DB_PASSWORD"), sounds_secret("sslpassword"), sounds_secret("DATA_DIR")
    (True, True, False)
    """
    return _SECRET_NAME.fullmatch(name) is not None


def remember(text: object) -> None:
    """Never show this again: of a URL the secrets in it, of anything else the whole text."""
    if not isinstance(text, str):
        return
    for secret in _and_pieces(_of_url(text)) if _SCHEME.match(text) else (text,):
        for form in (
            secret,
            unquote(secret),
            unquote_plus(secret),
            quote(secret, safe=""),
            quote_plus(secret),
        ):
            if len(form.strip()) >= SHORTEST and form not in _known:
                _known[form] = _sought(form)


def _sought(secret: str) -> re.Pattern[str]:
    # A password that is a word, such as `postgres`, is hidden as a word and not inside of others.
    edge = (r"(?<![^\W_])", r"(?![^\W_])") if secret.isalpha() else ("", "")
    return re.compile(re.escape(secret).join(edge))


def _of_url(url: str) -> Iterator[str]:
    """Yield what is secret in a URL."""
    rest = url.split("://", 1)[1]
    place, _, query = rest.partition("?")
    user_part, at, _ = place.rpartition("@")
    if at:
        yield user_part.partition(":")[2]
    for pair in re.split("[&;]", query):
        name, _, value = pair.partition("=")
        if sounds_secret(name):
            yield value


def _and_pieces(found: Iterable[str]) -> Iterator[str]:
    """Yield secrets with what follows an @ or / that is not escaped: a driver takes it for a host, or names
    it."""
    for secret in found:
        yield from (secret, *re.split(r"[@/]", secret)[1:])


def hidden(text: str) -> str:
    """Return a text with every secret in it as stars.

    >>> hidden("cannot open postgresql://anna:s3cret@db/x?sslpassword=t0ken&user=a")
    'cannot open postgresql://anna:***@db/x?sslpassword=***&user=a'
    """
    # The longest first: one may be part of another.
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = _known[secret].sub(STARS, text)
    text = _USER_PART.sub(rf"\1{STARS}\2", text)
    return _NAMED.sub(rf"\1{STARS}", text)


def hidden_within(value: T) -> T:
    """Return a value with the secrets of all texts in it as stars, however deep; a tuple becomes a list."""
    found: Any = value
    if isinstance(value, str):
        found = hidden(value)
    elif isinstance(value, Mapping):
        found = {name: hidden_within(each) for name, each in value.items()}
    elif isinstance(value, list | tuple):
        found = [hidden_within(each) for each in value]
    return found
