"""The messages that open a conversation and prove what one end runs, and how all messages are written and read.

docs/wire.md is their specification. Every message is a msgpack array whose items are its fields in the order written
here; where several kinds may stand, the first item is a tag. An unknown tag, a missing or surplus field, a wrong type
or a value over its limit is refused.

What is said after the opening stands in ``rounds`` and in ``sessions``. An end that holds no sessions loads nothing of
theirs, and understands none of their messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from cloister.errors import LimitError, MessageError
from cloister.wire import rounds
from cloister.wire.fields import Digest, Message, Name, Text, Versions
from cloister.wire.frames import Kind
from cloister.wire.limits import EVIDENCE_BYTES, HEADER_BYTES, SEALED_BYTES, TRANSCRIPT_BYTES, WAIT_S
from cloister.wire.tensors import Size

Vocabulary: TypeAlias = Mapping[Kind, msgspec.msgpack.Decoder[Any]]
"""What one end understands: a decoder for each kind of frame."""

# How a conversation is opened.


class Hello(Message, frozen=True):
    """The first frame on a connection."""

    versions: Versions
    purpose: Literal["session", "push", "study", "status"]
    software: Name
    table: Digest | None


class Welcome(Message, frozen=True):
    """Accepted. What a session may hold: bytes and objects."""

    version: Annotated[int, Meta(ge=0, lt=256)]
    name: Name
    memory_bytes: Size
    objects: Size


_Code = Literal["version", "table", "peer", "busy", "closing", "protocol", "crashed", "charter", "evidence"]
RefusalCode = Literal[_Code, "put-off", "ended", "cpu"]
WaitSeconds = Annotated[int, Meta(ge=0, le=WAIT_S)]


class Refusal(Message, frozen=True):
    """Not accepted, or no longer: why, in a word and in a sentence; and in how many seconds it is of use to come again,
    or 0 where that is not known."""

    code: RefusalCode
    text: Text
    wait_s: WaitSeconds


class Wait(Message, frozen=True):
    """The answer to a hello takes longer: it comes within so many seconds."""

    seconds: WaitSeconds


# How one end proves what it runs (docs/attestation.md). Before the proof nothing else is said.


class Challenge(Message, frozen=True):
    """Prove what you run, for this nonce, under this charter."""

    versions: Versions
    nonce: Digest
    charter: Digest


class Proof(Message, frozen=True):
    """The transcript (deterministic CBOR) and evidence that is about it (``cloister.attest.evidence``)."""

    transcript: Annotated[bytes, Meta(max_length=TRANSCRIPT_BYTES)]
    evidence: Annotated[bytes, Meta(max_length=EVIDENCE_BYTES)]


class Provision(Message, frozen=True):
    """Keep this secret under this name. It is sealed to the key that was proved on this connection."""

    name: Name
    sealed: Annotated[bytes, Meta(max_length=SEALED_BYTES)]


def vocabulary(types: Mapping[Kind, Any]) -> Vocabulary:
    """The messages that may stand in each kind of frame."""
    return {kind: msgspec.msgpack.Decoder(each) for kind, each in types.items()}


VOCABULARY: Final = vocabulary(
    {
        Kind.HELLO: Hello,
        Kind.WELCOME: Welcome,
        Kind.REFUSAL: Refusal,
        Kind.WAIT: Wait,
        Kind.CHALLENGE: Challenge,
        Kind.PROOF: Proof,
        Kind.PROVISION: Provision,
        Kind.ROUND: rounds.RoundMessage,
    }
)
"""What every end understands."""

_VALUE: Final = re.compile(r""" value ['"].*['"](?= - at `\$|\Z)""", re.DOTALL)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(message: Struct) -> bytes:
    """A message as a frame's header.

    Raises:
        LimitError: the message is longer than a header may be.
    """
    data = _ENCODER.encode(message)
    if len(data) > HEADER_BYTES:
        raise LimitError(f"a message of {len(data)} bytes is over the limit of {HEADER_BYTES}; send it in parts")
    return data


def decode(kind: Kind, data: bytes | bytearray | memoryview, *, among: Vocabulary = VOCABULARY) -> Any:
    """The message in a frame's header: one of the type that ``kind`` stands for.

    Raises:
        MessageError: not such a message (unknown or missing fields, wrong types, values over their limits), or none of
            this vocabulary.
    """
    if kind not in among:
        raise MessageError(f"{kind.name} has no place here")
    try:
        return among[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as fault:
        # msgspec's texts name the field and the type that was expected, and in two places repeat the value that was
        # found. A value from outside has no place in a log.
        reason = _VALUE.sub(" value", str(fault))
        raise MessageError(f"a message of kind {kind.name} does not decode: {reason}") from None
