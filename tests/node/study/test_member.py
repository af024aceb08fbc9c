"""What an owner does in a round, and each thing that it refuses."""

from __future__ import annotations

import math

import pytest

from cloister.charter import keys
from cloister.charter.owner_limits import Floors
from cloister.errors import NotGenuineError, RecordsError
from cloister.ledger import answers
from cloister.ledger.chain import Ledger
from cloister.ledger.job import job_digest
from cloister.ledger.records import cohort_digest, commit_to_be_signed, commitment, consent_to_be_signed, encode
from cloister.node.study import answering
from cloister.node.study.effects import Abandon, Leave, Note, Prove, Say, Train
from cloister.node.study.entries import Answered, Salted
from cloister.node.study.journal import Records
from cloister.node.study.own_limits import OwnLimits
from cloister.wire import rounds as w
from cloister.wire.optimizers import SGD
from cloister.worker.data.salts import seeds_of
from tests.support import chains, charters
from tests.support.members import (
    NORMS,
    OWNERS,
    START,
    UPDATE,
    Aggregator,
    agreed_job,
    changed,
    charter,
    declined,
    job,
    leaves,
    only,
    owner,
)


def verify(signature: w.MemberSignature, message: bytes) -> None:
    assert (signature.member, signature.public_key) == (
        charters.fingerprint_of("bob"),
        keys.public_bytes(charters.key_of("bob")),
    )
    keys.verify(signature.signature, message=message, public_key=signature.public_key)


def test_a_round_from_the_proposal_to_the_release():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    order = here.propose()
    assert (order.round, order.model, order.data, order.clip, order.least) == (1, START, "#mri", 1.0, 10)
    effects = here.member.trained(1, UPDATE, examples=23, norms=NORMS, metrics={"loss": 99.0, "secret": 1.0})
    ready = only(effects, w.Ready)
    assert ready.examples == 20  # the charter's bucket
    assert ready.metrics == {"loss": 10.0}  # what the charter names, within its range
    assert (ready.norm, ready.buffers) == NORMS
    cohort = encode(here.cohort())
    consent = only(here.member.handle(w.Draft(1, cohort)), w.Consent)
    assert (consent.round, consent.cohort) == (1, cohort_digest(cohort))
    verify(consent.signature, consent_to_be_signed(cohort))
    sent = next(each for each in here.member.handle(w.Send(1)) if isinstance(each, Say))
    assert isinstance(sent.message, w.Contribution)
    assert sent.bodies == (UPDATE,)
    assert commitment(sent.message.salt, memoryview(UPDATE)) == ready.commitment
    assert here.member.handle(w.Send(1)) == [sent]  # and again, if it must
    settle = w.Settle(1, cohort, here.outcome, chains.consents(cohort, OWNERS))
    commit = only(here.member.handle(settle), w.Commit)
    assert commit.round == 1
    verify(commit.signature, commit_to_be_signed(cohort, here.outcome))
    here.release()
    agreed = here.ledger.charter.digest
    assert notes.chain(agreed) == here.ledger.records
    kept = notes.model(agreed)
    assert kept is not None
    assert (kept.digest, kept.vector) == (here.ledger.model, here.model)
    assert notes.spent("#mri") == 1
    assert declined(here.member.handle(w.Send(1)))  # it is over
    assert here.propose(2).model == here.model


def test_rows_are_a_secret_of_the_data_set_and_their_order_one_of_each_release():
    first = Aggregator.facing(owner()).propose().seeds
    # After rounds that came to nothing it is the same again: what is contributed tells nothing new.
    assert Aggregator.facing(owner()).propose(3).seeds == first
    here = Aggregator.facing(owner())
    here.round()
    second = here.propose(2).seeds
    assert second.rows == first.rows
    assert second.steps != first.steps
    other = Records(None)
    other.draw(Salted(bytes(32), "#mri", b"\1" * 32))
    assert Aggregator.facing(owner(notes=other)).propose().seeds not in (first, second)


def test_the_order_of_rows_is_another_for_another_job():
    agreed = charter(jobs=[agreed_job(), agreed_job(name="more")])
    orders = [Aggregator.facing(owner(agreed=agreed), name=name).propose().seeds for name in ("train", "more")]
    assert orders[0].rows == orders[1].rows
    assert orders[0].steps != orders[1].steps


def test_a_secret_is_written_down_before_it_is_used_and_stays():
    notes = Records(None)
    first = Aggregator.facing(owner(notes=notes)).propose().seeds
    assert notes.salt("#mri") is not None
    assert notes.salt("#ct") is None
    again = owner(notes=notes)
    again._new_salt = lambda: b"\7" * 32
    assert Aggregator.facing(again).propose().seeds == first


