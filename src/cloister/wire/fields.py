"""What the fields of messages are made of: names, digests and numbers, each with its limit."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from cloister.wire.limits import NAME_CHARS, TEXT_CHARS, VERSIONS

Name = Annotated[str, Meta(max_length=NAME_CHARS)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS)]
Fingerprint = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Versions = Annotated[tuple[Annotated[int, Meta(ge=0, lt=256)], ...], Meta(min_length=1, max_length=VERSIONS)]


class Message(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A msgpack array whose items are its fields, in the order written."""
