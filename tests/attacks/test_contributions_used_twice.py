"""Attack: have one contribution count twice: for two members of a round, or in a later round.

Each contribution is committed to, with a salt of its own, before anything of a round is added. The aggregator takes a
commitment once, in a round and in all rounds of its ledger; owners agree to no cohort that has one twice, and no chain
that has one twice is a ledger. Whoever copies a commitment cannot open it.
"""

from __future__ import annotations

from typing import Any

import pytest

from cloister.aggregator.events import Joined
from cloister.aggregator.training import Training
from cloister.charter.toml import parse_charter
from cloister.errors import CharterError, LedgerError
from cloister.ledger.records import Share, cohort_digest, commitment, consent_to_be_signed
from cloister.wire import rounds as w
from tests.attacks.gathering import Gathering, NodeOwner
from tests.support import chains, charters
from tests.support.members import Aggregator, changed, declined, owner
from tests.support.owners import agree, key_of, norms_of, update_of

SALT = bytes(32)


def alike(*nodes: NodeOwner) -> None:
    """One organisation behind several members: the same contribution under each key."""
    update = update_of("alice", 1).tobytes()
    norms, committed = norms_of(update_of("alice", 1)), commitment(SALT, memoryview(update))

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        match message:
            case w.Ready():
                return [(w.Ready(message.round, message.examples, *norms, {}, committed, message.standing), b"")]
            case w.Contribution():
                return [(w.Contribution(message.round, SALT), update)]
        return [(message, body)]

    for each in nodes:
        each.spoil = spoil


def test_without_the_check_one_contribution_makes_up_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The aggregator would ask for consents to a mean of one, twice, and of chuck. Honest owners give none."""
    take = Training.ready

    def forgetful(self: Training, *args: Any) -> None:
        self._used = set()
        take(self, *args)

    monkeypatch.setattr(Training, "ready", forgetful)
    study = Gathering(agree(floor="3", job={"rounds": 1}))
    alike(study.nodes["alice"], study.nodes["bob"])
    study.run()
    assert study.told("chuck", w.Draft)
    assert any("there twice" in note for note in study.nodes["chuck"].notes)
    assert not study.instance.ledger.released


def test_the_same_contribution_under_two_keys() -> None:
    study = Gathering(agree(floor="3", job={"rounds": 1}))
    alike(study.nodes["alice"], study.nodes["bob"])
    study.run()
    assert "used once" in study.told("bob", w.Refused)[0].text
    assert "floor is 3" in study.told("chuck", w.Over)[0].text
    assert not study.told("chuck", w.Draft)


def test_a_copied_commitment_cannot_be_opened() -> None:
    """Bob, who is first, says that he is committed to something of which he knows the commitment alone."""
    study = Gathering(agreed={"rounds": 1})
    foreign = commitment(b"\x07" * 32, memoryview(update_of("alice", 1).tobytes()))

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        match message:
            case w.Ready():
                return [(changed(message, commitment=foreign), body)]
            case w.Declined() if not study.told("bob", w.Send):  # its own node names another commitment
                cohort = study.told("bob", w.Draft)[-1].cohort
                signature = chains.sign_one(consent_to_be_signed(cohort), charters.key_of("bob"))
                return [(w.Consent(message.round, cohort_digest(cohort), signature), b"")]
            case w.Declined():
                return [(w.Contribution(message.round, SALT), update_of("bob", 1).tobytes())]
        return [(message, body)]

    study.nodes["bob"].spoil = spoil
    study.run()
    assert "committed" in study.told("bob", w.Refused)[0].text
    study.check(("alice", "chuck"))


def test_a_contribution_in_a_later_round() -> None:
    study = Gathering(agreed={"rounds": 2})
    bob = study.nodes["bob"]
    before: list[tuple[Any, bytes]] = []

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if not isinstance(message, w.Ready | w.Contribution):
            return [(message, body)]
        if message.round == 1:
            before.append((message, body))
            return [(message, body)]
        ready = before[0][0]
        return [(changed(ready, round=2), b"")]

    bob.spoil = spoil
    study.run()
    assert "used once" in study.told("bob", w.Refused)[0].text
    study.check(("alice", "bob", "chuck"), ("alice", "chuck"))


def test_a_later_round_at_an_instance_that_was_started_anew() -> None:
    """It learns from the chain what was used."""
    study = Gathering(agreed={"rounds": 1})
    study.run()
    used = study.instance.ledger.receipts[0].cohort.shares[0].commitment
    study.restart(seed=1)
    study.join("alice")
    study.settle()
    assert used in study.instance.ledger.commitments


def test_no_owner_signs_a_cohort_with_a_contribution_twice() -> None:
    here = Aggregator.facing(owner())
    here.round(1)
    here.contribute(2)
    shares = here.cohort(2).shares
    names = {charters.fingerprint_of(name): name for name in ("alice", "bob", "chuck")}
    once = {names[share.member]: share for share in here.ledger.receipts[0].cohort.shares}
    for again in (
        tuple(Share(each.member, each.weight, shares[0].commitment) for each in shares),
        tuple(once["alice"] if names[each.member] == "alice" else each for each in shares),
    ):
        assert "there twice, or was in an earlier round" in declined(here.ask(here.cohort(2, shares=again)))


def test_no_chain_with_a_contribution_twice_is_a_ledger() -> None:
    ledger = chains.chain(1)
    first = chains.Instance("first")
    shares = tuple(Share(each.member, each.weight, bytes(32)) for each in chains.share_list(ledger, ["bob", "alice"]))
    agreed = chains.cohort(ledger, ["bob", "alice"], signer=first.public, shares=shares)
    with pytest.raises(LedgerError, match="there twice"):
        ledger.append(chains.round_record(ledger, instance=first, agreed=agreed))


# Members who are one


@pytest.mark.parametrize("name", ["bob", "dave"])
def test_one_key_is_one_member(name: str) -> None:
    twice = f'[[members]]\nname = "{name}"\nrole = "owner"\nkey = "{key_of("bob")}"\n'
    text = charters.text().replace("[aggregator]", f"{twice}[aggregator]")
    with pytest.raises(CharterError, match="key"):
        parse_charter(text)


def test_a_member_that_connects_twice_takes_part_once() -> None:
    study = Gathering(agreed={"rounds": 1})
    study.join("alice", "bob", "rosa")
    for _ in range(3):
        study.instance.happen(Joined(key_of("bob")))
    study.submit()
    study.settle()
    study.check(("alice", "bob"))


def test_a_member_that_contributes_twice_in_a_round() -> None:
    """Nothing of the second is added. Bob's node holds the refusal to be about the first, and gives the round up."""
    study = Gathering(agreed={"rounds": 1})
    study.nodes["bob"].spoil = lambda message, body: [(message, body)] * (2 if isinstance(message, w.Ready) else 1)
    study.run()
    assert len(study.told("bob", w.Refused)) == 1
    assert len(study.told("bob", w.Send)) == 1
    study.check(("alice", "chuck"))


def test_a_member_that_is_not_asked_and_sends_all_the_same() -> None:
    study = Gathering(agreed={"rounds": 1})
    study.nodes["bob"].spoil = lambda message, body: [(message, body)] * (2 if body else 1)
    study.join("alice", "bob", "chuck", "rosa")
    study.submit()
    study.settle()
    assert key_of("bob") not in study.instance.heard  # a body that nobody asked for ends the connection
    study.check(*[("alice", "bob", "chuck")] * study.instance.ledger.released)  # the first one counts, once
