"""The side that verifies: each thing in a proof that is not what it must be is refused, by its name."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloister.attest.evidence import Evidence
from cloister.attest.verifier import STALE
from cloister.errors import (
    CharterError,
    CollateralError,
    ConfigurationError,
    ConnectionLostError,
    EvidenceError,
    LimitError,
    MessageError,
    NoAnswerError,
    NoTeeError,
    NotGenuineError,
    OpRefusedError,
    PeerRefusedError,
    UnacceptableError,
    UnreachableError,
    VersionError,
    WorkerError,
)
from cloister.net.attested import attest_peer
from cloister.net.certificates import spki_hash
from cloister.net.connection import Connection
from cloister.net.handshake_server import refuse
from cloister.net.proving import Instance
from cloister.net.secrets import SecretReceiver, Secrets
from cloister.wire.frames import Kind
from cloister.wire.messages import Proof
from cloister.wire.sessions import Done
from tests.support.attested import (
    ADDRESS,
    ATTESTER,
    NONCE,
    Lying,
    Refusing,
    Study,
    answering,
    claiming,
    listening,
    rewriting,
)
from tests.support.tls import SOON


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def failures(study: Study, at: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(UnacceptableError) as caught:
        study.attest(at, **options)
    return caught.value.failures


# What holds when all is well


def test_a_proven_instance(study: Study) -> None:
    with study.aggregator() as running, study.attest(running.at) as attested:
        assert attested.transcript.server == spki_hash(running.instance.fingerprint)
        assert attested.transcript.client == spki_hash(study.bob.fingerprint)
        assert attested.connection.peer == running.instance.fingerprint
        assert attested.claims.report_data == attested.transcript.report_data()
        assert attested.entry in study.charter.reference
        assert timedelta(0) < attested.took < timedelta(seconds=SOON)
        line = attested.verdict.line()
    assert "proves nothing" in line
    assert study.charter.digest.hex()[:12] in line


def test_a_verifier_needs_no_key(study: Study) -> None:
    with study.aggregator() as running, attest_peer(ADDRESS, policy=study.policy(), at=running.at) as attested:
        assert attested.transcript.client is None


def test_it_proves_itself_again_on_the_same_connection(study: Study) -> None:
    with study.aggregator() as running, study.attest(running.at) as attested:
        later = attested.attest()
        assert later.connection is attested.connection
        assert later.transcript.nonce != attested.transcript.nonce
        assert replace(later.transcript, nonce=attested.transcript.nonce) == attested.transcript
        assert later.attest().transcript.instance == attested.transcript.instance


# What a proof is about, field by field. The evidence is made for it each time: software that lies, in a genuine TEE.

LIES: dict[str, tuple[dict[str, Any], str]] = {
    "nonce": ({"nonce": bytes(32)}, "another challenge than ours: old evidence"),
    "role": ({"role": "node"}, "it says that it is a 'node', and a 'aggregator' was dialled"),
    "charter": ({"charter": b"\x0c" * 32}, "another charter"),
    "name": ({"name": "elsewhere.example:7443"}, "it listens as 'elsewhere.example:7443', not as"),
    "server": ({"server": bytes(32)}, "another TLS key than this connection's"),
    "client": ({"client": b"\xcc" * 32}, "another client's connection"),
    "no client": ({"client": None}, "another client's connection"),
    "configuration": ({"configuration": bytes(32)}, "another configuration"),
    "tee": ({"tee": "sgx"}, "one kind of TEE what the evidence calls another"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("fields", "text"), LIES.values(), ids=LIES)
def test_a_field_that_is_not_what_it_must_be(study: Study, fields: dict[str, Any], text: str) -> None:
    own = study.instance()
    with answering(own, claiming(own, **fields)) as at:
        (failure,) = failures(study, at)
    assert text in failure


@pytest.mark.slow
@pytest.mark.parametrize("field", ["hpke_key", "signing_key", "instance"])
def test_evidence_that_is_not_about_the_transcript(study: Study, field: str) -> None:
    """The evidence is genuine and fresh; the transcript beside it is another than it was made for."""
    own = study.instance()
    other = study.provisioned(name="elsewhere.example:7443").transcript(bytes(32), client=None)
    with answering(own, rewriting(own, **{field: getattr(other, field)})) as at:
        assert STALE in failures(study, at)


@pytest.mark.parametrize("told", [(b"\1" * 32, 4), (b"", 0), (b"\1" * 32, 5)])
def test_a_ledger_that_was_rolled_back_or_forked(study: Study, told: tuple[bytes, int]) -> None:
    with study.aggregator(study.instance(ledger=lambda: told)) as running:
        (failure,) = failures(study, running.at, newest=(5, b"\2" * 32))
        assert "rolled back or forked" in failure


@pytest.mark.parametrize("told", [(b"\2" * 32, 5), (b"\1" * 32, 6)])
def test_a_ledger_that_goes_on(study: Study, told: tuple[bytes, int]) -> None:
    with study.aggregator(study.instance(ledger=lambda: told)) as running:
        study.attest(running.at, newest=(5, b"\2" * 32)).close()


def test_another_instance_on_the_same_connection(study: Study) -> None:
    """All that is told is true, of an instance that took the place of the one before."""
    with study.aggregator() as running, study.attest(running.at) as attested:
        before = replace(attested.transcript, instance=bytes(16))
        with pytest.raises(UnacceptableError, match="not the instance that proved itself"):
            replace(attested, transcript=before).attest()


def test_all_that_is_wrong_is_told_at_once(study: Study) -> None:
    own = study.instance(attester=replace(ATTESTER, measurement=bytes(48), debug=True))
    with answering(own, rewriting(own, role="node", name="elsewhere.example:7443", server=bytes(32))) as at:
        found = failures(study, at, accept_simulated=False)
    assert_each_once(found, ["a 'node'", "listens as", "TLS key", "simulated TEE proves nothing"])
    with answering(
        own, claiming(own, nonce=NONCE)
    ) as at:  # whoever proves the right thing is told what is wrong with it
        assert_each_once(failures(study, at), ["another challenge"])
    with answering(own, lambda challenge, connection: stale(own, challenge, connection)) as at:
        assert_each_once(failures(study, at), [STALE, "measurement is", "debug"])


def stale(own: Instance, challenge: Any, connection: Connection) -> Proof:
    """The transcript that was asked for, with evidence that was made for another."""
    told = own.transcript(challenge.nonce, client=spki_hash(connection.peer))
    other = own.prove(replace(told, nonce=NONCE))
    return Proof(transcript=told.encode(), evidence=other.evidence)


def assert_each_once(found: Sequence[str], expected: Sequence[str]) -> None:
    assert len(found) == len(expected)
    for text in expected:
        assert sum(text in failure for failure in found) == 1, text


def test_a_configuration_that_is_demanded(study: Study) -> None:
    wanted = {"role": "node", "configuration": b"\x0f" * 32}
    node = study.instance(**wanted)
    with answering(node, claiming(node)) as at, study.attest(at, **wanted) as attested:
        assert attested.transcript.configuration == b"\x0f" * 32
    with answering(node, claiming(node, configuration=None)) as at:
        assert "another configuration" in failures(study, at, **wanted)[0]
    with answering(node, claiming(node)) as at:
        assert "another configuration" in failures(study, at, role="node")[0]


@pytest.mark.parametrize("days", [-1, 31])
def test_a_charter_that_is_not_valid(study: Study, days: int) -> None:
    then = datetime.now(UTC) + timedelta(days=days)
    with study.aggregator() as running:
        assert failures(study, running.at, clock=lambda: then) == ("the charter is not valid at this time",)


def test_a_charter_that_ends_during_a_session(study: Study) -> None:
    now = [datetime.now(UTC)]
    with study.aggregator() as running, study.attest(running.at, clock=lambda: now[0]) as attested:
        now[0] += timedelta(days=31)
        with pytest.raises(UnacceptableError, match="not valid at this time"):
            attested.attest()
        with pytest.raises(ConnectionLostError):
            attested.challenge()


# Evidence that is none, and answers that are none


def test_evidence_that_is_not_genuine(study: Study) -> None:
    def spoil(evidence: Evidence) -> Evidence:
        return Evidence(tee=evidence.tee, quote=evidence.quote[:-1] + bytes([evidence.quote[-1] ^ 1]))

    with study.aggregator(study.instance(attester=Lying(ATTESTER, spoil))) as running, pytest.raises(NotGenuineError):
        study.attest(running.at)


@pytest.mark.parametrize(
    ("transcript", "evidence"),
    [(b"", b""), (b"\x81" * 4000, b"\x80"), (None, b"\xc1"), (None, b"\x93\xa3sgx\xc4\x00\x90")],
)
def test_a_proof_that_cannot_be_read(study: Study, transcript: bytes | None, evidence: bytes) -> None:
    own = study.instance()

    def answer(challenge: Any, connection: Connection) -> Proof:
        told = own.transcript(challenge.nonce, client=spki_hash(connection.peer)).encode()
        return Proof(transcript=told if transcript is None else transcript, evidence=evidence)

    with answering(own, answer) as at, pytest.raises(EvidenceError):
        study.attest(at)


def test_nothing_is_fetched_for_a_proof_that_is_about_something_else(study: Study) -> None:
    fetched: list[Evidence] = []

    def fetch(evidence: Evidence, now: datetime) -> None:
        fetched.append(evidence)

    own = study.instance(attester=Lying(ATTESTER, lambda _: Evidence(tee="tdx", quote=bytes(5000))))
    with answering(own, claiming(own)) as at, pytest.raises(UnacceptableError, match=r"^not acceptable: ") as caught:
        study.attest(at, collateral=fetch)
    [kind] = caught.value.failures
    assert "one kind of TEE what the evidence calls another" in kind
    assert not caught.value.genuine
    assert not fetched
    with answering(own, claiming(own, tee="tdx")) as at, pytest.raises(CollateralError):
        study.attest(at, collateral=fetch)
    assert fetched


def test_an_address_that_the_charter_does_not_name(study: Study) -> None:
    own = study.instance(name="elsewhere.example:7443")
    with study.aggregator(own) as running, pytest.raises(UnacceptableError, match="names no aggregator at elsewhere"):
        attest_peer("elsewhere.example:7443", policy=study.policy(), at=running.at)


def test_a_tee_that_gives_no_evidence(study: Study) -> None:
    own = study.instance(attester=Refusing(NoTeeError("the device is gone")))
    with study.aggregator(own) as running, pytest.raises(NoTeeError, match="the device is gone"):
        study.attest(running.at)


def test_an_aggregator_under_another_charter(study: Study) -> None:
    own = study.instance(charter=bytes(32))
    with study.aggregator(own) as running, pytest.raises(CharterError, match="another charter: 0000"):
        study.attest(running.at)


@contextmanager
def saying(study: Study, kind: Kind, message: Any) -> Iterator[str]:
    def handle(connection: Connection) -> None:
        connection.receive(wait_s=SOON)
        connection.send(kind, message)

    with listening(handle, study.instance().context) as at:
        yield at


def test_another_answer_than_a_proof(study: Study) -> None:
    with saying(study, Kind.ANSWER, Done()) as at, pytest.raises(MessageError, match="answered by ANSWER"):
        study.attest(at)


@pytest.mark.parametrize(("code", "error"), [("version", VersionError), ("busy", UnreachableError)])
def test_a_refusal(study: Study, code: Any, error: type[Exception]) -> None:
    def handle(connection: Connection) -> None:
        connection.receive(wait_s=SOON)
        refuse(connection, code, text="not today")

    with listening(handle, study.instance().context) as at, pytest.raises(error, match="not today"):
        study.attest(at)


@pytest.mark.slow
def test_no_answer(study: Study) -> None:
    over = threading.Event()
    with listening(lambda _: over.wait(SOON), study.instance().context) as at:
        with pytest.raises(NoAnswerError):
            study.attest(at, within_s=0.2)
        over.set()


def test_an_instance_that_hangs_up(study: Study) -> None:
    hanging_up = listening(lambda connection: connection.close(), study.instance().context)
    with hanging_up as at, pytest.raises(PeerRefusedError, match="closed the connection"):
        study.attest(at)


@pytest.mark.parametrize("address", ["", "aggregator", "aggregator:port", "a b:7443"])
def test_an_address_that_is_none(study: Study, address: str) -> None:
    with pytest.raises(ConfigurationError):
        attest_peer(address, policy=study.policy())


# Secrets


@contextmanager
def keeping(study: Study, secrets: Secrets) -> Iterator[str]:
    own = study.provisioned()

    def handle(connection: Connection) -> None:
        assert SecretReceiver(connection, own, secrets=secrets).open() is None

    with listening(handle, own.context) as at:
        yield at


def test_a_secret_arrives(study: Study) -> None:
    secrets = Secrets()
    with keeping(study, secrets) as at, study.attest(at) as attested:
        attested.provision("data", b"\x42" * 32)
        attested.provision("data", b"\x42" * 32)  # once more is no harm
        with pytest.raises(OpRefusedError, match="another secret is kept"):
            attested.provision("data", b"\x43" * 32)
        attested.attest().provision("other", b"x")
    assert secrets.take("data", sender=study.bob.fingerprint) == b"\x42" * 32
    assert secrets.take("other", sender=study.bob.fingerprint) == b"x"


@pytest.mark.parametrize("secret", [b"", bytes(4097)])
def test_a_secret_that_is_too_long_is_not_sent(study: Study, secret: bytes) -> None:
    with keeping(study, Secrets()) as at, study.attest(at) as attested, pytest.raises(LimitError):
        attested.provision("data", secret)


def test_a_secret_for_an_old_proof_is_not_taken(study: Study) -> None:
    with keeping(study, Secrets()) as at, study.attest(at) as attested:
        attested.attest()
        with pytest.raises(WorkerError, match="sealed to another instance's key or for something else"):
            attested.provision("data", b"x")


def test_an_aggregator_takes_no_secrets(study: Study) -> None:
    with study.aggregator() as running, study.attest(running.at) as attested:
        assert attested.transcript.hpke_key is None
        with pytest.raises(UnacceptableError, match="no key that a secret could be sealed to"):
            attested.provision("data", b"x")
        attested.attest()
