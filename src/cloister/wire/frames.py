"""Frames: the prefix that cuts a byte stream into messages. Sans-IO: it is given bytes and gives bytes.

A frame is a prefix of 20 bytes, a header (the message, msgpack) and a body (tensors' bytes):

    offset  bytes  field
    0       4      magic, "CLST"
    4       1      version of the protocol, 1
    5       1      kind of the message
    6       2      reserved, 0
    8       4      length of the header, little-endian
    12      8      length of the body, little-endian

The prefix is the same in every version of the protocol, so that a version refused is refused with a reason.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from cloister.errors import FrameError, LimitError, VersionError
from cloister.wire.limits import BODY_BYTES, HEADER_BYTES

MAGIC: Final = b"CLST"
VERSION: Final = 1
_PREFIX: Final = struct.Struct("<4sBBHIQ")
PREFIX_BYTES: Final = _PREFIX.size


class Kind(IntEnum):
    """What a frame holds."""

    HELLO = 1
    WELCOME = 2
    REFUSAL = 3
    BATCH = 4
    ASK = 5
    ANSWER = 6
    FAILURE = 7
    PUSH = 8
    CHALLENGE = 9
    PROOF = 10
    PROVISION = 11
    ROUND = 12
    WAIT = 13
    # Between a node's listener and its executors only.
    DIAL = 16
    AWAIT = 17


class Prefix(NamedTuple):
    """A frame's first 20 bytes, checked."""

    kind: Kind
    header_bytes: int
    body_bytes: int


def pack_prefix(kind: Kind, *, header_bytes: int, body_bytes: int = 0) -> bytes:
    """The prefix of a frame.

    Raises:
        LimitError: the header or the body is longer than a frame may hold.
    """
    _check_lengths(header_bytes, body_bytes)
    return _PREFIX.pack(MAGIC, VERSION, kind, 0, header_bytes, body_bytes)


def unpack_prefix(data: bytes | bytearray | memoryview) -> Prefix:
    """Reads a prefix; ``data`` is exactly ``PREFIX_BYTES`` long.

    Raises:
        FrameError: not a frame of this protocol.
        VersionError: a frame of another version.
        LimitError: a length over its limit.
    """
    if len(data) != PREFIX_BYTES:
        raise FrameError(f"a frame's prefix is {PREFIX_BYTES} bytes, not {len(data)}")
    magic, version, kind, reserved, header_bytes, body_bytes = _PREFIX.unpack(data)
    if magic != MAGIC:
        raise FrameError("the other end does not speak cloister's protocol")
    if version != VERSION:
        raise VersionError(f"the other end speaks version {version} of the protocol, this one version {VERSION}")
    if reserved != 0:
        raise FrameError("the reserved bytes of a frame's prefix must be zero")
    if kind not in _KINDS:
        raise FrameError(f"no message has the kind {kind}")
    _check_lengths(header_bytes, body_bytes)
    return Prefix(Kind(kind), header_bytes, body_bytes)


_KINDS: Final = frozenset(Kind)


def _check_lengths(header_bytes: int, body_bytes: int) -> None:
    if header_bytes > HEADER_BYTES:
        raise LimitError(f"a header of {header_bytes} bytes is over the limit of {HEADER_BYTES}")
    if body_bytes > BODY_BYTES:
        raise LimitError(f"a body of {body_bytes} bytes is over the limit of {BODY_BYTES}")