def test_a_rehearsal_may_name_the_salt():
    notes = Records(None)
    member = owner(notes=notes, unsafe_salt=bytes(32))
    here = Aggregator.facing(member)
    assert here.propose().seeds == seeds_of(bytes(32), job=job_digest(here.encoded), number=1)
    assert notes.salt("#mri") is None


def test_a_data_set_is_trained_on_in_batches_of_one_size_under_all_charters():
    notes = Records(None)
    Aggregator.facing(owner(notes=notes)).contribute()
    other = charter(jobs=[agreed_job(name="more", batch_size=33)])
    here = Aggregator.facing(owner(notes=notes, agreed=other), instance="second", name="more")
    assert "with steps of 32 rows, rows weights and clip_norm none before" in refused(here)
    for numbers in [{"weights": "uniform"}, {"optimizer": SGD(0.1, clip_norm=1.0)}]:
        there = charter(jobs=[agreed_job(name="more", **numbers)])
        assert "counts otherwise" in refused(Aggregator.facing(owner(notes=notes, agreed=there), name="more"))
    named = owner(notes=notes, agreed=other, unsafe_counted_otherwise=frozenset({"#mri"}))
    assert Aggregator.facing(named, instance="third", name="more").propose(2)


def test_a_batch_below_its_own_floor():
    here = Aggregator.facing(owner(floors=Floors(min_batch=64)))
    assert "steps are of 32 rows, and at least 64 are asked for here" in refused(here)


def test_a_round_that_may_take_longer_than_its_own_limit():
    here = Aggregator.facing(owner(floors=Floors(max_s=59)))
    assert "gives owners 60 s for a round, and at most 59 s are allowed here" in refused(here)


def test_an_owner_that_is_not_in_the_cohort_bears_witness():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.commit(names=("alice", "chuck"))
    assert notes.spent("#mri") == 0


def asking(here: Aggregator, how: str, number: int = 1, names: tuple[str, ...] = OWNERS) -> w.Draft | w.Settle:
    """What asks for a consent, or for a commit."""
    cohort = encode(here.cohort(number, names))
    if how == "draft":
        return w.Draft(number, cohort)
    return w.Settle(number, cohort, here.outcome, chains.consents(cohort, names))


@pytest.mark.parametrize(("how", "kind"), [("draft", w.Consent), ("settle", w.Commit)])
def test_nothing_is_signed_before_the_instance_has_proved_itself_in_this_round(how, kind):
    here = Aggregator.facing(owner())
    here.contribute(1)
    assert declined(here.ask(here.cohort(7, ("alice", "chuck"), signer=bytes(32))))  # its proof was another round's
    written = here.member._records._count
    assert [type(each) for each in here.member.handle(asking(here, how))] == [Prove]
    assert here.member._records._count == written
    assert only(here.prove(), kind).round == 1
    assert here.member._records._count == written + 1
    assert only(here.member.handle(asking(here, how)), kind).round == 1  # for which it needs no other proof


@pytest.mark.parametrize("how", ["draft", "settle"])
@pytest.mark.parametrize("proved", [{"ledger_sequence": 9}, {"signing_key": bytes(32)}])
def test_a_proof_of_another_ledger_or_key_is_followed_by_no_signature(proved, how):
    here = Aggregator.facing(owner())
    only(here.member.handle(asking(here, how, names=("alice", "chuck"))), Prove)
    assert "has not proved" in declined(here.prove(**proved))


def test_what_waits_for_a_proof_is_gone_with_the_connection():
    here = Aggregator.facing(owner())
    here.member.handle(asking(here, "settle", names=("alice", "chuck")))
    here.member.disconnected()
    joined = only(here.connect(), w.Join)
    here.chain(after=joined.sequence, model=START)
    here.show()
    only(here.member.handle(here.proposal(1)), Prove)
    assert [type(each) for each in here.prove()] == [Note, Train]


@pytest.mark.parametrize("how", ["draft", "settle"])
def test_what_waits_for_a_proof_is_gone_with_its_round(how):
    """An owner that has just come is asked to commit, and the others release the round, or end it, meanwhile."""
    here = Aggregator.facing(owner())
    only(here.member.handle(asking(here, how, names=("alice", "chuck"))), Prove)
    written = here.member._records._count
    only(here.member.handle(w.Over(1, "nobody is left")), Note)
    assert here.prove() == []
    assert here.member._records._count == written
    there = Aggregator.facing(owner())
    only(there.member.handle(asking(there, how, names=("alice", "chuck"))), Prove)
    assert "is released" in only(there.release(names=("alice", "chuck")), Note).text
    assert there.prove() == []


