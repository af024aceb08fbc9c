"""Byte-level test vectors for docs/wire.md: writes frames.json beside this file.

    python -m tests.vectors.wire.make          write frames.json
    python -m tests.vectors.wire.make --page   print the section for docs/wire.md

``GOOD`` holds one frame for every message; ``BAD`` frames that must be refused, with the class of the refusal. The
bytes are put together by hand here, from struct and msgpack: cloister's encoder is tested against them, not by itself.
"""

from __future__ import annotations

import json
import struct
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

FILE = Path(__file__).with_name("frames.json")

ALICE, BOB = "sha256:" + "a1" * 32, "sha256:" + "b0" * 32
TICKET = bytes(range(32))
FLOATS = struct.pack("<4f", 1.0, -2.0, 0.5, 0.0)
HALVES = struct.pack("<4H", 0x3F80, 0xC000, 0x3F00, 0x0000)  # the same in bfloat16
HEAD, JOB, MODEL, COMMITMENT, SALT = (bytes([value]) * 32 for value in (0x1E, 0x0B, 0x3D, 0xC0, 0x5A))
COHORT, OUTCOME = bytes([0xC4]) * 32, bytes([0x07]) * 32
SIGNATURE = [BOB, b"public key", b"signature"]
SIGNED_ANSWER = [b"answer", SIGNATURE]
STANDING = [SIGNED_ANSWER, [[BOB]], True, None]


class Vector(NamedTuple):
    """A frame: its kind, its message as plain values, its body."""

    kind: int
    message: Any
    body: bytes = b""


HELLO, WELCOME, REFUSAL, BATCH, ASK, ANSWER, FAILURE, PUSH, DIAL, AWAIT = 1, 2, 3, 4, 5, 6, 7, 8, 16, 17
CHALLENGE, PROOF, PROVISION, ROUND, WAIT = 9, 10, 11, 12, 13

