"""Attack: be dialled, and listen. What a member says to something that has not proved itself is worth nothing.

A server of plain TLS writes down every byte until the member ends the connection. It is one challenge: a version, a
nonce, and the digest of a charter.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cloister.errors import AttestationError, CloisterError, MoveError, NetworkError, UnacceptableError, WireError
from cloister.net.certificates import spki_hash
from cloister.net.client import connect
from cloister.net.proving import Instance
from cloister.node.aggregators import Aggregators
from cloister.wire.frames import PREFIX_BYTES, VERSION, Kind, unpack_prefix
from cloister.wire.messages import Challenge, Proof, Refusal, Welcome
from cloister.wire.sessions import Done, decode
from tests.support.attested import ADDRESS, ATTESTER, Study, frame
from tests.support.tls import SOON

Reply = Callable[[Challenge], bytes]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


class Listener:
    """Accepts one connection, and keeps all that is said on it."""

    def __init__(self, instance: Instance) -> None:
        self.heard = b""
        self.nonces: list[bytes] = []
        self._instance = instance
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def listen(self, reply: Reply) -> None:
        try:
            raw, _ = self._socket.accept()
        except OSError:  # nobody came
            return
        raw.settimeout(SOON)
        try:
            with self._instance.context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=True) as secured:
                self.heard += secured.recv(1 << 16)
                secured.sendall(reply(self.challenge))
                while piece := secured.recv(1 << 16):
                    self.heard += piece
        except (ssl.SSLError, ConnectionError):  # it was not closed politely
            pass

    @property
    def challenge(self) -> Challenge:
        """What was said, where that was one challenge."""
        prefix = unpack_prefix(self.heard[:PREFIX_BYTES])
        assert prefix.kind is Kind.CHALLENGE
        assert prefix.body_bytes == 0
        challenge = decode(Kind.CHALLENGE, self.heard[PREFIX_BYTES:])
        assert isinstance(challenge, Challenge)
        return challenge

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening(study: Study, reply: Reply) -> Iterator[Listener]:
    listener = Listener(study.instance())
    thread = threading.Thread(target=listener.listen, args=(reply,))
    thread.start()
    try:
        yield listener
    finally:
        thread.join(SOON)
        listener.close()
    assert not thread.is_alive()


def heard_only_a_challenge(listener: Listener, study: Study) -> None:
    challenge = listener.challenge
    assert len(challenge.nonce) == 32
    assert challenge == Challenge(versions=(VERSION,), nonce=challenge.nonce, charter=study.charter.digest)
    assert listener.heard == frame(Kind.CHALLENGE, challenge)


def a_proof_of(study: Study, *, measurement: bytes) -> Reply:
    """Of another TLS key than the listener's, and of this software."""
    instance = study.instance(attester=replace(ATTESTER, measurement=measurement))
    client = spki_hash(study.carol.fingerprint)
    return lambda challenge: frame(Kind.PROOF, instance.prove(instance.transcript(challenge.nonce, client=client)))


WELCOME = Welcome(version=VERSION, name="aggregator", memory_bytes=1 << 20, objects=10)
REPLIES: dict[str, tuple[bytes, type[CloisterError]]] = {
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n\r\n", WireError),
    "noise": (bytes(range(256)) * 8, WireError),
    "a huge length": (b"CLST\x01\x0a\x00\x00\xff\xff\xff\xff" + bytes(8), WireError),
    "a proof with a huge body": (
        b"CLST\x01\x0a\x00\x00\x01\x00\x00\x00" + bytes(4) + b"\x01\x00\x00\x00\x90",
        WireError,
    ),
    "a welcome": (frame(Kind.WELCOME, WELCOME), WireError),
    "an answer": (frame(Kind.ANSWER, Done()), WireError),
    "a refusal": (frame(Kind.REFUSAL, Refusal(code="busy", text="", wait_s=0)), NetworkError),
    "a challenge of its own": (
        frame(Kind.CHALLENGE, Challenge(versions=(1,), nonce=bytes(32), charter=bytes(32))),
        WireError,
    ),
    "an empty proof": (frame(Kind.PROOF, Proof(transcript=b"", evidence=b"")), AttestationError),
}


@pytest.mark.slow
@pytest.mark.parametrize(("reply", "error"), REPLIES.values(), ids=REPLIES)
def test_whatever_it_answers_it_hears_a_challenge_and_no_more(
    study: Study, reply: bytes, error: type[CloisterError]
) -> None:
    with listening(study, lambda _: reply) as listener, pytest.raises(error):
        study.attest(listener.at)
    heard_only_a_challenge(listener, study)


@pytest.mark.slow
def test_one_that_stays_silent(study: Study) -> None:
    with listening(study, lambda _: b"") as listener, pytest.raises(NetworkError):
        study.attest(listener.at, within_s=0.3)
    heard_only_a_challenge(listener, study)


@pytest.mark.parametrize("measurement", [b"\x3f" * 48, bytes(48)])
def test_a_researcher_opens_no_session_at_one_that_proves_something_else(study: Study, measurement: bytes) -> None:
    with listening(study, a_proof_of(study, measurement=measurement)) as listener, pytest.raises(UnacceptableError):
        connect(ADDRESS, identity=study.carol, policy=study.policy(), at=listener.at)
    heard_only_a_challenge(listener, study)


@pytest.mark.parametrize("measurement", [b"\x3f" * 48, bytes(48)])
def test_a_node_pushes_nothing_to_one_that_proves_something_else(study: Study, measurement: bytes) -> None:
    with listening(study, a_proof_of(study, measurement=measurement)) as listener:
        aggregators = Aggregators(study.policy(), identity=study.bob, routes={ADDRESS: listener.at})
        with pytest.raises(MoveError, match="nothing was sent"):
            aggregators.dial(study.instance().fingerprint, within_s=SOON, send_s=SOON)
    heard_only_a_challenge(listener, study)


def test_a_good_proof_changes_nothing_until_it_is_judged(study: Study) -> None:
    """Bob verifies, and says no more: not his name, not what he is here for."""

    def reply(challenge: Challenge) -> bytes:
        transcript = own[0].transcript(challenge.nonce, client=spki_hash(study.bob.fingerprint))
        return frame(Kind.PROOF, own[0].prove(transcript))

    own: list[Instance] = []
    with listening(study, reply) as listener:
        own.append(listener._instance)
        study.attest(listener.at).close()
    heard_only_a_challenge(listener, study)


def test_two_connections_share_nothing(study: Study) -> None:
    """A listener cannot tell from the bytes whether it was the same member twice."""
    nonces = []
    for _ in range(2):
        with listening(study, lambda _: bytes(100)) as listener, pytest.raises(CloisterError):
            study.attest(listener.at)
        nonces.append(listener.challenge.nonce)
    assert nonces[0] != nonces[1]
