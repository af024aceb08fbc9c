"""A TCP proxy that delays every byte by the same time, and counts them: a long cable."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress
from time import monotonic, sleep


class DelayingProxy:
    """Forwards connections to ``target``, each byte ``delay_s`` seconds late in either direction.

    ``sent`` and ``received`` count the bytes from and to those who connect. As a context manager it ends with its
    connections.
    """

    def __init__(self, target: str, *, delay_s: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._delay_s = delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> DelayingProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        for held in (self._listener, *self._sockets):
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for held in (near, far):
                    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(held)
                self._forward(near, far, "sent")
                self._forward(far, near, "received")

    def _forward(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        on_the_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def read() -> None:
            data = b"-"
            while data:
                try:
                    data = source.recv(1 << 18)
                except OSError:
                    data = b""
                setattr(self, counter, getattr(self, counter) + len(data))
                on_the_way.put((monotonic() + self._delay_s, data))

        def write() -> None:
            with suppress(OSError):
                while True:
                    due, data = on_the_way.get()
                    sleep(max(0.0, due - monotonic()))
                    if not data:
                        target.shutdown(socket.SHUT_WR)
                        return
                    target.sendall(data)

        threading.Thread(target=read, daemon=True).start()
        threading.Thread(target=write, daemon=True).start()
