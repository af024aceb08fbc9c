"""A job that was under way at another instance: who has it go on, from where, and when nobody has."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.aggregator.chain_exchange import ANSWER_S
from cloister.aggregator.peers import ConnectedMember, ConnectedMembers
from cloister.aggregator.resuming import ENDED, Resuming
from cloister.errors import JobError
from cloister.ledger import job as jobs
from cloister.wire import rounds as w
from cloister.wire.limits import JOB_BYTES
from cloister.wire.strategies import FedAdam, FedAvgM
from tests.aggregator.test_protocol import FOUR, check, honest, silent_on, told
from tests.support import charters
from tests.support.owners import LENGTH, METRICS, OWNERS, Party, agree, agreed, first_model, key_of, make_job
from tests.support.rounds import Study, fill


def interrupted(study: Study, *, after: int = 1) -> None:
    """So many rounds are released, then the instance dies, and its researcher is gone."""
    study.join()
    study.submit()
    while study.instance.ledger.released < after or not all(told(study, name, w.Propose)[after:] for name in OWNERS):
        assert study.step()
    study.restart(seed=2)


@pytest.mark.parametrize("strategy", [FedAdam(0.1), FedAvgM()])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_restart_needs_no_researcher(strategy: Any, after: int) -> None:
    study = Study(agreed={"strategy": strategy})
    interrupted(study, after=after)
    study.join(*OWNERS)
    study.settle()
    assert study.instance.ledger.released == 3
    asked = [each for name in OWNERS for each in told(study, name, w.Resubmit)]
    assert asked == [w.Resubmit(jobs.job_digest(study.data))]  # one of them
    study.join("rosa")
    study.submit()
    study.settle()
    digest = jobs.job_digest(study.data)
    assert study.said["rosa"][-2:] == [w.Accepted(digest, 3), w.Finished(digest, 3, "")]
    check(study, OWNERS, OWNERS, OWNERS)
    assert all(not owner.current for owner in study.owners.values())


def test_a_second_job_that_had_released_nothing_starts_with_a_strategy_of_its_own() -> None:
    """The owners' model comes with what the first job's strategy remembers, which is not for this one."""
    study = Study(
        agree(jobs=[agreed(rounds=1, strategy=FedAdam(0.1)), agreed(name="more", rounds=1, strategy=FedAvgM())])
    )
    study.run()
    following = make_job(study.charter, name="more", start=study.instance.ledger.model)
    data = jobs.encode(following)
    study.instance.say("rosa", w.Submit(len(data)), data + study.rosa.model[1][: LENGTH * 4])
    while any(len(told(study, name, w.Propose)) < 2 for name in OWNERS):
        study.step()
    study.restart(seed=2)
    study.join(*OWNERS)
    study.settle()
    assert study.instance.ledger.released == 2
    last = study.owners["alice"].last
    assert last is not None
    assert last.rounds == 1
    assert len(study.owners["alice"].model[1]) == LENGTH * (4 + 8)  # FedAvgM keeps one vector, and FedAdam two


def test_the_researcher_that_comes_back_joins_the_run_and_can_stop_it() -> None:
    study = Study()
    interrupted(study)
    study.owners["alice"].spoil = silent_on(w.Ready)
    study.join(*OWNERS, "rosa")
    study.settle()
    study.submit()
    study.instance.say("rosa", w.Stop())
    study.settle()
    assert told(study, "rosa", w.Finished)[-1].text == "stopped by the researcher"
    assert [told(study, name, w.Finished)[-1].text for name in OWNERS] == ["stopped by the researcher"] * 3


def test_fewer_than_a_quorum_have_nothing_go_on() -> None:
    study = Study(agree(owners=FOUR))
    study.owners["chuck"].spoil = study.owners["dave"].spoil = lambda message, body: []
    interrupted(study, after=0)
    study.owners["chuck"].current = study.owners["dave"].current = b""  # they were not there
    study.join(*FOUR)
    study.settle()
    assert not [each for name in FOUR for each in told(study, name, w.Resubmit)]
    assert study.instance.rounds.status().job == ""


def test_owners_that_were_away_when_it_ended_hear_it_when_they_come() -> None:
    study = Study()
    study.owners["alice"].spoil = silent_on(w.Ready)
    study.join()
    study.submit()
    study.settle()
    study.instance.disconnect("bob")
    study.instance.say("rosa", w.Stop())
    study.settle()
    assert not study.owners["alice"].current
    assert study.owners["bob"].current
    study.join("bob")
    study.settle()
    assert not study.owners["bob"].current


def test_a_job_that_was_stopped_and_is_submitted_again_goes_on_after_a_restart() -> None:
    study = Study()
    study.join()
    study.submit()
    study.instance.say("rosa", w.Stop())
    study.settle()
    assert not any(owner.current for owner in study.owners.values())
    study.submit()
    while study.instance.ledger.released < 1 or not told(study, "alice", w.Propose)[2:]:
        study.step()
    study.restart(seed=2)
    study.join(*OWNERS)
    study.settle()
    assert study.instance.ledger.released == 3


def asked_in_vain(*, after: int = 1, **changed: Any) -> tuple[Study, str]:
    """A study in which one owner was asked for the job, and says nothing; its name."""
    study = Study(agree(**changed))
    interrupted(study, after=after)
    for owner in study.owners.values():
        owner.spoil = silent_on(w.Resubmitted)
    study.join(*OWNERS)
    study.settle()
    (asked,) = (name for name in OWNERS if told(study, name, w.Resubmit))
    for owner in study.owners.values():
        owner.spoil = honest
    return study, asked


def test_an_owner_that_hands_over_nothing_holds_up_nobody() -> None:
    for leaves in (True, False):
        study, asked = asked_in_vain()
        if leaves:
            study.instance.disconnect(asked)
        else:
            assert study.instance.rounds.due == ANSWER_S
            study.instance.tick()
        study.settle()
        assert study.instance.ledger.released == 3


def test_an_owner_that_owes_a_job_and_a_model_is_dropped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are late at one moment: the instance goes on, with the others."""
    study, asked = asked_in_vain()
    rounds = study.instance.rounds
    peer, owed = rounds._peers.all[key_of(asked)], rounds._chains.late
    monkeypatch.setattr(rounds._chains, "late", lambda *, now: [*owed(now=now), *([peer] if now >= ANSWER_S else [])])
    study.instance.tick()
    assert study.instance.dropped == [(key_of(asked), "it did not hand over what it was asked for in time")]
    monkeypatch.undo()
    study.settle()
    assert study.instance.ledger.released == 3


