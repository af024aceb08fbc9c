"""The aggregator's state machine: what comes out of rounds, and what members can and cannot do to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from cloister.aggregator.bodies import Discarded
from cloister.aggregator.own import UPLOAD_S
from cloister.aggregator.peers import ConnectedMember
from cloister.aggregator.protocol import LEAP, REFUSALS
from cloister.aggregator.round import AGAIN
from cloister.errors import RoundError
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.job import Constant
from cloister.ledger.records import commitment
from cloister.wire import rounds as w
from cloister.wire.strategies import FedAdam, FedAvg, FedAvgM, FedProx, Strategy
from tests.support import charters
from tests.support.owners import (
    CONSTANTS,
    LENGTH,
    METRICS,
    OWNERS,
    PARTS,
    PLAN,
    Owner,
    Party,
    agree,
    agreed,
    first_model,
    key_of,
    make_job,
    norms_of,
)
from tests.support.rounds import Study

FOUR = ("alice", "bob", "chuck", "dave")


def told(study: Study, name: str, kind: type) -> list[Any]:
    """What a member was told of this kind."""
    return [each for each in study.said[name] if isinstance(each, kind)]


def silent(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
    """An owner that says nothing more."""
    return []


def silent_on(kind: type) -> Any:
    return lambda message, body: [] if isinstance(message, kind) else [(message, body)]


def contributing(owner: Owner, update: np.ndarray[Any, Any]) -> None:
    """Has an owner contribute this, honestly committed to."""

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        match message:
            case w.Ready():
                committed = commitment(owner.salt, memoryview(update.tobytes()))
                norms = (
                    min(norm, 10.0) for norm in norms_of(np.nan_to_num(update, nan=1.0))
                )  # within the clip, as it says
                parameters, buffers = norms
                return [(replace(message, norm=parameters, buffers=buffers, commitment=committed), b"")]
            case w.Contribution():
                return [(message, update.tobytes())]
        return [(message, body)]

    owner.spoil = spoil


def cohorts(study: Study) -> list[list[str]]:
    """The names in each round's cohort."""
    names = {key_of(name): name for name in study.owners}
    return [sorted(names[key] for key in receipt.members) for receipt in study.instance.ledger.receipts]


def numbers(study: Study) -> list[int]:
    return [receipt.cohort.round for receipt in study.instance.ledger.receipts]


def check(study: Study, *expected: Sequence[str]) -> None:
    """The chain stands, and its newest model is what these cohorts come to."""
    Ledger.from_records(study.charter, study.instance.ledger.records)
    assert cohorts(study) == [sorted(each) for each in expected]
    assert study.model.tobytes() == study.expected(*expected, numbers=numbers(study)).tobytes()


# Studies that go well


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "given"),
    [
        (FedAvg(0.5, 0.1), {}),
        (FedAvgM(), {}),
        (FedAdam(0.1), {}),
        (FedProx(mu=0.1), {}),
        (FedAvg(), {"weights": "rows"}),
        (FedAvg(), {"precision": "bfloat16"}),
        (FedAvg(0.5, 0.1), {"precision": "float16", "weights": "rows"}),
        (FedAdam(0.1), {"precision": "bfloat16"}),
    ],
)
def test_a_study_is_the_arithmetic_by_hand_to_the_last_bit(strategy: Strategy, given: dict[str, Any]) -> None:
    study = Study(agree(row_buckets="[20]", job={"strategy": strategy, **given}))
    study.run()
    check(study, OWNERS, OWNERS, OWNERS)
    assert told(study, "rosa", w.Finished) == [w.Finished(jobs.job_digest(study.data), 3, "")]
    for owner in study.owners.values():
        assert owner.model == study.rosa.model
        assert owner.ledger.records == study.instance.ledger.records
    receipt = study.instance.ledger.receipts[0]
    assert receipt.record.metrics == {"loss": pytest.approx(1.0)}
    assert [len(receipt.record.consents) for receipt in study.instance.ledger.receipts] == [3, 3, 3]
    assert all(len(receipt.record.commits) >= 2 for receipt in study.instance.ledger.receipts)


