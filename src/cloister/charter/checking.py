"""Whether a charter may be used: by this software, and at this time."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cloister.charter.charter import Charter
from cloister.errors import CharterError

ENFORCED: Final = frozenset({"interactive"})
"""The optional rules of a charter that this version of cloister enforces, beside those that every charter has."""


def enforceable(charter: Charter, *, enforced: frozenset[str] = ENFORCED) -> None:
    """Checks that this software can enforce all that a charter asks for. Whoever loads or serves one calls this.

    Raises:
        CharterError: it cannot; the message names what.
    """
    asked = {"noise": charter.limits.noise is not None, "interactive": charter.limits.interactive}
    missing = sorted(name for name, is_asked in asked.items() if is_asked and name not in enforced)
    if missing:
        raise CharterError(
            f"the charter {charter.name!r} asks for {' and '.join(missing)}, which this version of cloister cannot"
            " enforce: it refuses the charter rather than ignore a rule of it"
        )


def check_valid(charter: Charter, *, now: datetime) -> None:
    """Checks that a charter is valid at ``now``, a time with its offset.

    Raises:
        CharterError: not yet, or no longer.
    """
    if now < charter.not_before:
        raise CharterError(
            f"the charter {charter.name!r} is valid from {charter.not_before:%Y-%m-%d %H:%M} UTC on:"
            " is this clock right?"
        )
    if now > charter.not_after:
        raise CharterError(
            f"the charter {charter.name!r} was valid until {charter.not_after:%Y-%m-%d %H:%M} UTC: it needs a successor"
        )
