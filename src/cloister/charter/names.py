"""Names of charters and members: what can be one, and how one is shown."""

from __future__ import annotations

import unicodedata
from typing import Final

from cloister.wire.text import is_visible, visible

NAME_CHARS: Final = 60
"""The longest name: it is part of a file's name, with up to four bytes a character."""

MARKS: Final = frozenset(" -_.,&'()+")
"""What may stand in a name beside letters, their marks, and numbers."""


def is_name(text: str) -> bool:
    """Whether a text can name a charter or member.

    It fits in a file's name and cannot leave its folder; it has one spelling (Unicode's NFKC: otherwise two could look
    the same and differ); and nothing in it is invisible, or drawn as a space.
    """
    return (
        0 < len(text) <= NAME_CHARS
        and text[0].isalnum()
        and text[-1] != " "
        and is_visible(text)
        and all(character in MARKS or unicodedata.category(character)[0] in "LMN" for character in text)
        and unicodedata.normalize("NFKC", text) == text
    )


def shown(name: str) -> str:
    """A name for a person's eyes, in one line: with its code points where letters could be taken for others."""
    seen = visible(name)
    return seen if seen.isascii() else f"{seen} ({seen.encode('ascii', 'backslashreplace').decode()})"