@pytest.mark.parametrize("how", ["draft", "settle"])
def test_why_it_does_not_sign_is_a_warning_and_no_answer_to_the_round(how):
    here = Aggregator.facing(owner())
    only(here.member.handle(asking(here, how, names=("alice", "chuck"))), Prove)
    effects = here.prove(signing_key=bytes(32))
    assert only(effects, w.Declined).standing is None
    assert [each.warns for each in effects if isinstance(each, Note)] == [True]
    assert here.member._records.highest(here.ledger.charter.digest) == 0


# When it sends


def test_a_contribution_leaves_it_once_a_cohort_with_it_was_consented_to():
    here = Aggregator.facing(owner())
    here.contribute()
    assert "once a cohort with it was agreed to" in declined(here.member.handle(w.Send(1)))
    here.commit()  # a commit is no consent
    assert "once a cohort with it was agreed to" in declined(here.member.handle(w.Send(1)))
    here.consent()
    assert isinstance(only(here.member.handle(w.Send(1)), w.Contribution), w.Contribution)


def test_a_consent_in_one_round_lets_no_contribution_of_another_go():
    here = Aggregator.facing(owner())
    here.contribute(1)
    here.consent(1)
    here.contribute(2)
    assert "no contribution to this round any more" in declined(here.member.handle(w.Send(1)))
    assert "once a cohort with it was agreed to" in declined(here.member.handle(w.Send(2)))


def test_a_consent_under_another_charter_lets_no_contribution_go():
    notes = Records(None)
    other = Aggregator.facing(owner(notes=notes, agreed=charter(serial=2, supersedes=bytes(32))))
    other.contribute(1)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute(1)
    other.consent(1)
    assert "once a cohort with it was agreed to" in declined(here.member.handle(w.Send(1)))


# What it answers


def answer_of(here: Aggregator, standing: w.Standing | None) -> answers.Answer:
    assert standing is not None
    assert standing.answer.signature.member == charters.fingerprint_of("bob")
    return answers.read(standing.answer, charter=here.ledger.charter)


def test_ready_is_an_answer_with_all_that_was_committed():
    here = Aggregator.facing(owner())
    here.round(1)
    here.contribute(2)
    here.commit(2, ("alice", "chuck"))
    ready = here.contribute(3)
    answer = answer_of(here, ready.standing)
    assert (answer.round, answer.sequence, answer.head) == (3, here.ledger.sequence, here.ledger.head)
    assert [(each.round, each.model) for each in answer.committed] == [(2, here.ledger.model)]
    assert ready.standing.open


def test_a_round_that_is_declined_is_answered_with_all_that_was_committed():
    here = Aggregator.facing(owner())
    here.commit(2, ("alice", "chuck"))
    effects = here.member.handle(here.proposal(3, head=bytes(32)))
    said = only(effects, w.Declined)
    answer = answer_of(here, said.standing)
    assert (answer.round, [each.round for each in answer.committed]) == (3, [2])
    assert here.member._records.highest(here.ledger.charter.digest) == 3
    assert "comes after round 3" in refused(here, 3)


@pytest.mark.parametrize("number", [2, 4, 5])
def test_a_round_that_was_answered_before_is_declined_without_an_answer(number):
    here = Aggregator.facing(owner())
    here.contribute(4)
    here.commit(5, ("alice", "chuck"))
    said = only(here.member.handle(here.proposal(number)), w.Declined)
    assert said.standing is None


def test_a_training_that_fails_or_comes_to_too_little_answers_the_round():
    here = Aggregator.facing(owner())
    here.propose(1)
    assert answer_of(here, only(here.member.failed(1, "no column"), w.Declined).standing).round == 1
    here.propose(2)
    effects = here.member.trained(2, UPDATE, examples=1, norms=NORMS, metrics={})
    assert answer_of(here, only(effects, w.Declined).standing).round == 2


def test_more_commits_than_an_answer_lists(monkeypatch):
    monkeypatch.setattr(answering, "COHORTS", 16)
    here = Aggregator.facing(owner())
    for number in range(1, 18):
        here.commit(number, ("alice", "chuck"))
    said = only(here.member.handle(here.proposal(18)), w.Declined)
    assert "17 cohorts that this node committed may still be released" in said.text
    assert said.standing is None
    here.member.handle(here.answers(18, ("alice", "chuck")))
    assert answer_of(here, here.contribute(18).standing).committed == ()


