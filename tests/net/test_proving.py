"""The side that proves: an instance's keys, and what it answers before a hello."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cloister.attest import received
from cloister.attest.transcript import Transcript
from cloister.errors import (
    ConnectionLostError,
    NoAnswerError,
    NoTeeError,
    VersionError,
    WireError,
)
from cloister.net import proving
from cloister.net.certificates import spki_hash
from cloister.net.connection import Connection, Frame
from cloister.net.proving import Instance, Prover
from cloister.wire.frames import VERSION, Kind, pack_prefix
from cloister.wire.messages import Challenge, Hello, encode
from cloister.wire.sessions import VOCABULARY
from tests.attacks.test_trickling import trickling
from tests.support.attested import ADDRESS, ATTESTER, NONCE, Refusing
from tests.support.tls import SOON, doing, pair

CHARTER = b"\x0c" * 32
CLIENT = "sha256:" + "c1" * 32
CHALLENGE = Challenge(versions=(VERSION,), nonce=NONCE, charter=CHARTER)
HELLO = Hello(versions=(VERSION,), purpose="session", software="test", table=None)


def instance(**options: Any) -> Instance:
    return Instance(**{"role": "aggregator", "attester": ATTESTER, "charter": CHARTER, "name": ADDRESS, **options})


@contextmanager
def talking(
    prover_of: Callable[[Connection], Prover], *, raises: type[Exception] | None = None, **options: Any
) -> Iterator[tuple[Connection, list[Hello | None]]]:
    """The client's end of a connection that a prover opens, and what came of it. ``raises``: how it ends for it."""
    with pair(peer=CLIENT) as (client, served):
        ended: list[Hello | None] = []

        def serve() -> None:
            try:
                ended.append(prover_of(served).open(**options))
            except Exception as fault:
                if raises is None or not isinstance(fault, raises):
                    raise
                ended.append(None)
            finally:
                served.close()

        with doing(serve):
            yield client, ended


def answer(client: Connection) -> tuple[Kind, Any]:
    frame: Frame = client.receive(wait_s=SOON)
    return frame.kind, frame.message(VOCABULARY)


def proved(client: Connection, *, nonce: bytes = NONCE) -> Transcript:
    client.send(Kind.CHALLENGE, Challenge(versions=(VERSION,), nonce=nonce, charter=CHARTER))
    kind, proof = answer(client)
    assert kind is Kind.PROOF, proof
    transcript = Transcript.decode(proof.transcript)
    evidence = received.decode(proof.evidence)
    assert transcript.report_data() in evidence.quote
    return transcript


def test_an_instance_says_what_it_is_in_every_field() -> None:
    own = instance(role="node", configuration=b"\x0f" * 32)
    own.follow(lambda: (b"\x1e" * 32, 4))
    told = own.transcript(NONCE, client=b"\xc1" * 32)
    assert (told.role, told.tee, told.nonce, told.charter, told.name) == ("node", "simulated", NONCE, CHARTER, ADDRESS)
    assert (told.client, told.configuration) == (b"\xc1" * 32, b"\x0f" * 32)
    assert (told.ledger_head, told.ledger_sequence) == (b"\x1e" * 32, 4)
    assert told.server == spki_hash(own.fingerprint)


def test_each_run_has_keys_of_its_own() -> None:
    """Also of the same software on the same machine: a restart is another instance."""
    one, other = (instance().transcript(NONCE, client=None) for _ in range(2))
    for field in ("signing_key", "instance", "server"):
        assert getattr(one, field) != getattr(other, field)
    assert one.report_data() != other.report_data()


def test_making_an_instance_leaves_nothing_on_disk(tmp_path, monkeypatch) -> None:
    written: list[bytes] = []
    load = ssl.SSLContext.load_cert_chain

    def noting(context: ssl.SSLContext, file: str, **options: Any) -> None:
        with open(file, "rb") as opened:
            written.append(opened.read())
        load(context, file, **options)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", noting)
    instance()
    (file,) = written
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in file
    assert b"BEGIN PRIVATE KEY" not in file
    assert list(tmp_path.iterdir()) == []


def test_challenges_are_answered_until_a_hello() -> None:
    own = instance()
    with talking(lambda connection: Prover(connection, own)) as (client, ended):
        first = proved(client)
        second = proved(client, nonce=b"\x09" * 32)
        client.send(Kind.HELLO, HELLO)
    assert ended == [HELLO]
    assert first == own.transcript(NONCE, client=b"\xc1" * 32)
    assert second == own.transcript(b"\x09" * 32, client=b"\xc1" * 32)


