"""Attack: stop a job, and with it the round for which others have trained, without being the one whose job it is."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.charter.toml import parse_charter
from cloister.errors import JobError
from cloister.wire import rounds as w
from tests.support.owners import OWNERS, Party, charter_text, first_model, key_of
from tests.support.rounds import Study


def under_way() -> Study:
    """Rosa's job, in its first round, which waits for bob. Sam, another researcher, and dora, who audits, are there."""
    text = charter_text(auditors=("sam", "dora"), job={"rounds": 1})
    at = text.index('name = "sam"')
    study = Study(parse_charter(text[:at] + text[at:].replace('role = "auditor"', 'role = "researcher"', 1)))
    for name in ("sam", "dora"):
        study.parties[name], study.said[name] = Party(name, study.charter), []
    study.owners["bob"].spoil = lambda message, body: [] if isinstance(message, w.Ready) else [(message, body)]
    study.run()
    return study


def goes_on(study: Study) -> None:
    assert study.instance.rounds.status().round == 1
    study.instance.tick()
    study.settle()
    assert study.instance.ledger.released == 1
    assert study.said["rosa"][-1].text == ""


@pytest.mark.parametrize("name", [*OWNERS, "sam", "dora", "mallory"])
def test_nobody_stops_the_job_of_a_researcher_who_is_there(name: str) -> None:
    study = under_way()
    with pytest.raises(JobError):
        study.instance.rounds.stop(key_of(name), now=study.instance.now)
    if name in study.parties:
        study.instance.say(name, w.Stop())
        assert any(isinstance(each, w.Refused) for each in study.instance.read(name))
    goes_on(study)


@pytest.mark.parametrize("name", [*OWNERS, "dora", "mallory"])
def test_no_owner_and_no_auditor_stops_it_when_she_is_gone(name: str) -> None:
    study = under_way()
    study.instance.disconnect("rosa")
    with pytest.raises(JobError):
        study.instance.rounds.stop(key_of(name), now=study.instance.now)
    study.instance.tick()
    study.settle()
    assert study.instance.ledger.released == 1


def test_another_job_of_the_same_name_makes_nobody_its_submitter() -> None:
    """What is submitted beside the job that runs is refused, and its researcher stops nothing by it."""
    study = under_way()
    body = study.data[:-1] + bytes([study.data[-1] ^ 1])
    for data in (body, study.data[:-1]):
        study.instance.say("sam", w.Submit(len(data)), data + first_model().tobytes())
        with pytest.raises(JobError):
            study.instance.rounds.stop(key_of("sam"), now=study.instance.now)
    goes_on(study)


@pytest.mark.parametrize("there", [True, False])
def test_the_very_same_job_makes_nobody_its_submitter_while_she_is_there(there: bool) -> None:
    """Its bytes follow from the charter, so anybody can send them; once she has left, it is whoever sends them's."""
    study = under_way()
    if not there:
        study.instance.disconnect("rosa")
    study.instance.say("sam", w.Submit(len(study.data)), study.data + first_model().tobytes())
    assert [type(each) for each in study.instance.read("sam")][-1] is w.Accepted
    if there:
        with pytest.raises(JobError, match="not yours to stop"):
            study.instance.rounds.stop(key_of("sam"), now=study.instance.now)
        study.instance.say("sam", w.Stop())
        assert "not yours to stop" in study.instance.read("sam")[-1].text
        goes_on(study)
    else:
        study.join("rosa")
        study.instance.say("sam", w.Stop())
        assert study.instance.rounds.status().round == 0


def test_a_stop_takes_no_release_from_those_who_were_asked_to_commit_it() -> None:
    """Otherwise a researcher that has seen who commits could choose which cohorts come out."""
    study = under_way()
    spoil: Any = lambda message, body: [] if isinstance(message, w.Commit) else [(message, body)]  # noqa: E731
    for name in ("alice", "chuck"):
        study.owners[name].spoil = spoil
    study.instance.tick()
    study.settle()
    for effect in study.instance.rounds.stop(key_of("rosa"), now=study.instance.now):
        study.instance._do(effect)
    for name in ("alice", "chuck"):
        study.owners[name].spoil = lambda message, body: [(message, body)]
        study.instance.disconnect(name)
        study.join(name)
    study.settle()
    assert study.instance.ledger.released == 1
