"""Text from elsewhere as it may stand on a screen or in a file that people open: nothing acts on them.

Control characters move a terminal's cursor and recolour it; marks of writing direction show a text in
another order than it has. Both are written as what they are: ``\\x1b``, ``\\u202e``.
"""

from __future__ import annotations

import re

_ACTING = re.compile(
    # Control characters but tab; directions; separators that some programs take for line breaks; what is
    # invisible; and half characters, which cannot be printed at all.
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_ACTING_BUT_BREAKS = re.compile(_ACTING.pattern.replace("\x0a-\x1f", "\x0b-\x1f"))


def printable(text: str, *, breaks: bool = False) -> str:
    """Return text in which nothing acts.

    Args:
        breaks: line breaks stay, as in text of our own of several lines.

    >>> printable("ccu\\x1b[31m")
    'ccu\\\\x1b[31m'
    """
    return (_ACTING_BUT_BREAKS if breaks else _ACTING).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