def test_more_commits_than_an_answer_lists_since_it_began_to_train(monkeypatch):
    monkeypatch.setattr(answering, "COHORTS", 16)
    here = Aggregator.facing(owner())
    for number in range(1, 17):
        here.commit(number, ("alice", "chuck"))
    here.propose(18)
    here.commit(17, ("alice", "chuck"))
    effects = here.member.trained(18, UPDATE, examples=23, norms=NORMS, metrics={})
    said = only(effects, w.Declined)
    assert "17 cohorts that this node committed" in said.text
    assert said.standing is None
    assert here.member._records.took_part(here.ledger.charter.digest) == {}


def test_answers_free_the_budget():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes, floors=Floors(rounds=1)))
    here.contribute(1)
    here.consent(1)
    said = only(here.member.handle(here.proposal(2)), w.Declined)
    assert "its owner's floors allow 1" in said.text
    assert said.standing is not None
    assert said.standing.open
    assert here.member.handle(here.answers(2, ("alice",))) == []
    assert notes.spent("#mri") == 1
    effects = here.member.handle(here.answers(2, ("alice", "chuck")))
    assert [each.text for each in effects if isinstance(each, Note)] == [
        "the answers to round 2 show that 1 cohorts are void"
    ]
    assert notes.spent("#mri") == 0
    assert not here.contribute(3).standing.open


def test_answers_count_together_that_come_in_two_messages():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute(1)
    here.consent(1)
    here.contribute(2)
    assert here.member.handle(here.answers(2, ("alice",))) == []
    assert here.member.handle(here.answers(3, ("chuck",))) == []  # to another round
    assert notes.spent("#mri") == 1
    assert here.member.handle(here.answers(3, ("alice",)))
    assert notes.spent("#mri") == 0


def test_answers_that_list_a_cohort_free_nothing():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute(1)
    here.consent(1)
    here.commit(1)
    (listed,) = answer_of(here, here.contribute(2).standing).committed
    assert here.member.handle(here.answers(2, OWNERS, committed=[listed])) == []
    assert notes.spent("#mri") == 1


def test_answers_that_cannot_be_written_down(tmp_path):
    notes = Records(tmp_path)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute(1)
    here.consent(1)
    notes.close()
    assert "records" in leaves(here.member.handle(here.answers(2)))


# What it refuses to train for


def refused(here: Aggregator, number: int = 1, **fields: object) -> str:
    return declined(here.member.handle(here.proposal(number, **fields)))


def test_a_round_number_that_was_used():
    here = Aggregator.facing(owner())
    here.contribute(4)
    assert "comes after round 4" in refused(here, 4)
    assert "comes after round 4" in refused(here, 3)


def test_a_job_that_was_not_shown():
    here = Aggregator.facing(owner())
    assert "not shown" in refused(here, job=bytes(32))


def test_a_job_that_is_not_what_it_is_called():
    here = Aggregator.facing(owner())
    here.member.handle(w.Work(job_digest(here.encoded)), here.encoded + b"\0")
    assert "not the job that it is called" in refused(here)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"plan": b"another"}, "that of the charter's job"),
        ({"name": "another"}, "no job 'another'"),
        ({"charter": bytes(32)}, "another charter"),
    ],
)
def test_a_job_that_the_charter_does_not_allow(fields, why):
    here = Aggregator.facing(owner())
    here.job = job(here.ledger.charter, **fields)
    here.show()
    assert why in refused(here)


def test_a_job_that_starts_elsewhere():
    here = Aggregator.facing(owner())
    here.job = job(here.ledger.charter, start=bytes(32))
    here.show()
    assert "starts from another model" in refused(here)


@pytest.mark.parametrize("tag", ["#ct", "#two"])
def test_a_tag_that_no_data_set_carries_or_two_do(tag):
    data = {"#mri": frozenset({"#mri"}), "#two a": frozenset({"#two", "a"}), "#two b": frozenset({"#two", "b"})}
    here = Aggregator.facing(owner(data=data, agreed=charter(jobs=[agreed_job(data=tag)])))
    assert tag in refused(here)


def test_a_model_outside_the_chain():
    here = Aggregator.facing(owner())
    assert "neither the charter's first" in refused(here, model=bytes(32))


def test_a_round_on_another_record_than_the_newest():
    here = Aggregator.facing(owner())
    assert "another record" in refused(here, head=bytes(32))
    assert "another record" in refused(here, 2, sequence=2)