def test_a_researcher_that_submits_meanwhile_goes_first() -> None:
    study, asked = asked_in_vain()
    study.join("rosa")
    study.settle()
    study.submit()
    study.instance.say(asked, w.Resubmitted(), study.data)  # too late: nothing comes of it
    study.settle()
    check(study, OWNERS, OWNERS, OWNERS)


def test_another_job_that_was_submitted_meanwhile_is_not_replaced() -> None:
    study, asked = asked_in_vain(after=0, jobs=[agreed(), agreed(name="more", rounds=1)])
    study.join("rosa")
    study.settle()
    more = jobs.encode(make_job(study.charter, name="more"))
    study.instance.say("rosa", w.Submit(len(more)), more + first_model().tobytes())
    study.instance.say(asked, w.Resubmitted(), study.data)
    assert study.instance.rounds.status().job == "more"
    study.settle()
    assert told(study, "rosa", w.Finished)[-1] == w.Finished(jobs.job_digest(more), 1, "")


def test_an_instance_that_has_had_a_job_asks_no_owner() -> None:
    study = Study(agreed={"rounds": 1})
    study.run()
    late = study.owners["bob"]
    late.current = jobs.encode(make_job(study.charter, start=study.instance.ledger.model))
    for name in OWNERS:
        study.owners[name].current = late.current
        study.instance.disconnect(name)
    study.join(*OWNERS)
    study.settle()
    assert not [each for name in OWNERS for each in told(study, name, w.Resubmit)]


def test_only_so_many_ends_are_remembered() -> None:
    resuming = Resuming(agree(), peers=ConnectedMembers())
    for number in range(2 * ENDED):
        resuming.end(w.Finished(number.to_bytes(32, "big"), 0, ""))
    assert len(resuming._ended) == ENDED
    assert (2 * ENDED - 1).to_bytes(32, "big") in resuming._ended