def test_a_hello_may_come_first() -> None:
    """Whoever does not ask is not told; a client of cloister's asks."""
    with talking(lambda connection: Prover(connection, instance())) as (client, ended):
        client.send(Kind.HELLO, HELLO)
    assert ended == [HELLO]


@pytest.mark.parametrize(
    ("challenge", "code", "text"),
    [
        (Challenge(versions=(9,), nonce=NONCE, charter=CHARTER), "version", "speaks version 1"),
        (Challenge(versions=(VERSION,), nonce=NONCE, charter=bytes(32)), "charter", CHARTER.hex()),
    ],
)
def test_a_challenge_that_cannot_be_answered(challenge: Challenge, code: str, text: str) -> None:
    with talking(lambda connection: Prover(connection, instance())) as (client, ended):
        client.send(Kind.CHALLENGE, challenge)
        kind, refusal = answer(client)
        client.close()
    assert (kind, refusal.code) == (Kind.REFUSAL, code)
    assert text in refusal.text
    assert ended == [None]


def test_a_tee_that_gives_no_evidence() -> None:
    broken = instance(attester=Refusing(NoTeeError("the device is gone")))
    with talking(lambda connection: Prover(connection, broken)) as (client, ended):
        client.send(Kind.CHALLENGE, CHALLENGE)
        kind, refusal = answer(client)
        client.close()
    assert (kind, refusal.code, refusal.text) == (Kind.REFUSAL, "evidence", "the device is gone")
    assert ended == [None]


BODY = pack_prefix(Kind.CHALLENGE, header_bytes=len(encode(CHALLENGE)), body_bytes=3) + encode(CHALLENGE) + b"abc"
OUT_OF_PLACE = {
    "a batch": pack_prefix(Kind.BATCH, header_bytes=2) + b"\x91\x90",
    "a proof": pack_prefix(Kind.PROOF, header_bytes=7) + b"\x92\xc4\x01a\xc4\x01b",
    "a dial": pack_prefix(Kind.DIAL, header_bytes=1) + b"\x90",
    "a challenge with a body": BODY,
    "a challenge that does not decode": pack_prefix(Kind.CHALLENGE, header_bytes=1) + b"\xc1",
    "no frame": b"GET / HTTP/1.1\r\nHost: aggregator\r\n\r\n",
}


@pytest.mark.parametrize("data", OUT_OF_PLACE.values(), ids=OUT_OF_PLACE)
def test_what_has_no_place_is_refused_and_said(data: bytes) -> None:
    with talking(lambda connection: Prover(connection, instance()), raises=WireError) as (client, ended):
        client._write(data)
        kind, refusal = answer(client)
        client.close()
    assert (kind, refusal.code) == (Kind.REFUSAL, "protocol")
    assert ended == [None]


def test_a_hello_of_another_version() -> None:
    with talking(lambda connection: Prover(connection, instance()), raises=VersionError) as (client, _):
        client.send(Kind.HELLO, Hello(versions=(7,), purpose="session", software="test", table=None))
        assert answer(client)[1].code == "version"
        client.close()


def test_challenges_come_to_an_end() -> None:
    with talking(lambda connection: Prover(connection, instance())) as (client, ended):
        count = 0
        while True:
            client.send(Kind.CHALLENGE, CHALLENGE)
            kind, message = answer(client)
            if kind is not Kind.PROOF:
                break
            count += 1
        client.close()
    assert (kind, message.code) == (Kind.REFUSAL, "protocol")
    assert 64 < count < 100
    assert ended == [None]


def test_silence_comes_to_an_end() -> None:
    with talking(lambda connection: Prover(connection, instance()), raises=NoAnswerError, hello_s=0.05) as (_, ended):
        pass
    assert ended == [None]


def test_asking_now_and_then_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each challenge in time, and yet no place is held for ever."""
    monkeypatch.setattr(proving, "_OPENING_S", 0.1)
    with talking(lambda connection: Prover(connection, instance()), raises=NoAnswerError, hello_s=SOON) as (
        client,
        ended,
    ):
        proved(client)
    assert ended == [None]


@pytest.mark.slow
def test_a_challenge_byte_by_byte_comes_to_an_end() -> None:
    data = pack_prefix(Kind.CHALLENGE, header_bytes=1 << 20) + bytes(1000)
    with (
        pair(peer=CLIENT, frame_s=0.3) as (client, served),
        trickling(client._socket, data),
        pytest.raises(ConnectionLostError, match="did not arrive within"),
    ):
        Prover(served, instance()).open()