def test_another_round_digest():
    here = Aggregator.facing(owner())
    assert "digest" in refused(here, digest=bytes(32))


def test_a_model_that_was_not_handed_over():
    member = owner()
    here = Aggregator(member, job(member.charter), Ledger(member.charter))
    here.ledger.append(here.instance.begin(here.ledger))
    here.connect()
    here.chain(after=0)
    here.show()
    assert "not handed over" in refused(here)


def test_more_rounds_than_the_job_has():
    here = Aggregator.facing(owner(agreed=charter(jobs=[agreed_job(rounds=1)])))
    here.round()
    assert "used up" in refused(here, 2)
    here.job = job(here.ledger.charter, start=here.ledger.model)  # begun anew, from the newest model
    here.show()
    assert "used up" in refused(here, 3)


def test_more_rounds_than_the_charter_has():
    jobs = [agreed_job(rounds=1), agreed_job(name="more", rounds=1)]
    here = Aggregator.facing(owner(agreed=charter(rounds="1", jobs=jobs)))
    here.round()
    here.job = job(here.ledger.charter, name="more", start=here.ledger.model)
    here.show()
    assert "used up" in refused(here, 2)


def test_a_budget_of_the_owner_that_is_spent():
    here = Aggregator.facing(owner(floors=Floors(rounds=1)))
    here.round()
    assert "its owner's floors allow 1" in refused(here, 2)


def test_a_budget_is_told_to_nobody_unless_its_owner_publishes_it():
    for publish in (False, True):
        here = Aggregator.facing(owner(floors=Floors(rounds=2), publish_budget=publish))
        told = []
        for number in (1, 2):
            told.append(here.contribute(number).standing.left)
            here.consent(number)
            here.commit(number)
            here.release(number)
        found = only(here.member.handle(here.proposal(3)), w.Declined)
        told.append(found.standing.left)
        assert told == ([2, 1, 0] if publish else [None] * 3)


def test_a_budget_of_no_data_set_is_not_published():
    here = Aggregator.facing(owner(publish_budget=True, data={}))
    assert only(here.member.handle(here.proposal()), w.Declined).standing.left is None
    here.member.handle(w.Work(bytes(32)), b"no job")
    assert only(here.member.handle(here.proposal(2)), w.Declined).standing.left is None


def test_an_instance_that_proves_another_ledger():
    here = Aggregator.facing(owner())
    only(here.member.handle(here.proposal()), Prove)
    assert "another ledger" in declined(here.prove(ledger_sequence=9))


def test_an_instance_that_proves_another_key():
    here = Aggregator.facing(owner())
    only(here.member.handle(here.proposal()), Prove)
    assert "another ledger" in declined(here.prove(signing_key=bytes(32)))


def test_fewer_examples_than_its_floor():
    here = Aggregator.facing(owner(floors=Floors(min_examples=50)))
    assert here.propose().least == 50
    assert "at least 50 examples" in declined(here.member.trained(1, UPDATE, examples=49, norms=NORMS, metrics={}))


def test_a_metric_that_is_no_number_stays_at_home():
    here = Aggregator.facing(owner())
    here.propose()
    ready = only(here.member.trained(1, UPDATE, examples=23, norms=NORMS, metrics={"loss": math.nan}), w.Ready)
    assert ready.metrics == {}


def test_training_that_fails():
    here = Aggregator.facing(owner())
    here.propose()
    assert declined(here.member.failed(1, "the data set lacks column 'y'")) == "the data set lacks column 'y'"
    assert here.member.training is None


# What it refuses to sign


def unsigned(here: Aggregator, number: int = 1, names: tuple[str, ...] = OWNERS, **fields: object) -> str:
    """Why it neither commits a cohort nor, if it is in it, consents to it: that is the same for both."""
    cohort, before = here.cohort(number, names, **fields), here.member._records._count
    why = declined(here.ask(cohort)).removeprefix("the cohort is not committed: ")
    if "bob" in names:
        assert declined(here.draft(cohort)).removeprefix("the cohort is not consented to: ") == why
    assert here.member._records._count == before
    return why


def no_consent(here: Aggregator, number: int = 1, names: tuple[str, ...] = OWNERS, **fields: object) -> str:
    before = here.member._records._count
    why = declined(here.draft(here.cohort(number, names, **fields)))
    assert here.member._records._count == before
    return why


