"""Attack: show one owner another job of the charter, model or round than the others, with real owners on all sides.

An aggregator that is proved does not do it; this is what would come of one that did. Each owner computes the round's
digest from what it runs, agrees to that one alone, and nobody's update is in a mean of other work.
tests/attacks/test_other_work_than_agreed.py has what one owner answers.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from cloister.ledger import job as jobs
from cloister.ledger.job import round_digest
from cloister.wire import rounds as w
from tests.attacks.gathering import Gathering
from tests.support.owners import LENGTH, Heard, agree, agreed, first_model, make_job

Garble = Callable[[Heard], Heard]


def study_with(change: Callable[[Gathering], Garble]) -> Gathering:
    """Bob hears what an attack makes of the messages to him."""
    study = Gathering(agree(jobs=[agreed(rounds=1), agreed(name="longer", steps=5, rounds=1)]))
    study.nodes["bob"].garble = change(study)
    study.run()
    return study


def other_bytes(study: Gathering) -> Garble:
    """Another job of the charter under the digest of the others' job."""
    data = jobs.encode(make_job(study.charter, name="longer"))
    return lambda heard: Heard(heard.message, data) if isinstance(heard.message, w.Work) else heard


def other_job(study: Gathering) -> Garble:
    """Another job of the charter, and a proposal that fits it."""
    data = jobs.encode(make_job(study.charter, name="longer"))
    digest = jobs.job_digest(data)

    def garble(heard: Heard) -> Heard:
        match heard.message:
            case w.Work():
                return Heard(w.Work(digest), data)
            case w.Propose() as asked:
                computed = round_digest(
                    digest, charter=study.charter.digest, number=asked.round, model=asked.model, head=asked.head
                )
                return Heard(msgspec.structs.replace(asked, job=digest, digest=computed), b"")
        return heard

    return garble


def other_model(study: Gathering) -> Garble:
    """Other values, under the digest that the charter names."""
    crafted = (first_model() * 1000).tobytes()

    def garble(heard: Heard) -> Heard:
        if isinstance(heard.message, w.Chain) and heard.message.model:
            assert len(heard.body[-4 * LENGTH :]) == len(crafted)
            return Heard(heard.message, heard.body[: -4 * LENGTH] + crafted)
        return heard

    return garble


def other_number(study: Gathering) -> Garble:
    """A later round, so that its place is another."""

    def garble(heard: Heard) -> Heard:
        if isinstance(heard.message, w.Propose):
            return Heard(msgspec.structs.replace(heard.message, round=heard.message.round + 1), b"")
        return heard

    return garble


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_bytes, "not the job that it is called"),
        (other_model, "not handed over"),
        (other_number, "round's digest is not that of its job"),
    ],
    ids=["bytes", "model", "number"],
)
def test_what_does_not_fit_is_not_trained(change: Callable[[Gathering], Garble], why: str) -> None:
    study = study_with(change)
    bob = study.nodes["bob"]
    assert not bob.records.took_part(study.charter.digest)
    assert why in " ".join((*bob.notes, bob.left))
    assert not any("bob" in cohort for cohort in study.cohorts())


def test_what_fits_in_itself_is_trained_and_never_agreed_to() -> None:
    """Bob refuses the cohort with his contribution, before it leaves him. The others go on without him."""
    study = study_with(other_job)
    bob = study.nodes["bob"]
    assert any("we trained for another job" in note for note in bob.notes)
    assert study.told("alice", w.Draft)
    assert not study.told("bob", w.Send)
    assert not bob.records.consents(study.charter.digest)
    assert study.cohorts()[:1] == [["alice", "chuck"]]
    assert not any("bob" in cohort for cohort in study.cohorts())
