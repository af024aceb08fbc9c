"""Attack: be a member, and say what is for others to say: contribute as a researcher, submit as an owner.

The key that a connection proved decides who somebody is, and the charter decides what that one may say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister.charter import keys
from cloister.errors import PeerRefusedError
from cloister.ledger.records import consent_to_be_signed
from cloister.wire import rounds as w
from cloister.wire.frames import Kind
from cloister.wire.messages import encode
from tests.attacks.gathering import Gathering, silent_on
from tests.support import charters
from tests.support.attested import goodbye
from tests.support.lines import Table
from tests.support.owners import Party, agree, first_model, key_of, update_of

SIGNATURE = w.MemberSignature("sha256:" + "0" * 64, b"key", b"signature")
OWNERS_ALONE: list[Any] = [
    w.Ready(1, 20, 1.0, 0.0, {}, bytes(32), w.Standing(w.SignedAnswer(b"answer", SIGNATURE))),
    w.Contribution(1, bytes(32)),
    w.Declined(1, "no"),
    w.Consent(1, bytes(32), SIGNATURE),
    w.Commit(1, SIGNATURE),
]
RESEARCHERS_ALONE: list[Any] = [w.Submit(8), w.Stop()]
NOBODYS: list[Any] = [
    w.Send(1),
    w.Work(bytes(32)),
    w.Over(1, ""),
    w.Answers(1, ()),
    w.Draft(1, b""),
    w.Settle(1, b"", bytes(32), ()),
    w.Accepted(bytes(32), 0),
    w.Finished(bytes(32), 0, ""),
    w.HandOver(0),
    w.Propose(1, bytes(32), bytes(32), 0, b"", bytes(32), 1.0),
    w.Out(1, {}),
    w.Ask(),
    w.Status("", 0, 0, 0, "", "", 0, ()),
]


def with_auditor() -> Gathering:
    """Dora audits. The round waits for bob, who has nothing to say."""
    study = Gathering(agree(auditors=("dora",), job={"rounds": 1}))  # type: ignore[arg-type]
    study.nodes["bob"].spoil = silent_on(w.Ready)
    study.parties["dora"] = Party("dora", study.charter)
    study.said["dora"] = []
    study.run()
    return study


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        *[("rosa", each) for each in (*OWNERS_ALONE, *NOBODYS)],
        *[("dora", each) for each in (*OWNERS_ALONE, *RESEARCHERS_ALONE, *NOBODYS)],
        *[("alice", each) for each in (*RESEARCHERS_ALONE, *NOBODYS)],
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_what_is_not_said_in_this_role(name: str, message: Any) -> None:
    study = with_auditor()
    study.instance.read(name)
    study.instance.say(name, message)
    assert [type(each) for each in study.instance.read(name)] == [w.Refused]
    study.instance.tick()
    study.settle()
    study.check(("alice", "chuck"))


@pytest.mark.parametrize("name", ["alice", "dora"])
def test_a_job_with_its_model_from_somebody_who_is_no_researcher(name: str) -> None:
    """None of it is read: the connection ends."""
    study = with_auditor()
    body = study.data + first_model().tobytes()
    study.instance.say(name, w.Submit(len(study.data)), body)
    assert key_of(name) not in study.instance.heard


@pytest.mark.parametrize("name", ["rosa", "dora"])
def test_a_contribution_from_somebody_who_is_no_owner(name: str) -> None:
    study = with_auditor()
    study.instance.say(name, w.Contribution(1, bytes(32)), update_of(name, 1).tobytes())
    assert key_of(name) not in study.instance.heard


@pytest.mark.parametrize(("shown", "why"), [("rosa", "another's public key"), ("bob", "not valid")])
def test_a_consent_by_a_researchers_key_in_an_owners_name(shown: str, why: str) -> None:
    study = Gathering(agreed={"rounds": 1})
    rosa = charters.key_of("rosa")

    def forge(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if not isinstance(message, w.Consent):
            return [(message, body)]
        signed = consent_to_be_signed(study.told("bob", w.Draft)[-1].cohort)
        signature = w.MemberSignature(
            charters.fingerprint_of("bob"), keys.public_bytes(charters.key_of(shown)), keys.sign(signed, key=rosa)
        )
        return [(w.Consent(1, message.cohort, signature), b"")]

    study.nodes["bob"].spoil = forge
    study.run()
    assert why in study.told("bob", w.Refused)[0].text
    study.instance.tick()
    study.settle()
    study.check(("alice", "chuck"))


def test_who_somebody_is_was_decided_by_the_handshake(tmp_path: Path) -> None:
    """Over TLS: a stranger says nothing, and an owner that sends a job is told so and sent away."""
    table = Table(tmp_path)
    with table.serving():
        with pytest.raises(PeerRefusedError, match="only members"):
            table.dial("mallory")
        line = table.dial("alice")
        line.say(table.owners["alice"].join())
        line.until(w.Chain)
        line.connection.send_raw(Kind.ROUND, encode(w.Submit(len(table.data))), len(table.data) + 44)
        assert "nobody asked for" in line.until(w.Refused).text
        assert goodbye(line.connection).code == "protocol"
        line.close()
