"""A crowd of strangers, as a program of its own: ``python crowd.py PORT KIND SOURCES EACH KEY``.

It comes from so many addresses of the loopback network, with ``EACH`` connections from each, and whoever is closed on
comes back at once. It prints a line once all have connected, and goes on until its input ends. ``KEY`` is a file with a
key and a certificate that nobody knows.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from time import monotonic

HELLO_BYTES = 131_000  # as long as OpenSSL takes one
HELLO = b"\x01" + HELLO_BYTES.to_bytes(3, "big") + b"\x03\x03" + bytes(HELLO_BYTES - 2)
PAUSE_S = 0.05
KINDS = ("silent", "trickling", "garbage", "keys", "hasty", "crumbs")
"""Nothing; a hello byte by byte; noise; a handshake with a key; leaving at once; a long hello in tiny records."""


class Stranger:
    """One connection of the crowd's."""

    def __init__(self, crowd: Crowd, source: str) -> None:
        self.crowd = crowd
        self.source = source
        self.socket: socket.socket | None = None
        self.said = False
        self.next_s = 0.0

    def connect(self) -> None:
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.bind((self.source, 0))
        with suppress(BlockingIOError):
            raw.connect(("127.0.0.1", self.crowd.port))
        self.socket, self.said, self.next_s = raw, False, 0.0
        self.crowd.strangers[raw.fileno()] = self
        waits = self.crowd.kind in ("silent", "trickling")
        self.crowd.poll.register(raw, select.EPOLLIN | (0 if waits else select.EPOLLOUT))

    def act(self, event: int) -> None:
        assert self.socket is not None
        self.crowd.met.add((self.source, self.socket.fileno()))
        try:
            if event & (select.EPOLLERR | select.EPOLLHUP):
                raise ConnectionResetError
            self.misbehave(self.socket)
        except (BlockingIOError, ssl.SSLWantReadError):
            if event & select.EPOLLOUT and self.crowd.kind != "crumbs":
                self.crowd.poll.modify(self.socket, select.EPOLLIN)
        except OSError:
            self.leave()
            self.connect()

    def misbehave(self, connected: socket.socket) -> None:
        match self.crowd.kind:
            case "hasty":
                raise ConnectionResetError
            case "garbage" if not self.said:
                connected.send(b"\x16\x03\x01\x00\x80" + random.randbytes(200))
            case "crumbs" if not self.said:
                connected.send(self.crowd.crumbs)
            case "keys" if not isinstance(connected, ssl.SSLSocket):
                self.crowd.poll.unregister(connected)
                self.socket = connected = self.crowd.context.wrap_socket(connected, do_handshake_on_connect=False)
                self.crowd.poll.register(connected, select.EPOLLIN)
                connected.do_handshake()
            case "keys" if not self.said:
                assert isinstance(connected, ssl.SSLSocket)
                connected.do_handshake()
        self.said = True
        if not connected.recv(1 << 16):
            raise ConnectionResetError

    def trickle(self, now: float) -> None:
        if now >= self.next_s and self.socket is not None:
            first, self.said, self.next_s = not self.said, True, now + PAUSE_S
            with suppress(OSError):
                self.socket.send(b"\x16\x03\x01\x02\x00" if first else b"\x01")

    def leave(self) -> None:
        if self.socket is not None:
            del self.crowd.strangers[self.socket.fileno()]
            self.socket.close()


class Crowd:
    def __init__(self, port: int, kind: str, sources: int, each: int, key: str) -> None:
        self.port, self.kind = port, kind
        self.poll = select.epoll()
        self.strangers: dict[int, Stranger] = {}
        self.met: set[tuple[str, int]] = set()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.set_alpn_protocols(["cloister/1"])
        self.context.load_cert_chain(key)
        self.crumbs = b"".join(b"\x16\x03\x01\x00\x01" + HELLO[at : at + 1] for at in range(len(HELLO)))
        self.everybody = [
            Stranger(self, f"127.0.{1 + n // 200}.{1 + n % 200}") for n in range(sources) for _ in range(each)
        ]

    def run(self) -> None:
        for stranger in self.everybody:
            stranger.connect()
        self.poll.register(sys.stdin, select.EPOLLIN)
        told = False
        while True:
            happened = self.poll.poll(PAUSE_S)
            for descriptor, event in happened:
                if descriptor == sys.stdin.fileno():
                    return
                if descriptor in self.strangers:
                    self.strangers[descriptor].act(event)
            if self.kind == "trickling":
                now = monotonic()
                for stranger in self.everybody:
                    stranger.trickle(now)
            if not told:
                print("they are there", flush=True)
                told = True


@contextmanager
def crowding(port: int, kind: str, *, sources: int, key: Path, each: int | None = None) -> Iterator[None]:
    """A crowd at the door of whoever listens there."""
    arguments = [sys.executable, __file__, str(port), kind, str(sources), str(each or max(4, 300 // sources)), str(key)]
    with Popen(arguments, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), "the crowd did not come"
            yield
        finally:
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    port_, kind_, sources_, each_, key_ = sys.argv[1:]
    Crowd(int(port_), kind_, int(sources_), int(each_), key_).run()
