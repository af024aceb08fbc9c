"""What the fields of messages are made of: names, digests, ids and numbers, each with its limit."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from cloister.wire.limits import INPUTS, LIST_ITEMS, NAME_CHARS, TAGS, TEXT_CHARS, VERSIONS
from cloister.wire.tensors import TensorSpec

Name = Annotated[str, Meta(max_length=NAME_CHARS)]
Text = Annotated[str, Meta(max_length=TEXT_CHARS)]
ObjectId = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
OutputId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Ids = Annotated[tuple[ObjectId, ...], Meta(max_length=LIST_ITEMS)]
ManyIds = Annotated[tuple[ObjectId, ...], Meta(max_length=INPUTS)]
OutputIds = Annotated[tuple[OutputId, ...], Meta(max_length=LIST_ITEMS)]
Tags = Annotated[tuple[Name, ...], Meta(max_length=TAGS)]
Specs = Annotated[tuple[TensorSpec, ...], Meta(max_length=LIST_ITEMS)]
Fingerprint = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
Ticket = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Versions = Annotated[tuple[Annotated[int, Meta(ge=0, lt=256)], ...], Meta(min_length=1, max_length=VERSIONS)]
Site = Annotated[int, Meta(ge=0, lt=1 << 31)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class Message(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A msgpack array whose items are its fields, in the order written."""
