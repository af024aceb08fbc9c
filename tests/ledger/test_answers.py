"""Owners' answers: whose they are, and when so many show that a cohort is void. A law holds for whatever owners do."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cloister.charter import Charter, keys
from cloister.charter.charter import MEMBERS as OWNERS_OF_A_CHARTER
from cloister.errors import LedgerError
from cloister.ledger import answers
from cloister.ledger.answers import COHORTS, Answer, Committed, mask, read, sign, unmask, void
from cloister.ledger.chain import Ledger, quorum, votes_to_void
from cloister.ledger.records import cohort_digest, commit_to_be_signed, consent_to_be_signed
from cloister.wire.limits import ANSWER_BYTES, MEMBERS
from cloister.wire.rounds import MemberSignature, SignedAnswer
from tests.support import chains
from tests.support.chains import Instance, digest, sign_one
from tests.support.charters import fingerprint_of, key_of

FIVE: Final = ("alice", "bob", "chuck", "dave", "erin")
ROUND: Final = 3
"""That of ``OPEN``."""


@cache
def charter(names: tuple[str, ...] = FIVE, floor: int = 2) -> Charter:
    return chains.charter(owners=list(names), floor=str(floor), largest_share=f"{1 / floor!r}")


@cache
def released() -> Ledger:
    """Two rounds were released, to be copied."""
    ledger = Ledger(charter())
    runs = Instance()
    ledger.append(runs.begin(ledger))
    for _ in range(2):
        ledger.append(chains.round_record(ledger, instance=runs, witnesses=["chuck"]))
    return ledger


def open_cohort(**changed: Any) -> Committed:
    """A cohort of bob and alice that was not released."""
    given: dict[str, Any] = {
        "round": ROUND,
        "cohort": digest("open"),
        "model": digest("model"),
        "members": mask([fingerprint_of("bob"), fingerprint_of("alice")], charter=charter()),
    }
    return Committed(**given | changed)


OPEN: Final = open_cohort()


def plain(ledger: Ledger, *committed: Committed, **changed: Any) -> Answer:
    """What an owner that has these records answers to the round after ``ROUND``."""
    given: dict[str, Any] = {
        "format": "cloister answer 1",
        "charter": ledger.charter.digest,
        "round": ROUND + 1,
        "sequence": ledger.sequence,
        "head": ledger.head,
        "committed": committed,
    }
    return Answer(**given | changed)


def told(name: str, *committed: Committed, ledger: Ledger | None = None, **changed: Any) -> SignedAnswer:
    """The same, signed by the owner of that name."""
    return sign(plain(ledger or released(), *committed, **changed), key=key_of(name))


def voided(*signed: SignedAnswer, ledger: Ledger | None = None, cohort: Committed = OPEN) -> bool:
    found = void([cohort], answers=signed, ledger=ledger or released())
    assert found <= {cohort.cohort}
    return bool(found)


def without(*names: str) -> list[SignedAnswer]:
    """The answers of these, who have committed nothing."""
    return [told(name) for name in names]


# Whose an answer is


@pytest.mark.parametrize("name", ["bob", "alice"])
def test_an_answer_is_read_back(name):
    answer = plain(released(), OPEN)
    signed = sign(answer, key=key_of(name))
    assert read(signed, charter=charter()) == answer
    assert signed.signature.member == fingerprint_of(name)


def test_what_an_owner_signs():
    signed = told("bob", OPEN)
    message = b"cloister answer signature 1\0" + hashlib.sha256(signed.answer).digest()
    keys.verify(signed.signature.signature, message=message, public_key=signed.signature.public_key)
    fields = [*msgspec.to_builtins(plain(released()), builtin_types=(bytes,))[:5]]
    assert msgspec.msgpack.decode(signed.answer) == [
        "cloister answer 1",
        *fields[1:],
        [[ROUND, OPEN.cohort, OPEN.model, OPEN.members]],
    ]


def refuse(signed: SignedAnswer, why: str) -> None:
    with pytest.raises(LedgerError, match=why):
        read(signed, charter=charter())


def signed_with(data: bytes, name: str = "bob", label: bytes = answers.ANSWER) -> SignedAnswer:
    """Bytes that an owner has signed as an answer."""
    return SignedAnswer(data, sign_one(label + hashlib.sha256(data).digest(), key_of(name)))


def test_an_answer_of_nobody_among_the_owners():
    refuse(told("mallory"), "no owner of the charter")
    refuse(told("rosa"), "no owner of the charter")


def test_an_answer_that_another_key_signed():
    """As bob's, by mallory, who is no owner, and by chuck, who is one."""
    for other in ("mallory", "chuck"):
        bobs, others = told("bob"), told(other)
        who = bobs.signature
        refuse(replace(bobs, signature=replace(who, signature=others.signature.signature)), "not its owner's")
        refuse(
            replace(bobs, signature=MemberSignature(who.member, *msgspec.structs.astuple(others.signature)[1:])),
            "no owner of the charter has signed",
        )
        refuse(replace(bobs, signature=replace(who, member=others.signature.member)), "no owner of the charter")


