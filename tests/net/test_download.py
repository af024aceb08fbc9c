"""Documents from a real server, and from real bad ones: each refusal is typed, and comes in time."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from cloister.errors import CollateralError, ConfigurationError, UnreachableError
from cloister.net.download import check_url, get
from cloister.net.identity import Identity
from tests.net.shop import Handler, Reply, Shop, nobody, shop


@pytest.fixture
def server() -> Iterator[Shop]:
    with shop() as opened:
        yield opened


def fetch(server: Shop, *, within_s: float = 5.0) -> bytes:
    return get(f"{server.url}/a", most_bytes=1000, within_s=within_s).body


def chunked(*sizes: int, end: bytes = b"0\r\n\r\n") -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for size in sizes:
            handler.wfile.write(f"{size:x}\r\n".encode() + bytes(size) + b"\r\n")
        handler.wfile.write(end)
        handler.close_connection = True

    return answer


def raw(data: bytes) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def test_a_document_and_its_headers(server: Shop) -> None:
    server.shelf["/a?b=1"] = Reply(b"abc", {"X-Chain": "one"})
    document = get(f"{server.url}/a?b=1", most_bytes=3, within_s=5)
    assert (document.body, document.headers["x-chain"]) == (b"abc", "one")
    assert server.asked == ["/a?b=1"]


def test_a_document_in_chunks(server: Shop) -> None:
    server.shelf["/a"] = chunked(600, 400)
    assert fetch(server) == bytes(1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(Reply(b"x", status=404), "answered 404", id="404"),
        pytest.param(Reply(b"x", status=500), "answered 500", id="500"),
        pytest.param(Reply(b"x" * 1001), "more than 1000 bytes", id="too long"),
        pytest.param(Reply(b"x", {"Content-Length": str(1 << 60)}), "more than 1000 bytes", id="says it is huge"),
        pytest.param(chunked(600, 401), "more than 1000 bytes", id="too long, in chunks"),
        pytest.param(chunked(600, end=b""), "cut off", id="chunks without an end"),
        pytest.param(chunked(end=b"zz\r\n"), "cut off", id="no chunks"),
        pytest.param(Reply(gzip.compress(bytes(1 << 20)), {"Content-Encoding": "gzip"}), "compressed", id="gzip bomb"),
        pytest.param(Reply(b"", {"Location": "http://127.0.0.1:1/a"}, 302), "another place", id="redirect"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), "6 bytes .* missing", id="partial"),
        pytest.param(raw(b"220 smtp ready\r\n"), "not HTTP", id="another protocol"),
        pytest.param(raw(b""), "not HTTP", id="nothing"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n"), "not HTTP", id="endless line"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "not HTTP", id="endless headers"),
    ],
)
def test_bad_answers(server: Shop, answer: Callable[[Handler], None], text: str) -> None:
    server.shelf["/a"] = answer
    with pytest.raises(CollateralError, match=text) as caught:
        fetch(server)
    assert f"{server.url}/a" in str(caught.value)
    assert server.asked == ["/a"]


@pytest.mark.slow
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"])
def test_a_trickle_is_bounded_as_a_whole(server: Shop, start: bytes) -> None:
    def trickle(handler: Handler) -> None:
        handler.wfile.write(start)
        while not server.gone.wait(0.02):  # far more often than any single wait would give up
            handler.wfile.write(b"x")

    server.shelf["/a"] = trickle
    before = monotonic()
    with pytest.raises(CollateralError, match=r"within 0\.3 s"):
        fetch(server, within_s=0.3)
    assert monotonic() - before < 2


@pytest.mark.slow
def test_silence_is_bounded(server: Shop) -> None:
    server.shelf["/a"] = lambda _: server.gone.wait() and None
    with pytest.raises(CollateralError, match=r"within 0\.2 s"):
        fetch(server, within_s=0.2)


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="refused"):
        get(f"{nobody()}/a", most_bytes=10, within_s=5)


def test_proxies_of_the_environment_are_not_used(server: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", nobody())
    monkeypatch.setenv("no_proxy", "")
    server.shelf["/a"] = Reply(b"abc")
    assert fetch(server) == b"abc"


def test_a_certificate_that_no_root_vouches_for(tmp_path: Path) -> None:
    Identity.create(tmp_path / "server.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                context.wrap_socket(listening.accept()[0], server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(UnreachableError, match="SSL_CERT_FILE"):
            get(f"https://127.0.0.1:{listening.getsockname()[1]}/a", most_bytes=10, within_s=5)
        thread.join(10)


@pytest.mark.parametrize(
    "text",
    ["https://pccs.example:8081", "http://localhost", "https://[::1]:8081/pccs", "https://pccs.example/"],
)
def test_urls(text: str) -> None:
    assert check_url(text) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a.example",
        "file:///etc/passwd",
        "https://",
        "https://a.example:0",
        "https://a.example:99999",
        "https://a:b@c.example",
        "https://a.example?x=1",
        "https://a.example/#x",
        "https://a.example/\r\nX: y",
        "https://a.example/ b",
        "https://ä.example",
        "https://[::1",
        "",
    ],
)
def test_no_urls(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"https://pccs\.example:8081"):
        check_url(text)
