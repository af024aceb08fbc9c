"""A program as bytes: one spelling for each program, so that its SHA-256 names it on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from cloister.errors import PlanError
from cloister.tensor.plan.program import CONSTANT_BYTES, FORMAT, Program
from cloister.wire.tensors import ITEM_BYTES
from cloister.wire.text import is_visible

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
    _check_texts(program)
    return program


def _check_texts(program: Program) -> None:
    """Names are for people, too: PyTorch allows any, but one that steers a terminal hides what a plan is."""
    for text in _texts(program):
        if not is_visible(text):
            raise PlanError(f"a plan has no name such as {text!a}: give it one that can be printed and seen")
    for each in (*program.held, *program.batch, *program.constants):
        if each.dtype not in ITEM_BYTES:
            raise PlanError(f"plans know no element type {each.dtype!a}")


def _texts(program: Program) -> Iterator[str]:
    for held in program.held:
        yield from held.names
    for metric in program.metrics:
        yield metric.name
    for line in program.lines:
        yield line.op
        yield from line.named
        yield from (each for each in (*line.args, *line.named.values()) if isinstance(each, str))


def digest(data: bytes) -> bytes:
    """SHA-256 of an encoded plan, 32 bytes. The format's name at its start keeps it apart from other digests."""
    return hashlib.sha256(data).digest()
