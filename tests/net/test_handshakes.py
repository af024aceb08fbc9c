"""Handshakes that one thread does for all: how much of one is done at a time, and what comes of it."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from cloister.errors import UnreachableError
from cloister.net import tls
from cloister.net.contexts import client_context, server_context
from cloister.net.identity import Identity
from cloister.net.tls import Handshake
from tests.support.tls import SOON, Host, hosting, raw_tls, rest

HELLO = b"\x01" + (131_000).to_bytes(3, "big") + b"\x03\x03" + bytes(130_998)


@contextmanager
def ends(bob: Identity) -> Iterator[tuple[socket.socket, Handshake]]:
    """A client's socket, and the listening end's handshake with it. No descriptor is left of either."""
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), timeout=SOON)
        raw, _ = listening.accept()
    raw.setblocking(False)
    handshake = Handshake(raw, context=server_context(bob), source="test")
    with client:
        try:
            yield client, handshake
        finally:
            handshake.close()
    assert len(os.listdir("/proc/self/fd")) == before


class Client:
    """A client that says what it has to say in the pieces that it is told to."""

    def __init__(self, connected: socket.socket, identity: Identity) -> None:
        self.socket = connected
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context(identity).wrap_bio(self._in, self._out)

    def flight(self) -> bytes:
        """What it says next."""
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    def hear(self) -> None:
        self._in.write(self.socket.recv(1 << 16))


@pytest.mark.slow
@pytest.mark.parametrize("piece", [1, 7, 100, 10_000])
def test_a_handshake_in_pieces(bob: Identity, carol: Identity, piece: int) -> None:
    """However small: nothing is lost, of what follows neither, and what is not all there costs no turn."""
    with ends(bob) as (connected, handshake):
        client = Client(connected, carol)
        over = None
        turns = 0
        for more in (b"", b"first words"):
            said = client.flight()
            if more:
                client.tls.write(more)
                said += client._out.read()
            for at in range(0, len(said), piece):
                connected.sendall(said[at : at + piece])
                if over is None and handshake.arrived():
                    turns += 1
                    over = handshake.advance()
            while turns == 0 or (more and over is None):
                assert select.select([handshake._raw], [], [], SOON)[0]
                if handshake.arrived():
                    turns += 1
                    over = handshake.advance()
            if over is None:
                client.hear()
        assert over is not None
        secured, peer = over
        with secured:
            assert peer == carol.fingerprint
            assert turns <= 5  # hello; change of ciphers, certificate, proof, end
            assert secured.version() == "TLSv1.3"
            secured.settimeout(SOON)
            assert secured.recv(100) == b"first words"
            secured.sendall(b"an answer")
            client.hear()
            assert client.tls.read(100) == b"an answer"
            assert secured.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
            assert secured.fileno() != handshake.descriptor


def go_through(handshake: Handshake) -> None:
    while True:
        if handshake.arrived():
            handshake.advance()
        else:
            assert select.select([handshake._raw], [], [], SOON)[0]


def crumbs(connected: socket.socket) -> None:
    connected.sendall(b"".join(b"\x16\x03\x01\x00\x01" + HELLO[at : at + 1] for at in range(1000)))


def records(*bodies: bytes) -> Callable[[socket.socket], None]:
    return lambda connected: connected.sendall(
        b"".join(b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body for body in bodies)
    )


HOSTILE: dict[str, Callable[[socket.socket], Any]] = {
    "one byte in each record": crumbs,
    "the longest hello": records(*[HELLO[at : at + (1 << 14)] for at in range(0, len(HELLO), 1 << 14)]),
    "a record that is too long": records(bytes((1 << 14) + 257)),
    "nothing in its records": records(*[b""] * 100),
    "another protocol": lambda connected: connected.sendall(b"GET / HTTP/1.1\r\n\r\n"),
    "the end": lambda connected: connected.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("act", HOSTILE.values(), ids=HOSTILE)
def test_what_no_client_says(bob: Identity, act: Callable[[socket.socket], Any]) -> None:
    """It ends typed, after no more records than a handshake may have."""
    with ends(bob) as (connected, handshake):
        act(connected)
        with pytest.raises(UnreachableError):
            go_through(handshake)
        assert handshake._records <= tls._RECORDS
        assert handshake._raw.fileno() == -1


def stranger(host: Host) -> socket.socket:
    return socket.create_connection(("127.0.0.1", host.port), timeout=SOON)


def test_who_says_nothing_makes_room_where_descriptors_are_short(
    bob: Identity, carol: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both where a connection is accepted and where its handshake begins."""
    with hosting(bob, carol, handshake_s=60.0, silent_s=60.0) as host, stranger(host) as one, stranger(host) as two:
        host.session(carol)  # so both are inside
        real, failures = socket.socketpair, [errno.EMFILE]

        def scarce() -> tuple[socket.socket, socket.socket]:
            if failures:
                raise OSError(failures.pop(), "scarce")
            return real()

        monkeypatch.setattr(tls.socket, "socketpair", scarce)
        host.session(carol)
        assert rest(one) == b""
        accepting = host.listener._handshakes._listening

        class Scarce:
            def accept(self) -> Any:
                monkeypatch.setattr(host.listener._handshakes, "_listening", accepting)
                raise OSError(errno.EMFILE, "scarce")

        monkeypatch.setattr(host.listener._handshakes, "_listening", Scarce())
        host.session(carol)
        assert rest(two) == b""
    assert host.seen == [carol.fingerprint] * 3


def test_a_fault_of_ours_ends_one_connection(bob: Identity, carol: Identity) -> None:
    asked: list[str] = []

    def asks(peer: str) -> bool:
        asked.append(peer)
        if len(asked) == 1:
            raise ZeroDivisionError
        return True

    with hosting(bob, carol) as host:
        host.listener._accepts = asks
        assert rest(host.dial(carol)._socket) == b""
        host.session(carol)


@pytest.mark.slow
def test_one_who_says_nothing_is_closed_on_after_its_time(bob: Identity, carol: Identity) -> None:
    with hosting(bob, carol, handshake_s=0.2, silent_s=0.2) as host, stranger(host) as silent:
        assert rest(silent) == b""


def test_where_all_places_are_taken_the_one_that_has_to_go_is_closed_on(bob: Identity, carol: Identity) -> None:
    options = {"handshakes": 1, "handshake_s": 60.0, "silent_s": 60.0}
    with hosting(bob, carol, **options) as host, stranger(host) as one, stranger(host):
        assert rest(one) == b""


def test_another_protocol_over_tls_is_not_served(bob: Identity, carol: Identity) -> None:
    with hosting(bob, carol) as host:
        for alpn in (None, "h2"):
            with raw_tls(host, carol, alpn=alpn) as connected:
                assert rest(connected) == b""
        assert not host.seen
