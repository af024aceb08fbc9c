"""Attack: send a worker bytes that break the rules.

A known peer may be hostile too. It gets one refusal that says what was wrong, and the worker is none the worse.
"""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.errors import WireError
from cloister.wire.frames import PREFIX_BYTES, Kind, pack_prefix, unpack_prefix
from cloister.wire.messages import Hello, Refusal, Welcome, encode
from cloister.wire.sessions import Done, decode
from tests.support.tls import SOON, hosting, make_identity, raw_tls, rest

GREETING = Hello(versions=(1,), purpose="session", software="hostile", table=None)


def frame(kind: int, header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<4sBBHIQ", b"CLST", 1, kind, 0, len(header), len(body)) + header + body


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def prefix(**changed: int) -> bytes:
    fields = {"version": 1, "kind": 1, "reserved": 0, "header": 0, "body": 0} | changed
    return struct.pack("<4sBBHIQ", b"CLST", *fields.values())


# What opens a conversation, the code it is refused with, and a word of the reason.
HOSTILE_OPENINGS = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n", "protocol", "does not speak"),
    "a later version": (prefix(version=2), "version", "version 2"),
    "an unknown kind": (prefix(kind=99), "protocol", "kind 99"),
    "reserved bits": (prefix(reserved=1), "protocol", "reserved"),
    "a header of 4 GiB": (prefix(header=(1 << 32) - 1), "protocol", "over the limit"),
    "a body of 16 EiB": (prefix(body=(1 << 64) - 1), "protocol", "over the limit"),
    "an empty header": (frame(1, b""), "protocol", "does not decode"),
    "no message pack": (frame(1, b"\xc1\xc1"), "protocol", "does not decode"),
    "a map for a list": (frame(1, packed({"versions": [1]})), "protocol", "Expected `array`"),
    "nested 100,000 deep": (frame(1, b"\x91" * 100_000 + b"\xc0"), "protocol", "does not decode"),
    "an array of 4 billion": (frame(1, b"\xdd\xff\xff\xff\xff"), "protocol", "does not decode"),
    "a field too few": (frame(1, packed([[1], "session", "x"])), "protocol", "length 4"),
    "a field too many": (frame(1, packed([[1], "session", "x", None, 0])), "protocol", "length 4"),
    "bytes after the message": (frame(1, encode(GREETING) + b"\xc0"), "protocol", "trailing"),
    "no version": (frame(1, packed([[], "session", "x", None])), "protocol", "length >= 1"),
    "versions only of later": (frame(1, packed([[2, 3], "session", "x", None])), "version", "was offered 2, 3"),
    "a purpose of one's own": (frame(1, packed([[1], "root", "x", None])), "protocol", "Invalid enum"),
    "a name that is no text": (frame(1, b"\x94\x91\x01\xa7session\xa1\xff\xc0"), "protocol", "does not decode"),
    "a name that is too long": (frame(1, packed([[1], "session", "x" * 129, None])), "protocol", "length <= 128"),
    "a body with a hello": (frame(1, encode(GREETING), b"x"), "protocol", "opens with a hello"),
    "no hello first": (frame(3, encode(Refusal(code="busy", text="", wait_s=0))), "protocol", "opens with a hello"),
    "an ask first": (frame(5, packed([[], ["count"]])), "protocol", "opens with a hello"),
    "an order to the listener": (frame(16, packed(["sha256:" + "0" * 64])), "protocol", "opens with a hello"),
}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys")
    bob, carol = make_identity(keys, "bob"), make_identity(keys, "carol")
    with hosting(bob, carol, frame_s=0.5) as host:
        host.carol = carol
        yield host


def answers(data: bytes) -> list[object]:
    """The messages in a stream of frames."""
    found: list[object] = []
    while data:
        kind, header_bytes, body_bytes = unpack_prefix(data[:PREFIX_BYTES])
        end = PREFIX_BYTES + header_bytes
        found.append(decode(kind, data[PREFIX_BYTES:end]))
        data = data[end + body_bytes :]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_OPENINGS)
def test_a_hostile_opening_is_refused_with_a_reason(host, name):
    data, code, word = HOSTILE_OPENINGS[name]
    with raw_tls(host, host.carol) as connected:
        connected.sendall(data)
        connected.settimeout(SOON)
        (refusal,) = answers(rest(connected))
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert word in refusal.text
    host.session(host.carol)  # others are served as before


def test_garbage_after_a_good_opening_ends_that_conversation(host):
    with raw_tls(host, host.carol) as connected:
        connected.sendall(frame(1, encode(GREETING)) + frame(5, packed([[], ["count"]])) + b"garbage" * 10)
        welcome, *others = answers(rest(connected))
    assert isinstance(welcome, Welcome)
    assert others == [Done()]
    host.session(host.carol)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), place=st.integers(0, 60))
def test_any_bytes_instead_of_a_hello(host, data, place):
    """Random bytes laid over a good hello: an answer that follows the rules, or the end of the connection."""
    good = frame(1, encode(GREETING))
    bad = (good[:place] + data + good[place + len(data) :])[: max(len(good), 25)]
    with raw_tls(host, host.carol) as connected:
        connected.sendall(bad)
        connected.sendall(b"\xff" * 20)  # so that no good frame is left waiting for more
        for message in answers(rest(connected)):
            assert isinstance(message, Refusal | Welcome)


@pytest.mark.parametrize("claim", [prefix(header=1 << 20), prefix(body=1 << 40, kind=4), prefix(header=(1 << 32) - 1)])
def test_a_claimed_length_allocates_nothing(claim):
    tracemalloc.start()
    try:
        with contextlib.suppress(WireError):
            unpack_prefix(claim)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_lengths_at_their_limits_are_not_refused():
    assert pack_prefix(Kind.BATCH, header_bytes=1 << 20, body_bytes=1 << 40)
