"""Attack: take part in a challenge as it was never meant: garbage, surplus, floods, and nothing at all.

Anyone may ask an aggregator to prove itself, so anyone can try. Each ends typed, and whoever comes next is served.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from cloister.attest.hpke import SealingKey, seal
from cloister.attest.transcript import Transcript
from cloister.errors import ConnectionLostError, NetworkError, PeerRefusedError, UnreachableError
from cloister.net import proving
from cloister.net.attested import attest_peer
from cloister.net.connection import Connection
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity
from cloister.net.secrets import provision_info
from cloister.wire.frames import VERSION, Kind, pack_prefix
from cloister.wire.messages import Challenge, Hello, Provision, Refusal
from cloister.wire.sessions import VOCABULARY, Failure
from tests.support.attested import ADDRESS, Running, Study, ask, challenge_of, dial, frame, goodbye, overheard
from tests.support.processes import wait_until
from tests.support.tls import SOON, raw_tls, rest


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module", params=["closed", "interactive"])
def running(request: pytest.FixtureRequest, study: Study) -> Iterator[Running]:
    """Both kinds of aggregator: the one that can only be verified, and the one that is a secure worker."""
    with study.aggregator() if request.param == "closed" else study.secure_worker() as found:
        yield found


@contextmanager
def dialled(running: Running, identity: Identity | None = None) -> Iterator[Connection]:
    connection = dial(running.at, identity=identity)
    try:
        yield connection
    finally:
        connection.close()


def serves(study: Study, running: Running) -> None:
    """The next one is served as if nothing had been."""
    with study.attest(running.at) as attested:
        assert attested.transcript.instance == running.instance.transcript(bytes(32), client=None).instance


CHALLENGE = Challenge(versions=(VERSION,), nonce=bytes(32), charter=bytes(32))
HOSTILE = {
    "garbage": b"GET / HTTP/1.1\r\nHost: aggregator.example\r\n\r\n",
    "noise": bytes(range(256)),
    "a huge header": b"CLST\x01\x09\x00\x00\xff\xff\xff\x7f" + bytes(8),
    "a huge body": b"CLST\x01\x09\x00\x00\x01\x00\x00\x00" + b"\xff" * 8 + b"\x90",
    "an unknown kind": b"CLST\x01\x63\x00\x00" + bytes(12),
    "a message that does not decode": pack_prefix(Kind.CHALLENGE, header_bytes=3) + b"\xc1\xc1\xc1",
    "a message of another kind": pack_prefix(Kind.CHALLENGE, header_bytes=1) + b"\x90",
    "a nonce that is too short": pack_prefix(Kind.CHALLENGE, header_bytes=40)
    + b"\x93\x91\x01\xc4\x02ab\xc4\x20"
    + bytes(32),
    "versions without end": pack_prefix(Kind.CHALLENGE, header_bytes=1 << 16) + b"\x93\xdc\xff\xf0" + b"\x01" * 65532,
    "a body behind the challenge": frame(Kind.CHALLENGE, CHALLENGE, body=b"x" * 1000),
    "nesting without end": pack_prefix(Kind.CHALLENGE, header_bytes=10_000) + b"\x91" * 10_000,
    "a proof": pack_prefix(Kind.PROOF, header_bytes=5) + b"\x92\xc4\x00\xc4\x00",
    "a batch": pack_prefix(Kind.BATCH, header_bytes=2) + b"\x91\x90",
    "a dial": pack_prefix(Kind.DIAL, header_bytes=1) + b"\x90",
}


@pytest.mark.slow
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("member", [False, True], ids=["stranger", "member"])
def test_what_is_no_challenge_is_refused(study: Study, running: Running, data: bytes, member: bool) -> None:
    with dialled(running, study.carol if member else None) as connection:
        connection._write(data)
        assert goodbye(connection).code == "protocol"
    serves(study, running)


def test_a_frame_of_a_later_version(study: Study, running: Running) -> None:
    with dialled(running) as connection:
        connection._write(b"CLST\x02\x09\x00\x00" + bytes(12))
        assert goodbye(connection).code == "version"
    serves(study, running)


def test_a_challenge_for_another_charter_or_version(study: Study, running: Running) -> None:
    for challenge, code in [
        (CHALLENGE, "charter"),
        (Challenge(versions=(2, 3), nonce=bytes(32), charter=study.charter.digest), "version"),
    ]:
        with dialled(running) as connection:
            connection.send(Kind.CHALLENGE, challenge)
            assert goodbye(connection).code == code
    serves(study, running)


def test_challenges_without_end(study: Study, running: Running) -> None:
    """All sent at once, too, and whatever is not answered is not read."""
    with dialled(running) as connection:
        sent = frame(Kind.CHALLENGE, challenge_of(study.charter))
        connection._write(sent * 100)
        proofs = 0
        while (said := connection.receive(wait_s=SOON)).kind is Kind.PROOF:
            proofs += 1
        assert said.message(VOCABULARY).code == "protocol"
        assert proofs == proving._OPENINGS
    serves(study, running)


def test_a_client_that_leaves_without_its_proof(study: Study, running: Running) -> None:
    for _ in range(5):
        with dialled(running) as connection:
            connection.send(Kind.CHALLENGE, challenge_of(study.charter))
    serves(study, running)


# Secrets: an aggregator has no use for any, and takes none, whatever they are sealed for.


KEY = SealingKey.generate().public_bytes()
"""An aggregator has none of its own."""


def declined(connection: Connection, provision: Provision) -> None:
    """Told so, and either the conversation is over or it goes on without the secret."""
    connection.send(Kind.PROVISION, provision)
    said = connection.receive(wait_s=SOON)
    assert said.kind in (Kind.REFUSAL, Kind.FAILURE)
    assert isinstance(said.message(VOCABULARY), Refusal | Failure)


def test_a_secret_before_a_proof(study: Study, running: Running) -> None:
    assert running.instance.transcript(bytes(32), client=None).hpke_key is None
    for identity in (None, study.dave, study.bob):
        with dialled(running, identity) as connection:
            declined(connection, Provision(name="data", sealed=seal(b"x", public_key=KEY, info=b"")))
    serves(study, running)


@pytest.mark.slow
def test_secrets_sealed_for_anything(study: Study, running: Running) -> None:
    elsewhere = Transcript.decode(overheard(running.at, study.charter, identity=study.bob).transcript)
    with dialled(running, study.bob) as connection:
        here = Transcript.decode(ask(connection, study.charter).transcript)
    for transcript, name in ((elsewhere, "data"), (here, "data"), (here, "other")):
        with dialled(running, study.bob) as connection:
            ask(connection, study.charter, nonce=bytes(32))
            info = provision_info(transcript.report_data(), "data")
            sealed = seal(b"secret", public_key=KEY, info=info)
            declined(connection, Provision(name=name, sealed=sealed))
    serves(study, running)


# Who may do what


@pytest.mark.slow
@pytest.mark.parametrize("who", ["nobody", "a stranger"])
@pytest.mark.parametrize("purpose", ["session", "push"])
def test_who_is_no_member_may_ask_and_do_nothing_else(study: Study, running: Running, who: str, purpose: Any) -> None:
    identity = study.dave if who == "a stranger" else None
    with attest_peer(ADDRESS, policy=study.policy(), identity=identity, at=running.at) as attested:
        attested.attest()
        with pytest.raises(PeerRefusedError):
            greet(attested.connection, purpose=purpose, software="test", wait_s=SOON)
    serves(study, running)


@pytest.mark.parametrize("purpose", ["session", "push"])
def test_nor_without_asking(study: Study, running: Running, purpose: Any) -> None:
    with dialled(running, study.dave) as connection, pytest.raises(PeerRefusedError):
        greet(connection, purpose=purpose, software="test", wait_s=SOON)


def test_members_may_do_what_they_are_members_for(study: Study) -> None:
    """An owner opens no session, and a researcher pushes nothing."""
    with study.secure_worker() as running:
        for identity, purpose in ((study.bob, "session"), (study.carol, "push")):
            with dialled(running, identity) as connection, pytest.raises(PeerRefusedError, match="may not"):
                greet(connection, purpose=purpose, software="test", wait_s=SOON)  # type: ignore[arg-type]


# Places


def is_let_in(study: Study, running: Running) -> bool:
    try:
        attest_peer(ADDRESS, policy=study.policy(), at=running.at).close()
    except UnreachableError:
        return False
    return True


@pytest.mark.slow
def test_strangers_leave_room_for_members(study: Study, running: Running) -> None:
    """They take all the places that there are for strangers from one address, and stay; members come and go."""
    with ExitStack() as stack:
        held = [stack.enter_context(dialled(running)) for _ in range(2)]
        for connection in held:
            ask(connection, study.charter)
        for identity in (None, study.dave):
            with pytest.raises(UnreachableError, match="others are verifying"):
                attest_peer(ADDRESS, policy=study.policy(), identity=identity, at=running.at)
        for _ in range(3):
            serves(study, running)
        held[0].send(Kind.HELLO, Hello(versions=(VERSION,), purpose="session", software="test", table=None))
        assert goodbye(held[0]).code == "peer"
        held[0].close()
        assert wait_until(lambda: is_let_in(study, running), within_s=SOON)  # when one leaves, its place is free


@pytest.mark.slow
def test_a_flood_of_strangers_leaves_room_for_members(study: Study, running: Running) -> None:
    """More than there are connections in all, none of which is closed by the one who opened it."""
    with ExitStack() as stack:
        for number in range(150):
            connection = stack.enter_context(dialled(running, study.dave if number % 2 else None))
            if number % 3 == 0:
                with contextlib.suppress(NetworkError):
                    hello = Hello(versions=(VERSION,), purpose="session", software="test", table=None)
                    connection.send(Kind.HELLO, hello)
            if number % 50 == 49:
                serves(study, running)


@pytest.mark.slow
def test_a_stranger_that_asks_now_and_then_is_ended(
    study: Study, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "_OPENING_S", 0.2)
    with dialled(running) as connection:
        ask(connection, study.charter)
        with pytest.raises(ConnectionLostError):
            connection.receive(wait_s=SOON)
    serves(study, running)


@pytest.mark.slow
def test_one_that_says_nothing_is_ended(study: Study, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "_OPENING_S", 0.1)
    with raw_tls(running, study.dave) as silent:  # type: ignore[arg-type]
        assert rest(silent) == b""
    serves(study, running)


def test_tls_of_another_version_is_not_spoken(running: Running) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        raw_tls(running, maximum_version=ssl.TLSVersion.TLSv1_2).recv(1)  # type: ignore[arg-type]
