"""An instance takes the secrets that are sealed for it after a proof, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.attest.hpke import seal
from cloister.attest.transcript import Transcript
from cloister.errors import MessageError, NotGenuineError
from cloister.net.connection import Connection
from cloister.net.proving import Prover
from cloister.net.secrets import ProvisionedInstance, SecretReceiver, Secrets, provision_info
from cloister.wire.frames import Kind
from cloister.wire.messages import Provision
from cloister.wire.sessions import Done, Failure
from tests.net.test_proving import CHARTER, CLIENT, HELLO, answer, proved, talking
from tests.support.attested import ADDRESS, ATTESTER, NONCE


def node() -> ProvisionedInstance:
    return ProvisionedInstance(role="node", attester=ATTESTER, charter=CHARTER, name=ADDRESS)


def provision(client: Connection, transcript: Transcript, name: str, secret: bytes, **changed: Any) -> tuple[Kind, Any]:
    info = changed.pop("info", provision_info(transcript.report_data(), name))
    sealed = seal(secret, public_key=changed.pop("public_key", transcript.hpke_key), info=info)
    client.send(Kind.PROVISION, Provision(name=name, sealed=changed.pop("sealed", sealed)))
    return answer(client)


def test_a_secret_after_a_proof_is_kept_for_its_sender() -> None:
    secrets, told = Secrets(), []
    own = node()
    with talking(lambda c: SecretReceiver(c, own, secrets=secrets, kept=lambda: told.append("kept"))) as (client, _):
        assert provision(client, proved(client), "data", b"\x42" * 32) == (Kind.ANSWER, Done())
        client.send(Kind.HELLO, HELLO)
    assert secrets.take("data", sender=CLIENT) == b"\x42" * 32
    assert secrets.take("data", sender="sha256:" + "00" * 32) is None
    assert told == ["kept"]


def refused(secrets: Secrets, outcome: tuple[Kind, Any], *, text: str) -> None:
    kind, failure = outcome
    assert kind is Kind.FAILURE
    assert isinstance(failure, Failure)
    assert text in failure.text
    assert secrets.take("data", sender=CLIENT) is None


def test_a_secret_before_a_proof_is_refused() -> None:
    """The key is public after a proof on any connection: it is this connection's that counts."""
    secrets, own = Secrets(), node()
    elsewhere = own.transcript(NONCE, client=b"\xc1" * 32)
    with talking(lambda connection: SecretReceiver(connection, own, secrets=secrets)) as (client, _):
        refused(secrets, provision(client, elsewhere, "data", b"secret"), text="a secret comes after a proof")
        proved(client)  # the conversation goes on
        client.send(Kind.HELLO, HELLO)


def test_a_secret_that_was_sealed_for_something_else_is_refused() -> None:
    secrets, own = Secrets(), node()
    with talking(lambda connection: SecretReceiver(connection, own, secrets=secrets)) as (client, _):
        here = proved(client)
        elsewhere = own.transcript(b"\x09" * 32, client=b"\xc1" * 32)
        another = node().transcript(NONCE, client=None).hpke_key
        cases: list[dict[str, Any]] = [
            {
                "info": provision_info(elsewhere.report_data(), "data")
            },  # another connection, or another time on this one
            {"info": provision_info(here.report_data(), "other")},  # another name
            {"info": here.report_data() + b"data"},  # another use of the same key
            {"public_key": another},  # another instance
            {"sealed": bytes(5234)},
            {"sealed": b""},
        ]
        for case in cases:
            refused(secrets, provision(client, here, "data", b"secret", **case), text="seal")
        assert provision(client, here, "data", b"secret")[0] is Kind.ANSWER
        client.send(Kind.HELLO, HELLO)


def test_a_secret_is_for_the_newest_proof() -> None:
    secrets, own = Secrets(), node()
    with talking(lambda connection: SecretReceiver(connection, own, secrets=secrets)) as (client, _):
        old = proved(client)
        new = proved(client, nonce=b"\x09" * 32)
        refused(secrets, provision(client, old, "data", b"secret"), text="seal")
        assert provision(client, new, "data", b"secret")[0] is Kind.ANSWER
        client.send(Kind.HELLO, HELLO)


def test_a_secret_that_is_not_kept_says_why_and_not_what() -> None:
    secrets, own = Secrets(expected=()), node()
    with talking(lambda connection: SecretReceiver(connection, own, secrets=secrets)) as (client, _):
        outcome = provision(client, proved(client), "data", b"the very secret")
        refused(secrets, outcome, text="nothing here waits for a secret")
        assert "the very secret" not in outcome[1].text
        client.send(Kind.HELLO, HELLO)


def test_who_keeps_no_secrets_takes_none() -> None:
    own = node()
    with talking(lambda connection: Prover(connection, own), raises=MessageError) as (client, _):
        kind, refusal = provision(client, proved(client), "data", b"secret")
        client.close()
    assert (kind, refusal.code) == (Kind.REFUSAL, "protocol")
    assert "PROVISION has no place here" in refusal.text


def test_only_the_instance_itself_opens_what_is_sealed_to_it() -> None:
    one, other = node(), node()
    transcript = one.transcript(NONCE, client=None)
    info = provision_info(transcript.report_data(), "data")
    sealed = seal(b"secret", public_key=transcript.hpke_key, info=info)
    assert one.unseal(sealed, info=info) == b"secret"
    with pytest.raises(NotGenuineError):
        other.unseal(sealed, info=info)