def test_the_public_key_of_another_or_none():
    signed = told("bob")
    for key in (told("alice").signature.public_key, b"", signed.signature.public_key[:-1]):
        refuse(replace(signed, signature=replace(signed.signature, public_key=key)), "no owner of the charter")


def test_an_answer_under_another_charter():
    refuse(told("bob", charter=digest("other")), "another charter")
    other = Ledger(charter(FIVE[:3]))
    refuse(told("bob", ledger=other), "another charter")
    assert read(told("bob", ledger=other), charter=other.charter).charter == other.charter.digest


@given(st.data())
def test_every_bit_is_signed(data):
    signed = told("bob", OPEN)
    changed = bytearray(signed.answer)
    place = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[place // 8] ^= 1 << place % 8
    refuse(replace(signed, answer=bytes(changed)), "not its owner's")
    broken = bytearray(signed.signature.signature)
    place = data.draw(st.integers(0, len(broken) * 8 - 1))
    broken[place // 8] ^= 1 << place % 8
    refuse(replace(signed, signature=replace(signed.signature, signature=bytes(broken))), "not its owner's")


@pytest.mark.parametrize(
    "what",
    [b"", b"\x90", b"\xc1", b"answer", b"\x91" * 3000, msgspec.msgpack.encode({"format": "cloister answer 1"})],
    ids=["nothing", "an empty list", "no msgpack", "text", "deep lists", "a map"],
)
def test_what_is_signed_and_no_answer(what):
    refuse(signed_with(what), "no answer of this version")


def test_answers_of_another_form():
    fields = msgspec.msgpack.decode(told("bob", OPEN).answer)
    entry = fields[5][0]
    for changed in (
        ["cloister answer 2", *fields[1:]],
        ["", *fields[1:]],
        fields[:5],
        [*fields, None],
        [*fields[:2], 0, *fields[3:]],
        [*fields[:2], float(fields[2]), *fields[3:]],
        [*fields[:3], -1, *fields[4:]],
        [*fields[:4], bytes(33), fields[5]],
        [*fields[:5], [entry] * (COHORTS + 1)],
        [*fields[:5], [entry[:3]]],
        [*fields[:5], [[*entry, None]]],
        [*fields[:5], [[0, *entry[1:]]]],
        [*fields[:5], [[entry[0], entry[1][:31], *entry[2:]]]],
        [*fields[:5], [[*entry[:3], entry[3][1:]]]],
        [*fields[:5], [[*entry[:3], entry[3] + b"\0"]]],
    ):
        refuse(signed_with(msgspec.msgpack.encode(changed)), "no answer of this version")
    assert read(signed_with(msgspec.msgpack.encode(fields)), charter=charter()).committed == (OPEN,)


def test_a_signature_of_another_kind_is_none_of_an_answer():
    data = told("bob").answer
    outcome = bytes(32)
    for message in (
        consent_to_be_signed(data),
        commit_to_be_signed(data, outcome),
        cohort_digest(data),
        data,
    ):
        refuse(SignedAnswer(data, sign_one(message, key_of("bob"))), "not its owner's")


def test_the_longest_answer_travels():
    most = (1 << 53) - 1
    entries = tuple(open_cohort(round=most, cohort=digest(each), members=b"\xff" * 32) for each in range(COHORTS))
    signed = told("alice", *entries, round=most, sequence=most, head=bytes(32))
    assert len(signed.answer) <= ANSWER_BYTES
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(signed), type=SignedAnswer)
    assert read(again, charter=charter()).committed == entries


# The owners of a cohort, in bits

people = st.frozensets(st.sampled_from([*FIVE, "mallory", "rosa"]))


@given(people, people)
def test_bits_stand_for_owners_of_the_charter(some, others):
    one, other = (frozenset(map(fingerprint_of, names)) for names in (some, others))
    owners = frozenset(map(fingerprint_of, FIVE))
    bits = mask(one, charter=charter())
    assert len(bits) == MEMBERS // 8 == 32
    assert unmask(bits, charter=charter()) == one & owners
    assert (bits == mask(other, charter=charter())) == (one & owners == other & owners)
    both = int.from_bytes(bits, "big") | int.from_bytes(mask(other, charter=charter()), "big")
    assert unmask(both.to_bytes(32, "big"), charter=charter()) == (one | other) & owners


@given(st.binary(min_size=32, max_size=32))
def test_any_bits_stand_for_owners_and_a_bit_of_nobodys_for_nobody(bits):
    found = unmask(bits, charter=charter())
    assert found <= frozenset(map(fingerprint_of, FIVE))
    kept = int.from_bytes(bits, "big") & (1 << len(FIVE)) - 1
    assert mask(found, charter=charter()) == kept.to_bytes(32, "big")


def test_the_first_owner_has_the_lowest_bit_of_the_last_byte():
    in_order = sorted(map(fingerprint_of, FIVE))
    for at, owner in enumerate(in_order):
        assert mask([owner], charter=charter()) == bytes(31) + bytes([1 << at])
    assert mask(in_order[::-1], charter=charter()) == bytes(31) + b"\x1f"
    assert mask([], charter=charter()) == bytes(32)


def test_every_owner_that_a_charter_may_have_has_a_bit():
    assert OWNERS_OF_A_CHARTER <= MEMBERS


# What is void


def test_so_many_as_are_needed_and_no_fewer():
    """Three of five release it, and none is taken to lie: once three have not committed it, two are left."""
    assert (quorum(charter()), votes_to_void(charter())) == (3, 3)
    assert not voided()
    assert not voided(*without("alice", "bob"))
    assert voided(*without("alice", "bob", "chuck"))
    assert voided(*without("dave", "erin", "bob"))
    assert voided(*without(*FIVE))


@pytest.mark.parametrize("floor", [2, 3, 4, 5])
def test_so_many_as_the_charter_says(floor):
    ledger = Ledger(charter(FIVE, floor))
    cohort = open_cohort()
    answered = [told(name, ledger=ledger) for name in FIVE]
    needed = votes_to_void(ledger.charter)
    assert not void([cohort], answers=answered[: needed - 1], ledger=ledger)
    assert void([cohort], answers=answered[:needed], ledger=ledger) == {cohort.cohort}


def test_an_owner_counts_once():
    again = [told("alice", round=number) for number in range(ROUND + 1, ROUND + 9)]
    assert not voided(*again)
    assert not voided(*again, told("bob"), told("bob"), *again)
    assert voided(*again, told("bob"), told("bob"), told("chuck"))


def test_an_answer_to_the_round_itself_or_an_earlier_one_does_not_count():
    two = without("alice", "bob")
    for number in (1, ROUND - 1, ROUND):
        assert not voided(*two, told("chuck", round=number))
    assert voided(*two, told("chuck", round=ROUND + 1))
    assert voided(*two, told("chuck", round=ROUND + 100))


def test_who_lists_it_does_not_count():
    assert not voided(*without("alice", "bob"), told("chuck", OPEN), told("dave", OPEN), told("erin", OPEN))
    assert voided(*without("alice", "bob", "dave"), told("chuck", OPEN), told("erin", OPEN))
    others = tuple(open_cohort(cohort=digest(each)) for each in range(COHORTS - 1))
    assert not voided(*without("alice", "bob"), told("chuck", *others, OPEN))
    assert voided(*without("alice", "bob"), told("chuck", *others))


@pytest.mark.parametrize(
    "changed",
    [{"round": ROUND - 1}, {"cohort": digest("other")}, {"model": digest("other")}, {"members": bytes(32)}],
    ids=["round", "cohort", "model", "members"],
)
def test_a_cohort_is_listed_as_a_whole(changed):
    """Another entry with the same digest is nobody's word that it has committed this one."""
    assert voided(*without("alice", "bob"), told("chuck", open_cohort(**changed)))


def test_an_answer_on_records_that_the_ledger_lacks_does_not_count():
    """The cohort may be what was released there, so that nobody lists it any more."""
    further = released().copy()
    runs = Instance()
    agreed = chains.cohort(further, ["bob", "alice"], signer=runs.public)
    record = chains.round_record(further, instance=runs, agreed=agreed, witnesses=["chuck"])
    further.append(record)
    (digest_of,) = further.cohorts - released().cohorts
    cohort = open_cohort(cohort=digest_of, model=agreed.model)
    ahead = [told(name, ledger=further) for name in FIVE]
    assert not voided(*ahead, cohort=cohort)
    assert not voided(*ahead)
    assert not voided(*without("alice", "bob"), *ahead)
    assert voided(*without("alice", "bob", "chuck"), *ahead)
    assert not voided(*without(*FIVE), *ahead, ledger=further, cohort=cohort)  # there it was released
    assert voided(*ahead, ledger=further)


def test_an_answer_names_a_record_that_was_there():
    two = without("alice", "bob")
    whole = released()
    for earlier in range(whole.sequence + 1):
        before = whole.upto(earlier)
        assert voided(*two, told("chuck", sequence=before.sequence, head=before.head))
    for sequence, head in (
        (whole.sequence, digest("other")),
        (whole.sequence, b""),
        (0, whole.head),
        (whole.sequence - 1, whole.head),
        (whole.sequence + 1, whole.head),
        ((1 << 53) - 1, whole.head),
    ):
        assert not voided(*two, told("chuck", sequence=sequence, head=head))


def test_what_was_released_is_never_void():
    ledger = released()
    for receipt in ledger.receipts:
        members = mask(receipt.members, charter=ledger.charter)
        entry = Committed(receipt.cohort.round, cohort_digest(receipt.record.cohort), receipt.cohort.model, members)
        assert not voided(*without(*FIVE), cohort=entry)
        earlier = ledger.upto(1)  # where it is not known that it was
        answered = [told(name, ledger=earlier) for name in FIVE]
        assert voided(*answered, ledger=earlier, cohort=entry)
        assert not voided(*answered, cohort=entry)


def test_several_cohorts_are_told_apart():
    other = open_cohort(cohort=digest("other"), round=ROUND + 1)
    answered = [told("alice", other), *without("bob"), told("chuck", OPEN, round=ROUND + 2), *without("dave", "erin")]
    assert void([OPEN, other], answers=answered, ledger=released()) == {OPEN.cohort}
    later = [told(name, round=ROUND + 2) for name in FIVE]
    assert void([OPEN, other], answers=later, ledger=released()) == {OPEN.cohort, other.cohort}
    assert void([], answers=later, ledger=released()) == frozenset()


def test_what_is_no_answer_is_passed_over():
    bobs = told("bob")
    forged = [
        told("mallory"),
        told("rosa"),
        replace(told("chuck"), signature=bobs.signature),
        replace(bobs, signature=replace(bobs.signature, member=fingerprint_of("chuck"))),
        replace(told("chuck"), answer=bobs.answer + b"\0"),
        signed_with(b"no answer", "chuck"),
        signed_with(bobs.answer, "chuck", b"cloister consent signature 1\0"),
        told("chuck", charter=digest("other")),
        told("chuck", ledger=Ledger(charter(FIVE[:3]))),
    ]
    two = without("alice", "bob")
    assert not voided(*forged, *two, *forged)
    assert voided(*forged, *two, told("chuck"), *forged)


@given(
    st.lists(
        st.tuples(st.sampled_from([*FIVE, "mallory"]), st.integers(1, 6), st.booleans(), st.booleans()), max_size=12
    )
)
def test_a_cohort_is_void_if_enough_owners_say_so(said):
    """By hand: who said what, of which round, listing it or not, on records that are known or not."""
    signed = [
        told(name, *([OPEN] if lists else []), round=number, **({} if known else {"head": digest("unknown")}))
        for name, number, lists, known in said
    ]
    against = {name for name, number, lists, known in said if number > ROUND and not lists and known} - {"mallory"}
    assert voided(*signed) == (len(against) >= 3)


# Void and released exclude each other


@cache
def begun(owners: int, floor: int) -> tuple[Ledger, bytes]:
    """A ledger of so many owners in which an instance has begun, and the next cohort, encoded."""
    ledger = Ledger(charter(tuple(map(str, range(owners))), floor))
    ledger.append(Instance().begin(ledger))
    names = [str(owner) for owner in range(floor)]
    return ledger, chains.records.encode(chains.cohort(ledger, names, signer=Instance().public))


@given(st.data())
def test_no_cohort_that_is_void_is_released(data):
    """Whatever happens: floor - 2 owners lie, and the others commit nothing of a round after they answered a later one,
    and list what they have committed."""
    owners = data.draw(st.integers(2, 7))
    floor = data.draw(st.integers(2, owners))
    ledger, cohort = begun(owners, floor)
    entry = open_cohort(round=1, cohort=cohort_digest(cohort))
    everybody = frozenset(map(str, range(owners)))
    liars = data.draw(st.frozensets(st.sampled_from(sorted(everybody)), max_size=floor - 2))
    commits = set(liars)
    answered = [told(liar, ledger=ledger, round=2) for liar in liars]
    for owner in sorted(everybody - liars):
        does = data.draw(st.sampled_from(["commits", "commits and answers", "answers", "neither"]))
        if "commits" in does:
            commits.add(owner)
        if "answers" in does:
            answered.append(told(owner, *([entry] if owner in commits else []), ledger=ledger, round=2))
    is_void = voided(*answered, ledger=ledger, cohort=entry)
    record = chains.round_record(
        ledger,
        [str(owner) for owner in range(floor)],
        instance=Instance(),
        commits=chains.commits(cohort, chains.outcome(ledger), commits),
    )
    copied = ledger.copy()
    try:
        copied.append(record)
    except LedgerError:
        is_released = False
    else:
        is_released = True
    assert not (is_void and is_released)
    assert is_released == (len(commits) >= quorum(ledger.charter))
    assert not voided(*answered, ledger=copied, cohort=entry) or not is_released


@pytest.mark.parametrize("floor", [2, 3, 4])
def test_one_more_that_lies_and_it_would_be_both(floor):
    """The bound is no larger than it has to be: with floor - 1 liars a cohort is void and released."""
    ledger, cohort = begun(7, floor)
    entry = open_cohort(round=1, cohort=cohort_digest(cohort))
    needed = quorum(ledger.charter)
    commits = [str(owner) for owner in range(needed)]
    liars = commits[: floor - 1]
    others = [str(owner) for owner in range(needed, 7)]
    answered = [told(owner, ledger=ledger, round=2) for owner in [*liars, *others]]
    assert voided(*answered, ledger=ledger, cohort=entry)
    assert not voided(*answered[1:], ledger=ledger, cohort=entry)
    names = [str(owner) for owner in range(floor)]
    committed = chains.commits(cohort, chains.outcome(ledger), commits)
    ledger.copy().append(chains.round_record(ledger, names, instance=Instance(), commits=committed))
