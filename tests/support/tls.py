"""Two ends of a connection, for tests: identities, a listener in a thread, raw TLS, and a socket pair."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cloister.net.connection import Connection
from cloister.net.contexts import server_context
from cloister.net.dial import dial
from cloister.net.handshake_client import greet
from cloister.net.handshake_server import receive_hello
from cloister.net.identity import Identity
from cloister.net.listener import Listener
from cloister.wire.frames import Kind
from cloister.wire.messages import Welcome
from cloister.wire.sessions import VOCABULARY, Done

WELCOME = Welcome(version=1, name="bob", memory_bytes=1 << 20, objects=100)
SOON = 10.0
"""Seconds by which anything that is going to happen has happened; nothing waits that long unless it fails."""


def make_identity(folder: Path, name: str, *, expired: bool = False, algorithm: Any = "ed25519") -> Identity:
    born = datetime.now(UTC) - timedelta(days=400) if expired else None
    return Identity.create(folder / f"{name}.key", days=30 if expired else 825, now=born, algorithm=algorithm)


class Host:
    """A listener in a thread. It welcomes, then answers every frame; it keeps what it saw."""

    def __init__(self, listener: Listener, identity: Identity) -> None:
        self.listener = listener
        self.identity = identity
        self.dialled: list[Connection] = []
        self.address = str(listener.address)
        self.seen: list[str] = []
        self.faults: list[BaseException] = []
        self.served = threading.Semaphore(0)

    @property
    def port(self) -> int:
        return self.listener.address.port

    def dial(self, identity: Identity, **options: Any) -> Connection:
        """A connection that is closed when the host is."""
        connection = dial(self.address, identity=identity, peer=self.identity.fingerprint, **options)
        self.dialled.append(connection)
        return connection

    def session(self, identity: Identity, **options: Any) -> Connection:
        """The same, with its conversation opened."""
        connection = self.dial(identity, **options)
        assert greet(connection, purpose="session", software="test", wait_s=SOON) == WELCOME
        return connection


def serve(connection: Connection, *, hello_s: float = SOON) -> None:
    """What a plain worker does: hello, welcome, and an answer to each frame."""
    receive_hello(connection, hello_s=hello_s)
    connection.send(Kind.WELCOME, WELCOME)
    while True:
        frame = connection.receive(wait_s=SOON)
        frame.message(VOCABULARY)
        connection.skip(frame.body_bytes)
        connection.send(Kind.ANSWER, Done())


@contextmanager
def hosting(identity: Identity, *known: Identity, handle: Any = serve, **options: Any) -> Iterator[Host]:
    """A host that knows these identities. No thread of it is left afterwards."""
    before = set(threading.enumerate())

    def noting(connection: Connection) -> None:
        host.seen.append(connection.peer)
        try:
            handle(connection)
        except BaseException as fault:
            host.faults.append(fault)
            raise
        finally:
            host.served.release()

    fingerprints = {one.fingerprint for one in known}
    options = {"address": "127.0.0.1:0", **options}
    context = server_context(identity)
    host = Host(Listener(context=context, accepts=fingerprints.__contains__, handle=noting, **options), identity)
    thread = threading.Thread(target=host.listener.serve)
    thread.start()
    try:
        yield host
    finally:
        for connection in host.dialled:
            connection.close()
        host.listener.close()
        thread.join(SOON)
    assert set(threading.enumerate()) <= before


def raw_tls(
    host: Host, identity: Identity | None = None, *, alpn: str | None = "cloister/1", **settings: Any
) -> ssl.SSLSocket:
    """A TLS connection of a client that keeps to no rules: it checks nothing and shows what it is told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in settings.items():
        setattr(context, name, value)
    if alpn:
        context.set_alpn_protocols([alpn])
    if identity is not None:
        context.load_cert_chain(identity.path)
    raw = socket.create_connection(("127.0.0.1", host.port), timeout=SOON)
    return context.wrap_socket(raw, suppress_ragged_eofs=True)


def rest(connected: socket.socket) -> bytes:
    """All that the other end sends until it ends the connection, however it ends it."""
    data = b""
    try:
        while piece := connected.recv(1 << 16):
            data += piece
    except (ConnectionError, ssl.SSLError):
        pass
    return data


@contextmanager
def pair(**options: Any) -> Iterator[tuple[Connection, Connection]]:
    """Two connected connections over a socket pair."""
    left, right = socket.socketpair()
    ends = Connection(left, **options), Connection(right, **options)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


@contextmanager
def doing(work: Any) -> Iterator[threading.Thread]:
    """``work`` in a thread, joined at the end; its error becomes the test's."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as fault:  # noqa: BLE001  raised again below
            faults.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(SOON)
    assert not thread.is_alive()
    if faults:
        raise faults[0]
