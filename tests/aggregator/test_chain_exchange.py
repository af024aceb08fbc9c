"""Instances that come and go: each goes on from what members hold, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from cloister.aggregator.bodies import HandedOver
from cloister.aggregator.chain_exchange import ANSWER_S
from cloister.aggregator.events import Said
from cloister.ledger import job as jobs
from cloister.ledger import records
from cloister.ledger.chain import Ledger
from cloister.ledger.records import InstanceRecord
from cloister.wire import rounds as w
from cloister.wire.strategies import FedAdam
from tests.support.owners import OWNERS, Heard, Party, agree, key_of
from tests.support.rounds import Instance, Study, fill

ADAM = {"strategy": FedAdam(0.1)}


def numbers(study: Study) -> list[int]:
    return [receipt.cohort.round for receipt in study.instance.ledger.receipts]


def check(study: Study, rounds: int) -> None:
    """So many rounds of all owners, and the model that an uninterrupted run comes to with the same ones."""
    chain = Ledger.from_records(study.charter, study.instance.ledger.records)
    assert chain.released == rounds
    assert all(len(receipt.members) == len(OWNERS) for receipt in chain.receipts)
    wanted = study.expected(*[OWNERS] * rounds, numbers=numbers(study))
    assert study.model.tobytes() == wanted.tobytes()
    for party in study.parties.values():
        assert party.ledger.records == study.instance.ledger.records


def steps(begin: Callable[[], Study]) -> int:
    """How many messages are read in a study that nothing disturbs."""
    study = begin()
    count = 0
    while study.step():
        count += 1
    return count


def begun(job: dict[str, object] = ADAM) -> Study:
    study = Study(agree(floor="3", job={**job, "rounds": 2}))
    study.join()
    study.submit()
    return study


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_an_instance_that_dies_anywhere_is_followed_by_another(part: int) -> None:
    for at in range(part, steps(begun), 4):
        study = begun()
        for _ in range(at):
            study.step()
        study.restart(seed=1)
        study.join()
        study.submit()
        study.settle()
        assert study.said["rosa"][-1] == w.Finished(jobs.job_digest(study.data), 2, "")
        check(study, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWNERS)
def test_an_owner_that_dies_anywhere_comes_back(name: str) -> None:
    for at in range(steps(begun)):
        study = begun()
        for _ in range(at):
            study.step()
        study.instance.disconnect(name)
        study.settle()
        study.owners[name].job = b""
        study.join(name)
        study.settle()
        assert study.said["rosa"][-1] == w.Finished(jobs.job_digest(study.data), 2, "")
        check(study, 2)


@pytest.mark.slow
def test_the_researcher_may_die_anywhere() -> None:
    for at in range(steps(begun)):
        study = begun()
        for _ in range(at):
            study.step()
        study.instance.disconnect("rosa")
        study.settle()
        study.join("rosa")
        study.submit()
        study.settle()
        assert study.said["rosa"][-1] == w.Finished(jobs.job_digest(study.data), 2, "")
        check(study, 2)


def test_the_model_may_be_with_any_member() -> None:
    study = begun()
    study.settle()
    study.restart(seed=1)
    for owner in study.owners.values():
        owner.last = None
        owner.model = (b"", b"")
    longer = study.job
    study.data = jobs.encode(msgspec.structs.replace(longer, start=study.instance.charter.digest))
    study.join()
    study.settle()
    assert study.instance.ledger.released == 2
    study.submit()
    assert "starts" in study.instance.read("rosa")[-1].text


def test_a_member_that_says_that_it_holds_the_model_and_has_another() -> None:
    study = begun()
    while study.instance.ledger.released < 1:
        study.step()
    for name in OWNERS:
        while study.instance.heard[key_of(name)]:
            study.owners[name].answer(study.instance.heard[key_of(name)].popleft())
    study.restart(seed=1)
    alice = study.owners["alice"]
    alice.model = (alice.model[0], bytes(len(alice.model[1])))
    study.join()
    study.submit()
    study.settle()
    assert (key_of("alice"), "its records cannot be gone on with") in study.instance.dropped
    alice.model = (b"", b"")
    alice.job = b""
    study.join("alice")
    study.settle()
    assert study.instance.ledger.released == 2


def test_a_fork_is_refused() -> None:
    charter = agree()
    one, other = Study(charter), Study(charter)
    other.instance = Instance(charter, seed=7)
    one.run()
    other.run()
    for name, party in (("alice", other.owners["alice"]), ("rosa", other.rosa)):
        one.parties[name] = party
        one.instance.disconnect(name)
        one.join(name)
        one.said[name].clear()
        while one.step():
            pass
        assert (key_of(name), "its records cannot be gone on with") in one.instance.dropped


def test_a_member_is_on_a_fork_whose_chain_is_longer_than_any_can_be() -> None:
    study = Study(agree(rounds="3"))
    study.instance.connect("alice")
    study.instance.say("alice", w.Join(1 << 52, bytes(32), 0, False))
    assert study.instance.dropped[0][0] == key_of("alice")


def test_records_that_nobody_asked_for() -> None:
    study = Study()
    study.join("alice")
    study.instance.say("alice", w.Chain(1, (5,)), b"hello")
    assert key_of("alice") not in study.instance.heard or not study.instance.read("alice")
    assert study.instance.ledger.sequence == 0


def test_instances_that_released_nothing_are_not_taken_over() -> None:
    """Anyone can sign a record as an instance; only owners look at the evidence in it."""
    study = Study()
    forged = Instance(study.charter, seed=9)
    party = Party("rosa", study.charter)
    others = Study(study.charter)
    others.instance = forged
    others.join()
    others.submit()  # now it has begun
    party.ledger = forged.ledger.copy()
    assert isinstance(records.decode(party.ledger.records[-1]), InstanceRecord)
    study.instance.connect("rosa")
    study.instance.say("rosa", w.Join(party.ledger.sequence, party.ledger.head, 0, False))
    (asked,) = study.instance.read("rosa")
    found = party.ledger.since(asked.after)
    study.instance.say("rosa", w.Chain(asked.after + 1, tuple(map(len, found))), b"".join(found))
    assert study.instance.ledger.sequence == 0
    assert study.instance.dropped == []
    study.rosa.ledger = Ledger(study.charter)
    study.join(*OWNERS)
    study.submit()
    study.settle()
    check(study, 3)


def test_a_member_that_hands_nothing_over_holds_up_nobody() -> None:
    study = begun()
    study.settle()
    study.restart(seed=1)
    study.instance.connect("alice")
    study.instance.say("alice", study.owners["alice"].join())
    study.join("bob", "chuck", "rosa")
    study.submit()
    for name in ("bob", "chuck", "rosa"):
        told = study.instance.heard[key_of(name)]
        for message, body in study.parties[name].answer(told.popleft()):
            study.instance.say(name, message, body)
    assert study.instance.ledger.released == 2
    assert study.instance.now == 0.0
    study.settle()  # alice answers at last, with what nobody lacks any more
    assert study.instance.dropped == []


def test_members_that_hand_nothing_over_are_late_and_the_next_are_asked() -> None:
    """Three are asked at once, owners first, and those who were late before are asked last."""
    study = Study(agree(owners=("alice", "bob", "chuck", "dave"), floor="3"))

    def come(*names: str) -> None:
        for name in names:
            study.instance.connect(name)
            study.instance.say(name, w.Join(2, bytes(32), 0, False))

    def asked() -> list[str]:
        return [name for name in study.parties if study.instance.read(name) == [w.HandOver(0)]]

    come("rosa", "alice", "bob", "chuck")
    assert asked() == ["alice", "bob", "rosa"]
    study.instance.tick()
    assert study.instance.now == ANSWER_S
    assert {key for key, _ in study.instance.dropped} == {key_of(name) for name in ("rosa", "alice", "bob")}
    assert asked() == ["chuck"]
    come("rosa", "alice", "bob", "dave")
    assert asked() == ["alice", "rosa"]  # there was room
    study.instance.disconnect("chuck")
    assert asked() == ["dave"]  # bob had his turn


def test_a_long_chain_is_handed_over_in_parts() -> None:
    study = begun()
    study.settle()
    found = study.instance.ledger.records
    study.restart(seed=1)
    study.instance.connect("alice")
    alice = study.owners["alice"]
    study.instance.say("alice", alice.join())
    for at, record in enumerate(found, 1):
        study.instance.say("alice", w.Chain(at, (len(record),)), record)
    assert study.instance.ledger.records == found
    assert not study.instance.dropped


def test_an_instance_leaves_its_own_record_for_a_chain_with_more_rounds() -> None:
    """Two instances at once: the one that has released nothing takes over what the other has."""
    study = begun()
    ahead = study.instance
    behind = Instance(study.charter, seed=5)
    while ahead.ledger.released < 1:
        study.step()
    kept = dict(study.owners)
    for name in OWNERS:
        fresh = type(kept[name])(name, study.charter)
        fresh.round = 50
        study.owners[name] = study.parties[name] = fresh
    study.instance = behind
    study.parties["rosa"] = Party("rosa", study.charter)
    study.parties["rosa"].work = study.data
    study.join(*OWNERS, "rosa")
    study.submit()
    for _ in range(8):
        study.step()
    assert behind.ledger.sequence == 1  # it has begun, on nothing
    study.instance.disconnect("alice")
    study.parties["alice"] = study.owners["alice"] = kept["alice"]
    while ahead.heard[key_of("alice")]:
        kept["alice"].answer(ahead.heard[key_of("alice")].popleft())
    kept["alice"].job = b""
    study.join("alice")
    study.settle()
    assert behind.ledger.receipts[0].head == ahead.ledger.receipts[0].head
    assert [each.transcript.signing_key for each in behind.ledger.instances] == [ahead.signer, behind.signer]
    assert behind.ledger.released == 2


# What members claim


def ahead(*names: str) -> Study:
    """A new instance, which has asked these members for the records that they have."""
    study = begun()
    study.settle()
    study.restart(seed=1)
    for name in names:
        study.instance.connect(name)
        study.instance.say(name, study.parties[name].join())
        assert study.instance.read(name) == [w.HandOver(0)]
    return study


def handed(study: Study, name: str) -> tuple[w.Chain, bytes]:
    """All records that a member has, as it hands them over."""
    ((message, body),) = study.parties[name].answer(Heard(w.HandOver(0), b""))
    return message, body


def test_with_records_comes_no_model() -> None:
    """Whatever a member says of its length: nobody has asked for one."""
    study = ahead("alice")
    message, body = handed(study, "alice")
    for more in ({"model": 1 << 40}, {"model": 44}, {"state": (88,)}):
        claimed = msgspec.structs.replace(message, **more)
        nbytes = len(body) + claimed.model + sum(claimed.state)
        assert study.instance.begin("alice", claimed, nbytes) is None
    assert study.instance.begin("alice", message, len(body)) is not None


def test_no_more_records_come_than_a_member_said_that_it_had() -> None:
    study = ahead("alice")
    message, body = handed(study, "alice")
    claimed = msgspec.structs.replace(message, records=(*message.records, 1))
    assert study.instance.begin("alice", claimed, len(body) + 1) is None


def test_records_that_cannot_stand_are_read_and_forgotten() -> None:
    """After the first of them there is no memory for others."""
    study = ahead("alice")
    alice = study.parties["alice"]
    message = w.Chain(1, (1 << 20,) * alice.ledger.sequence)
    body = study.instance.begin("alice", message, sum(message.records))
    assert isinstance(body, HandedOver)
    rooms = {id(buffer.obj) for buffer in held(body)}
    assert len(rooms) == 2  # the first record's, and that of all others together
    study.instance.happen(Said(key_of("alice"), message, body))
    assert study.instance.dropped == [(key_of("alice"), "its records cannot be gone on with")]


def held(body: HandedOver) -> list[memoryview]:
    """Its buffers, all of them kept, so that no two are of the same memory by chance."""
    return list(body.buffers())


def test_instances_that_released_nothing_do_not_follow_each_other() -> None:
    """Anyone signs records of instances, each of them as long as a record may be."""
    study = Study()
    ledger = Ledger(study.charter)
    for seed in (7, 8):
        forged = Instance(study.charter, seed=seed)
        forged.rounds._chains.ledger = ledger
        forged.rounds._course._enrol()
    found = ledger.records
    study.instance.connect("alice")
    study.instance.say("alice", w.Join(5, bytes(32), 0, False))
    study.instance.say("alice", w.Chain(1, tuple(map(len, found))), b"".join(found))
    assert "an instance that released nothing" in study.instance.notes[-2]
    assert study.instance.dropped == [(key_of("alice"), "its records cannot be gone on with")]


def test_the_first_chain_is_gone_on_with_and_the_others_are_read_and_forgotten() -> None:
    study = ahead("alice", "bob")
    message, body = handed(study, "alice")
    arriving = study.instance.begin("alice", message, len(body))
    assert isinstance(arriving, HandedOver)
    study.instance.say("bob", *handed(study, "bob"))
    assert study.instance.ledger.released == 2
    assert [type(each) for each in study.instance.read("alice")] == [w.Chain]  # it is up to date, as it knows by now
    assert arriving.discarded
    fill(arriving, body)
    study.instance.happen(Said(key_of("alice"), message, arriving))
    assert study.instance.dropped == []
    assert study.instance.rounds._chains._asked == {}


def test_of_two_that_hold_the_model_the_first_right_one_counts() -> None:
    study = begun()
    while study.instance.ledger.released < 1:
        study.step()
    for name in OWNERS:
        while told := study.instance.heard[key_of(name)]:
            study.owners[name].answer(told.popleft())
        study.owners[name].current = b""  # none of them has the job go on: its researcher does
    study.restart(seed=1)
    study.join(*OWNERS)
    study.settle()
    study.join("rosa")
    study.settle()
    study.submit()
    asked = [name for name in study.parties if w.HandOver in map(type, study.instance.read(name))]
    assert asked == ["alice", "bob"]
    alice = study.owners["alice"]
    at = study.instance.ledger.sequence
    ((message, model),) = alice.answer(Heard(w.HandOver(at), b""))
    for other in ({"model": message.model + 4}, {"state": ()}, {"model": 1 << 40}):
        claimed = msgspec.structs.replace(message, **other)
        assert study.instance.begin("alice", claimed, claimed.model + sum(claimed.state)) is None
    arriving = study.instance.begin("alice", message, len(model))
    assert isinstance(arriving, HandedOver)
    study.instance.say("bob", message, bytes(len(model)))
    assert study.instance.dropped == [(key_of("bob"), "its records cannot be gone on with")]
    assert study.instance.read("chuck") == [w.HandOver(at)]
    study.instance.say("chuck", message, model)
    newest = study.instance.rounds._chains.newest
    assert newest is not None
    fill(arriving, bytes(len(model)))  # which would be wrong, and is not looked at
    study.instance.happen(Said(key_of("alice"), message, arriving))
    assert arriving.model is None
    assert study.instance.rounds._chains.newest is newest
    assert len(study.instance.dropped) == 1


def test_each_part_of_a_chain_earns_the_time_for_the_next() -> None:
    study = ahead("alice")
    message, body = handed(study, "alice")
    first = message.records[0]
    study.instance.say("alice", msgspec.structs.replace(message, records=(first,)), body[:first])
    assert study.instance.rounds.due == pytest.approx(first / (1 << 20))
    study.instance.tick()
    assert study.instance.dropped == [(key_of("alice"), "it did not hand over what it was asked for in time")]
