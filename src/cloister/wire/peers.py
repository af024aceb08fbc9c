"""How a peer is named: by the fingerprint of its key, and never by a name that someone else could take."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from cloister.errors import IdentityError

_FINGERPRINT: Final = re.compile(r"sha256:[0-9a-f]{64}")


def check_fingerprint(text: str) -> str:
    """``text``, if it is a fingerprint.

    Raises:
        IdentityError: it is not ``sha256:`` and 64 hexadecimal digits in lower case.
    """
    if not _FINGERPRINT.fullmatch(text):
        raise IdentityError(
            f"{text!r} is not a fingerprint: that is sha256: and 64 hexadecimal digits, see `cloister key show`"
        )
    return text


def fingerprint(spki: bytes) -> str:
    """The fingerprint of a public key: ``sha256:`` and the hash of its SubjectPublicKeyInfo in DER (RFC 5280, 4.1)."""
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"
