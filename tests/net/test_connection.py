"""Frames over a socket pair: what is sent arrives, and every wait ends."""

from __future__ import annotations

import socket
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import (
    ConnectionLostError,
    FrameError,
    LimitError,
    MessageError,
    NoAnswerError,
    PeerRefusedError,
    VersionError,
)
from cloister.net.connection import Connection
from cloister.wire.frames import MAGIC, PREFIX_BYTES, Kind, pack_prefix
from cloister.wire.messages import Refusal, encode
from cloister.wire.sessions import VOCABULARY, Ask, Batch, Count, Done, Free
from tests.support.tls import SOON, doing, pair

ASK = Ask(commands=[], question=Count())
LONG = Batch(commands=[Free(ids=tuple(range(10**12, 10**12 + 4096))) for _ in range(20)])


def body(size: int) -> memoryview:
    return memoryview(bytes(range(251)) * (size // 251 + 1))[:size]


SIZES = st.sampled_from([0, 1, 7, 20, 3000, 65_000, 70_000, 1 << 20, (1 << 20) + 1])


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(SIZES, max_size=4), max_size=4))
def test_what_is_sent_arrives(sizes):
    frames = [[body(size) for size in each] for each in sizes]
    with pair() as (left, right):

        def send() -> None:
            for bodies in frames:
                left.send(Kind.BATCH, Batch(commands=[]), bodies)

        with doing(send):
            for bodies in frames:
                frame = right.receive(wait_s=SOON)
                assert (frame.kind, frame.message(VOCABULARY)) == (Kind.BATCH, Batch(commands=[]))
                assert frame.body_bytes == sum(map(len, bodies))
                for sent in bodies:
                    got = bytearray(len(sent))
                    right.read_into(memoryview(got))
                    assert got == sent
        assert right.pending() == 0


def test_a_header_longer_than_the_buffer():
    with pair() as (left, right), doing(lambda: [left.send(Kind.BATCH, LONG) for _ in range(2)]):
        for _ in range(2):
            assert right.receive(wait_s=SOON).message(VOCABULARY) == LONG


def test_a_refused_body_is_skipped():
    with pair() as (left, right), doing(lambda: [left.send(Kind.ASK, ASK, [body(300_000)]) for _ in range(2)]):
        for _ in range(2):
            frame = right.receive(wait_s=SOON)
            head = memoryview(bytearray(10))
            right.read_into(head)
            right.skip(frame.body_bytes - 10)
        assert right.pending() == 0


def test_frames_that_are_passed_on_as_they_are():
    with pair() as (left, right):
        left.send_raw(Kind.ASK, encode(ASK), 10)
        left.send_body(body(4))
        left.send_body(body(6))
        left.send(Kind.ASK, ASK)
        frame = right.receive(wait_s=SOON)
        assert (frame.header, frame.body_bytes) == (encode(ASK), 10)
        assert right.pending() > 10
        right.skip(10)
        assert right.receive(wait_s=SOON).message(VOCABULARY) == ASK


def test_frames_are_not_torn():
    """A frame that is begun is finished: whoever forgets notices at once, and not the other end later."""
    with pair() as (left, right):
        left.send_raw(Kind.ASK, encode(ASK), 10)
        with pytest.raises(RuntimeError, match="lacks 10 bytes"):
            left.send(Kind.ASK, ASK)
        with pytest.raises(RuntimeError, match="lacks 10"):
            left.send_body(body(11))
        left.send_body(body(10))
        right.receive(wait_s=SOON)
        with pytest.raises(RuntimeError, match="lacks 10 bytes"):
            right.receive(wait_s=SOON)
        with pytest.raises(RuntimeError, match="has 10 left"):
            right.read_into(memoryview(bytearray(11)))


@pytest.mark.parametrize("wait_s", [0.0, 0.02])
def test_no_answer_leaves_the_connection_usable(wait_s):
    with pair() as (left, right):
        with pytest.raises(NoAnswerError, match="nothing came"):
            right.receive(wait_s=wait_s)
        left.send(Kind.ANSWER, Done())
        assert right.receive(wait_s=SOON).message(VOCABULARY) == Done()


