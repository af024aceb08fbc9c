"""The one place where an owner signs: each check of "Before an owner signs" (docs/ledger.md), by its number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from cloister.charter import keys
from cloister.charter.owner_limits import Floors
from cloister.errors import LedgerError, RecordsError, RoundError
from cloister.ledger.records import Cohort, cohort_digest, commit_to_be_signed, consent_to_be_signed, encode
from cloister.node.study import countersigner
from cloister.node.study.countersigner import Countersigner
from cloister.node.study.entries import Answered, Committed, Consented, Voided
from cloister.node.study.journal import Records
from cloister.node.study.own_limits import OwnLimits
from cloister.wire.rounds import MemberSignature
from tests.support import chains, charters
from tests.support.members import OWNERS, Aggregator, charter, owner

PAGE = Path(__file__).parents[3] / "docs/ledger.md"
ALL = OWNERS
TWO = ("bob", "alice")
OTHERS = ("alice", "chuck")
FIVE = (*OWNERS, "dora", "emil")
ELSEWHERE = bytes([7]) * 32
"""Another charter."""
OUTCOME = chains.digest("outcome")

Asking: TypeAlias = Callable[[], MemberSignature]


def ids_of(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(map(charters.fingerprint_of, names)))


@dataclass
class Asked:
    """Bob, who has contributed to round 1 and is asked to sign with what a test changes."""

    here: Aggregator
    notes: Records
    floors: Floors | None = None

    @classmethod
    def after_training(
        cls, *, floors: Floors | None = None, owners: Sequence[str] = OWNERS, notes: Records | None = None
    ) -> Asked:
        notes = notes or Records(None)
        here = Aggregator.facing(owner(notes=notes, floors=floors, agreed=charter(owners=owners)))
        here.contribute()
        return cls(here, notes, floors)

    @property
    def charter(self) -> bytes:
        return self.here.ledger.charter.digest

    def cohort(self, number: int = 1, names: Sequence[str] = ALL, **changed: object) -> Cohort:
        return self.here.cohort(number, names, **changed)

    def signer(self) -> Countersigner:
        agreed = self.here.ledger.charter
        limits = OwnLimits(agreed, floors=self.floors)
        return Countersigner(agreed, key=charters.key_of("bob"), limits=limits, records=self.notes)

    def asked(
        self, cohort: Cohort, number: int | None, proved: bool, jobs: dict[bytes, str] | None
    ) -> countersigner.Asked:
        number = cohort.round if number is None else number
        return countersigner.Asked(encode(cohort), number, self.here.ledger, proved, jobs or {})

    def consent(
        self, cohort: Cohort, *, number: int | None = None, proved: bool = True, jobs: dict[bytes, str] | None = None
    ) -> MemberSignature:
        return self.signer().consent(self.asked(cohort, number, proved, jobs))

    def commit(
        self,
        cohort: Cohort,
        *,
        number: int | None = None,
        proved: bool = True,
        jobs: dict[bytes, str] | None = None,
        outcome: bytes = OUTCOME,
        consents: Sequence[MemberSignature] | None = None,
    ) -> MemberSignature:
        if consents is None:
            names = {charters.fingerprint_of(each): each for each in FIVE}
            consents = chains.consents(encode(cohort), [names[share.member] for share in cohort.shares])
        return self.signer().commit(self.asked(cohort, number, proved, jobs), outcome=outcome, consents=consents)

    def void(self, *cohorts: Cohort) -> None:
        """Answers have shown these to be void."""
        self.notes.void([Voided(self.charter, cohort_digest(encode(each))) for each in cohorts])

    def committed_before(self, names: Sequence[str], *, under: bytes | None = None, number: int = 1) -> Committed:
        """A cohort of these, on the model that there is, was committed in a round."""
        model = self.here.ledger.model
        assert model is not None
        digest = chains.digest("committed before", names, number)
        entry = Committed(under or self.charter, number, digest, model, ids_of(names), bytes(32))
        self.notes.commit(entry)
        return entry

    def consented_elsewhere(self, names: Sequence[str]) -> Consented:
        """Bob agreed to be in a cohort of these under another charter, on the same model."""
        model = self.here.ledger.model
        assert model is not None
        entry = Consented(ELSEWHERE, 1, chains.digest("elsewhere", names), model, ids_of(names), "#mri")
        self.notes.consent(entry)
        return entry

    @property
    def written(self) -> int:
        """The number of entries in its records."""
        return self.notes._count


def replaced(cohort: Cohort, **changed: Sequence[object]) -> Cohort:
    """A cohort with other fields in its shares."""
    shares = list(cohort.shares)
    for field, values in changed.items():
        shares = [msgspec.structs.replace(share, **{field: value}) for share, value in zip(shares, values, strict=True)]
    return msgspec.structs.replace(cohort, shares=tuple(shares))


# Both


def another_round(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(), number=2)


def no_proof(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(), proved=False)


def another_instance(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(signer=bytes(32)))


def another_place(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(previous=bytes(32)))


def another_model(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(model=bytes(32)))


def another_name(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(), jobs={asked.cohort().job: "more"})


def a_refused_job(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    return partial(sign, asked.cohort(), jobs={asked.cohort().job: ""})


def what_is_void(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    asked.void(asked.cohort())
    return partial(sign, asked.cohort())


def what_is_void_and_was_signed(asked: Asked, sign: Callable[..., MemberSignature]) -> Asking:
    sign(asked.cohort())
    asked.void(asked.cohort())
    return partial(sign, asked.cohort())


# To consent


def too_few_members(asked: Asked) -> Asking:
    return partial(asked.consent, asked.cohort(names=TWO))


def too_large_a_share(asked: Asked) -> Asking:
    return partial(asked.consent, replaced(asked.cohort(), weight=(0.45, 0.3, 0.25)))


def a_cohort_without_us(asked: Asked) -> Asking:
    return partial(asked.consent, asked.cohort(names=OTHERS))


def no_contribution_of_ours(asked: Asked) -> Asking:
    return partial(asked.consent, asked.cohort(number=2))


def a_later_round_that_was_answered(asked: Asked) -> Asking:
    asked.notes.answer(Answered(asked.charter, 2))
    return partial(asked.consent, asked.cohort())


def a_later_contribution(asked: Asked) -> Asking:
    asked.here.contribute(number=2)
    return partial(asked.consent, asked.cohort())


def a_later_commit(asked: Asked) -> Asking:
    asked.commit(asked.cohort(2, OTHERS))
    return partial(asked.consent, asked.cohort())


def another_contribution(asked: Asked) -> Asking:
    return partial(asked.consent, replaced(asked.cohort(), commitment=[bytes([n]) * 32 for n in range(3)]))


def another_job(asked: Asked) -> Asking:
    return partial(asked.consent, asked.cohort(job=bytes(32)))


def no_budget_left(asked: Asked) -> Asking:
    asked.consent(asked.cohort())
    asked.floors = Floors(rounds=1)
    asked.here.contribute(number=2)
    return partial(asked.consent, asked.cohort(number=2))


def one_member_less_under_another_charter(asked: Asked) -> Asking:
    asked.consented_elsewhere(ALL)
    return partial(asked.consent, asked.cohort(names=TWO))


def two_members_less_under_another_charter(asked: Asked) -> Asking:
    asked.consented_elsewhere(FIVE)
    return partial(asked.consent, asked.cohort())


def two_members_less_than_was_committed(asked: Asked) -> Asking:
    asked.committed_before(FIVE)
    return partial(asked.consent, asked.cohort())


# To commit


def a_consent_that_is_missing(asked: Asked) -> Asking:
    cohort = asked.cohort()
    return partial(asked.commit, cohort, consents=chains.consents(encode(cohort), TWO))


def a_consent_of_a_stranger(asked: Asked) -> Asking:
    cohort = asked.cohort(names=OTHERS)
    return partial(asked.commit, cohort, consents=chains.consents(encode(cohort), ALL))


def consents_to_another_draft(asked: Asked) -> Asking:
    return partial(asked.commit, asked.cohort(), consents=chains.consents(encode(asked.cohort(names=TWO)), ALL))


def commits_for_consents(asked: Asked) -> Asking:
    cohort = encode(asked.cohort())
    return partial(asked.commit, asked.cohort(), consents=chains.commits(cohort, OUTCOME, ALL))


def a_second_cohort_of_the_round(asked: Asked) -> Asking:
    asked.commit(asked.cohort())
    return partial(asked.commit, asked.cohort(names=TWO))


def a_second_outcome_of_the_round(asked: Asked) -> Asking:
    asked.commit(asked.cohort())
    return partial(asked.commit, asked.cohort(), outcome=bytes(32))


def a_second_cohort_where_the_first_is_void(asked: Asked) -> Asking:
    asked.commit(asked.cohort())
    asked.void(asked.cohort())
    return partial(asked.commit, asked.cohort(names=TWO))


def an_earlier_round_than_was_committed(asked: Asked) -> Asking:
    asked.commit(asked.cohort(3, OTHERS))
    return partial(asked.commit, asked.cohort(2, OTHERS))


def an_earlier_round_than_was_answered(asked: Asked) -> Asking:
    asked.notes.answer(Answered(asked.charter, 3))
    return partial(asked.commit, asked.cohort(2, OTHERS))


def an_earlier_round_than_was_contributed_to(asked: Asked) -> Asking:
    asked.here.contribute(number=2)
    return partial(asked.commit, asked.cohort())


def one_member_less(asked: Asked) -> Asking:
    asked.commit(asked.cohort())
    return partial(asked.commit, asked.cohort(2, TWO))


def one_member_less_than_was_committed_elsewhere(asked: Asked) -> Asking:
    asked.committed_before(ALL, under=ELSEWHERE)
    return partial(asked.commit, asked.cohort(names=TWO))


BOTH: dict[str, tuple[int, Callable[..., Asking], str]] = {
    "another round than the one it is asked about": (1, another_round, "of another round"),
    "an instance that has proved nothing in this round": (2, no_proof, "has not proved, in this round"),
    "a key that was not proved": (2, another_instance, "has not proved, in this round"),
    "another place in the chain": (3, another_place, "follows another record"),
    "another model": (3, another_model, "another model"),
    "a job by another name": (4, another_name, "calls the job otherwise"),
    "a job that the node refuses": (4, a_refused_job, "refused here"),
    "what is void": (5, what_is_void, "it is void"),
    "what was signed and is void": (5, what_is_void_and_was_signed, "it is void"),
}
CONSENT: dict[str, tuple[int, Callable[[Asked], Asking], str]] = {
    "fewer members than the owner asks for": (6, too_few_members, "at least 3 are asked for"),
    "a share above the owner's": (7, too_large_a_share, "counts for more than 0.4"),
    "a cohort without us": (8, a_cohort_without_us, "contributed nothing"),
    "a round without a contribution of ours": (8, no_contribution_of_ours, "contributed nothing"),
    "a round after which another was answered": (8, a_later_round_that_was_answered, "round 2 was answered since"),
    "a round after which another was contributed to": (8, a_later_contribution, "round 2 was answered since"),
    "a round after which another was committed": (8, a_later_commit, "round 2 was answered since"),
    "another contribution than ours": (8, another_contribution, "another contribution than ours"),
    "another job than we trained for": (8, another_job, "another job or another round"),
    "more rounds than the owner allows": (9, no_budget_left, "its owner's floors allow 1"),
    "one member less under another charter": (
        10,
        one_member_less_under_another_charter,
        "differs in 1 members was agreed to under another charter",
    ),
    "fewer than the owner's floor under another charter": (
        10,
        two_members_less_under_another_charter,
        "differs in 2 members was agreed to under another charter",
    ),
    "fewer than the owner's floor": (10, two_members_less_than_was_committed, "differs in 2 members was committed"),
}
COMMIT: dict[str, tuple[int, Callable[[Asked], Asking], str]] = {
    "without a member's consent": (11, a_consent_that_is_missing, "chuck is in its cohort and has not consented"),
    "with the consent of somebody else": (11, a_consent_of_a_stranger, "consented to its cohort who is not in it"),
    "with consents to another draft": (11, consents_to_another_draft, "is not one of what it releases"),
    "with commits in the place of consents": (11, commits_for_consents, "is not one of what it releases"),
    "a second cohort of the round": (12, a_second_cohort_of_the_round, "another cohort or outcome of this round"),
    "a second outcome of the round": (12, a_second_outcome_of_the_round, "another cohort or outcome of this round"),
    "a second cohort where the first is void": (
        12,
        a_second_cohort_where_the_first_is_void,
        "another cohort or outcome of this round",
    ),
    "a round before one that was committed": (13, an_earlier_round_than_was_committed, "round 3 was answered since"),
    "a round before one that was answered": (13, an_earlier_round_than_was_answered, "round 3 was answered since"),
    "a round before one that was contributed to": (
        13,
        an_earlier_round_than_was_contributed_to,
        "round 2 was answered since",
    ),
    "one member less than a cohort before": (14, one_member_less, "differs in 1 members was committed"),
    "one member less than was committed under another charter": (
        14,
        one_member_less_than_was_committed_elsewhere,
        "differs in 1 members was committed",
    ),
}
FLOORS = {
    "fewer members than the owner asks for": Floors(floor=3),
    "a share above the owner's": Floors(largest_share=0.4),
    "fewer than the owner's floor under another charter": Floors(floor=3),
    "fewer than the owner's floor": Floors(floor=3),
}


def refused(asked: Asked, ask: Asking, says: str) -> None:
    before, spent = asked.written, asked.notes.spent("#mri")
    with pytest.raises((RoundError, LedgerError), match=says):
        ask()
    assert (asked.written, asked.notes.spent("#mri")) == (before, spent)


@pytest.mark.parametrize("what", BOTH)
@pytest.mark.parametrize("how", ["consent", "commit"])
def test_it_is_not_signed(what: str, how: str) -> None:
    _, ask, says = BOTH[what]
    asked = Asked.after_training()
    refused(asked, ask(asked, getattr(asked, how)), says)


@pytest.mark.parametrize("what", [*CONSENT, *COMMIT])
def test_it_is_not_consented_to_or_committed(what: str) -> None:
    _, ask, says = (CONSENT | COMMIT)[what]
    asked = Asked.after_training(floors=FLOORS.get(what), owners=FIVE)
    refused(asked, ask(asked), says)


def test_the_numbers_are_the_pages() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Before an owner signs")[2].partition("\n## ")[0]
    told = set(map(int, re.findall(r"^(\d+)\. ", section, flags=re.MULTILINE)))
    assert told == set(range(1, 15))
    assert told == {number for some in (BOTH, CONSENT, COMMIT) for number, _, _ in some.values()}
    source = Path(countersigner.__file__).read_text(encoding="utf-8")
    comments = re.findall(r"  # (\d[\d ,a-z]*)$", source, flags=re.MULTILINE)
    assert {int(each) for comment in comments for each in re.findall(r"\d+", comment)} == told


# What is signed


def verify(signature: MemberSignature, message: bytes) -> None:
    assert signature.member == charters.fingerprint_of("bob")
    assert signature.public_key == keys.public_bytes(charters.key_of("bob"))
    keys.verify(signature.signature, message=message, public_key=signature.public_key)


def test_a_consent_is_written_down_and_signed() -> None:
    asked = Asked.after_training()
    cohort = asked.cohort()
    verify(asked.consent(cohort), consent_to_be_signed(encode(cohort)))
    digest = cohort_digest(encode(cohort))
    entry = Consented(asked.charter, 1, digest, cohort.model, ids_of(ALL), "#mri")
    assert asked.notes.consents(asked.charter) == (entry,)
    assert asked.notes.commits(asked.charter) == {}
    assert asked.notes.spent("#mri") == 1


def test_a_commit_is_written_down_and_signed() -> None:
    asked = Asked.after_training()
    cohort = asked.cohort()
    verify(asked.commit(cohort), commit_to_be_signed(encode(cohort), OUTCOME))
    digest = cohort_digest(encode(cohort))
    entry = Committed(asked.charter, 1, digest, cohort.model, ids_of(ALL), OUTCOME)
    assert asked.notes.commits(asked.charter) == {1: entry}
    assert asked.notes.consents(asked.charter) == ()


@pytest.mark.parametrize("how", ["consent", "commit"])
def test_what_cannot_be_written_down_is_not_signed(tmp_path: Path, how: str) -> None:
    asked = Asked.after_training(notes=Records(tmp_path))
    cohort = asked.cohort()
    asked.notes.close()
    with pytest.raises(RecordsError):
        getattr(asked, how)(cohort)


# What it costs


def test_a_consent_again_is_free_and_the_same() -> None:
    asked = Asked.after_training()
    asked.floors = Floors(rounds=1)
    first, before = asked.consent(asked.cohort()), asked.written
    assert asked.consent(asked.cohort()) == first  # of Ed25519, whose signatures of one message are one
    assert asked.written == before


def test_several_drafts_of_a_round_are_one_round_of_the_budget() -> None:
    asked = Asked.after_training()
    asked.floors = Floors(rounds=1)
    asked.consent(asked.cohort())
    asked.consent(asked.cohort(names=TWO))
    assert len(asked.notes.consents(asked.charter)) == 2
    assert asked.notes.spent("#mri") == 1


def test_a_round_is_spent_until_all_its_cohorts_are_void() -> None:
    asked = Asked.after_training()
    asked.floors = Floors(rounds=1)
    asked.consent(asked.cohort())
    asked.consent(asked.cohort(names=TWO))
    drafts = asked.cohort(), asked.cohort(names=TWO)
    asked.void(drafts[0])
    assert asked.notes.spent("#mri") == 1
    asked.here.contribute(number=2)
    refused(asked, partial(asked.consent, asked.cohort(number=2)), "its owner's floors allow 1")
    asked.void(drafts[1])
    assert asked.notes.spent("#mri") == 0
    asked.consent(asked.cohort(number=2))
    assert asked.notes.spent("#mri") == 1


def test_another_draft_after_all_were_void_spends_the_round_again() -> None:
    asked = Asked.after_training()
    asked.consent(asked.cohort())
    asked.void(asked.cohort())
    asked.consent(asked.cohort(names=TWO))
    assert asked.notes.spent("#mri") == 1


def test_what_is_void_under_one_charter_frees_no_round_of_another() -> None:
    asked = Asked.after_training()
    asked.consent(asked.cohort())
    asked.notes.void([Voided(ELSEWHERE, cohort_digest(encode(asked.cohort())))])
    assert asked.notes.spent("#mri") == 1


def test_a_witness_spends_nothing_and_needs_no_contribution() -> None:
    asked = Asked.after_training()
    asked.floors = Floors(rounds=1)
    for number in range(1, 4):
        asked.commit(asked.cohort(number, OTHERS))
    assert asked.notes.spent("#mri") == 0


# What binds


def test_the_very_same_is_committed_again_at_any_time() -> None:
    asked = Asked.after_training()
    first = asked.commit(asked.cohort())
    asked.here.contribute(number=2)
    asked.commit(asked.cohort(3))
    before = asked.written
    assert asked.commit(asked.cohort()) == first
    assert asked.written == before


def test_a_witness_s_commit_is_of_a_round_that_counts_as_answered() -> None:
    asked = Asked.after_training()
    asked.commit(asked.cohort(5, OTHERS))
    assert asked.notes.highest(asked.charter) == 5
    refused(asked, partial(asked.consent, asked.cohort()), "round 5 was answered since")
    refused(asked, partial(asked.commit, asked.cohort(4, OTHERS)), "round 5 was answered since")


def test_a_consent_binds_to_no_commit_and_another_draft_may_be_committed() -> None:
    """The member that was lost is in the first draft alone."""
    asked = Asked.after_training()
    asked.consent(asked.cohort())
    asked.consent(asked.cohort(names=TWO))
    asked.commit(asked.cohort(names=TWO))
    assert [len(each.members) for each in asked.notes.consents(asked.charter)] == [3, 2]
    assert [len(each.members) for each in asked.notes.commits(asked.charter).values()] == [2]


def test_the_round_that_was_answered_is_still_committed() -> None:
    asked = Asked.after_training()
    asked.notes.answer(Answered(asked.charter, 2))
    asked.commit(asked.cohort(2, OTHERS))
    assert set(asked.notes.commits(asked.charter)) == {2}


def test_a_cohort_that_is_void_binds_nobody() -> None:
    asked = Asked.after_training()
    asked.commit(asked.cohort())
    refused(asked, partial(asked.commit, asked.cohort(2, TWO)), "differs in 1 members was committed")
    asked.void(asked.cohort())
    asked.commit(asked.cohort(2, TWO))


@pytest.mark.parametrize("how", ["consent", "commit"])
def test_a_cohort_elsewhere_that_is_void_binds_nobody(how: str) -> None:
    asked = Asked.after_training()
    before = asked.consented_elsewhere(ALL) if how == "consent" else asked.committed_before(ALL, under=ELSEWHERE)
    ask = partial(getattr(asked, how), asked.cohort(names=TWO))
    refused(asked, ask, "differs in 1 members")
    asked.notes.void([Voided(ELSEWHERE, before.cohort)])
    ask()


@pytest.mark.parametrize("how", ["consent", "commit"])
def test_the_same_members_and_those_that_are_far_are_no_other_cohort(how: str) -> None:
    asked = Asked.after_training(owners=FIVE)
    for names in (ALL, FIVE):  # of which the first is the same, and the second two more
        asked.consented_elsewhere(names)
        asked.committed_before(names, under=ELSEWHERE)
    getattr(asked, how)(asked.cohort())
    consents, commits = asked.notes.consents(asked.charter), asked.notes.commits(asked.charter)
    assert (len(consents), len(commits)) == ((1, 0) if how == "consent" else (0, 1))


def test_what_was_consented_to_under_this_charter_does_not_bind_a_consent() -> None:
    """Two quorums of one charter share an honest owner: whether both can be released is up to commits."""
    asked = Asked.after_training()
    asked.consent(asked.cohort())
    asked.here.contribute(number=2)
    asked.consent(asked.cohort(2, TWO))
    assert [each.round for each in asked.notes.consents(asked.charter)] == [1, 2]


def test_what_was_committed_nearer_than_the_charter_s_floor_does_not_bind_a_consent() -> None:
    """A quorum has not committed it, or commits no other; then to refuse would only hold up the others."""
    asked = Asked.after_training(floors=Floors(floor=3), owners=FIVE)
    asked.committed_before((*ALL, "dora"))
    asked.here.contribute(number=2)
    asked.consent(asked.cohort(2))
    asked.committed_before((*ALL, "emil"), under=ELSEWHERE)  # as a witness: its members look at that
    asked.consent(asked.cohort(2))
    assert [each.round for each in asked.notes.consents(asked.charter)] == [2]


def test_an_owner_s_own_floor_is_held_when_it_consents_and_not_when_it_commits() -> None:
    """After its consent a member has no veto; what the charter says binds at each commit."""
    asked = Asked.after_training(floors=Floors(floor=4), owners=FIVE)
    asked.commit(asked.cohort(1, FIVE))
    asked.here.contribute(number=2)
    refused(asked, partial(asked.consent, asked.cohort(2)), "at least 4 are asked for")
    asked.commit(asked.cohort(2))  # three members, and two less than before
