"""The delaying proxy: a longer cable, and a count of what passes through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest

from bench.proxy import DelayingProxy

SOON_S = 20.0


@contextmanager
def echo() -> Iterator[str]:
    """A server that sends back what it gets, to one connection after the other; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    held, _ = listener.accept()
                except OSError:
                    return
                with held:
                    while data := held.recv(1 << 16):
                        held.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(SOON_S)


def connect(proxy: DelayingProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=SOON_S)


def there_and_back(held: socket.socket, data: bytes) -> bytes:
    held.sendall(data)
    got = b""
    while len(got) < len(data):
        got += held.recv(1 << 16)
    return got


def test_bytes_pass_unchanged_and_are_counted() -> None:
    with echo() as address, DelayingProxy(address) as proxy, connect(proxy) as held:
        for data in (b"a", b"hello" * 1000, bytes(300_000)):
            assert there_and_back(held, data) == data
        assert (proxy.sent, proxy.received) == (305_001, 305_001)


def test_each_direction_is_delayed() -> None:
    with echo() as address, DelayingProxy(address, delay_s=0.03) as proxy, connect(proxy) as held:
        started = monotonic()
        there_and_back(held, b"x")
        assert monotonic() - started >= 0.06


@pytest.mark.slow
def test_what_is_sent_together_is_delayed_once() -> None:
    """A longer cable, not a slower one: ten messages on the way arrive together."""
    with echo() as address, DelayingProxy(address, delay_s=0.2) as proxy, connect(proxy) as held:
        started = monotonic()
        for _ in range(10):
            held.sendall(b"x")
        got = b""
        while len(got) < 10:
            got += held.recv(100)
        assert monotonic() - started < 10 * 2 * 0.2


def test_the_end_of_one_direction_passes_through() -> None:
    with echo() as address, DelayingProxy(address, delay_s=0.01) as proxy, connect(proxy) as held:
        held.sendall(b"last words")
        held.shutdown(socket.SHUT_WR)
        got = b""
        while data := held.recv(100):
            got += data
        assert got == b"last words"


def test_closing_it_cuts_what_runs_through_it() -> None:
    with echo() as address:
        with DelayingProxy(address) as proxy:
            held = connect(proxy)
            there_and_back(held, b"x")
        with held:
            with suppress(ConnectionResetError):
                assert held.recv(1) == b""
            with pytest.raises(OSError, match="refused"):
                connect(proxy)