def test_the_end_between_frames():
    with pair() as (left, right):
        left.send(Kind.ANSWER, Done())
        left.close()
        right.receive(wait_s=SOON)
        with pytest.raises(ConnectionLostError, match="closed the connection"):
            right.receive(wait_s=SOON)
        for use in (lambda: right.send(Kind.ANSWER, Done()), lambda: right.receive(wait_s=1)):
            with pytest.raises(ConnectionLostError, match="is closed"):
                use()


@pytest.mark.parametrize("length", [1, PREFIX_BYTES, PREFIX_BYTES + 3])
def test_the_end_in_the_middle_of_a_frame(length):
    left, right = socket.socketpair()
    with left:
        left.sendall((pack_prefix(Kind.ASK, header_bytes=9, body_bytes=0) + encode(ASK))[:length])
        left.shutdown(socket.SHUT_WR)
        connection = Connection(right)
        with pytest.raises(ConnectionLostError):
            connection.receive(wait_s=SOON)
        assert connection.fileno() == -1


def test_the_end_in_the_middle_of_a_body():
    with pair() as (left, right):
        left.send_raw(Kind.ASK, encode(ASK), 1 << 20)
        left.send_body(body(1000))
        left.close()
        right.receive(wait_s=SOON)
        with pytest.raises(ConnectionLostError):
            right.skip(1 << 20)


def test_the_end_before_a_word_means_refused():
    left, right = socket.socketpair()
    dialled = Connection(left, refused="it does not know sha256:12")
    right.close()
    with pytest.raises(PeerRefusedError, match="does not know sha256:12"):
        dialled.receive(wait_s=SOON)


def test_the_end_after_a_word_does_not():
    left, right = socket.socketpair()
    dialled, other = Connection(left, refused="refused"), Connection(right)
    other.send(Kind.ANSWER, Done())
    dialled.receive(wait_s=SOON)
    other.close()
    with pytest.raises(ConnectionLostError):
        dialled.receive(wait_s=SOON)


def test_a_connection_interrupted_from_outside():
    with pair() as (left, right):
        del left
        with doing(right.interrupt), pytest.raises(ConnectionLostError):
            right.receive(wait_s=None)
        right.interrupt()  # closed: nothing happens
        right.close()


@pytest.mark.slow
def test_a_farewell_arrives_although_bytes_lie_unread():
    last = Refusal(code="closing", text="it closes", wait_s=0)
    with pair() as (left, right), doing(lambda: left.send(Kind.ASK, ASK, [body(3 << 20)])):
        right.receive(wait_s=SOON)
        right.farewell(Kind.REFUSAL, last)
        assert left.receive(wait_s=SOON).message(VOCABULARY) == last


def test_a_farewell_to_nobody():
    with pair() as (left, right):
        left.close()
        right.farewell(Kind.REFUSAL, Refusal(code="closing", text="", wait_s=0))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", FrameError),
        (MAGIC + bytes([2]) + bytes(15), VersionError),
        (MAGIC + bytes([1, 99]) + bytes(14), FrameError),
        (MAGIC + bytes([1, 4, 0, 1]) + bytes(12), FrameError),
        (MAGIC + bytes([1, 4, 0, 0]) + b"\xff" * 12, LimitError),
    ],
)
def test_what_is_not_a_frame(data, error):
    left, right = socket.socketpair()
    with left:
        left.sendall(data)
        connection = Connection(right)
        with pytest.raises(error):
            connection.receive(wait_s=SOON)
        connection.close()


def test_a_message_that_is_too_long_is_not_sent():
    longer = Batch(commands=LONG.commands * 6)
    with pair() as (left, right):
        with pytest.raises(LimitError, match="send it in parts"):
            left.send(Kind.BATCH, longer)
        left.send(Kind.ANSWER, Done())
        assert right.receive(wait_s=SOON).kind is Kind.ANSWER


def test_a_header_that_is_no_message():
    with pair() as (left, right):
        left.send_raw(Kind.ASK, b"\xc1", 0)
        frame = right.receive(wait_s=SOON)
        with pytest.raises(MessageError):
            frame.message(VOCABULARY)


def test_a_peer_that_does_not_read():
    with pair(send_s=0.05) as (left, _):
        start = monotonic()
        with pytest.raises(ConnectionLostError, match="has read nothing for"):
            left.send(Kind.ASK, ASK, [body(8 << 20)])
        assert monotonic() - start < SOON
