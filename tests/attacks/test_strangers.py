"""Attack: connect to a worker without being known to it.

Whatever a stranger shows, no message of it is read and nothing is sent to it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import warnings

import pytest

from cloister.errors import PeerRefusedError, UnreachableError
from cloister.net.dial import dial
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.wire.frames import Kind, pack_prefix
from cloister.wire.messages import Hello, encode
from tests.support.tls import SOON, doing, hosting, make_identity, raw_tls, rest

HEADER = encode(Hello(versions=(1,), purpose="session", software="stranger", table=None))
HELLO = pack_prefix(Kind.HELLO, header_bytes=len(HEADER)) + HEADER


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def bob(keys):
    return make_identity(keys, "bob")


@pytest.fixture(scope="module")
def carol(keys):
    return make_identity(keys, "carol")


@pytest.fixture(scope="module")
def mallory(keys):
    return make_identity(keys, "mallory")


@pytest.fixture(scope="module")
def expired(keys):
    return make_identity(keys, "expired", expired=True)


def send_and_listen(connected: socket.socket) -> bytes:
    """Sends a hello, if the worker lets it, and returns all that comes back."""
    with contextlib.suppress(OSError):
        connected.sendall(HELLO)
    return rest(connected)


def test_a_stranger_with_a_good_certificate(bob, carol, mallory):
    with hosting(bob, carol) as host:
        with pytest.raises(PeerRefusedError) as caught:
            greet(host.dial(mallory), purpose="session", software="test", wait_s=SOON)
        with raw_tls(host, mallory) as connected:
            assert send_and_listen(connected) == b""
    assert host.seen == []
    # The way out stands in the message: this is what a new researcher meets first.
    assert re.search(f"does not know this identity, {mallory.fingerprint}; give that", str(caught.value))


def test_a_known_peer_whose_certificate_expired(bob, expired):
    with hosting(bob, expired) as host, pytest.raises(PeerRefusedError, match="certificate expired"):
        greet(host.dial(expired), purpose="session", software="test", wait_s=SOON)
    assert host.seen == []


def test_a_worker_whose_certificate_expired(expired, carol):
    hint = r"certificate has expired.*cloister key renew"
    with hosting(expired, carol) as host, pytest.raises(UnreachableError, match=hint):
        host.dial(carol)
    assert host.seen == []


def test_no_certificate(bob, carol):
    with hosting(bob, carol) as host, raw_tls(host) as connected:
        assert send_and_listen(connected) == b""
    assert host.seen == []


def test_a_certificate_that_signs_itself(bob, carol, tmp_path):
    own = tmp_path / "own.key"
    command = "openssl req -x509 -newkey ed25519 -nodes -days 9 -subj".split()
    pem = subprocess.run([*command, "/CN=cloister member", "-keyout", "-"], capture_output=True, check=True).stdout
    own.write_bytes(pem)
    own.chmod(0o600)
    signs_itself = Identity.read(own)
    with hosting(bob, carol, signs_itself) as host, raw_tls(host, signs_itself) as connected:
        assert send_and_listen(connected) == b""
    assert host.seen == []
    with hosting(signs_itself, carol) as host, pytest.raises(UnreachableError, match="certificate is refused"):
        host.dial(carol)


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: bob\r\n\r\n", HELLO, b"\x00" * 100, b"\x16\x03\x01\xff\xff"]
)
def test_plain_tcp(bob, carol, first):
    with (
        hosting(bob, carol, handshake_s=0.3) as host,
        socket.create_connection(("127.0.0.1", host.port), timeout=SOON) as connected,
    ):
        connected.sendall(first)
        answer = rest(connected)
    assert host.seen == []
    assert len(answer) < 10  # a TLS alert at most
    assert b"CLST" not in answer


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1])
def test_an_older_tls(bob, carol, newest):
    with hosting(bob, carol) as host, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            raw_tls(host, carol, minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=newest)
    assert host.seen == []


def test_a_worker_with_an_older_tls(bob, carol):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(bob.path)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            raw, _ = listening.accept()
            with raw, pytest.raises(ssl.SSLError):
                context.wrap_socket(raw, server_side=True)

        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with doing(answer), pytest.raises(UnreachableError, match=r"no TLS 1\.3 handshake was possible"):
            dial(address, identity=carol, peer=bob.fingerprint)


@pytest.mark.parametrize("alpn", [None, "h2", "cloister/2"])
def test_another_protocol_over_tls(bob, carol, alpn):
    with hosting(bob, carol) as host:
        try:
            with raw_tls(host, carol, alpn=alpn) as connected:
                assert send_and_listen(connected) == b""
        except ssl.SSLError:
            pass  # refused in the handshake
    assert host.seen == []


def test_strangers_take_no_place_from_known_peers(bob, carol, mallory):
    """More idle strangers than places at the door, all from one address: who comes from another is served at once."""
    idle = []
    with hosting(bob, carol, handshakes=6, handshake_s=SOON, silent_s=SOON) as host:
        try:
            for _ in range(20):
                raw = socket.socket()
                idle.append(raw)
                raw.bind(("127.0.0.2", 0))
                raw.connect(("127.0.0.1", host.port))
            host.session(carol)
        finally:
            for raw in idle:
                raw.close()
    assert host.seen == [carol.fingerprint]


def test_strangers_cannot_pile_up(bob, mallory):
    """Whoever came first is closed on when there are more than places."""
    with hosting(bob, handshakes=4, handshake_s=SOON, silent_s=SOON) as host:
        crowd = [socket.create_connection(("127.0.0.1", host.port), timeout=SOON / 2) for _ in range(4 + 1)]
        try:
            assert rest(crowd[0]) == b""  # ends before any time-out does
        finally:
            for raw in crowd:
                raw.close()


def test_nothing_is_resumed(bob, carol):
    """No ticket is given out, so no later connection can do without proving its key."""
    with hosting(bob, carol) as host, raw_tls(host, carol) as connected:
        connected.sendall(HELLO)
        assert connected.recv(1 << 16).startswith(b"CLST")
        assert connected.session is None or not connected.session.has_ticket
        assert connected.compression() is None