def test_the_order_in_which_members_answer_changes_no_bit() -> None:
    one, other = Study(), Study()
    other.parties = dict(reversed(other.parties.items()))
    one.run()
    other.run()
    assert one.model.tobytes() == other.model.tobytes()


def test_no_member_counts_for_more_than_its_share() -> None:
    by_rows = {"weights": "rows"}
    study = Study(agree(owners=FOUR, floor="4", largest_share="0.3", row_buckets="[20, 500]", job=by_rows))
    study.owners["bob"].examples = 10_000
    study.run()
    cohort = study.instance.ledger.receipts[0].cohort
    assert max(share.weight for share in cohort.shares) == 0.3
    check(study, FOUR, FOUR, FOUR)


def test_nothing_happens_below_half_of_the_owners() -> None:
    study = Study(agree(owners=("alice", "bob", "chuck", "dave", "erin")))
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    assert not told(study, "alice", w.Propose)
    study.join("erin")
    study.settle()
    check(study, *[("alice", "bob", "erin")] * 3)


def test_metrics_are_clipped_and_only_the_charters_come_out() -> None:
    study = Study(agreed={"rounds": 1})
    values = {"alice": 99.0, "bob": 1.0, "chuck": -5.0}
    for name, value in values.items():
        owner = study.owners[name]

        def spoil(message: Any, body: bytes, value: float = value, owner: Owner = owner) -> list[tuple[Any, bytes]]:
            if isinstance(message, w.Ready):
                message = replace(message, metrics={"loss": value, "secret": 1.0})
            return [(message, body)]

        owner.spoil = spoil
    study.run()
    clipped = {"alice": 10.0, "bob": 1.0, "chuck": 0.0}
    wanted = sum(clipped.values()) / len(OWNERS)
    assert study.instance.ledger.receipts[0].record.metrics == {"loss": pytest.approx(wanted)}


# What members send that is not used


@pytest.mark.slow
@pytest.mark.parametrize(
    "update",
    [
        np.full(LENGTH, np.nan, np.float32),
        np.array([*np.zeros(LENGTH - 1), np.inf], np.float32),
        np.full(LENGTH, 1e30, np.float32),
        np.array([*np.zeros(LENGTH - 1), 10.000001], np.float32),
    ],
    ids=["NaN", "infinite", "1e30", "over the clip"],
)
@pytest.mark.parametrize("name", OWNERS)
def test_a_round_goes_on_without_a_bad_contribution(name: str, update: np.ndarray[Any, Any]) -> None:
    study = Study(agreed={"rounds": 1})
    contributing(study.owners[name], update)
    study.run()
    assert "norm" in told(study, name, w.Refused)[0].text
    check(study, [each for each in OWNERS if each != name])


def test_a_contribution_just_within_the_clip_is_used() -> None:
    study = Study(agreed={"rounds": 1})
    contributing(study.owners["bob"], np.array([*np.zeros(LENGTH - 1), 10.0], np.float32))
    study.run()
    assert cohorts(study) == [["alice", "bob", "chuck"]]


def test_another_contribution_than_was_committed_to() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [(message, body[:-1] + b"\1" if body else body)]
    study.run()
    assert "committed" in told(study, "bob", w.Refused)[0].text
    check(study, ("alice", "chuck"))


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 1, LENGTH * 4 - 4, LENGTH * 4 + 4])
def test_a_contribution_of_another_length_is_not_read(length: int) -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [(message, bytes(length) if body else body)]
    study.run()
    check(study, ("alice", "chuck"))


def test_a_contribution_to_another_round() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [
        (w.Contribution(message.round + 1, message.salt) if body else message, body)
    ]
    study.run()
    assert "too late" in told(study, "bob", w.Refused)[0].text
    study.instance.tick()  # nothing else comes from it
    study.settle()
    check(study, ("alice", "chuck"))


