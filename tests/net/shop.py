"""An HTTP server on loopback that plays a maker's service: what it answers, and how badly, is up to the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Handler = BaseHTTPRequestHandler


class Reply(NamedTuple):
    """A whole answer."""

    body: bytes
    headers: Mapping[str, str] = {}
    status: int = 200

    def __call__(self, handler: Handler) -> None:
        handler.send_response(self.status)
        for name, value in {"Content-Length": str(len(self.body)), **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.body)


class Shop:
    """What the server has: an answer for each path (with its query). ``asked`` lists the paths, in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shelf: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[str] = []
        self.gone = threading.Event()
        """Set at the end: for answers that wait."""

    def answer(self, handler: Handler) -> None:
        self.asked.append(handler.path)
        self.shelf.get(handler.path, Reply(b"", status=404))(handler)


@contextmanager
def shop() -> Iterator[Shop]:
    """A server with an empty shelf."""

    class Counter(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                opened.answer(self)
            except OSError:
                self.close_connection = True  # the client has had enough

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counter)
    server.daemon_threads = True
    opened = Shop(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield opened
    finally:
        opened.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()


def nobody() -> str:
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"
