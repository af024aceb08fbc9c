"""Which rows an owner trains on, and in which order: functions of a secret that it keeps for each data set.

A researcher who knows the order of rows knows which row is the last of an epoch, and one who sees two jobs over almost
the same rows in the same order can subtract their outcomes. So the rows are chosen by the secret alone, once for all
jobs, and their order by the secret, the job and the release that it is for. A repeated round has the same order: it
tells nothing new.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

SALT_BYTES: Final = 32
_ROWS: Final = b"cloister rows 1\0"
_STEPS: Final = b"cloister steps 1\0"
_DRAWN: Final = b"cloister drawn rows 1\0"
_ROUNDING: Final = b"cloister rounding 1\0"
_SIMULATED: Final = b"cloister simulated salt 1\0"


class Seeds(NamedTuple):
    """The seed of the choice of rows, of everything else that is random in a training, and of the rounding of what
    comes of it: 0 to 2^64 - 1 each."""

    rows: int
    steps: int
    rounding: int


def seeds_of(salt: bytes, *, job: bytes, number: int) -> Seeds:
    """The seeds of one owner's training for the ``number``th release of a job (from 1).

    The first 8 bytes, big-endian, of HMAC-SHA-256 (RFC 2104) under the salt: of a label, and of two other labels, each
    with the job's digest and the number (8 bytes, big-endian).
    """
    release = job + number.to_bytes(8, "big")
    return Seeds(_seed(salt, _ROWS), _seed(salt, _STEPS + release), _seed(salt, _ROUNDING + release))


def draw_key(salt: bytes, *, job: bytes, number: int) -> bytes:
    """The key that one owner's rows of a round are drawn with where noise hides them, 32 bytes: HMAC-SHA-256 (RFC 2104)
    under the salt of a label, the job's digest and the round's number (8 bytes, big-endian).

    A round's number is used once, also where it comes to nothing, so that each draw is independent of all others: what
    is known of two of them together follows from what each of them costs.
    """
    return hmac.digest(salt, _DRAWN + job + number.to_bytes(8, "big"), "sha256")


def simulated_salt(seed: int, owner: str) -> bytes:
    """The salt of an owner in a simulation with this seed, 32 bytes. A rehearsal whose nodes are given the same salts
    computes what the simulation does, and keeps nothing secret."""
    return hashlib.sha256(_SIMULATED + f"{seed} {owner}".encode()).digest()


def _seed(salt: bytes, message: bytes) -> int:
    return int.from_bytes(hmac.digest(salt, message, "sha256")[:8], "big")