GOOD: dict[str, Vector] = {
    "hello": Vector(HELLO, [[1], "session", "cloister 0.1.0", bytes(32)]),
    "hello of a worker": Vector(HELLO, [[1], "push", "cloister 0.1.0", None]),
    "welcome": Vector(WELCOME, [1, "bob", 2 << 30, 100_000]),
    "refusal": Vector(REFUSAL, ["busy", "all sessions are taken", 0]),
    "wait": Vector(WAIT, [243]),
    "put": Vector(BATCH, [[["put", 1, ["float32", [2, 2]]]]], FLOATS),
    "call": Vector(BATCH, [[["call", "aten::add.Tensor", [1, [2.0]], {"alpha": 3}, [2], None, 0]]]),
    "call with a seed": Vector(BATCH, [[["call", "aten::rand", [[2, 3]], {"dtype": "float32"}, [7], -(1 << 62), 42]]]),
    "free": Vector(BATCH, [[["free", [1, 2, 300, 70_000]]]]),
    "tag": Vector(BATCH, [[["tag", 1, ["#x", "#mri"]]]]),
    "tag, without tags": Vector(BATCH, [[["tag", 1, []]]]),
    "reach": Vector(BATCH, [[["reach", BOB, 7]]]),
    "push": Vector(BATCH, [[["push", [1], BOB, TICKET, 7]]]),
    "take": Vector(BATCH, [[["take", [5], [["float32", [2, 2]]], BOB, TICKET, 7]]]),
    "two puts, one of them empty, and a call": Vector(
        BATCH,
        [
            [
                ["put", 8, ["bool", [3]]],
                ["put", 9, ["int64", [0, 3]]],
                ["call", "aten::neg", [8], {}, [10], None, 1],
            ]
        ],
        b"\x01\x00\x01",
    ),
    "fetch": Vector(ASK, [[], ["fetch", [2, 3]]]),
    "describe": Vector(ASK, [[], ["describe", [2]]]),
    "search": Vector(ASK, [[["free", [4]]], ["search", ["#x"], 100]]),
    "count": Vector(ASK, [[], ["count"]]),
    "train": Vector(
        ASK,
        [
            [["put", 9, ["uint8", [4]]]],
            [
                "train",
                9,
                [1, 2],
                [],
                [5, 6],
                ["sgd", 0.1, 0.0, None, ["step-decay", 100, 0.5], 0.9, 0.0, False],
                32,
                2,
                (1 << 64) - 1,
                0.0,
                None,
            ],
        ],
        b"plan",
    ),
    "train with Adam": Vector(
        ASK,
        [
            [],
            ["train", 9, [1], [2], [5], ["adam", 0.001, 0.0, 1.0, None, [0.9, 0.999], 1e-8, True], 1, 1, 0, 0.5, 2.0],
        ],
    ),
    "train with AdamW": Vector(
        ASK,
        [
            [],
            [
                "train",
                9,
                [1],
                [],
                [5],
                ["adamw", 0.001, 0.01, None, ["cosine-decay", 50, 0.0], [0.9, 0.999], 1e-8, False],
                8,
                1,
                7,
                0.0,
                None,
            ],
        ],
    ),
    "values": Vector(ANSWER, ["values", [["float32", [2]], ["uint8", []]]], FLOATS[:8] + b"\xff"),
    "described": Vector(ANSWER, ["described", [["float32", [2, 3], [3, 1]]]]),
    "found": Vector(ANSWER, ["found", [[["#x", "#mri"], ["float32", [569, 30], [30, 1]]]]]),
    "counted": Vector(ANSWER, ["counted", 3, 4096]),
    "trained": Vector(ANSWER, ["trained", {"loss": 0.75, "accuracy": 0.5}, 2], struct.pack("<2d", 1.0, 0.5)),
    "done": Vector(ANSWER, ["done"]),
    "failure": Vector(FAILURE, ["op.runtime", "aten::mm", 7, "mat1 and mat2 shapes cannot be multiplied"]),
    "delivery": Vector(PUSH, [TICKET, [["float32", [2, 2]]]], FLOATS),
    "challenge": Vector(CHALLENGE, [[1], TICKET, bytes(32)]),
    "proof": Vector(PROOF, [b"\x80", msgspec.msgpack.encode(["simulated", b"report", []])]),
    "provision": Vector(PROVISION, ["mri", b"sealed"]),
    "hello of a member": Vector(HELLO, [[1], "study", "cloister 0.1.0", None]),
    "join": Vector(ROUND, ["join", 2, HEAD, 1, True, JOB]),
    "join without records": Vector(ROUND, ["join", 0, b"", 0, False, None]),
    "hand-over": Vector(ROUND, ["hand-over", 1]),
    "chain": Vector(ROUND, ["chain", 2, [6, 5], 0, 0, [], 0], b"recordanewr"),
    "chain with a model and a rule's state": Vector(
        ROUND, ["chain", 3, [6], 8, 2, [16], 0], b"record" + FLOATS + FLOATS[:8]
    ),
    "chain with a step": Vector(ROUND, ["chain", 3, [6], 0, 0, [], 8], b"record" + HALVES),
    "submit": Vector(ROUND, ["submit", 3], b"job" + FLOATS),
    "resubmit": Vector(ROUND, ["resubmit", JOB]),
    "resubmitted": Vector(ROUND, ["resubmitted"], b"job"),
    "accepted": Vector(ROUND, ["accepted", JOB, 0]),
    "work": Vector(ROUND, ["work", JOB], b"job"),
    "propose": Vector(ROUND, ["propose", 3, JOB, MODEL, 2, HEAD, TICKET, 600.0]),
    "ready": Vector(ROUND, ["ready", 3, 569, 0.75, 0.0, {"loss": 0.5}, COMMITMENT, STANDING]),
    "declined": Vector(ROUND, ["declined", 3, "the rounds of this data set are spent", [SIGNED_ANSWER, [], False, 0]]),
    "declined, after it answered": Vector(ROUND, ["declined", 3, "a share in it is above my largest", None]),
    "answers": Vector(ROUND, ["answers", 3, [SIGNED_ANSWER]]),
    "draft": Vector(ROUND, ["draft", 3, b"cohort"]),
    "consent": Vector(ROUND, ["consent", 3, COHORT, SIGNATURE]),
    "send": Vector(ROUND, ["send", 3]),
    "contribution": Vector(ROUND, ["contribution", 3, SALT], FLOATS),
    "settle": Vector(ROUND, ["settle", 3, b"cohort", OUTCOME, [SIGNATURE]]),
    "commit": Vector(ROUND, ["commit", 3, SIGNATURE]),
    "over": Vector(ROUND, ["over", 3, "1 of 2 owners contributed"]),
    "waiting": Vector(ROUND, ["waiting", "2 owners are there, and 3 have to be"]),
    "refused": Vector(ROUND, ["refused", 3, "round", "too late: round 3 is over"]),
    "stop": Vector(ROUND, ["stop"]),
    "out": Vector(ROUND, ["out", 3, {BOB: "it declined: the column 'age' holds text"}]),
    "hello of one that asks": Vector(HELLO, [[1], "status", "cloister 0.1.0", None]),
    "ask": Vector(ROUND, ["ask"]),
    "status": Vector(
        ROUND,
        [
            "status",
            *("train", 2, 30, 3, "training", "", 28),
            [[BOB, "out", "it declined: the rounds are spent", 0], [ALICE, "awaited", "", None]],
        ],
    ),
    "finished": Vector(ROUND, ["finished", JOB, 3, "stopped by the researcher"]),
    "dial": Vector(DIAL, [BOB]),
    "await": Vector(AWAIT, [BOB, TICKET]),
}