def no_commit(here: Aggregator, number: int = 1, names: tuple[str, ...] = OWNERS, **fields: object) -> str:
    before = here.member._records._count
    why = declined(here.ask(here.cohort(number, names, **fields)))
    assert here.member._records._count == before
    return why


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"charter": bytes(32)}, "another charter"),
        ({"signer": bytes(32)}, "the instance has not proved"),
        ({"previous": bytes(32)}, "follows another record"),
        ({"sequence": 9}, "number 9"),
        ({"model": bytes(32)}, "another model"),
        ({"digest": bytes(32)}, "round digest"),
        ({"name": "another"}, "the charter has none of that name"),
        ({"name": "more"}, "calls the job otherwise"),
        ({"job": bytes(32), "digest": bytes(32)}, "round digest"),
    ],
)
def test_a_cohort_with_another(fields, why):
    here = Aggregator.facing(owner(agreed=charter(jobs=[agreed_job(), agreed_job(name="more")])))
    here.contribute()
    assert why in unsigned(here, **fields)


def test_a_job_that_it_did_not_train_for():
    here = Aggregator.facing(owner())
    here.contribute()
    assert "another job" in no_consent(here, job=bytes(32))


@pytest.mark.parametrize("how", ["draft", "settle"])
def test_a_cohort_of_another_round_than_it_is_sent_for(how):
    here = Aggregator.facing(owner())
    here.contribute()
    here.member.handle(changed(asking(here, how), round=2))
    assert "another round" in declined(here.prove())


@pytest.mark.parametrize("how", ["draft", "settle"])
def test_a_cohort_that_is_none(how):
    here = Aggregator.facing(owner())
    here.contribute()
    assert "no cohort" in declined(here.member.handle(changed(asking(here, how), cohort=b"\xc1")))


def test_a_round_that_it_committed_before_and_the_very_same_again():
    here = Aggregator.facing(owner())
    here.contribute(2)
    cohort = here.cohort(2)
    first = only(here.ask(cohort), w.Commit)
    assert only(here.ask(cohort), w.Commit) == first
    other = changed(asking(here, "settle", 2), outcome=bytes(32))
    assert "another cohort or outcome" in declined(here.member.handle(other))
    assert "another cohort or outcome" in no_commit(here, 2, ("alice", "chuck"))
    assert "round 2 was answered since" in no_commit(here, 1, ("alice", "chuck"))


def test_a_commit_without_the_consent_of_all():
    here = Aggregator.facing(owner())
    here.contribute()
    cohort = here.cohort()
    consents = chains.consents(encode(cohort), ("bob", "alice"))
    assert "has not consented to it" in declined(here.ask(cohort, consents=consents))


def test_a_cohort_below_a_floor():
    assert "floor is 2" in unsigned(Aggregator.facing(owner()), names=("alice",))
    here = Aggregator.facing(owner(floors=Floors(floor=3)))
    here.contribute()
    assert "at least 3" in no_consent(here, names=("alice", "bob"))
    here.commit(names=("alice", "chuck"))  # a witness holds to the charter


def test_a_stranger_in_the_cohort():
    here = Aggregator.facing(owner())
    assert "no owner" in declined(here.ask(here.cohort(names=("alice", "rosa")), consents=()))
    assert "no owner" in declined(here.draft(here.cohort(names=("bob", "rosa"))))


@pytest.mark.parametrize("weights", [(0.5, 0.4), (0.6, 0.4), (1.5, -0.5), (math.nan, 0.5)])
def test_weights_that_are_wrong(weights):
    here = Aggregator.facing(owner())
    first, second = here.cohort(names=("alice", "chuck")).shares
    shares = (changed(first, weight=weights[0]), changed(second, weight=weights[1]))
    assert "weight" in unsigned(here, names=("alice", "chuck"), shares=shares)


def test_a_share_over_its_own_floor():
    here = Aggregator.facing(owner(floors=Floors(largest_share=0.4)))
    here.contribute()
    assert "more than 0.4" in no_consent(here, names=("alice", "bob"))


def test_a_cohort_with_it_to_which_it_contributed_nothing():
    assert "contributed nothing" in no_consent(Aggregator.facing(owner()))


def test_another_contribution_than_its_own():
    here = Aggregator.facing(owner())
    here.contribute()
    shares = tuple(changed(share, commitment=bytes([at]) * 32) for at, share in enumerate(here.cohort().shares))
    assert "another contribution" in no_consent(here, shares=shares)


def test_a_round_that_is_over():
    here = Aggregator.facing(owner())
    here.contribute(1)
    here.contribute(2)
    assert "round 2 was answered since" in unsigned(here, 1)


def test_a_cohort_that_differs_by_less_than_the_floor_from_one_on_the_same_model():
    here = Aggregator.facing(owner())
    here.contribute(1)
    here.commit(1)
    here.contribute(2)
    assert "differs in 1 member" in no_commit(here, 2, ("alice", "bob"))
    here.commit(2)  # the very same members are no other cohort


