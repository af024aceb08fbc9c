"""Attack: hold a worker's connections by being slow.

Each wait for a peer has its end, and sending one byte at a time does not move it. The limits are made short here, and
the tests wait for the worker to act, not for time to pass.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from cloister.errors import ConnectionLostError, NoAnswerError
from cloister.net.connection import Connection
from cloister.wire.frames import Kind, pack_prefix
from cloister.wire.messages import Hello, encode
from cloister.wire.sessions import Ask, Batch, Count
from tests.support.tls import SOON, Host, hosting, make_identity, pair, raw_tls, rest, serve

SHORT = 0.3
HEADER = encode(Hello(versions=(1,), purpose="session", software="slow", table=None))
HELLO = pack_prefix(Kind.HELLO, header_bytes=len(HEADER)) + HEADER
ASK = Ask(commands=[], question=Count())


@pytest.fixture
def bob(tmp_path):
    return make_identity(tmp_path, "bob")


@pytest.fixture
def carol(tmp_path):
    return make_identity(tmp_path, "carol")


def seconds_until_ended(connected: socket.socket) -> float:
    """How long the worker bears with a peer that waits for it to end the connection."""
    start = monotonic()
    rest(connected)
    return monotonic() - start


@contextmanager
def trickling(connected: socket.socket, data: bytes, *, pause_s: float = SHORT / 10) -> Iterator[None]:
    """Sends ``data`` byte by byte, each well within every limit, until the worker ends the connection."""
    over = threading.Event()

    def trickle() -> None:
        try:
            for byte in data:
                connected.send(bytes([byte]))
                if over.wait(pause_s):
                    return
        except OSError:
            pass

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(SOON)


def plain(host: Host) -> socket.socket:
    return socket.create_connection(("127.0.0.1", host.port), timeout=SOON)


@pytest.mark.slow
def test_a_connection_without_a_handshake(bob):
    with hosting(bob, handshake_s=SHORT) as host, plain(host) as connected:
        assert seconds_until_ended(connected) < SOON / 2


@pytest.mark.slow
def test_a_handshake_byte_by_byte(bob):
    hello = b"\x16\x03\x01\x02\x00" + b"\x01\x00\x01\xfc\x03\x03" + bytes(500)  # the head of a ClientHello of 512 bytes
    with hosting(bob, handshake_s=SHORT) as host, plain(host) as connected, trickling(connected, hello):
        assert seconds_until_ended(connected) < SOON / 2


@pytest.mark.slow
def test_a_known_peer_without_a_hello(bob, carol):
    def strict(connection: Connection) -> None:
        serve(connection, hello_s=SHORT)

    with hosting(bob, carol, handle=strict) as host, raw_tls(host, carol) as connected:
        assert seconds_until_ended(connected) < SOON / 2
        assert host.served.acquire(timeout=SOON)
        assert isinstance(host.faults[0], NoAnswerError)


# A TLS socket is for one thread, so these trickle below TLS: over a socket pair, where frames travel bare.


def slow_frame(data: bytes, **limits: float) -> tuple[float, BaseException]:
    """How long a frame is waited for whose bytes come one by one, and how that ends."""
    left, right = socket.socketpair()
    connection = Connection(right, **limits)
    with left, trickling(left, data):
        start = monotonic()
        with pytest.raises(ConnectionLostError) as caught:
            connection.receive(wait_s=SOON)
        return monotonic() - start, caught.value


@pytest.mark.slow
def test_a_frame_byte_by_byte():
    elapsed, fault = slow_frame(HELLO, frame_s=SHORT)
    assert elapsed < SOON / 2
    assert "a frame did not arrive within 0.3 s" in str(fault)


@pytest.mark.slow
def test_a_long_header_byte_by_byte():
    data = pack_prefix(Kind.BATCH, header_bytes=1 << 20) + bytes(1000)
    elapsed, fault = slow_frame(data, frame_s=SHORT)
    assert elapsed < SOON / 2
    assert "did not arrive within" in str(fault)


@pytest.mark.slow
def test_a_body_byte_by_byte():
    header = encode(Batch(commands=[]))
    data = pack_prefix(Kind.BATCH, header_bytes=len(header), body_bytes=1 << 30) + header
    with pair(piece_s=SHORT) as (left, right):
        left._socket.sendall(data)
        frame = right.receive(wait_s=SOON)
        with trickling(left._socket, bytes(1000)):
            start = monotonic()
            with pytest.raises(ConnectionLostError, match="body did not arrive within"):
                right.read_into(memoryview(bytearray(1 << 20)))
            assert monotonic() - start < SOON / 2
    assert frame.body_bytes == 1 << 30


@pytest.mark.slow
def test_a_body_that_stops(bob, carol):
    """Over TLS: the piece that is missing has its time, and then the connection is over."""
    with hosting(bob, carol, piece_s=SHORT) as host:
        connection = host.session(carol)
        connection.send_raw(Kind.ASK, encode(ASK), 1 << 20)
        connection.send_body(memoryview(bytes(100_000)))
        assert seconds_until_ended(connection._socket) < SOON / 2
        assert host.served.acquire(timeout=SOON)
        assert "body did not arrive within" in str(host.faults[0])


@pytest.mark.slow
def test_a_caller_that_reads_no_answer(bob, carol):
    def generous(connection: Connection) -> None:
        connection.receive(wait_s=SOON)
        connection.send(Kind.ANSWER, ASK, [memoryview(bytes(64 << 20))])

    with hosting(bob, carol, handle=generous, send_s=SHORT) as host:
        host.dial(carol).send(Kind.ASK, ASK)
        assert host.served.acquire(timeout=SOON)
        assert "has read nothing for" in str(host.faults[0])


def test_slow_peers_end_one_by_one_and_leave_no_thread(bob, carol):
    """Whoever comes when all places are held by the slow is served."""
    with hosting(bob, carol, handshakes=2, handshake_s=SHORT) as host:
        slow = [plain(host) for _ in range(4)]
        host.session(carol)
        for connected in slow:
            connected.close()
    assert host.seen == [carol.fingerprint]
