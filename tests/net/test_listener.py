"""The listener: who is served, in how many threads, and how it ends."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloister.errors import (
    ConfigurationError,
    ConnectionLostError,
    NetworkError,
    NoAnswerError,
    PeerMismatchError,
    UnreachableError,
    VersionError,
)
from cloister.net import handshake_client, tcp
from cloister.net.contexts import server_context
from cloister.net.dial import dial
from cloister.net.handshake_client import greet
from cloister.net.handshake_server import receive_hello, refuse
from cloister.net.listener import Listener
from cloister.wire.frames import Kind
from cloister.wire.messages import Hello, Welcome
from cloister.wire.peers import parse_address
from cloister.wire.sessions import VOCABULARY, Ask, Count, Done
from tests.support.tls import SOON, WELCOME, hosting, raw_tls, rest, serve

ASK = Ask(commands=[], question=Count())


def test_known_peers_are_served_over_tls_1_3(bob, carol):
    with hosting(bob, carol) as host:
        connection = host.session(carol)
        assert connection.peer == bob.fingerprint
        secured = connection._socket
        assert secured.version() == "TLSv1.3"
        assert not secured.session_reused
        assert secured.session is None or not secured.session.has_ticket
        data = memoryview(os.urandom(3 << 20))
        connection.send(Kind.ASK, ASK, [data[:5], data])
        assert connection.receive(wait_s=SOON).message(VOCABULARY) == Done()
        connection.close()
        assert host.served.acquire(timeout=SOON)
        assert host.seen == [carol.fingerprint]


def test_ipv6(bob, carol):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with hosting(bob, carol, address="[::1]:0") as host:
            assert host.address.startswith("[::1]:")
            host.session(carol).close()
    except ConfigurationError as fault:
        pytest.skip(str(fault))


@pytest.mark.slow
def test_many_at_once_from_one_machine(bob, carol):
    """As members do behind one address: none is turned away."""
    with hosting(bob, carol, common=100, handshake_s=60.0) as host, ThreadPoolExecutor(71) as pool:
        for connection in list(pool.map(lambda _: host.session(carol, within_s=60.0), range(71))):
            connection.close()


def test_one_too_many_is_told_that_it_is_busy(bob, carol):
    with hosting(bob, carol, own=1, common=0) as host:
        first = host.session(carol)
        second = host.dial(carol)
        with pytest.raises(UnreachableError, match="as many connections as it may have"):
            greet(second, purpose="session", software="test", wait_s=SOON)
        first.close()
        assert host.served.acquire(timeout=SOON)
        host.session(carol).close()


def test_closing_ends_connections_and_threads(bob, carol):
    with hosting(bob, carol) as host:
        connection = host.session(carol)
        host.listener.close()
        with pytest.raises(ConnectionLostError):
            connection.receive(wait_s=SOON)
        with pytest.raises(UnreachableError):
            host.dial(carol)
        host.listener.close()


def test_closing_gives_time_to_finish(bob, carol):
    asked, may_answer = threading.Event(), threading.Event()

    def slowly(connection):
        receive_hello(connection)
        connection.send(Kind.WELCOME, WELCOME)
        connection.receive(wait_s=SOON)
        asked.set()
        assert may_answer.wait(SOON)
        connection.send(Kind.ANSWER, Done())

    with hosting(bob, carol, handle=slowly) as host:
        connection = host.session(carol)
        connection.send(Kind.ASK, ASK)
        assert asked.wait(SOON)
        closing = threading.Thread(target=lambda: host.listener.close(grace_s=SOON))
        closing.start()
        may_answer.set()
        assert connection.receive(wait_s=SOON).message(VOCABULARY) == Done()
        closing.join(SOON)
        assert not closing.is_alive()


def test_handshakes_under_way_end_with_the_listener(bob):
    with hosting(bob, handshake_s=SOON) as host:
        strangers = [socket.create_connection(("127.0.0.1", host.port)) for _ in range(12)]
        host.listener.close()
        for stranger in strangers:
            stranger.settimeout(SOON)
            assert rest(stranger) == b""
            stranger.close()


def test_a_fault_in_one_connection_leaves_the_others(bob, carol, caplog):
    def stumble(connection):
        receive_hello(connection)
        raise ZeroDivisionError

    with hosting(bob, carol, handle=stumble) as host, caplog.at_level(logging.INFO):
        for _ in range(2):
            with pytest.raises(NetworkError):
                host.session(carol)
            assert host.served.acquire(timeout=SOON)
    assert "ZeroDivisionError" in caplog.text


def test_running_out_of_descriptors_is_survived(bob, carol, monkeypatch, caplog):
    with hosting(bob, carol) as host:
        handshakes = host.listener._handshakes
        real, failures = handshakes._listening, [errno.EMFILE, errno.ECONNABORTED]

        class Scarce:
            def accept(self):
                if failures:
                    raise OSError(failures.pop(0), "scarce")
                return real.accept()

            def __getattr__(self, name):
                return getattr(real, name)

        monkeypatch.setattr(handshakes, "_listening", Scarce())
        host.session(carol).close()
        host.session(carol).close()
        assert not failures
        monkeypatch.undo()
    assert "cannot accept connections: scarce" in caplog.text


def test_an_address_that_is_taken(bob):
    with hosting(bob) as host, pytest.raises(ConfigurationError, match="cannot listen on"):
        Listener(address=host.address, context=server_context(bob), accepts=lambda _: True, handle=lambda _: None)


@pytest.mark.slow
def test_ctrl_c_ends_a_serving_process(bob):
    program = """
