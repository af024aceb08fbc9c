"""Attack: say again, later or to another, what was said before: a contribution, a signature, a proposal, a whole round.

Every message of a round says its number, a number is used once, and what is signed names the place in the chain, the
instance's key and the round. So what is old fits nowhere.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloister.ledger.job import round_digest
from cloister.ledger.records import decode_cohort, encode
from cloister.wire import rounds as w
from tests.attacks.gathering import Gathering, silent_on
from tests.support.members import START, Aggregator, declined, leaves, only, owner
from tests.support.owners import Heard, key_of

Said = list[tuple[Any, bytes]]


def recording(study: Gathering) -> dict[str, Said]:
    """All that owners say from now on."""
    said: dict[str, Said] = {name: [] for name in study.nodes}
    for name, each in study.nodes.items():

        def spoil(message: Any, body: bytes, name: str = name) -> Said:
            said[name].append((message, body))
            return [(message, body)]

        each.spoil = spoil
    return said


def of(said: Said, kind: type, number: int) -> tuple[Any, bytes]:
    return next(each for each in said if isinstance(each[0], kind) and each[0].round == number)


# To the aggregator


def as_in_the_first_round(kind: type) -> Gathering:
    """Bob says what he said in round 1 instead of what he has to say in round 2."""
    study = Gathering(agreed={"rounds": 2})
    said: Said = []

    def spoil(message: Any, body: bytes) -> Said:
        said.append((message, body))
        return [of(said, kind, 1) if isinstance(message, kind) else (message, body)]

    study.nodes["bob"].spoil = spoil
    study.run()
    return study


@pytest.mark.parametrize("kind", [w.Ready, w.Contribution], ids=lambda kind: kind.__name__)
def test_a_message_of_an_earlier_round_as_it_was(kind: type) -> None:
    study = as_in_the_first_round(kind)
    study.instance.tick()  # nothing is said for this round; it ends without bob
    study.settle()
    study.check(("alice", "bob", "chuck"), ("alice", "chuck"))


def without_bob(study: Gathering) -> str:
    """What alice, who has signed, says to a cohort of the other two."""
    cohort = decode_cohort(study.told("alice", w.Sign)[-1].cohort)
    left = [share for share in cohort.shares if share.member != key_of("bob")]
    halves = tuple(msgspec.structs.replace(share, weight=0.5) for share in left)
    digest = round_digest(
        cohort.job, charter=cohort.charter, number=cohort.round + 1, model=cohort.model, head=cohort.previous
    )
    other = encode(msgspec.structs.replace(cohort, round=cohort.round + 1, shares=halves, digest=digest))
    said = study.nodes["alice"].answer(Heard(w.Sign(cohort.round + 1, other), b""))
    return str(said[0][0].text)


def test_a_signature_of_an_earlier_round_as_it_was() -> None:
    """The cohort lacks one, and is void. The others have signed it: until bob signs the same they sign no other."""
    study = as_in_the_first_round(w.Signature)
    study.instance.disconnect("bob")
    study.settle()
    assert study.cohorts() == [["alice", "bob", "chuck"]]
    assert "differs in 1 members" in without_bob(study)
    study.nodes["bob"].spoil = lambda message, body: [(message, body)]
    study.join("bob")
    study.settle()
    study.check(*[("alice", "bob", "chuck")] * 2)


@pytest.mark.parametrize("kind", [w.Ready, w.Signature], ids=lambda kind: kind.__name__)
def test_a_message_of_an_earlier_round_under_the_new_number(kind: type) -> None:
    study = Gathering(agreed={"rounds": 2})
    bob = study.nodes["bob"]
    said: Said = []

    def spoil(message: Any, body: bytes) -> Said:
        said.append((message, body))
        if not isinstance(message, kind) or message.round == 1:
            return [(message, body)]
        old = of(said, kind, 1)[0]
        fields = {name: getattr(old, name) for name in old.__struct_fields__}
        return [(kind(**{**fields, "round": message.round}), body)]

    bob.spoil = spoil
    study.run()
    why = {w.Ready: "used once", w.Signature: "not valid"}[kind]
    assert why in study.told("bob", w.Refused)[0].text
    assert study.cohorts()[:1] == [["alice", "bob", "chuck"]]
    assert all("bob" not in cohort for cohort in study.cohorts()[1:])


def test_a_whole_study_said_again_to_another_instance() -> None:
    """All members but alice are played from a recording. Nothing comes out of it."""
    study = Gathering(agreed={"rounds": 1})
    said = recording(study)
    study.run()
    assert study.instance.ledger.released == 1
    study.restart(seed=1)
    study.join("alice", "rosa")
    study.submit()
    study.settle()
    fresh = study.instance.ledger.released
    for name in ("bob", "chuck"):
        study.instance.connect(name)
        study.instance.say(name, w.Join(0, b"", 0, False))
        study.settle()
        for message, body in said[name]:
            if key_of(name) in study.instance.heard:
                study.instance.say(name, message, body)
    assert study.instance.ledger.released == fresh == 1


def test_signatures_of_one_instance_at_its_clone() -> None:
    """Both are genuine, and began alike. The cohort that was signed names the other one's key."""
    study = Gathering(agreed={"rounds": 1})
    said = recording(study)
    study.run()
    cohort = decode_cohort(study.told("bob", w.Sign)[0].cohort)
    assert cohort.signer == study.instance.signer
    clone = Gathering(agreed={"rounds": 1})
    clone.restart(seed=5)
    for name, each in clone.nodes.items():
        old = of(said[name], w.Signature, 1)

        def spoil(message: Any, body: bytes, old: tuple[Any, bytes] = old) -> Said:
            return [old if isinstance(message, w.Signature) else (message, body)]

        each.spoil = spoil
    clone.run()
    assert clone.told("bob", w.Sign)
    assert {refused.text for name in clone.nodes for refused in clone.told(name, w.Refused)}
    assert not clone.instance.ledger.released


