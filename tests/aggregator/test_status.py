"""How a study stands: each owner in each phase, each way out of a round, and who may stop a job when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from cloister.aggregator.own import UPLOAD_S
from cloister.aggregator.table import Phase
from cloister.charter.toml import parse_charter
from cloister.errors import JobError
from cloister.ledger import job as jobs
from cloister.wire import rounds as w
from tests.support.owners import OWNERS, agree, charter_text, key_of
from tests.support.rounds import Study

AWAY = "it was not there when the round began"
LOST = "its connection was lost"


def silent_on(kind: type) -> Any:
    return lambda message, body: [] if isinstance(message, kind) else [(message, body)]


def refusing(kind: type) -> Any:
    return lambda message, body: [
        (w.Declined(message.round, "no"), b"") if isinstance(message, kind) else (message, body)
    ]


def status(study: Study) -> w.Status:
    return study.instance.rounds.status()


def doing(study: Study) -> dict[str, str]:
    names = {key_of(name): name for name in study.owners}
    return {names[each.owner]: each.doing for each in status(study).owners}


def why(study: Study) -> dict[str, str]:
    names = {key_of(name): name for name in study.owners}
    return {names[each.owner]: each.text for each in status(study).owners if each.text}


def outs(study: Study, *, number: int = 1) -> dict[str, str]:
    """What the researcher was told of a round."""
    names = {key_of(name): name for name in study.owners}
    told = [each.why for each in study.said["rosa"] if isinstance(each, w.Out) and each.round == number]
    return {names[key]: text for each in told for key, text in each.items()}


def stop(study: Study, name: str) -> None:
    for effect in study.instance.rounds.stop(key_of(name), now=study.instance.now):
        study.instance._do(effect)
    study.settle()


def until(kind: type, *, spoilt: str = "bob", **given: Any) -> Study:
    """A study in which this owner says nothing of this kind, as far as it comes."""
    study = Study(**given)
    study.owners[spoilt].spoil = silent_on(kind)
    study.run()
    return study


# What is said in each phase


def test_before_anybody_is_there() -> None:
    study = Study()
    found = status(study)
    assert (found.job, found.done, found.rounds, found.round, found.phase, found.text) == (
        "",
        0,
        0,
        0,
        "between rounds",
        "",
    )
    assert found.left == study.charter.limits.rounds
    assert doing(study) == dict.fromkeys(OWNERS, "away")


def test_what_a_job_waits_for() -> None:
    study = Study()
    study.join("alice", "rosa")
    study.submit()
    study.settle()
    found = status(study)
    assert (found.job, found.rounds, found.round) == ("train", 3, 0)
    assert found.text == "1 of the owners are there, and 2 have to be"
    assert doing(study) == {"alice": "there", "bob": "away", "chuck": "away"}
    stop(study, "rosa")
    assert (status(study).job, status(study).text) == ("", "")


def test_while_owners_train() -> None:
    study = until(w.Ready)
    found = status(study)
    assert (found.round, found.phase, found.text) == (1, Phase.TRAINING, "")
    assert doing(study) == {"alice": "done", "bob": "awaited", "chuck": "done"}


def test_while_members_consent() -> None:
    study = until(w.Consent)
    assert status(study).phase == Phase.COLLECTING
    assert doing(study) == {"alice": "done", "bob": "awaited", "chuck": "done"}


def test_while_contributions_come() -> None:
    """Those that have not been asked yet hold up nobody."""
    study = until(w.Contribution, spoilt="alice")
    assert status(study).phase == Phase.COLLECTING
    assert doing(study) == {"alice": "awaited", "bob": "done", "chuck": "done"}


def test_while_owners_commit() -> None:
    study = Study()
    study.owners["bob"].spoil = silent_on(w.Commit)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    assert status(study).phase == Phase.COMMITTING
    assert doing(study) == {"alice": "done", "bob": "awaited", "chuck": "out"}
    study.instance.disconnect("bob")
    study.settle()
    assert doing(study) == {"alice": "done", "bob": "away", "chuck": "out"}
    assert status(study).text == "round 1 waits for 1 more of its owners to commit it"
    study.owners["chuck"].spoil = silent_on(w.Commit)
    study.join("chuck")
    study.settle()
    assert doing(study)["chuck"] == "awaited"  # as a witness
    assert why(study) == {"chuck": AWAY}


def test_an_owner_that_does_not_commit() -> None:
    study, text = Study(), "no\n" + "x" * 4000
    study.owners["bob"].spoil = lambda message, body: [
        (w.Declined(1, text) if isinstance(message, w.Commit) else message, body)
    ]
    study.owners["chuck"].spoil = silent_on(w.Commit)
    study.run()
    assert doing(study) == {"alice": "done", "bob": "out", "chuck": "awaited"}
    assert any(note.startswith(r"bob does not commit round 1: no\nxxx") for note in study.instance.notes)
    assert max(map(len, study.instance.notes)) < 700


def test_between_rounds_and_once_it_is_over() -> None:
    study = Study(agreed={"rounds": 2})
    for name in ("bob", "chuck"):
        study.owners[name].spoil = refusing(w.Ready)
    study.run()
    found = status(study)
    assert (found.job, found.round, found.phase) == ("train", 0, Phase.BETWEEN)
    assert found.text.startswith("round 1 was void: 1 owner is left in the round")
    assert doing(study) == dict.fromkeys(OWNERS, "there")
    assert why(study) == {"bob": "it declined: no", "chuck": "it declined: no"}
    for name in ("bob", "chuck"):
        study.owners[name].spoil = lambda message, body: [(message, body)]
    study.instance.tick()
    study.settle()
    assert study.instance.ledger.released == 2
    found = status(study)
    assert (found.job, found.done, found.rounds, found.text) == ("", 0, 0, "")
    assert found.left == study.charter.limits.rounds - 2
    assert not why(study)


def test_another_job_begins_with_no_ones_reasons() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = refusing(w.Ready)
    study.run()
    assert why(study) == {"bob": "it declined: no"}
    study = until(w.Ready)
    study.instance.tick()
    study.settle()
    stop(study, "rosa")
    for name in OWNERS:
        study.instance.disconnect(name)
    study.submit()
    study.settle()
    assert not why(study)


# The ways out


def test_an_owner_that_was_not_there() -> None:
    study = Study(agreed={"rounds": 1})
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    assert outs(study) == why(study) == {"chuck": AWAY}


def test_an_owner_that_is_late() -> None:
    study = until(w.Ready, agreed={"rounds": 1})
    study.instance.tick()
    study.settle()
    assert outs(study) == {"bob": "it had not trained in time"}


def test_an_owner_that_declines() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = refusing(w.Ready)
    study.run()
    assert outs(study) == {"bob": "it declined: no"}
    assert "round 1 is without bob: it declined: no" in study.instance.notes


def test_an_owner_whose_answer_is_refused() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [
        (replace(message, norm=1e9) if isinstance(message, w.Ready) else message, body)
    ]
    study.run()
    assert outs(study)["bob"].startswith("what it said was refused: a contribution's norms are numbers")


def test_an_answer_that_comes_twice_leaves_its_owner_in() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [(message, body)] * (1 + isinstance(message, w.Ready))
    study.owners["chuck"].spoil = silent_on(w.Ready)
    study.run()
    assert not outs(study)
    assert doing(study)["bob"] == "done"


def test_an_owner_that_does_not_consent_or_not_in_time() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = refusing(w.Consent)
    study.run()
    assert outs(study) == {"bob": "it declined: no"}
    study = until(w.Consent, agreed={"rounds": 1})
    study.instance.tick()
    study.settle()
    assert outs(study) == {"bob": "it had not consented in time"}


def test_an_owner_whose_contribution_is_refused_or_does_not_come() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = lambda message, body: [
        (message, np.full(11, np.nan, np.float32).tobytes() if isinstance(message, w.Contribution) else body)
    ]
    study.run()
    assert outs(study)["bob"].startswith("what it said was refused: the contribution's norm is not a number")
    study = until(w.Contribution, agreed={"rounds": 1})
    study.instance.tick(seconds=UPLOAD_S)
    study.settle()
    assert outs(study) == {"bob": "its contribution did not come in time"}


@pytest.mark.parametrize("kind", [w.Ready, w.Consent, w.Contribution])
def test_an_owner_whose_connection_is_lost(kind: type) -> None:
    study = until(kind, agreed={"rounds": 1})
    study.instance.disconnect("bob")
    study.settle()
    assert outs(study) == {"bob": LOST}


def test_a_researcher_that_comes_later_is_told_of_the_round_that_is_under_way() -> None:
    study = Study()
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    study.instance.disconnect("rosa")
    study.said["rosa"].clear()
    study.join("rosa")
    study.submit()
    study.settle()
    assert outs(study) == {"chuck": AWAY}


def test_nobody_but_the_jobs_researchers_is_told() -> None:
    study = Study(agreed={"rounds": 1})
    study.owners["bob"].spoil = refusing(w.Ready)
    study.run()
    assert not any(isinstance(each, w.Out) for name in OWNERS for each in study.said[name])


# Budgets


def test_a_budget_is_told_while_its_owner_publishes_it() -> None:
    study = Study()
    left: list[int | None] = [5, None]

    def publish(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if isinstance(message, w.Ready):
            standing = replace(message.standing, left=left[0])
            return [(replace(message, standing=standing), body)]
        return [(message, body)]

    study.owners["alice"].spoil = publish
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    found = {each.owner: each.left for each in status(study).owners}
    assert found == {key_of("alice"): 5, key_of("bob"): None, key_of("chuck"): None}
    left.pop(0)
    study.instance.tick()
    study.settle()
    assert {each.left for each in status(study).owners} == {None}


def test_an_owner_that_declines_for_want_of_budget_says_so() -> None:
    study = Study()

    def spent(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        if isinstance(message, w.Ready):
            return [(w.Declined(message.round, "spent", replace(message.standing, left=0)), b"")]
        return [(message, body)]

    study.owners["bob"].spoil = spent
    study.owners["chuck"].spoil = silent_on(w.Ready)
    study.run()
    assert {each.owner: each.left for each in status(study).owners}[key_of("bob")] == 0


# Stops


def two_researchers() -> Study:
    text = charter_text(auditors=("sam", "dora"))
    at = text.index('name = "sam"')
    return Study(parse_charter(text[:at] + text[at:].replace('role = "auditor"', 'role = "researcher"', 1)))


@pytest.mark.parametrize("kind", [w.Ready, w.Consent, w.Contribution])
def test_a_stop_ends_the_round_before_owners_are_asked_to_commit(kind: type) -> None:
    study = until(kind)
    stop(study, "rosa")
    digest = jobs.job_digest(study.data)
    assert study.said["rosa"][-1] == w.Finished(digest, 0, "stopped by rosa")
    finished = w.Finished(digest, 0, "stopped by rosa")
    assert study.said["alice"][-2:] == [w.Over(1, "stopped by rosa"), finished]
    assert status(study).job == ""
    study.instance.tick(seconds=1e6)
    assert study.instance.ledger.released == 0


def test_a_stop_waits_for_what_owners_were_asked_to_commit() -> None:
    study = Study()
    study.owners["bob"].spoil = silent_on(w.Commit)
    study.join("alice", "bob", "rosa")
    study.submit()
    study.settle()
    stop(study, "rosa")
    assert status(study).job == "train"
    study.owners["bob"].spoil = lambda message, body: [(message, body)]
    study.instance.disconnect("bob")
    study.join("bob")
    study.settle()
    assert study.instance.ledger.released == 1
    assert study.said["rosa"][-1] == w.Finished(jobs.job_digest(study.data), 1, "stopped by rosa")
    assert not any(isinstance(each, w.Over) for each in study.said["alice"])


def test_a_stop_between_rounds() -> None:
    study = Study()
    study.join("rosa")
    study.submit()
    study.settle()
    stop(study, "rosa")
    assert study.said["rosa"][-1] == w.Finished(jobs.job_digest(study.data), 0, "stopped by rosa")


def test_nobody_stops_what_does_not_run() -> None:
    study = Study(agreed={"rounds": 1})
    with pytest.raises(JobError, match="no job that this member could stop"):
        stop(study, "rosa")
    study.run()
    with pytest.raises(JobError, match="no job that this member could stop"):
        stop(study, "rosa")


@pytest.mark.parametrize("name", ["alice", "dora", "mallory"])
def test_a_member_that_is_no_researcher_stops_nothing(name: str) -> None:
    study = Study(agree(auditors=("dora",)))
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    for there in (True, False):
        with pytest.raises(JobError, match="no job that this member could stop"):
            stop(study, name)
        assert status(study).round == 1
        if there:
            study.instance.disconnect("rosa")


def test_another_researcher_stops_a_job_once_nobody_who_submitted_it_is_there() -> None:
    study = two_researchers()
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    with pytest.raises(JobError, match="it is not yours to stop"):
        stop(study, "sam")
    assert status(study).round == 1
    study.instance.disconnect("rosa")
    stop(study, "sam")
    assert status(study).job == ""
    assert "the job is over after 0 rounds: stopped by sam" in study.instance.notes


def sends_it_once_more(study: Study, name: str) -> None:
    """Another researcher comes, and submits the same job."""
    study.parties[name], study.said[name] = study.rosa, []
    study.rosa.name = name
    study.instance.connect(name)
    study.instance.say(name, study.rosa.join())
    body = study.data + np.linspace(-1, 1, 11, dtype=np.float32).tobytes()
    study.instance.say(name, w.Submit(len(study.data)), body)


def test_a_job_is_nobodys_who_sends_it_once_more() -> None:
    study = two_researchers()
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    sends_it_once_more(study, "sam")
    with pytest.raises(JobError, match="it is not yours to stop"):
        stop(study, "sam")
    assert status(study).round == 1


def test_the_researcher_whose_job_it_is_stops_it_from_elsewhere_whoever_is_there() -> None:
    """Its script is gone, and another's, which submitted the same job, is there."""
    study = two_researchers()
    study.owners["bob"].spoil = silent_on(w.Ready)
    study.run()
    study.instance.disconnect("rosa")
    sends_it_once_more(study, "sam")
    stop(study, "rosa")
    assert status(study).job == ""