@pytest.mark.parametrize(
    "changed",
    [
        {"round": 2},
        {"examples": 9},
        {"examples": 11},
        {"metrics": {"loss": math.nan}},
        {"metrics": {"loss": math.inf}},
        {"norm": 0.0},
        {"norm": -1.0},
        {"norm": math.nan},
        {"norm": 10.000001},
        {"buffers": -1.0},
        {"buffers": math.nan},
        {"buffers": 10.000001},
    ],
    ids=str,
)
def test_an_owner_that_is_not_ready_as_the_charter_wants(changed: dict[str, Any]) -> None:
    study = Study(agreed={"rounds": 1})

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if isinstance(message, w.Ready):
            fields = {name: getattr(message, name) for name in message.__struct_fields__}
            message = w.Ready(**{**fields, **changed})
        return [(message, body)]

    study.owners["bob"].spoil = spoil
    study.run()
    assert len(told(study, "bob", w.Refused)) == 1
    if "round" in changed:
        study.instance.tick()
        study.settle()
    check(study, ("alice", "chuck"))


def test_what_comes_twice_counts_once() -> None:
    study = Study()
    study.owners["bob"].spoil = lambda message, body: [(message, body)] * (1 if body else 2)
    study.run()
    check(study, OWNERS, OWNERS, OWNERS)
    assert len(told(study, "bob", w.Refused)) == 6  # the second Ready and the second signature of each round


def test_a_straggler_is_told_that_it_is_too_late() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    assert not cohorts(study)
    study.instance.tick()
    assert study.instance.now == 60.0
    study.settle()
    check(study, ("alice", "chuck"))
    study.owners["bob"].spoil = lambda message, body: [(message, body)]
    study.instance.say("bob", w.Ready(1, 20, 1.0, 0.0, {}, bytes(32), study.owners["bob"].standing(1)))
    assert "too late" in study.instance.read("bob")[-1].text


def test_a_contribution_that_never_comes() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Contribution)
    study.run()
    study.instance.tick()
    assert study.instance.dropped == [(key_of("bob"), "its contribution did not come in time")]
    study.settle()
    check(study, ("alice", "chuck"))


def test_a_late_contribution_is_read_and_forgotten() -> None:
    """It was asked for, and the round came to nothing in the meantime."""
    study = Study(agree(floor="3", job={"rounds": 1}))
    study.owners["alice"].spoil = silent_on(w.Contribution)
    study.run()
    study.instance.disconnect("chuck")
    study.settle()
    assert "floor is 3" in told(study, "alice", w.Over)[0].text
    study.owners["alice"].spoil = lambda message, body: [(message, body)]
    owner = study.owners["alice"]
    study.instance.say("alice", w.Contribution(1, owner.salt), owner.update())
    assert "too late" in study.instance.read("alice")[-1].text
    study.join("chuck")
    study.settle()
    check(study, OWNERS)
    assert numbers(study) == [2]


def test_the_pull_begins_again_where_a_cap_changes_the_shares() -> None:
    study = Study(agree(owners=FOUR, floor="3", largest_share="0.4", job={"rounds": 1}))
    study.owners["alice"].examples = 1000
    contributing(study.owners["dave"], np.full(LENGTH, np.nan, np.float32))
    study.run()
    assert [len(told(study, name, w.Send)) for name in FOUR] == [2, 2, 2, 1]
    check(study, ("alice", "bob", "chuck"))


def test_too_few_are_left() -> None:
    study = Study(agree(floor="3", job={"rounds": 1}))
    contributing(study.owners["bob"], np.full(LENGTH, np.nan, np.float32))
    study.run()
    assert told(study, "rosa", w.Over)[0].round == 1
    assert not study.instance.ledger.released
    study.owners["bob"].spoil = lambda message, body: [(message, body)]
    study.instance.tick()  # after a pause, with the same owners
    assert study.instance.now == 1.0
    study.settle()
    check(study, OWNERS)
    assert numbers(study) == [2]


def test_a_member_that_is_refused_again_and_again_is_dropped() -> None:
    study = Study()
    study.join("alice")
    for _ in range(REFUSALS):
        study.instance.say("alice", w.Declined(7, ""))
    assert study.instance.dropped == [(key_of("alice"), "too much of what it says is refused")]


@pytest.mark.parametrize(
    "message",
    [w.Work(bytes(32)), w.Over(1, ""), w.Refused(0, "job", ""), w.Stop(), w.Submit(0), w.HandOver(0), w.Send(1)],
    ids=lambda message: type(message).__name__,
)
def test_what_is_not_an_owners_to_say(message: Any) -> None:
    study = Study()
    study.join("alice")
    study.instance.say("alice", message)
    assert isinstance(study.instance.read("alice")[-1], w.Refused)