import sys, threading
from cloister.net.identity import Identity
from cloister.net.listener import Listener
from cloister.net.contexts import server_context
def handle(connection):
    connection.receive(wait_s=None)
context = server_context(Identity.load(sys.argv[1]))
with Listener(address="127.0.0.1:0", context=context, accepts=bool, handle=handle) as it:
    print(it.address, flush=True)
    try:
        it.serve()
    except KeyboardInterrupt:
        pass
print(threading.active_count())
"""
    process = subprocess.Popen([sys.executable, "-c", program, bob.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        address = process.stdout.readline().strip()
        # It shakes hands with one and waits for another.
        with (
            socket.create_connection(parse_address(address)),
            dial(address, identity=bob, peer=bob.fingerprint)._socket,
        ):
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "1\n"
        assert process.wait(SOON) == 0


# Dialling


def test_nobody_there(bob, carol):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port} cannot be reached: Connection refused"):
        dial(f"127.0.0.1:{port}", identity=carol, peer=bob.fingerprint)


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", "x" * 64 + ".invalid"])
def test_no_such_host(bob, carol, host):
    with pytest.raises(UnreachableError, match="cannot be reached"):
        dial(f"{host}:1", identity=carol, peer=bob.fingerprint)


@pytest.mark.parametrize("peer", ["", "bob", "sha256:12", "SHA256:" + "0" * 64, "sha256:" + "A" * 64])
def test_a_peer_must_be_a_fingerprint(carol, peer):
    with pytest.raises(ConfigurationError, match="is not a fingerprint"):
        dial("127.0.0.1:1", identity=carol, peer=peer)


def test_one_who_listens_and_says_nothing(bob, carol):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UnreachableError, match="did not finish the TLS handshake within"),
    ):
        dial(f"127.0.0.1:{silent.getsockname()[1]}", identity=carol, peer=bob.fingerprint, within_s=0.1)


def test_another_key_than_the_one_that_was_named(bob, carol, keys):
    said = []

    def listen(connection):
        said.append(rest(connection._socket))

    with hosting(bob, carol, handle=listen) as host:
        with pytest.raises(PeerMismatchError) as caught:
            dial(host.address, identity=carol, peer=carol.fingerprint)
        assert bob.fingerprint in str(caught.value)
        assert carol.fingerprint in str(caught.value)
        assert host.served.acquire(timeout=SOON)
    assert said == [b""]


# Greeting


def test_no_version_in_common(bob, carol):
    with hosting(bob, carol) as host:
        connection = host.dial(carol)
        connection.send(Kind.HELLO, Hello(versions=(7, 9), purpose="session", software="test", table=None))
        with pytest.raises(VersionError, match="speaks version 1 of the protocol, and was offered 7, 9"):
            handshake_client._welcome(connection.receive(wait_s=SOON))
        connection.close()


@pytest.mark.parametrize("version", [0, 2])
def test_a_welcome_in_a_version_that_was_not_offered(bob, carol, version):
    def eager(connection):
        receive_hello(connection)
        connection.send(Kind.WELCOME, Welcome(version=version, name="x", memory_bytes=0, objects=0))

    with hosting(bob, carol, handle=eager) as host, pytest.raises(VersionError, match="was not offered"):
        host.session(carol)


@pytest.mark.slow
@pytest.mark.parametrize("code", list(handshake_client._ERRORS))
def test_each_refusal_is_an_error_of_its_own(bob, carol, code):
    def unkind(connection):
        receive_hello(connection)
        refuse(connection, code, text="because")

    with hosting(bob, carol, handle=unkind) as host, pytest.raises(handshake_client._ERRORS[code], match="because"):
        host.session(carol)


def test_a_worker_that_does_not_answer(bob, carol):
    def silent(connection):
        receive_hello(connection)
        rest(connection._socket)

    with hosting(bob, carol, handle=silent) as host:
        connection = host.dial(carol)
        with pytest.raises(NoAnswerError):
            greet(connection, purpose="session", software="test", wait_s=0.1)
        assert connection.fileno() == -1


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
    ],
)
def test_who_a_connection_counts_for(peer, source):
    assert tcp.source_of(peer) == source


def test_small_frames_leave_at_once_and_vanished_peers_are_noticed(bob, carol):
    ends = []

    def note(connection):
        ends.append([connection._socket.getsockopt(*option) for option in OPTIONS])
        serve(connection)

    with hosting(bob, carol, handle=note) as host:
        connection = host.session(carol)
        ends.append([connection._socket.getsockopt(*option) for option in OPTIONS])
    assert ends == [[1, 1, 60]] * 2


OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
]


def test_a_client_that_ends_in_the_handshake(bob, carol):
    with hosting(bob, carol) as host:
        for _ in range(3):
            socket.create_connection(("127.0.0.1", host.port)).close()
        host.session(carol).close()
        stranger = raw_tls(host, carol)
        stranger.close()
        host.session(carol).close()
    assert host.seen.count(carol.fingerprint) >= 2


def test_one_whose_key_is_not_known_is_closed_on_without_a_word(bob, carol):
    with hosting(bob) as host:
        with raw_tls(host, carol) as connected:
            assert rest(connected) == b""
        assert not host.seen