def frame(kind: int, header: bytes, body: bytes = b"", /, **changed: Any) -> bytes:
    """A frame, with fields of its prefix changed to taste."""
    fields = {"magic": b"CLST", "version": 1, "kind": kind, "reserved": 0, "header": len(header), "body": len(body)}
    return struct.pack("<4sBBHIQ", *(fields | changed).values()) + header + body


def pack(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


_COUNT = pack([[], ["count"]])


def _train(*, columns: Sequence[int] = (5,), optimizer: str = "sgd", seed: int = 0) -> list[Any]:
    declared = [optimizer, 0.1, 0.0, None, None, 0.0, 0.0, False]
    return ["train", 9, [1], [], list(columns), declared, 1, 1, seed, 0.0, None]


BAD: dict[str, tuple[str, bytes]] = {
    "another magic": ("FrameError", frame(ASK, _COUNT, magic=b"CLSt")),
    "another version": ("VersionError", frame(ASK, _COUNT, version=2)),
    "an unknown kind": ("FrameError", frame(15, _COUNT)),
    "reserved bits": ("FrameError", frame(ASK, _COUNT, reserved=1)),
    "a header over its limit": ("LimitError", frame(ASK, _COUNT, header=(1 << 20) + 1)),
    "a body over its limit": ("LimitError", frame(ASK, _COUNT, body=(1 << 40) + 1)),
    "an unknown tag": ("MessageError", frame(ASK, pack([[], ["exec"]]))),
    "a question among the commands": ("MessageError", frame(BATCH, pack([[["count"]]]))),
    "a field too few": ("MessageError", frame(ASK, pack([[]]))),
    "a field too many": ("MessageError", frame(ASK, pack([[], ["count"], 0]))),
    "bytes after the message": ("MessageError", frame(ASK, _COUNT + b"\xc0")),
    "a truncated message": ("MessageError", frame(ASK, _COUNT[:-1])),
    "a float for an id": ("MessageError", frame(BATCH, pack([[["free", [1.0]]]]))),
    "a bool for an id": ("MessageError", frame(BATCH, pack([[["free", [True]]]]))),
    "the id zero": ("MessageError", frame(BATCH, pack([[["free", [0]]]]))),
    "an id over 63 bits": ("MessageError", frame(BATCH, pack([[["free", [1 << 63]]]]))),
    "a list three deep": ("MessageError", frame(BATCH, pack([[["call", "aten::x", [[[[1]]]], {}, [], None, 0]]]))),
    "bytes among the arguments": ("MessageError", frame(BATCH, pack([[["call", "aten::x", [b"x"], {}, [], None, 0]]]))),
    "a fingerprint in upper case": ("MessageError", frame(DIAL, pack([BOB.upper()]))),
    "a nonce of 31 bytes": ("MessageError", frame(CHALLENGE, pack([[1], TICKET[:31], bytes(32)]))),
    "a transcript over its limit": ("MessageError", frame(PROOF, pack([bytes(4097), b"x"]))),
    "a secret over its limit": ("MessageError", frame(PROVISION, pack(["mri", bytes(5377)]))),
    "a ticket of 31 bytes": ("MessageError", frame(AWAIT, pack([BOB, TICKET[:31]]))),
    "a head of 33 bytes": ("MessageError", frame(ROUND, pack(["join", 1, bytes(33), 0, False, None]))),
    "round zero": ("MessageError", frame(ROUND, pack(["send", 0]))),
    "no examples": ("MessageError", frame(ROUND, pack(["ready", 1, 0, 1.0, 0.0, {}, COMMITMENT, STANDING]))),
    "bytes for a metric": (
        "MessageError",
        frame(ROUND, pack(["ready", 1, 1, 1.0, 0.0, {"loss": b"1"}, COMMITMENT, STANDING])),
    ),
    "training without an answer": ("MessageError", frame(ROUND, pack(["ready", 1, 1, 1.0, 0.0, {}, COMMITMENT]))),
    "a cohort of anybody": (
        "MessageError",
        frame(ROUND, pack(["ready", 1, 1, 1.0, 0.0, {}, COMMITMENT, [SIGNED_ANSWER, [["bob"]], True]])),
    ),
    "more cohorts than there can be": (
        "MessageError",
        frame(ROUND, pack(["ready", 1, 1, 1.0, 0.0, {}, COMMITMENT, [SIGNED_ANSWER, [[]] * 17, True]])),
    ),
    "a consent to a cohort of 31 bytes": (
        "MessageError",
        frame(ROUND, pack(["consent", 1, COHORT[:31], SIGNATURE])),
    ),
    "a commit of anybody": ("MessageError", frame(ROUND, pack(["commit", 1, ["bob", b"public key", b"signature"]]))),
    "an outcome of 33 bytes": (
        "MessageError",
        frame(ROUND, pack(["settle", 1, b"cohort", OUTCOME + b"\0", [SIGNATURE]])),
    ),
    "a salt of 31 bytes": ("MessageError", frame(ROUND, pack(["contribution", 1, SALT[:31]]))),
    "an owner that is out under a name": ("MessageError", frame(ROUND, pack(["out", 3, {"bob": "no"}]))),
    "a reason over its limit": ("MessageError", frame(ROUND, pack(["out", 3, {BOB: "x" * 513}]))),
    "a status of other words": (
        "MessageError",
        frame(ROUND, pack(["status", "", 0, 0, 0, "", "", 0, [[BOB, "asleep", "", None]]])),
    ),
    "a budget below nothing": (
        "MessageError",
        frame(ROUND, pack(["ready", 1, 1, 1.0, 0.0, {}, COMMITMENT, [SIGNED_ANSWER, [], True, -1]])),
    ),
    "a question with a body": ("MessageError", frame(ROUND, pack(["ask"]), b"x")),
    "an empty record": ("MessageError", frame(ROUND, pack(["chain", 1, [0], 0, 0, [], 0]))),
    "a record over its limit": ("MessageError", frame(ROUND, pack(["chain", 1, [(1 << 20) + 1], 0, 0, [], 0]))),
    "a chain whose body is too short": ("MessageError", frame(ROUND, pack(["chain", 1, [6], 8, 0, [], 0]), b"record")),
    "a job longer than its body": ("MessageError", frame(ROUND, pack(["submit", 4]), b"job")),
    "work without a job": ("MessageError", frame(ROUND, pack(["work", JOB]))),
    "a body of a message that has none": ("MessageError", frame(ROUND, pack(["stop"]), b"x")),
    "an element type that does not travel": ("MessageError", frame(ANSWER, pack(["values", [["object", [1]]]]), b"x")),
    "a training without data": ("MessageError", frame(ASK, pack([[], _train(columns=[])]))),
    "an optimizer that nobody knows": ("MessageError", frame(ASK, pack([[], _train(optimizer="exec")]))),
    "a negative seed": ("MessageError", frame(ASK, pack([[], _train(seed=-1)]))),
    "losses that did not come": ("MessageError", frame(ANSWER, pack(["trained", {"loss": 1.0}, 1]))),
    "a body that is too short": ("MessageError", frame(ANSWER, pack(["values", [["uint8", [4]]]]), b"xyz")),
    "a body that is too long": ("MessageError", frame(ANSWER, pack(["done"]), b"x")),
    "a tensor of too many elements": ("LimitError", frame(ANSWER, pack(["values", [["uint8", [1 << 30, 1 << 30]]]]))),
}


def plain(value: Any) -> Any:
    """A message as JSON: bytes become {"hex": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def vectors() -> dict[str, Any]:
    good = [
        {
            "name": name,
            "kind": kind,
            "message": plain(message),
            "body": body.hex(),
            "frame": frame(kind, pack(message), body).hex(),
        }
        for name, (kind, message, body) in GOOD.items()
    ]
    bad = [{"name": name, "refused": error, "frame": data.hex()} for name, (error, data) in BAD.items()]
    return {"good": good, "bad": bad}


def page() -> str:
    """The vectors as they stand in docs/wire.md."""
    parts = []
    for name, (kind, message, body) in GOOD.items():
        header = pack(message)
        lines = [frame(kind, header, body)[:20].hex(), *textwrap.wrap(header.hex(), 96)]
        lines += textwrap.wrap(body.hex(), 96)
        text = "\n".join(lines)
        parts.append(f"**{name[0].upper()}{name[1:]}**\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--page" in sys.argv:
        sys.stdout.write(page())
    else:
        FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