# To an owner


def test_a_proposal_a_send_and_an_old_chain_again() -> None:
    here = Aggregator.facing(owner())
    proposed = here.proposal(1)
    here.round(1)
    newest = here.member.newest
    assert "a number is used once" in declined(here.member.handle(proposed))
    assert declined(here.member.handle(w.Send(1)))
    assert not leaves(here.chain(after=0, model=here.model))  # what is known already changes nothing
    assert "not the one" in leaves(here.chain(after=0, model=START))
    assert here.member.newest == newest


def test_a_cohort_again_is_the_signature_again() -> None:
    here = Aggregator.facing(owner())
    here.contribute(1)
    cohort = here.cohort(1)
    first = only(here.ask(cohort), w.Signature)
    here.release(1)
    before = len(here.member._records.signed(here.ledger.charter.digest))
    assert only(here.ask(cohort), w.Signature) == first
    assert len(here.member._records.signed(here.ledger.charter.digest)) == before


def test_a_refusal_or_an_end_of_an_earlier_round_disturbs_no_later_one() -> None:
    here = Aggregator.facing(owner())
    here.round(1)
    here.propose(2)
    for message in (w.Over(1, "again"), w.Refused(1, "round", "again")):
        here.member.handle(message)
    assert here.member.training == 2


# On the way


@pytest.mark.slow
@pytest.mark.parametrize("kind", [w.Work, w.Propose, w.Send, w.Sign, w.Chain, w.Over], ids=lambda kind: kind.__name__)
def test_what_an_owner_hears_twice_comes_to_the_same(kind: type) -> None:
    """TLS lets nobody do this but the aggregator itself."""
    study = Gathering()
    bob = study.nodes["bob"]
    answer = bob.answer
    bob.answer = lambda heard: answer(heard) + (answer(heard) if isinstance(heard.message, kind) else [])  # type: ignore[method-assign]
    study.run()
    if study.instance.rounds.due is not None:
        study.instance.tick()
        study.settle()
    assert study.instance.ledger.released >= (0 if kind is w.Work else 1)
    study.check(*study.cohorts())


def test_what_never_arrives_holds_up_one_round_and_no_more() -> None:
    study = Gathering(agreed={"rounds": 1})
    study.nodes["bob"].spoil = silent_on(w.Ready)
    study.run()
    assert not study.instance.ledger.released
    study.instance.tick()
    study.settle()
    study.check(("alice", "chuck"))