def test_a_budget_says_whose_number_it_is():
    known = charters.charter(rounds="3")
    assert OwnLimits(known, floors=None).rounds_by == "the charter's `rounds` allows"
    assert OwnLimits(known, floors=Floors(rounds=3)).rounds_by == "the charter's `rounds` allows"
    assert OwnLimits(known, floors=Floors(rounds=2)).rounds_by == "its owner's floors allow"


def test_what_an_owner_may_have_to_see_to_is_a_warning():
    here = Aggregator.facing(owner(floors=Floors(rounds=1)))
    here.round()
    notes = [effect for effect in here.member.handle(here.proposal(2)) if isinstance(effect, Note)]
    assert [note.warns for note in notes] == [True]


def test_a_budget_that_was_spent_since_it_trained():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes, floors=Floors(rounds=1)))
    here.contribute()
    other = Aggregator.facing(owner(notes=notes, agreed=charter(serial=2, supersedes=bytes(32))))
    other.round()
    assert "its owner's floors allow 1" in no_consent(here)


def test_records_that_cannot_be_written(tmp_path):
    notes = Records(tmp_path)
    here = Aggregator.facing(owner(notes=notes))
    here.contribute()
    notes.close()
    assert "records" in declined(here.draft(here.cohort()))
    assert "records" in declined(here.ask(here.cohort()))
    assert declined(here.member.handle(w.Send(1)))
    here.propose(2)
    effects = here.member.trained(2, UPDATE, examples=23, norms=NORMS, metrics={})
    assert "records" in declined(effects)
    assert only(effects, w.Declined).standing is None  # what is not written down is not answered
    assert declined(here.member.handle(w.Send(2)))
    with pytest.raises(RecordsError):
        notes.answer(Answered(bytes(32), 1))


# Chains


def test_it_joins_with_what_was_released_and_not_with_an_instance_that_released_nothing():
    notes = Records(None)
    here = Aggregator.facing(owner(notes=notes))
    here.round()
    head = here.ledger.head
    here.ledger.append(chains.Instance("dead").begin(here.ledger))
    here.chain(after=2)
    assert here.member.newest[0] == 3
    again = owner(notes=notes)
    joined = only(Aggregator(again, here.job, here.ledger).connect(), w.Join)
    assert (joined.sequence, joined.head, joined.round, joined.holds) == (2, head, 1, True)
    third = Ledger.from_records(here.ledger.charter, here.ledger.records[:2])
    Aggregator.facing(again, at=third, instance="third")  # another instance goes on from the release


def test_a_chain_that_goes_on_without_the_newest_release():
    here = Aggregator.facing(owner())
    here.round()
    fork = Ledger.from_records(here.ledger.charter, here.ledger.records[:1])
    fork.append(chains.Instance("other").begin(fork))
    here.ledger = fork
    assert "a fork" in leaves(here.chain(after=1))
    assert here.member.newest[0] == 2


def test_instances_that_released_nothing_give_way_one_by_one():
    here = Aggregator.facing(owner())
    here.round()
    settled = here.ledger.copy()
    for name in ("dead", "dying"):
        here.ledger.append(chains.Instance(name).begin(here.ledger))
    here.chain(after=2)
    kept = Ledger.from_records(settled.charter, here.ledger.records[:3])
    kept.append(chains.Instance("third").begin(kept))
    here.ledger = kept
    assert not leaves(here.chain(after=3))  # beside "dying"
    assert here.member.newest == (4, kept.head)
    settled.append(chains.Instance("fourth").begin(settled))
    here.ledger = settled
    assert not leaves(here.chain(after=2))  # beside "dead", and all that follows it
    assert here.member.newest == (3, settled.head)


def test_a_chain_with_a_gap_or_a_broken_record_changes_nothing():
    here = Aggregator.facing(owner())
    newest = here.member.newest
    assert "from number 9 on do not follow" in leaves(here.member.handle(w.Chain(9, ())))
    assert "from number 0 on do not follow" in leaves(here.member.handle(w.Chain(0, ())))
    assert "no record" in leaves(here.member.handle(w.Chain(2, (3,)), b"abc"))
    assert "their body of 3 bytes" in leaves(here.member.handle(w.Chain(2, (4,)), b"abc"))
    assert here.member.newest == newest


def test_a_model_that_is_not_what_was_released():
    here = Aggregator.facing(owner())
    assert "not the one" in leaves(here.chain(after=1, model=UPDATE))
    assert here.propose().model == START