def test_what_is_not_a_researchers_to_say() -> None:
    study = Study()
    study.join("rosa")
    study.instance.say("rosa", w.Ready(1, 10, 1.0, 0.0, {}, bytes(32), study.owners["alice"].standing(1)))
    assert "not said by a member of its role" in study.instance.read("rosa")[-1].text


def test_no_room_is_made_for_an_owners_job_or_for_a_contribution_of_another_length() -> None:
    study = Study(agreed={"rounds": 1})
    study.join("alice")
    message = w.Submit(len(study.data))
    assert study.instance.begin("alice", message, len(study.data) + LENGTH * 4) is None
    course, peer = study.instance.rounds._course, ConnectedMember(study.charter.owners[0])
    study.join("bob", "chuck", "rosa")
    study.submit()
    peer.owes = True
    late = w.Contribution(99, bytes(32))
    assert isinstance(course.room(peer, late, body_bytes=LENGTH * 4), Discarded)
    for other in (LENGTH * 4 - 4, LENGTH * 4 + 4):
        with pytest.raises(RoundError, match="another length"):
            course.room(peer, late, body_bytes=other)


def test_nothing_is_said_before_a_member_has_joined() -> None:
    study = Study()
    study.instance.connect("alice")
    study.instance.say("alice", w.Ready(1, 10, 1.0, 0.0, {}, bytes(32), study.owners["alice"].standing(1)))
    assert "joins" in study.instance.read("alice")[0].text


def test_no_member_can_use_up_the_numbers_of_rounds() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].round = (1 << 53) - 1
    study.owners["bob"].spoil = silent
    study.join("alice", "chuck", "rosa")
    study.instance.connect("bob")
    study.instance.say("bob", study.owners["bob"].join())
    study.owners["bob"].round = 0
    study.submit()
    study.settle()
    study.instance.tick()
    study.settle()
    assert numbers(study) == [LEAP + 1]


# Consents


def refusing(kind: type) -> Any:
    """An owner that answers this by a refusal."""
    return lambda message, body: [
        (w.Declined(message.round, "no"), b"") if isinstance(message, kind) else (message, body)
    ]