def three(*names: bytes | None) -> tuple[Resuming, list[ConnectedMember]]:
    """Owners that are up to date, and the jobs that they name."""
    charter, peers = agree(), ConnectedMembers()
    for owner, job in zip(charter.owners, names, strict=True):
        peers.all[owner.key] = ConnectedMember(owner, joined=True, ready=True, names=job)
    return Resuming(charter, peers=peers), peers.owners()


def arrived(body: Any, data: bytes) -> Any:
    fill(body, data)
    return body


DATA = b"the job that two of three name"
NAMED = jobs.job_digest(DATA)


def test_what_was_asked_for_is_taken_once_from_who_was_asked() -> None:
    resuming, (alice, bob, _) = three(NAMED, NAMED, None)
    with pytest.raises(JobError, match="nobody asked"):
        resuming.expect(alice, body_bytes=1)
    resuming.ask(now=0.0)
    with pytest.raises(JobError, match="nobody asked"):
        resuming.expect(bob, body_bytes=1)
    with pytest.raises(JobError, match="over the limit"):
        resuming.expect(alice, body_bytes=JOB_BYTES + 1)
    body = arrived(resuming.expect(alice, body_bytes=len(DATA)), DATA)
    with pytest.raises(JobError, match="nobody asked"):
        resuming.expect(alice, body_bytes=1)
    for peer, other in ((bob, body), (alice, None)):
        with pytest.raises(JobError, match="nobody asked"):
            resuming.take(peer, other)
    assert resuming.take(alice, body) is body
    assert isinstance(body.fault, JobError)  # it is no job, which is for others to see
    with pytest.raises(JobError, match="nobody asked"):
        resuming.take(alice, body)


def test_another_job_than_was_named_and_the_next_owner_is_asked() -> None:
    resuming, (alice, bob, _) = three(NAMED, NAMED, None)
    resuming.ask(now=0.0)
    body = arrived(resuming.expect(alice, body_bytes=len(DATA)), DATA[::-1])
    with pytest.raises(JobError, match="another job than the one that was named"):
        resuming.take(alice, body)
    resuming.ask(now=0.0)
    assert arrived(resuming.expect(bob, body_bytes=len(DATA)), DATA)


def test_different_names_are_no_quorum_and_a_job_that_was_refused_is_not_asked_for() -> None:
    resuming, _ = three(NAMED, bytes(32), None)
    resuming.ask(now=0.0)
    assert resuming.due is None
    resuming, _ = three(NAMED, NAMED, NAMED)
    resuming.refuse(NAMED)
    resuming.ask(now=0.0)
    assert resuming.due is None


def test_what_a_researcher_calls_under_way_does_not_count() -> None:
    study = Study()
    study.owners["alice"].current = study.data
    study.restart(seed=2)
    study.instance.connect("rosa")
    study.instance.say("rosa", w.Join(0, b"", 0, False, jobs.job_digest(study.data)))
    study.join(*OWNERS)
    study.settle()
    assert study.instance.rounds._peers.all[study.charter.researchers[0].key].names is None


# Turns of researchers


def two_researchers() -> Study:
    study = Study(agree(limits=METRICS + charters.member("rick", "researcher")))
    study.parties["rick"] = Party("rick", study.charter)
    study.said["rick"] = []
    study.owners["alice"].spoil = study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    return study


def test_who_cannot_begin_is_told_what_is_under_way_and_what_to_do() -> None:
    study = two_researchers()
    other = jobs.encode(make_job(study.charter, start=bytes(32)))
    study.instance.say("rick", w.Submit(len(other)), other + first_model().tobytes())
    text = told_now(study, "rick")
    assert "'train' of rosa, with 3 of 3 rounds left, 60 s each at most" in text
    assert "where its researchers have all left, or once nothing was released for 3600 s" in text


def test_a_job_of_which_nothing_comes_is_anybodys_to_stop() -> None:
    study = two_researchers()
    rick, rosa = (each.key for each in study.charter.researchers)
    if study.charter.member(rick).name != "rick":  # type: ignore[union-attr]
        rick, rosa = rosa, rick
    with pytest.raises(JobError, match="not yours to stop"):
        study.instance.rounds.stop(rick, now=study.instance.now + 3599.0)
    study.instance.rounds.stop(rick, now=study.instance.now + 3600.0)
    assert study.instance.rounds.status().job == ""


def told_now(study: Study, name: str) -> str:
    study.settle()
    text: str = told(study, name, w.Refused)[-1].text
    return text