def test_a_state_that_was_not_released():
    here = Aggregator.facing(owner())
    assert not leaves(here.member.handle(w.Chain(2, (), len(START), 0, (8,)), START + bytes(8)))  # a rule's first
    here.round()
    message = w.Chain(3, (), len(here.model), 1, (8,))
    assert "state" in leaves(here.member.handle(message, here.model + bytes(8)))
    assert "state" in leaves(here.member.handle(changed(message, state=(7,)), here.model + bytes(7)))
    assert "lengths" in leaves(here.member.handle(w.Chain(2, (), 0, 1, (8,)), bytes(8)))


def test_a_model_that_comes_before_the_job_is_looked_at_once_the_job_is_there():
    member = owner()
    here = Aggregator(member, job(member.charter), Ledger(member.charter))
    here.ledger.append(here.instance.begin(here.ledger))
    here.connect()
    assert not leaves(here.chain(after=0, model=UPDATE))
    assert "not the one" in leaves(here.show())
    here.connect()
    here.chain(after=0, model=START)
    here.show()
    assert here.propose().model == START


def test_evidence_of_earlier_instances_is_verified_and_the_live_one_is_known():
    asked = []
    member = owner(verify_instance=lambda instance: asked.append(instance.record.sequence))
    here = Aggregator.facing(member, at=chains_of(2), instance="live")
    assert asked == [1]
    assert here.member.newest[0] == 4

    def refuse(instance: object) -> None:
        raise NotGenuineError("nobody made this")

    member = owner(verify_instance=refuse)
    here = Aggregator(member, job(member.charter), chains_of(1), chains.Instance("live"))
    here.connect()
    assert "nobody made this" in leaves(here.chain(after=0))


def chains_of(rounds: int) -> Ledger:
    """A ledger of somebody else's rounds."""
    here = Aggregator.facing(owner("alice"))
    for number in range(1, rounds + 1):
        here.round(number)
    return here.ledger


def test_it_hands_over_what_it_holds():
    here = Aggregator.facing(owner())
    here.round()
    record = here.ledger.records[1]
    assert here.member.handle(w.HandOver(1)) == [Say(w.Chain(2, (len(record),)), (record,))]
    assert here.member.handle(w.HandOver(2)) == [Say(w.Chain(3, (), len(here.model)), (here.model,))]
    assert leaves(here.member.handle(w.HandOver(9)))


# The rest


def test_training_for_a_void_round_is_abandoned():
    here = Aggregator.facing(owner())
    for number, event in enumerate(
        [
            lambda: here.member.handle(w.Over(1, "the operator pulled a plug")),
            lambda: here.member.handle(here.proposal(9)),
            here.show,
            here.member.disconnected,
        ],
        1,
    ):
        if number == 2:
            here.propose(2)
        elif number > 2:
            here.propose(10 + number)
        else:
            here.propose(1)
        running = here.member.training
        assert only(event(), Abandon) == Abandon(running)
        assert here.member.trained(running, UPDATE, examples=23, norms=NORMS, metrics={}) == []
        if number == 2:
            here.prove()


def test_a_refused_contribution_is_forgotten():
    here = Aggregator.facing(owner())
    here.contribute()
    here.consent()
    here.member.handle(w.Refused(1, "round", "its norm"))
    assert declined(here.member.handle(w.Send(1)))


@pytest.mark.parametrize(
    "message", [w.Refused(0, "ledger", "a fork"), w.Join(0, b"", 0, False), w.Stop(), w.Resubmit(bytes(32))]
)
def test_messages_after_which_it_leaves(message):
    assert leaves(Aggregator.facing(owner()).member.handle(message))


def test_a_body_where_none_belongs():
    assert [type(each) for each in Aggregator.facing(owner()).member.handle(w.Send(1), b"x")] == [Leave]


def test_an_answer_to_a_challenge_for_a_round_that_is_gone():
    here = Aggregator.facing(owner())
    here.member.handle(here.proposal(1))
    here.member.handle(here.proposal(2))
    assert here.prove() == []  # the first challenge's answer
    assert only(here.prove(), Train).round == 2


def test_a_contribution_is_made_once_however_often_the_instance_proves_itself():
    here = Aggregator.facing(owner())
    here.contribute(1)
    assert declined(here.draft(here.cohort(7)))  # the proof of another round comes in between
    effects = here.draft(here.cohort(1))
    assert only(effects, w.Consent).round == 1
    assert not [each for each in effects if isinstance(each, Train)]
