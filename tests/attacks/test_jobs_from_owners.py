"""Owners have an instance go on with a job that was under way. Here some of them would have it do something else.

With a floor of 3 among five owners, one of them may be anybody's: a quorum is four.
"""

from __future__ import annotations

from typing import Any

import pytest

from cloister.ledger import job as jobs
from cloister.wire import rounds as w
from cloister.wire.limits import JOB_BYTES
from tests.aggregator.test_protocol import honest, silent_on, told
from tests.support.owners import agree, agreed, key_of, make_job
from tests.support.rounds import Study

FIVE = ("alice", "bob", "chuck", "dave", "eve")


def study_of_five(**changed: Any) -> Study:
    return Study(agree(owners=FIVE, floor="3", **changed))


def begun(study: Study, *, after: int = 1) -> None:
    """All have been told of the job, and so many rounds are released."""
    study.join()
    study.submit()
    while study.instance.ledger.released < after or not all(told(study, name, w.Propose)[after:] for name in FIVE):
        assert study.step()


def back(study: Study, *names: str) -> None:
    """Another instance; these owners join it."""
    study.restart(seed=2)
    study.join(*(names or FIVE))
    study.settle()


def nothing_runs(study: Study) -> bool:
    return study.instance.rounds.status().job == "" and not study.instance.rounds.status().round


def test_a_job_that_no_researcher_submitted() -> None:
    """Three owners of five call it under way, one more than may be anybody's."""
    study = study_of_five()
    for name in FIVE[:3]:
        study.owners[name].current = study.data
    back(study)
    assert nothing_runs(study)
    assert not [each for name in FIVE for each in told(study, name, w.Resubmit)]
    study.join("rosa")  # and the study goes on as ever
    study.submit()
    study.settle()
    assert study.instance.ledger.released == 3


def test_members_that_are_no_owners_call_nothing_under_way() -> None:
    study = study_of_five()
    for name in FIVE[:3]:
        study.owners[name].current = study.data
    study.restart(seed=2)
    study.instance.connect("rosa")
    study.instance.say("rosa", w.Join(0, b"", 0, False, jobs.job_digest(study.data)))
    study.join(*FIVE)
    study.settle()
    assert nothing_runs(study)


def test_a_job_that_was_stopped() -> None:
    """Its researcher stopped it where a quorum was there; one owner was away, and another one lies."""
    study = study_of_five()
    begun(study)
    study.instance.disconnect("bob")
    study.instance.say("rosa", w.Stop())
    study.settle()
    study.owners["eve"].current = study.data  # as if it had not heard
    assert study.owners["bob"].current == study.data
    assert sum(bool(owner.current) for owner in study.owners.values()) == 2
    back(study)
    assert nothing_runs(study)


def test_one_owner_that_connects_again_and_again_is_one() -> None:
    study = study_of_five()
    study.owners["eve"].current = study.data
    study.restart(seed=2)
    study.join(*FIVE)
    for _ in range(10):
        study.instance.disconnect("eve")
        study.join("eve")
        study.settle()
    assert nothing_runs(study)


@pytest.mark.parametrize("how", ["another", "cut off", "none"])
def test_another_job_under_the_name(how: str) -> None:
    """Who is asked for the job that all name hands over another one of the charter, from which rounds could start."""
    study = study_of_five(jobs=[agreed(), agreed(name="more")])
    other = jobs.encode(make_job(study.charter, name="more"))
    begun(study, after=0)
    handed = {"another": other, "cut off": study.data[:-1], "none": b""}[how]
    for owner in study.owners.values():
        owner.spoil = lambda message, body: [(message, handed if isinstance(message, w.Resubmitted) else body)]
    study.restart(seed=2)
    study.join(*FIVE)
    while not study.instance.dropped:
        assert study.step()
    assert nothing_runs(study)
    ((liar, why),) = study.instance.dropped
    assert why == "it handed over no job that it was asked for"
    for owner in study.owners.values():
        owner.spoil = honest
    study.settle()  # the others name it too, and the next one is asked
    assert study.instance.ledger.released == 3
    assert all(key_of(name) != liar for name in FIVE if told(study, name, w.Propose)[-1].round > 1)
    assert {receipt.cohort.name for receipt in study.instance.ledger.receipts} == {"train"}


def test_a_job_that_is_not_the_charters_although_a_quorum_names_it() -> None:
    """Nobody is asked for it a second time, and a researcher's job is taken."""
    study = study_of_five()
    wrong = jobs.encode(make_job(study.charter, plan=b"another plan"))
    for name in FIVE:
        study.owners[name].current = wrong
    back(study)
    assert nothing_runs(study)
    assert sum(len(told(study, name, w.Resubmit)) for name in FIVE) == 1
    assert any("is not gone on with" in note for note in study.instance.notes)
    for name in FIVE:
        study.owners[name].current = b""
    study.join("rosa")
    study.submit()
    study.settle()
    assert study.instance.ledger.released == 3


def test_jobs_that_nobody_asked_for_are_not_read() -> None:
    study = study_of_five()
    study.join()
    study.settle()
    for size in (1, JOB_BYTES, 1 << 40):
        assert study.instance.begin("eve", w.Resubmitted(), size) is None
    study.instance.say("eve", w.Resubmitted())
    assert study.instance.dropped == [(key_of("eve"), "it handed over no job that it was asked for")]


def test_room_for_one_job_and_for_no_longer_one_than_there_may_be() -> None:
    study = study_of_five()
    begun(study, after=0)
    for owner in study.owners.values():
        owner.spoil = silent_on(w.Resubmitted)
    back(study)
    (asked,) = (name for name in FIVE if told(study, name, w.Resubmit))
    assert study.instance.begin(asked, w.Resubmitted(), JOB_BYTES + 1) is None
    body = study.instance.begin(asked, w.Resubmitted(), JOB_BYTES)
    assert body is not None
    assert study.instance.begin(asked, w.Resubmitted(), JOB_BYTES) is None  # a second one beside it
    assert all(study.instance.begin(name, w.Resubmitted(), 1) is None for name in FIVE if name != asked)
    assert study.instance.rounds.due is None  # it has begun: its pace decides


def test_an_owner_that_is_asked_and_leaves_and_comes_again_goes_last() -> None:
    study = study_of_five()
    begun(study, after=0)
    for owner in study.owners.values():
        owner.spoil = silent_on(w.Resubmitted)
    back(study)
    (liar,) = (name for name in FIVE if told(study, name, w.Resubmit))
    for name, owner in study.owners.items():
        owner.spoil = silent_on(w.Resubmitted) if name == liar else honest
    study.instance.disconnect(liar)
    study.join(liar)
    study.settle()
    assert study.instance.ledger.released == 3