def honest(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
    return [(message, body)]


def test_who_does_not_consent_is_left_out_and_nobody_trains_again() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = refusing(w.Consent)
    study.run()
    check(study, ("alice", "chuck"))
    assert numbers(study) == [1]
    assert len(told(study, "alice", w.Propose)) == 1
    assert len(told(study, "alice", w.Draft)) == 2


def test_consents_that_do_not_come_are_not_waited_for() -> None:
    """Several at once cost the others one more draft."""
    study = Study(agree(owners=(*FOUR, "eve"), job={"rounds": 1}))
    for name in ("bob", "eve"):
        study.owners[name].spoil = silent_on(w.Consent)
    study.run()
    assert not cohorts(study)
    study.instance.tick()
    assert study.instance.now == 30.0
    study.settle()
    check(study, ("alice", "chuck", "dave"))
    assert len(told(study, "alice", w.Draft)) == 2
    for name in ("bob", "eve"):
        assert f"round 1 is without {name}: it had not consented in time" in study.instance.notes


def test_a_consent_to_something_else() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [
        (replace(message, signature=replace(message.signature, signature=bytes(64))), body)
        if isinstance(message, w.Consent)
        else (message, body)
    ]
    study.run()
    assert "not valid" in told(study, "bob", w.Refused)[0].text
    study.instance.tick()
    study.settle()
    check(study, ("alice", "chuck"))


def test_a_consent_to_an_earlier_draft_is_passed_over() -> None:
    study = Study(agreed={"rounds": 1})
    kept: list[Any] = []

    def late(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if isinstance(message, w.Consent) and not kept:
            kept.append(message)
            return []
        return [*((each, b"") for each in kept if isinstance(message, w.Consent)), (message, body)]

    study.owners["alice"].spoil = late
    study.owners["bob"].spoil = refusing(w.Consent)
    study.run()
    check(study, ("alice", "chuck"))
    assert not told(study, "alice", w.Refused)


def test_no_contribution_is_asked_for_before_all_have_consented() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Consent)
    study.run()
    assert not any(told(study, name, w.Send) for name in OWNERS)


def test_a_member_that_has_consented_and_contributed_may_go() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["chuck"].spoil = silent_on(w.Contribution)
    study.run()
    study.instance.disconnect("alice")
    study.settle()
    owner = study.owners["chuck"]
    study.instance.say("chuck", w.Contribution(1, owner.salt), owner.update())
    study.settle()
    check(study, OWNERS)
    assert len(told(study, "bob", w.Draft)) == 1


def test_a_member_that_dies_before_it_contributes_costs_one_more_draft() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["chuck"].spoil = silent_on(w.Contribution)
    study.run()
    study.instance.disconnect("chuck")
    study.settle()
    check(study, ("alice", "bob"))
    assert numbers(study) == [1]
    assert len(told(study, "alice", w.Draft)) == 2


# Commits


def test_one_that_does_not_commit_holds_up_nobody() -> None:
    for spoil in (refusing(w.Commit), silent_on(w.Commit)):
        study = Study(agreed={"rounds": 2})
        study.owners["bob"].spoil = spoil
        study.run()
        check(study, OWNERS, OWNERS)


def test_an_owner_that_gives_up_its_training_late_may_still_commit() -> None:
    """Its node ends a training that takes too long, when the others have gone on without it."""
    study = Study(agreed={"rounds": 1})
    study.owners["alice"].spoil = silent_on(w.Commit)
    chuck, late = study.owners["chuck"], "the training took longer than a round may"

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        match message:
            case w.Ready():
                return []
            case w.Commit():
                return [(w.Declined(1, late, chuck.standing(1)), b""), (message, body)]
        return [(message, body)]

    chuck.spoil = spoil
    study.run()
    study.instance.tick()  # chuck's time is up
    study.settle()
    check(study, ("alice", "bob"))  # alice is silent: bob and chuck commit it


def test_owners_have_a_tenth_of_a_rounds_time_to_sign() -> None:
    for max_s, signing_s in ((60, 30.0), (6000, 600.0)):
        for silent_in, committed in ((w.Consent, 0), (w.Commit, 1)):
            study = Study(agreed={"rounds": 1, "max_s": max_s})
            for name in ("alice", "bob"):
                study.owners[name].spoil = silent_on(silent_in)
            study.run()
            assert study.instance.rounds.due == signing_s
            assert len(told(study, "chuck", w.Settle)) == committed


def test_a_commit_of_something_else() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [
        (replace(message, signature=replace(message.signature, signature=bytes(64))), body)
        if isinstance(message, w.Commit)
        else (message, body)
    ]
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    assert "not valid" in told(study, "bob", w.Refused)[0].text
    assert not study.instance.ledger.released
    study.join("chuck")
    study.settle()
    check(study, ("alice", "bob"))


def test_no_clock_ends_what_owners_were_asked_to_commit() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Commit)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    study.instance.tick(seconds=1e9)
    study.settle()
    assert not study.instance.ledger.released
    study.instance.disconnect("alice")  # what it has signed stands
    study.instance.disconnect("bob")
    study.settle()
    assert told(study, "rosa", w.Waiting)[-1].text == "round 1 waits for 1 more of its owners to commit it"
    study.owners["bob"].spoil = honest
    study.join("bob")
    study.settle()
    check(study, ("alice", "bob"))


def test_a_round_is_given_up_once_too_many_have_refused() -> None:
    study = Study(agreed={"rounds": 1})
    for name in ("bob", "chuck"):
        study.owners[name].spoil = refusing(w.Commit)
    study.run()
    assert "too few of the owners that are there would commit it" in told(study, "alice", w.Over)[0].text
    assert not study.instance.ledger.released
    for _ in range(AGAIN):  # what they answer then might be the way out
        study.instance.tick()
        study.settle()
    assert len(told(study, "alice", w.Over)) == 1 + AGAIN
    assert study.instance.rounds.due is None  # the same owners would not commit the next one either
    study.instance.disconnect("bob")
    study.settle()
    study.join("bob")  # and coming again makes nobody another
    study.settle()
    study.instance.tick(seconds=1e6)
    study.settle()
    assert sum("too few of the owners" in each.text for each in told(study, "alice", w.Over)) == 1 + AGAIN


