"""The floor for a round: a plain Python TLS 1.3 server that receives from each client into a buffer and adds in place.

``python -m bench.bare_round serve IDENTITY CLIENTS BYTES ROUNDS`` prints its port, lets the clients in, runs the rounds
and prints their times as JSON: for each, the seconds until all was added, and until all clients had the sum as well,
and the processor time that the server took.
``python -m bench.bare_round send IDENTITY PORT BYTES`` is one client.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from time import perf_counter, process_time

import numpy as np

from bench.bare_tls import read_exactly, write
from cloister.net.contexts import client_context, server_context
from cloister.net.dial import handshake
from cloister.net.identity import Identity
from cloister.net.tls import wrap


class _Server:
    """One thread a client; each round they all receive, add under a lock, and send the sum."""

    def __init__(self, identity: Identity, *, clients: int, nbytes: int) -> None:
        self._nbytes = nbytes
        self._sum = np.zeros(nbytes // 4, np.float32)
        self._lock = threading.Lock()
        self._together = threading.Barrier(clients + 1)
        with socket.create_server(("127.0.0.1", 0), backlog=clients) as listener:
            print(listener.getsockname()[1], flush=True)
            sockets = []
            for _ in range(clients):
                raw, _ = listener.accept()
                secured = wrap(raw, context=server_context(identity), server_side=True)
                handshake(secured, within_s=60.0)
                secured.settimeout(None)
                secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets.append(secured)
        self._threads = [threading.Thread(target=self._serve, args=(each,), daemon=True) for each in sockets]

    def run(self, rounds: int) -> list[tuple[float, float, float]]:
        for thread in self._threads:
            thread.start()
        times = []
        for _ in range(rounds):
            self._sum.fill(0)
            self._together.wait()
            started, before = perf_counter(), process_time()
            self._together.wait()
            added = perf_counter() - started
            self._together.wait()
            times.append((added, perf_counter() - started, process_time() - before))
        return times

    def _serve(self, connection: ssl.SSLSocket) -> None:
        buffer = np.zeros_like(self._sum)
        answer = memoryview(bytearray(1))
        while True:
            self._together.wait()
            connection.sendall(b"g")
            read_exactly(connection, buffer.data.cast("B"))
            with self._lock:
                self._sum += buffer
            self._together.wait()
            write(connection, self._sum.data.cast("B"))
            read_exactly(connection, answer)
            self._together.wait()


def _send(identity: Identity, port: int, nbytes: int) -> None:
    connection = wrap(
        socket.create_connection(("127.0.0.1", port)), context=client_context(identity), server_side=False
    )
    handshake(connection, within_s=60.0)
    connection.settimeout(None)
    update = np.random.default_rng(port).normal(size=nbytes // 4).astype(np.float32).data.cast("B")
    received = memoryview(bytearray(nbytes))
    go = memoryview(bytearray(1))
    try:
        while True:
            read_exactly(connection, go)
            write(connection, update)
            read_exactly(connection, received)
            connection.sendall(b".")
    except (EOFError, OSError):
        connection.close()


def bare_rounds(identity: Identity, *, clients: int, nbytes: int, rounds: int) -> list[tuple[float, float, float]]:
    """The times of some rounds, in seconds: until all was added, until every client had the sum too, and how long the
    server computed."""
    me = [sys.executable, "-m", "bench.bare_round"]
    command = [*me, "serve", str(identity.path), str(clients), str(nbytes), str(rounds)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    senders: list[subprocess.Popen[str]] = []
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        for _ in range(clients):
            senders.append(subprocess.Popen([*me, "send", str(identity.path), port, str(nbytes)], text=True))
        return [tuple(each) for each in json.loads(server.stdout.readline())]
    finally:
        for process in [server, *senders]:
            process.kill()
            process.wait()
        if server.stdout is not None:
            server.stdout.close()


def main(arguments: list[str]) -> None:
    identity = Identity.load(arguments[1])
    if arguments[0] == "serve":
        clients, nbytes, rounds = map(int, arguments[2:5])
        print(json.dumps(_Server(identity, clients=clients, nbytes=nbytes).run(rounds)), flush=True)
    else:
        _send(identity, int(arguments[2]), int(arguments[3]))


if __name__ == "__main__":
    main(sys.argv[1:])
