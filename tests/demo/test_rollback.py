"""The aggregator that was set back: it proves what was agreed on, tries two things, and reports what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.charter import Charter
from cloister.demo.rollback import Refusals, RolledBack, Scheme
from cloister.errors import NoAnswerError, UnacceptableError
from cloister.ledger import answers
from cloister.ledger.answers import Answer
from cloister.ledger.chain import Ledger
from cloister.net.attested import attest_peer
from cloister.net.handshake_client import greet
from cloister.net.identity import Identity, private_key
from cloister.net.policy import AttestationPolicy
from cloister.testing.charters import write_charter
from cloister.wire.fields import Message
from cloister.wire.frames import Kind
from cloister.wire.rounds import Declined, Join, Propose, Ready, Standing
from tests.support.charters import agreed_job

NAME = "aggregator.example:7443"
NEWEST = 3


class Members:
    """Two hospitals, and an aggregator that has gone back to before their first round."""

    def __init__(self, folder: Path) -> None:
        self.identities = {name: Identity.create(folder / f"{name}.key") for name in ("north", "hill")}
        members = {name: ("owner", identity) for name, identity in self.identities.items()}
        self.charter: Charter = write_charter(
            folder / "charter.toml",
            members=members,
            addresses=[NAME],
            interactive=False,
            min_batch=32,
            jobs=[agreed_job(b"p" * 32)],
            first_model=b"m" * 32,
        )
        scheme = Scheme(Ledger(self.charter), newest=NEWEST, honest=b"honest", forged=b"forged")
        self.aggregator = RolledBack(scheme, name=NAME, address="127.0.0.1:0")

    def attend(self, name: str, answer: Callable[[Propose], Message]) -> None:
        """Verifies the aggregator, and gives this answer to each proposal."""
        policy = AttestationPolicy(charter=self.charter, accept_simulated=True)
        with attest_peer(NAME, policy=policy, identity=self.identities[name], at=self.aggregator.address) as attested:
            connection = attested.connection
            greet(connection, purpose="study", software="a test", wait_s=10)
            connection.send(Kind.ROUND, Join(NEWEST + 1, b"h" * 32, NEWEST, holds=True))
            for _ in range(5):  # a chain, and twice a job and a proposal
                frame = connection.receive(wait_s=10)
                connection.skip(frame.body_bytes)
                if isinstance(message := frame.message(), Propose):
                    connection.send(Kind.ROUND, answer(message))


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    found = Members(tmp_path)
    with found.aggregator:
        yield found


def test_it_reports_how_each_owner_refuses_both(members: Members) -> None:
    threads = [
        threading.Thread(target=members.attend, args=(name, lambda asked: Declined(asked.round, f"no {asked.round}")))
        for name in members.identities
    ]
    for thread in threads:
        thread.start()
    found = members.aggregator.refusals(within_s=20)
    for thread in threads:
        thread.join()
    keys = [identity.fingerprint for identity in members.identities.values()]
    assert found == Refusals(job=dict.fromkeys(keys, "no 4"), round=dict.fromkeys(keys, "no 1"))


def test_an_owner_that_trains_is_no_refusal(members: Members) -> None:
    def train(asked: Propose) -> Message:
        if asked.round != 1:
            return Declined(asked.round, "no")
        said = Answer("cloister answer 1", members.charter.digest, 1, 0, b"", ())
        standing = Standing(answers.sign(said, key=private_key(members.identities["north"].path)))
        return Ready(1, 10, 1.0, 0.0, {}, bytes(32), standing)

    members.attend("north", train)
    with pytest.raises(UnacceptableError, match="trained for round 1"):
        members.aggregator.refusals(within_s=20)


def test_an_owner_that_does_not_come_is_missed(members: Members) -> None:
    with pytest.raises(NoAnswerError):
        members.aggregator.refusals(within_s=0)
