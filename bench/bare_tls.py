"""The floor for transfers: a plain Python TLS 1.3 server that receives into a buffer and sends it back.

``python -m bench.bare_tls IDENTITY`` prints its address and then serves one connection. Commands are nine bytes: ``w``
or ``r`` and a length; a ``w`` is answered by one byte once everything has arrived.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cloister.net.contexts import client_context, server_context
from cloister.net.dial import handshake
from cloister.net.identity import Identity
from cloister.net.tls import wrap

COMMAND = struct.Struct("<cQ")
PIECE = 1 << 20


def read_exactly(source: socket.socket, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = source.recv_into(view[done : done + PIECE])
        if not count:
            raise EOFError
        done += count


def write(target: socket.socket, view: memoryview) -> None:
    for at in range(0, len(view), PIECE):
        target.sendall(view[at : at + PIECE])


def serve(identity: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        raw, _ = listener.accept()
        secured = wrap(raw, context=server_context(identity), server_side=True)
        handshake(secured, within_s=10.0)
        secured.settimeout(None)
        command = memoryview(bytearray(COMMAND.size))
        buffer = bytearray()
        try:
            while True:
                read_exactly(secured, command)
                kind, length = COMMAND.unpack(command)
                if len(buffer) < length:
                    buffer = bytearray(length)
                view = memoryview(buffer)[:length]
                if kind == b"w":
                    read_exactly(secured, view)
                    secured.sendall(b".")
                else:
                    write(secured, view)
        except (EOFError, OSError):
            secured.close()


class BareTLS:
    """A client of it."""

    def __init__(self, port: int, identity: Identity) -> None:
        raw = socket.create_connection(("127.0.0.1", port))
        self._socket = wrap(raw, context=client_context(identity), server_side=False)
        handshake(self._socket, within_s=10.0)
        self._socket.settimeout(None)

    def send(self, view: memoryview) -> None:
        self._socket.sendall(COMMAND.pack(b"w", len(view)))
        write(self._socket, view)
        read_exactly(self._socket, memoryview(bytearray(1)))

    def get(self, length: int) -> bytearray:
        self._socket.sendall(COMMAND.pack(b"r", length))
        buffer = bytearray(length)
        read_exactly(self._socket, memoryview(buffer))
        return buffer

    def close(self) -> None:
        self._socket.close()


@contextmanager
def bare_tls(identity: Identity) -> Iterator[BareTLS]:
    """A bare server in a process of its own, and a connection to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.bare_tls", str(identity.path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        client = BareTLS(int(process.stdout.readline()), identity)
        yield client
        client.close()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    serve(Identity.load(sys.argv[1]))
