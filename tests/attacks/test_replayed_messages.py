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
from tests.support import chains
from tests.support.members import START, Aggregator, declined, leaves, only, owner
from tests.support.owners import Heard, agree, agreed, key_of

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
    says_as_in_the_first_round(study, "bob", kind)
    study.run()
    return study


def says_as_in_the_first_round(study: Gathering, name: str, kind: type) -> None:
    said: Said = []

    def spoil(message: Any, body: bytes) -> Said:
        said.append((message, body))
        return [of(said, kind, 1) if isinstance(message, kind) else (message, body)]

    study.nodes[name].spoil = spoil


@pytest.mark.parametrize("kind", [w.Ready, w.Contribution], ids=lambda kind: kind.__name__)
def test_a_message_of_an_earlier_round_as_it_was(kind: type) -> None:
    study = as_in_the_first_round(kind)
    study.instance.tick()  # nothing is said for this round; it ends without bob
    study.settle()
    study.check(("alice", "bob", "chuck"), ("alice", "chuck"))


def without_bob(study: Gathering) -> str:
    """What alice, who has committed, says to one of the cohort without bob in a later round."""
    asked = study.told("alice", w.Settle)[-1]
    cohort = decode_cohort(asked.cohort)
    left = [share for share in cohort.shares if share.member != key_of("bob")]
    alike = tuple(msgspec.structs.replace(share, weight=1 / len(left)) for share in left)
    digest = round_digest(
        cohort.job, charter=cohort.charter, number=cohort.round + 1, model=cohort.model, head=cohort.previous
    )
    other = encode(msgspec.structs.replace(cohort, round=cohort.round + 1, shares=alike, digest=digest))
    consents = chains.consents(other, ("alice", "chuck", "dora"))
    said = study.nodes["alice"].answer(Heard(w.Settle(cohort.round + 1, other, asked.outcome, consents), b""))
    return str(said[0][0].text)


def test_a_consent_of_an_earlier_round_as_it_was() -> None:
    """It is to another cohort: bob has not consented, and is left out once it is too late."""
    study = as_in_the_first_round(w.Consent)
    assert study.cohorts() == [["alice", "bob", "chuck"]]
    study.instance.tick()
    study.settle()
    study.check(("alice", "bob", "chuck"), ("alice", "chuck"))


def test_a_commit_of_an_earlier_round_as_it_was() -> None:
    """It is not counted. Of three owners two are a quorum, and release the round with bob's contribution."""
    study = as_in_the_first_round(w.Commit)
    study.settle()
    study.check(*[("alice", "bob", "chuck")] * 2)


def test_a_commit_of_an_earlier_round_where_it_is_needed() -> None:
    """Two of four, of whom three are a quorum. Nothing is released; the others commit nothing near until it is."""
    four = ("alice", "bob", "chuck", "dora")
    study = Gathering(agree(owners=four, floor="3", jobs=[agreed(rounds=2)]))
    for name in ("bob", "dora"):
        says_as_in_the_first_round(study, name, w.Commit)
    study.run()
    assert study.cohorts() == [list(four)]
    assert "differs in 1 members" in without_bob(study)
    for name in ("bob", "dora"):
        study.nodes[name].spoil = lambda message, body: [(message, body)]
    study.instance.disconnect("bob")
    study.join("bob")
    study.settle()
    study.check(four, four)


@pytest.mark.parametrize("kind", [w.Ready, w.Consent, w.Commit], ids=lambda kind: kind.__name__)
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
    if kind is w.Consent:  # it says to which cohort, and that is not this one: it is passed over, and waited for
        study.instance.tick()
        study.settle()
        study.check(("alice", "bob", "chuck"), ("alice", "chuck"))
        return
    assert study.cohorts()[:1] == [["alice", "bob", "chuck"]]
    why = {w.Ready: "used once", w.Commit: "not valid"}[kind]
    assert why in study.told("bob", w.Refused)[0].text
    with_bob = {w.Ready: False, w.Commit: True}[kind]  # the others' commits are enough
    assert all(("bob" in cohort) == with_bob for cohort in study.cohorts()[1:])


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


@pytest.mark.parametrize("kind", [w.Consent, w.Commit], ids=lambda kind: kind.__name__)
def test_signatures_of_one_instance_at_its_clone(kind: type) -> None:
    """Both are genuine, and began alike. The cohort that was signed names the other one's key."""
    study = Gathering(agreed={"rounds": 1})
    said = recording(study)
    study.run()
    cohort = decode_cohort(study.told("bob", w.Draft)[0].cohort)
    assert cohort.signer == study.instance.signer
    clone = Gathering(agreed={"rounds": 1})
    clone.restart(seed=5)
    for name, each in clone.nodes.items():
        old = of(said[name], kind, 1)

        def spoil(message: Any, body: bytes, old: tuple[Any, bytes] = old) -> Said:
            return [old if isinstance(message, kind) else (message, body)]

        each.spoil = spoil
    clone.run()
    if kind is w.Consent:  # to another cohort, so that it is passed over, and waited for
        clone.instance.tick()
        clone.settle()
    assert clone.told("bob", {w.Consent: w.Draft, w.Commit: w.Settle}[kind])
    refused = {refused.text for name in clone.nodes for refused in clone.told(name, w.Refused)}
    assert bool(refused) == (kind is w.Commit)
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


def test_a_cohort_again_is_the_signature_again_and_costs_nothing() -> None:
    here = Aggregator.facing(owner())
    here.contribute(1)
    cohort = here.cohort(1)
    consent, commit = only(here.draft(cohort), w.Consent), only(here.ask(cohort), w.Commit)
    before = here.member._records._count
    assert only(here.draft(cohort), w.Consent) == consent
    assert only(here.ask(cohort), w.Commit) == commit
    here.contribute(2)  # a commit stands, and is given again to whoever has lost it; a consent is over
    before = here.member._records._count
    assert only(here.ask(cohort), w.Commit) == commit
    assert "round 2 was answered since" in declined(here.draft(cohort))
    assert here.member._records._count == before


def test_a_cohort_that_was_released_is_signed_no_more() -> None:
    here = Aggregator.facing(owner())
    here.round(1)
    before = here.member._records._count
    for ask in (here.draft, here.ask):
        assert "follows another record" in declined(ask(here.cohort(1, previous=bytes(32))))
    assert here.member._records._count == before


def test_answers_of_an_earlier_round_show_nothing_of_a_later_one() -> None:
    here = Aggregator.facing(owner())
    here.contribute(1)
    old = here.answers(1)
    here.contribute(2)
    here.consent(2)
    assert here.member.handle(old) == []
    assert here.member.handle(msgspec.structs.replace(old, round=3)) == []
    assert here.member._records.spent("#mri") == 1


def test_a_refusal_or_an_end_of_an_earlier_round_disturbs_no_later_one() -> None:
    here = Aggregator.facing(owner())
    here.round(1)
    here.propose(2)
    for message in (w.Over(1, "again"), w.Refused(1, "round", "again")):
        here.member.handle(message)
    assert here.member.training == 2


# On the way


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [w.Work, w.Propose, w.Send, w.Answers, w.Draft, w.Settle, w.Chain, w.Over], ids=lambda kind: kind.__name__
)
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
