"""Attack: resume a TLS session of before, so that a connection passes for the one that was proved to be.

An instance issues no tickets: each connection has its own handshake, in which its key is proved anew.
"""

from __future__ import annotations

import socket
import ssl

import pytest

from cloister.net.contexts import unverified_client_context
from cloister.net.proving import Instance
from cloister.wire.frames import Kind, pack_prefix
from cloister.wire.messages import encode
from tests.support.attested import Running, Study, challenge_of
from tests.support.tls import SOON


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def client(study: Study) -> ssl.SSLContext:
    """As cloister's, but glad of any ticket."""
    context = unverified_client_context(study.bob)
    context.options &= ~ssl.OP_NO_TICKET
    return context


def connect(
    running: Running, study: Study, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A connection on which a challenge was answered: a ticket would have come before the answer."""
    raw = socket.create_connection(("127.0.0.1", running.port), timeout=SOON)
    secured = context.wrap_socket(raw, session=session)
    message = encode(challenge_of(study.charter))
    secured.sendall(pack_prefix(Kind.CHALLENGE, header_bytes=len(message)) + message)
    assert secured.recv(4) == b"CLST"
    return secured


def twice(study: Study, instance: Instance) -> tuple[ssl.SSLSession, bool]:
    """A first connection's session, and whether a second connection resumed it."""
    context = client(study)
    with study.aggregator(instance) as running:
        with connect(running, study, context) as first:
            session = first.session
            assert session is not None
        with connect(running, study, context, session=session) as second:
            return session, bool(second.session_reused)


def test_a_session_is_not_resumed(study: Study) -> None:
    session, reused = twice(study, study.instance())
    assert not session.has_ticket
    assert not reused


def test_a_server_that_issues_tickets_would_be(study: Study) -> None:
    """What the test above would see if the instance's settings were the usual ones."""
    careless = study.instance()
    careless.context.options &= ~ssl.OP_NO_TICKET
    careless.context.num_tickets = 2
    careless.context.verify_mode = ssl.CERT_NONE
    session, reused = twice(study, careless)
    assert session.has_ticket
    assert reused
