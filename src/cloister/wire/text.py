"""Text from others, fit for a person's eyes: nothing in it steers a terminal, begins a line, or cannot be seen."""

from __future__ import annotations

import re
from typing import Final

_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Code points that are drawn as nothing, or as a space: those that Unicode calls default ignorable
(DerivedCoreProperties.txt, 16.0), of which ``unicodedata`` knows nothing, and three more that are blank: U+2800,
U+16FE4 and U+1D159."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.\-]+")


def is_visible(text: str) -> bool:
    """Whether each character of a text is printed, and as something that can be seen. Spaces (U+0020) are allowed."""
    return text.isprintable() and not _UNSEEN.search(text)


def visible(text: str) -> str:
    """A text for a terminal: what cannot be printed or seen is spelled out, so that what comes is one line."""
    if is_visible(text):
        return text
    return "".join(each if is_visible(each) else each.encode("unicode_escape").decode() for each in text)


def quoted(name: str) -> str:
    """A name that can be any text, such as a tensor's: as it is if it is plain, and else in quotes and in ASCII, so
    that it can look neither like another name nor like what stands beside it."""
    return name if _PLAIN.fullmatch(name) else ascii(name)


def exact(number: float) -> str:
    """A number with all its digits: two that differ look different."""
    return repr(number).removesuffix(".0")
