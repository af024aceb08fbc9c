"""A program as bytes: one spelling for each program, so that its SHA-256 names it on every machine."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from cloister.errors import PlanError
from cloister.tensor.plan.program import CONSTANT_BYTES, FORMAT, Program

PLAN_BYTES: Final = 1 << 24
"""An encoded plan, in bytes."""

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_decoder: Final = msgspec.msgpack.Decoder(Program)


def encode(program: Program) -> bytes:
    """The program in msgpack, with the keys of maps in order."""
    return _encoder.encode(program)


def decode(data: bytes) -> Program:
    """The program that these bytes spell; what it says is not checked yet.

    Raises:
        PlanError: too long, not a program, or not in its one spelling.
    """
    if len(data) > PLAN_BYTES:
        raise PlanError(f"{len(data)} bytes are no plan; the limit is {PLAN_BYTES}")
    try:
        program = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as fault:
        raise PlanError(f"the bytes are no plan: {fault}") from None
    if program.format != FORMAT:
        raise PlanError(f"a plan of another format; this version reads {FORMAT!r}")
    if encode(program) != bytes(data):
        raise PlanError("the bytes are no plan: it is not in its one spelling")
    if sum(len(constant.data) for constant in program.constants) > CONSTANT_BYTES:
        raise PlanError(f"the plan's constants are over the limit of {CONSTANT_BYTES} bytes")
    return program


def digest(data: bytes) -> bytes:
    """SHA-256 of an encoded plan, 32 bytes. The format's name at its start keeps it apart from other digests."""
    return hashlib.sha256(data).digest()