def test_a_round_that_was_given_up_is_taken_up_again_where_owners_come_that_commit_it() -> None:
    """One refuses while another is away, and leaves for good. The others would never commit another cohort so near."""
    study = Study(agree(owners=FOUR, floor="3", largest_share="0.4", job={"rounds": 2}))
    study.owners["dave"].spoil = refusing(w.Commit)
    study.join("alice", "bob", "dave", "rosa")
    study.submit()
    study.settle()
    assert "too few of the owners that are there" in told(study, "alice", w.Over)[0].text
    study.instance.disconnect("dave")
    study.settle()
    study.join("chuck")
    study.settle()
    check(study, ("alice", "bob", "dave"), ("alice", "bob", "chuck"))
    assert numbers(study)[0] == 1
    assert any("is taken up again" in note for note in study.instance.notes)


def test_a_refusal_is_heard_once() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Commit)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    for _ in range(3):
        study.instance.say("alice", w.Declined(1, "no"))  # she has committed
        study.instance.say("bob", w.Declined(1, "no"))
    assert sum("does not commit" in note for note in study.instance.notes) == 1


def test_a_round_that_was_overtaken_is_given_up_where_those_that_are_there_are_too_few() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Commit)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    study.instance.disconnect("bob")
    study.owners["chuck"].round = 4  # at another instance
    study.join("chuck")
    study.settle()
    assert "too few of the owners" in told(study, "alice", w.Over)[0].text
    check(study, ("alice", "chuck"))
    assert numbers(study) == [5]


def test_the_next_round_is_of_everybody_once_answers_have_shown_a_cohort_to_be_void() -> None:
    """alice committed {alice, bob}, and the instance died; bob and chuck answer a later round without it."""
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Commit)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    study.owners["bob"].spoil = honest
    study.restart(seed=2)
    study.join("alice", "bob", "rosa", "chuck")
    study.submit()
    study.settle()
    check(study, OWNERS)
    assert len(told(study, "alice", w.Answers)) == 1
    assert study.owners["alice"].void
    assert not told(study, "chuck", w.Answers)  # it has agreed to nothing that they could free


def test_an_owner_that_is_gone_for_good_holds_up_nobody() -> None:
    """It has consented, and perhaps committed, before it died; with those that are left the study goes on."""
    for kind in (w.Contribution, w.Commit):
        study = Study(agree(owners=FOUR, job={"rounds": 2}))
        study.owners["dave"].spoil = silent_on(kind)
        study.run()
        study.instance.disconnect("dave")
        study.settle()
        while study.instance.rounds.due is not None:
            study.instance.tick()
            study.settle()
        assert study.instance.ledger.released == 2


def test_a_researcher_is_told_what_its_job_waits_for() -> None:
    study = Study(agreed={"rounds": 1})
    study.join("rosa", "alice")
    study.submit()
    study.settle()
    assert [each.text for each in told(study, "rosa", w.Waiting)] == ["1 of the owners are there, and 2 have to be"]
    study.join("bob")
    study.settle()
    check(study, ("alice", "bob"))
    assert len(told(study, "rosa", w.Waiting)) == 1


def test_a_new_instance_learns_what_was_committed_at_the_one_before() -> None:
    """It knows nothing, and not all are back when it begins: it asks nobody to commit what the others would not."""
    study = Study(agree(owners=FOUR, floor="3", job={"rounds": 1}))
    for name in ("chuck", "dave"):
        study.owners[name].spoil = silent_on(w.Commit)
    study.run()
    study.restart(seed=2)
    study.join("rosa", "alice", "bob", "chuck")
    study.submit()
    study.settle()
    assert not study.instance.ledger.released
    assert not [said for said in told(study, "alice", w.Settle) if said.round > 1]
    assert "Other owners have to come" in told(study, "alice", w.Over)[-1].text
    for name in ("chuck", "dave"):
        study.owners[name].spoil = honest
    study.join("dave")
    study.settle()
    check(study, FOUR)


