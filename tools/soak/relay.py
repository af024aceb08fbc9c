"""A TCP relay whose connections can be cut, all at once, at whatever byte they are."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress


class Relay:
    """Forwards connections to ``target`` until they are cut. As a context manager it ends with its connections."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Ends all connections with a reset, and returns how many there were."""
        with self._lock:
            there = list(self._open)
        for held in there:
            with suppress(OSError):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                held.shutdown(socket.SHUT_RDWR)
        return len(there) // 2

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(self._target) as far:
            both = (near, far)
            with self._lock:
                self._open.update(both)
            try:
                for held in both:
                    held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=_forward, args=(far, near), daemon=True)
                back.start()
                _forward(near, far)
                back.join()
            finally:
                with self._lock:
                    self._open.difference_update(both)


def _forward(source: socket.socket, target: socket.socket) -> None:
    """Until either end closes. What one end has said before it left is still delivered."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
        return
    for held in (source, target):
        with suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)