def test_those_who_are_not_in_a_cohort_bear_witness() -> None:
    study = Study(agree(owners=FOUR, job={"rounds": 1}))
    for name in ("chuck", "dave"):
        study.owners[name].spoil = lambda message, body: [
            (w.Declined(message.round, "no data", message.standing) if isinstance(message, w.Ready) else message, body)
        ]
    study.run()
    check(study, ("alice", "bob"))
    assert len(study.instance.ledger.receipts[0].record.commits) == 3  # the quorum of four, with a floor of two


def test_without_witnesses_two_of_four_release_nothing() -> None:
    study = Study(agree(owners=FOUR, job={"rounds": 1}))
    for name in ("chuck", "dave"):
        study.owners[name].spoil = lambda message, body: [
            (w.Declined(message.round, "no", getattr(message, "standing", None)), body)
            if isinstance(message, w.Ready | w.Commit)
            else (message, body)
        ]
    study.run()
    assert not study.instance.ledger.released
    assert "too few of the owners" in told(study, "rosa", w.Over)[0].text


# Jobs


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"name": "another"}, "no job 'another'; it has train"),
        ({"plan": b"another"}, "that of the charter's job"),
        ({"charter": bytes(32)}, "another charter"),
        ({"start": bytes(32)}, "not the one that it says"),
        ({"parts": PARTS[:2], "plan": PLAN}, "holds other tensors than its plan learns"),
        (
            {"parts": PARTS[1:], "constants": (Constant("bias", PARTS[0].spec, bytes(12)), *CONSTANTS), "plan": PLAN},
            "other tensors",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_job_that_is_not_taken(changed: dict[str, Any], text: str) -> None:
    study = Study(job=changed)
    study.run()
    assert text in told(study, "rosa", w.Refused)[0].text
    assert not told(study, "alice", w.Propose)


def test_a_model_that_is_not_finite_or_not_the_charters() -> None:
    study = Study()
    study.join()
    for value, text in ((np.nan, "not finite"), (1.0, "not the one")):
        model = np.full(LENGTH, value, np.float32).tobytes()
        study.instance.say("rosa", w.Submit(len(study.data)), study.data + model)
        assert text in study.instance.read("rosa")[-1].text


def test_bytes_that_are_no_job() -> None:
    study = Study()
    study.join()
    study.instance.say("rosa", w.Submit(5), b"hello" + bytes(100))
    assert "no job" in study.instance.read("rosa")[-1].text


def test_one_job_at_a_time() -> None:
    study = Study()
    study.join("rosa", "alice")
    study.submit()
    study.settle()
    other = jobs.encode(make_job(study.charter, start=bytes(32)))
    study.instance.say("rosa", w.Submit(len(other)), other + first_model().tobytes())
    assert "one at a time" in study.instance.read("rosa")[-1].text
    study.submit()
    assert study.instance.read("rosa") == [w.Accepted(jobs.job_digest(study.data), 0)]


def test_the_researcher_goes_and_the_rounds_go_on() -> None:
    study = Study()
    study.join()
    study.submit()
    study.instance.disconnect("rosa")
    study.settle()
    assert study.instance.ledger.released == 3
    study.join("rosa")
    study.submit()
    study.settle()
    digest = jobs.job_digest(study.data)
    assert study.said["rosa"][-2:] == [w.Accepted(digest, 3), w.Finished(digest, 3, "")]
    check(study, OWNERS, OWNERS, OWNERS)


def test_a_job_is_stopped_with_the_round_that_is_under_way() -> None:
    study = Study()
    study.join()
    study.submit()
    study.instance.say("rosa", w.Stop())
    study.settle()
    digest = jobs.job_digest(study.data)
    assert told(study, "rosa", w.Finished) == [w.Finished(digest, 0, "stopped by the researcher")]
    study.submit()  # and is gone on with
    study.settle()
    assert study.said["rosa"][-1] == w.Finished(digest, 3, "")
    check(study, OWNERS, OWNERS, OWNERS)


def test_the_next_job_starts_from_the_newest_model() -> None:
    study = Study(agree(jobs=[agreed(rounds=1), agreed(name="more", rounds=2)]))
    study.run()
    newest = study.rosa.model[1][: LENGTH * 4]
    again = jobs.encode(make_job(study.charter, name="more"))
    study.instance.say("rosa", w.Submit(len(again)), again + first_model().tobytes())
    assert "newest record" in study.instance.read("rosa")[-1].text
    following = make_job(study.charter, name="more", start=study.instance.ledger.model)
    data = jobs.encode(following)
    study.instance.say("rosa", w.Submit(len(data)), data + newest)
    study.settle()
    check(study, OWNERS, OWNERS, OWNERS)
    study.submit()  # the first job has all its rounds
    study.settle()
    assert study.said["rosa"][-1] == w.Finished(jobs.job_digest(study.data), 1, "")


def test_the_charters_rounds_are_all_that_there_are() -> None:
    study = Study(agree(rounds="3", jobs=[agreed(rounds=2), agreed(name="more", rounds=2)]))
    study.run()
    check(study, OWNERS, OWNERS)
    following = make_job(study.charter, name="more", start=study.instance.ledger.model)
    data = jobs.encode(following)
    study.instance.say("rosa", w.Submit(len(data)), data + study.rosa.model[1][: LENGTH * 4])
    assert "it asks for 2 rounds more, and 1 of the charter's are left" in study.instance.read("rosa")[-1].text


def test_a_job_has_its_rounds_once_from_whatever_model() -> None:
    """Else whoever may start a job could have as many rounds of it as the charter has, and its strategy begin anew."""
    study = Study(agree(rounds="4", job={"rounds": 2}))
    study.run()
    following = make_job(study.charter, start=study.instance.ledger.model)
    data = jobs.encode(following)
    study.instance.say("rosa", w.Submit(len(data)), data + study.rosa.model[1][: LENGTH * 4])
    assert "all 2 rounds of the job 'train' are released" in study.instance.read("rosa")[-1].text


# Researchers who take turns


def two_researchers() -> Study:
    """A study of two researchers, both of whom have joined."""
    study = Study(agree(limits=METRICS + charters.member("rick", "researcher")))
    study.parties["rick"] = Party("rick", study.charter)
    study.said["rick"] = []
    study.join()
    study.settle()
    return study


def begins(study: Study, name: str) -> Any:
    """A researcher begins to submit the job; None: it is refused."""
    return study.instance.begin(name, w.Submit(len(study.data)), len(study.data) + 4 * LENGTH)


def test_whose_submissions_come_to_nothing_gives_way() -> None:
    """It may take its time once, and cannot keep others from their turn by beginning again and again."""
    study = two_researchers()
    assert begins(study, "rick") is not None
    assert begins(study, "rosa") is None  # the first of two goes first
    study.instance.disconnect("rick")
    study.join("rick")
    study.settle()
    assert begins(study, "rick") is not None
    assert begins(study, "rosa") is not None
    study.instance.tick(seconds=0.0)
    assert study.instance.dropped == [
        (key_of("rick"), "another researcher submits a job, and its own ones came to nothing")
    ]
    study.join("rick")
    study.settle()
    assert begins(study, "rick") is None  # and does not take it away from them


def test_a_job_that_was_taken_makes_good_what_came_to_nothing() -> None:
    study = two_researchers()
    begins(study, "rick")
    study.instance.disconnect("rick")
    study.join("rick")
    study.instance.say("rick", w.Submit(len(study.data)), study.data + first_model().tobytes())
    assert study.instance.rounds._in_vain == {}


def test_a_job_that_is_refused_holds_up_nobody_while_the_rest_of_it_arrives() -> None:
    study = two_researchers()
    refused = begins(study, "rick")
    parts = refused.buffers()
    next(parts)[:] = bytes(len(study.data))
    next(parts)  # of what nobody wants to have
    assert refused.fault is not None
    assert begins(study, "rosa") is not None
    assert study.instance.dropped == []


def test_a_contribution_that_has_begun_has_the_time_of_its_pace() -> None:
    """Until then it has so many seconds, however long it is; from then on its connection sees to it."""
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = silent_on(w.Contribution)
    study.join()
    study.submit()
    while not told(study, "bob", w.Send):
        study.step()
    study.settle()  # but for bob
    assert study.instance.rounds.due == UPLOAD_S
    bob = study.owners["bob"]
    assert study.instance.begin("bob", w.Contribution(1, bob.salt), LENGTH * 4) is not None
    assert study.instance.rounds.due is None
