"""What a ledger takes, and that it takes nothing else: every change of every field of a genuine chain is found."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloister.charter.jobs import Sampling
from cloister.charter.signatures import CONTEXT
from cloister.errors import LedgerError
from cloister.ledger import records
from cloister.ledger.chain import Ledger, quorum, votes_to_void
from cloister.ledger.records import Noised, Share, cohort_digest, decode, encode, head_of
from cloister.wire.optimizers import SGD
from cloister.wire.rounds import MemberSignature
from tests.support import chains
from tests.support.chains import Instance, cohort, digest, round_record
from tests.support.charters import fingerprint_of
from tests.tampering import changes

FIRST = Instance("first")


@cache
def genuine() -> Ledger:
    """Two instances, three rounds; the second instance's round has a witness."""
    ledger = chains.chain(2)
    second = Instance("second")
    ledger.append(second.begin(ledger))
    ledger.append(round_record(ledger, instance=second, witnesses=["chuck"]))
    return ledger


def begun(**changed: object) -> Ledger:
    """A ledger in which the first instance has begun."""
    return chains.chain(0, agreed=chains.charter(**changed))


def refuse(ledger: Ledger, data: bytes, why: str = "record|cohort") -> None:
    """The ledger refuses the record, and is as it was."""
    before = ledger.records
    with pytest.raises(LedgerError, match=why):
        ledger.append(data)
    assert ledger.records == before


# What a genuine chain says


def test_a_ledger_without_records():
    ledger = Ledger(chains.charter())
    assert (ledger.sequence, ledger.head, ledger.records, ledger.signer) == (0, b"", (), None)
    assert (ledger.last_round, ledger.released, ledger.model, ledger.state) == (0, 0, chains.START, None)
    assert ledger.passed(0, b"")
    assert not ledger.passed(0, bytes(32))


def test_what_a_chain_says():
    ledger = genuine()
    assert (ledger.sequence, ledger.released, ledger.last_round) == (5, 3, 3)
    assert ledger.head == head_of(ledger.records[-1])
    assert ledger.signer == Instance("second").public
    assert [instance.record.sequence for instance in ledger.instances] == [1, 4]
    assert [receipt.cohort.sequence for receipt in ledger.receipts] == [2, 3, 5]
    assert ledger.receipts[0].cohort.model == chains.START
    assert ledger.receipts[1].cohort.model == ledger.receipts[0].record.model
    assert ledger.model == ledger.receipts[-1].record.model
    assert (ledger.done(chains.JOB), ledger.done(bytes(32))) == (3, 0)
    both = frozenset(map(fingerprint_of, ("bob", "alice")))
    assert ledger.receipts[0].members == both
    assert ledger.since(3) == ledger.records[3:]
    assert ledger.since(99) == ()


def test_a_receipt_holds_the_bytes_of_its_record_and_no_copy():
    ledger = genuine()
    receipt = ledger.receipts[-1]
    assert any(receipt.data is each for each in ledger.records)
    assert encode(receipt.record) == receipt.data
    assert (receipt.record.model, receipt.record.state) == (receipt.model, receipt.state)


def test_the_heads_that_it_passed():
    ledger = genuine()
    for sequence, record in enumerate(ledger.records, 1):
        assert ledger.passed(sequence, head_of(record))
        assert not ledger.passed(sequence - 1, head_of(record))
        assert not ledger.passed(sequence + 1, head_of(record))


def test_a_copy_goes_its_own_way():
    ledger = chains.chain(1)
    copied = ledger.copy()
    chains.extend(copied, 1)
    assert (ledger.sequence, copied.sequence) == (2, 4)
    assert copied.records[:2] == ledger.records


def test_extending_is_all_or_nothing():
    whole = genuine()
    ledger = Ledger.from_records(whole.charter, whole.records[:1])
    with pytest.raises(LedgerError, match="record 3"):
        ledger.extend([whole.records[1], whole.records[3]])
    assert ledger.records == whole.records[:1]
    ledger.extend(whole.records[1:])
    assert ledger.head == whole.head


def test_what_is_settled_is_what_was_released():
    ledger = genuine().copy()
    head = ledger.head
    ledger.append(Instance("third").begin(ledger))
    ledger.append(Instance("fourth").begin(ledger))
    settled = ledger.settled()
    assert (settled.head, settled.sequence, len(settled.instances)) == (head, 5, 2)
    chains.extend(settled, 1, instance="fifth")  # and it goes on from there
    assert begun().settled().sequence == 0


def test_numbers_of_void_rounds_are_left_out():
    ledger = begun()
    ledger.append(
        round_record(ledger, instance=FIRST, agreed=cohort(ledger, ["bob", "alice"], signer=FIRST.public, round=7))
    )
    assert ledger.last_round == 7
    again = cohort(ledger, ["bob", "alice"], signer=FIRST.public, round=7)
    refuse(ledger, round_record(ledger, instance=FIRST, agreed=again), "round 7 comes after round 7")


# Every change


@pytest.mark.parametrize("index", range(5))
def test_every_change_of_a_field_is_found(index):
    """Whoever has no key changes one thing, and spells the record anew."""
    whole = genuine()
    ledger = Ledger.from_records(whole.charter, whole.records[:index])
    survivors, tried = [], 0
    for where, changed in changes(decode(whole.records[index])):
        tried += 1
        try:
            ledger.append(records.encode(changed))
        except LedgerError:
            continue
        survivors.append(where)
        break
    assert not survivors
    assert tried > 40


@pytest.mark.parametrize("index", [1, 4])
def test_an_instance_cannot_change_what_members_signed(index):
    """The instance signs anew what it changed. The time is its own to say, and which commits over a quorum it shows."""
    whole = genuine()
    ledger = Ledger.from_records(whole.charter, whole.records[:index])
    signer = Instance("first" if index == 1 else "second")
    survivors = set()
    for where, changed in changes(decode(whole.records[index])):
        try:
            ledger.copy().append(signer.sign(changed))
        except LedgerError:
            continue
        survivors.add(where)
    commits = len(decode(whole.records[index]).commits)
    spare = [f".commits[{place}] dropped" for place in range(commits) if commits > quorum(whole.charter)]
    assert len(spare) == (0 if index == 1 else 3)
    assert survivors == {".time", ".signature", *spare}  # a signature is made anew, so changing it changes nothing


def test_an_instance_cannot_begin_elsewhere():
    """It signs what it changed. What its evidence is about beside these is the audit's to judge."""
    whole = genuine()
    ledger = Ledger.from_records(whole.charter, whole.records[:3])
    survivors = set()
    for where, changed in changes(decode(whole.records[3])):
        try:
            ledger.copy().append(Instance("second").sign(changed))
        except LedgerError:
            continue
        survivors.add(where)
    bound = {"nonce", "charter", "ledger_head", "ledger_sequence", "signing_key", "role"}
    assert not survivors & {
        ".charter",
        ".sequence",
        ".previous",
        ".transcript",
        *(f".transcript.{each}" for each in bound),
    }
    assert ".transcript.server" in survivors  # the evidence is made for it


@pytest.mark.slow
@pytest.mark.parametrize("index", range(5))
def test_every_change_of_a_byte_is_found(index):
    whole = genuine()
    ledger = Ledger.from_records(whole.charter, whole.records[:index])
    data = whole.records[index]
    for place in range(0, len(data), 3):
        refuse(ledger, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        refuse(ledger, data[:cut])
    refuse(ledger, data + b"\0")


def test_dropped_swapped_and_repeated_records_are_found():
    whole = genuine()
    given = whole.records
    orders = [given[:at] + given[at + 1 :] for at in range(len(given) - 1)]
    orders += [(*given[: at + 1], *given[at:]) for at in range(len(given))]
    orders += [(*given[:at], given[at + 1], given[at], *given[at + 2 :]) for at in range(len(given) - 1)]
    for order in orders:
        with pytest.raises(LedgerError):
            Ledger.from_records(whole.charter, order)


def test_a_chain_without_its_end_stands_and_lacks_its_head():
    whole = genuine()
    for count in range(len(whole.records)):
        shorter = Ledger.from_records(whole.charter, whole.records[:count])
        assert whole.passed(shorter.sequence, shorter.head)
        assert not shorter.passed(whole.sequence, whole.head)


def test_a_splice_of_two_genuine_chains_is_found():
    one, other = genuine(), chains.chain(4, instance="other")
    for at in range(1, 5):
        with pytest.raises(LedgerError):
            Ledger.from_records(one.charter, (*one.records[:at], *other.records[at:]))
        with pytest.raises(LedgerError):
            Ledger.from_records(one.charter, (*other.records[:at], *one.records[at:]))


def test_a_chain_of_another_charter_is_found():
    with pytest.raises(LedgerError, match="another charter"):
        Ledger.from_records(chains.charter(min_examples="11"), genuine().records)


# Who signs


def test_a_round_before_any_instance():
    empty = Ledger(chains.charter())
    refuse(empty, round_record(empty, instance=FIRST), "before any instance")


def test_a_round_that_another_key_signed():
    ledger = begun()
    signed_again = Instance("other").sign(decode(round_record(ledger, instance=FIRST)))
    refuse(ledger, signed_again, "has not signed it")
    refuse(ledger, round_record(ledger, instance=Instance("other")), "another instance than the newest")


def test_an_instance_that_was_replaced_signs_no_more():
    ledger = begun()
    ledger.append(Instance("second").begin(ledger))
    refuse(ledger, round_record(ledger, instance=FIRST), "another instance than the newest")


@pytest.mark.parametrize("which", ["consents", "commits"])
def test_signatures_of_members_that_are_swapped(which):
    ledger = begun()
    record = decode(round_record(ledger, instance=FIRST))
    one, other = getattr(record, which)

    def changed(*signatures: MemberSignature) -> bytes:
        return FIRST.sign(replace(record, **{which: signatures}))

    keys = (replace(one, public_key=other.public_key), replace(other, public_key=one.public_key))
    refuse(ledger, changed(*keys), "another's public key")
    bodies = (replace(one, signature=other.signature), replace(other, signature=one.signature))
    refuse(ledger, changed(*bodies), f"list of {which} is not one of what it releases")
    refuse(ledger, changed(other, one), f"list of {which} names a member twice, or is out of order")
    refuse(ledger, changed(one, one, other), f"list of {which} names a member twice")
    refuse(ledger, changed(one, other, other), f"list of {which} names a member twice")


def of_bob_and_alice(ledger: Ledger, **changed: object) -> bytes:
    """An encoded cohort of these two, the ledger's next."""
    return records.encode(cohort(ledger, ["bob", "alice"], **({"signer": FIRST.public} | changed)))


@pytest.mark.parametrize(
    ("consented", "why"),
    [
        (["bob"], "alice is in its cohort and has not consented"),
        ([], "in its cohort and has not consented"),
        (["bob", "chuck"], "alice is in its cohort and has not consented"),
        (["bob", "alice", "chuck"], "consented to its cohort who is not in it"),
        (["bob", "alice", "mallory"], "consented to its cohort who is not in it"),
    ],
)
def test_all_of_the_cohort_consent_and_nobody_else(consented, why):
    """Whoever commits it: all owners do here."""
    ledger = begun()
    consents = chains.consents(of_bob_and_alice(ledger), consented)
    refuse(ledger, round_record(ledger, instance=FIRST, witnesses=["chuck"], consents=consents), why)


@pytest.mark.parametrize(
    "changed", [{"name": "other"}, {"round": 2}, {"previous": digest("other")}, {"signer": digest("other")}]
)
def test_a_consent_is_to_this_very_cohort(changed):
    ledger = begun()
    stolen = chains.consents(of_bob_and_alice(ledger, **changed), ["bob", "alice"])
    refuse(ledger, round_record(ledger, instance=FIRST, consents=stolen), "list of consents is not one of what")


def test_a_quorum_of_the_owners_commits():
    """The cohort alone is too few here. With a witness, they are enough; a stranger is none."""
    ledger = begun(owners=["bob", "alice", "chuck", "dave"])
    refuse(ledger, round_record(ledger, instance=FIRST), "2 of 4 owners have committed it, and 3 have to")
    refuse(ledger, round_record(ledger, instance=FIRST, witnesses=["rosa"]), "no owner's")
    ledger.copy().append(round_record(ledger, instance=FIRST, witnesses=["dave"]))
    ledger.append(round_record(ledger, instance=FIRST, witnesses=["chuck", "dave"]))


def test_a_member_need_not_commit():
    """It has consented, and others make the quorum."""
    ledger = begun(owners=["bob", "alice", "chuck", "dave"])
    encoded = of_bob_and_alice(ledger)

    def committed_by(*names: str) -> bytes:
        return round_record(ledger, instance=FIRST, commits=chains.commits(encoded, chains.outcome(ledger), names))

    refuse(ledger, committed_by(), "0 of 4 owners")
    refuse(ledger, committed_by("chuck", "dave"), "2 of 4 owners have committed it, and 3 have to")
    ledger.append(committed_by("bob", "chuck", "dave"))
    assert ledger.receipts[0].members == frozenset(map(fingerprint_of, ("bob", "alice")))


def test_one_commit_that_is_none_spoils_it_even_beyond_the_quorum():
    ledger = begun()
    record = decode(round_record(ledger, instance=FIRST, witnesses=["chuck"]))
    assert len(record.commits) > quorum(ledger.charter)
    for place, each in enumerate(record.commits):
        others = chains.digest("nothing")
        forged = replace(each, signature=others + others)
        commits = (*record.commits[:place], forged, *record.commits[place + 1 :])
        refuse(ledger, FIRST.sign(replace(record, commits=commits)), "list of commits is not one of what it releases")


@pytest.mark.parametrize(
    "changed", [{"model": digest("other")}, {"state": digest("other")}, {"metrics": {"loss": 0.6}}]
)
def test_a_commit_is_to_this_very_outcome(changed):
    ledger = begun()
    stolen = chains.commits(of_bob_and_alice(ledger), chains.outcome(ledger, **changed), ["bob", "alice"])
    refuse(ledger, round_record(ledger, instance=FIRST, commits=stolen), "list of commits is not one of what")
    again = chains.commits(of_bob_and_alice(ledger), chains.outcome(ledger), ["bob", "alice"])
    refuse(ledger, round_record(ledger, instance=FIRST, commits=again, **changed), "list of commits is not one of what")
    salted = round_record(ledger, instance=FIRST, commits=again, salt=digest("other"))
    refuse(ledger, salted, "list of commits is not one of what")
    ledger.append(round_record(ledger, instance=FIRST, commits=again))


def test_a_commit_is_to_this_very_cohort():
    ledger = begun()
    other = of_bob_and_alice(ledger, job=digest("other"))
    stolen = chains.commits(other, chains.outcome(ledger), ["bob", "alice"])
    refuse(ledger, round_record(ledger, instance=FIRST, commits=stolen), "list of commits is not one of what")


def test_signatures_of_another_kind_do_not_count():
    """A consent is no commit and a commit no consent, and neither is a signature of anything else."""
    ledger = begun()
    encoded = of_bob_and_alice(ledger)
    consents = chains.consents(encoded, ["bob", "alice"])
    commits = chains.commits(encoded, chains.outcome(ledger), ["bob", "alice"])
    refuse(ledger, round_record(ledger, instance=FIRST, commits=consents), "list of commits is not one of what")
    refuse(ledger, round_record(ledger, instance=FIRST, consents=commits), "list of consents is not one of what")
    for label in (b"", b"cloister cohort signature 2\0", b"cloister answer signature 1\0", CONTEXT):
        bare = chains.sign_all(label + cohort_digest(encoded), ["bob", "alice"])
        refuse(ledger, round_record(ledger, instance=FIRST, consents=bare), "list of consents is not one of what")
        more = chains.sign_all(label + cohort_digest(encoded) + chains.outcome(ledger), ["bob", "alice"])
        refuse(ledger, round_record(ledger, instance=FIRST, commits=more), "list of commits is not one of what")


def test_the_consents_to_a_cohort_are_looked_at_before_it_is_in_a_record():
    """As an owner does that is asked to commit it."""
    ledger = begun()
    agreed = cohort(ledger, ["bob", "alice"], signer=FIRST.public)
    encoded = records.encode(agreed)
    ledger.check_consents(agreed, chains.consents(encoded, ["bob", "alice"]), encoded=encoded)
    for names in (["bob"], ["bob", "alice", "chuck"], []):
        with pytest.raises(LedgerError, match="consented"):
            ledger.check_consents(agreed, chains.consents(encoded, names), encoded=encoded)
    with pytest.raises(LedgerError, match="list of consents"):
        ledger.check_consents(agreed, chains.consents(encoded + b"\0", ["bob", "alice"]), encoded=encoded)
    stranger = cohort(ledger, ["bob", "mallory"], signer=FIRST.public)
    encoded = records.encode(stranger)
    with pytest.raises(LedgerError, match="list of consents names a key that is no owner's"):
        ledger.check_consents(stranger, chains.consents(encoded, ["bob", "mallory"]), encoded=encoded)
    with pytest.raises(LedgerError, match="in its cohort and has not consented"):
        ledger.check_consents(stranger, chains.consents(encoded, ["bob"]), encoded=encoded)


# How many sign


def test_what_makes_void_excludes_what_releases():
    """Of those whose answers make a cohort void and those who released it, floor - 1 are the same; and those that
    neither is found of, with the floor - 2 that may lie, are one too few."""
    for owners in range(2, 10):
        for floor in range(2, owners + 1):
            names = [f"owner {each}" for each in range(owners)]
            share = f"{1 / floor!r}"
            agreed = chains.charter(owners=names, floor=str(floor), largest_share=share)
            needed, votes = quorum(agreed), votes_to_void(agreed)
            assert votes + needed - owners == floor - 1
            assert 2 * needed - owners >= floor - 1
            assert floor <= needed <= owners
            assert 2 * needed > owners
            assert owners - (votes - (floor - 2)) == needed - 1
            assert 1 <= votes <= owners


# The cohorts that were released


def test_the_cohorts_that_were_released():
    ledger = chains.chain(2)
    both = [cohort_digest(each.record.cohort) for each in ledger.receipts]
    assert ledger.cohorts == set(both)
    assert len(both) == 2
    assert Ledger(ledger.charter).cohorts == frozenset()
    again = Ledger.from_records(ledger.charter, ledger.records)
    assert again.cohorts == ledger.copy().cohorts == ledger.settled().cohorts == ledger.cohorts
    grown = ledger.copy()
    chains.extend(grown, 1)
    assert len(grown.cohorts) == 3
    assert ledger.cohorts == set(both)


def test_a_cohort_that_was_refused_was_not_released():
    ledger = chains.chain(1)
    before = ledger.cohorts
    refuse(ledger, round_record(ledger, instance=FIRST, commits=()), "committed")
    refuse(ledger, Instance("other").sign(decode(round_record(ledger, instance=FIRST))), "has not signed it")
    assert ledger.cohorts == before


@pytest.mark.parametrize(("count", "rounds"), list(enumerate([0, 0, 1, 2, 2, 3, 3])))
def test_the_ledger_of_its_first_records(count, rounds):
    whole = genuine().copy()
    whole.append(Instance("third").begin(whole))
    earlier, again = whole.upto(count), Ledger.from_records(whole.charter, whole.records[:count])
    assert earlier.released == rounds
    for name in ("records", "heads", "head", "sequence", "instances", "signer", "receipts", "model", "last_round"):
        assert getattr(earlier, name) == getattr(again, name), name
    assert earlier.commitments == again.commitments
    assert earlier.cohorts == again.cohorts
    assert len(earlier.cohorts) == rounds
    earlier.extend(whole.records[count:])
    assert earlier.cohorts == whole.cohorts
    assert earlier.head == whole.head


# What members agree to, all of them with one accord


def agree(ledger: Ledger, **changed: object) -> bytes:
    """The next round as bob and alice would consent to it and commit it, and the instance would sign it."""
    agreed = cohort(ledger, ["bob", "alice"], **({"signer": FIRST.public} | changed))
    return round_record(ledger, instance=FIRST, agreed=agreed)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"charter": digest("other")}, "another charter"),
        ({"sequence": 3}, "number 3"),
        ({"sequence": 1}, "number 1"),
        ({"previous": digest("other")}, "follows another record"),
        ({"signer": digest("other")}, "another instance"),
        ({"model": digest("other")}, "another model"),
        ({"digest": digest("other")}, "round digest"),
        ({"name": "other"}, "a job 'other'"),
        ({"name": ""}, "a job ''"),
        ({"shares": ()}, "0 members"),
    ],
)
def test_what_even_all_members_together_cannot_agree_to(changed, why):
    ledger = begun()
    refuse(ledger, agree(ledger, **changed), why)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({"bob": 1.0}, "1 members, and the charter's floor is 2"),
        ({"bob": 0.6, "alice": 0.4}, "at most 0.5"),
        ({"bob": 0.5, "alice": 0.4}, "do not add up"),
        ({"bob": 0.5, "alice": 0.5, "chuck": 2e-9}, "do not add up"),
        ({"bob": 0.5, "alice": 0.5, "chuck": 0.0}, "not above 0"),
        ({"bob": 0.5, "alice": 0.5, "chuck": -0.0}, "not above 0"),
        ({"bob": 0.5, "alice": 0.5, "chuck": float("nan")}, "not above 0"),
        ({"bob": 0.5, "alice": 0.5, "chuck": float("inf")}, "not above 0"),
        ({"bob": 0.5, "rosa": 0.5}, "no owner's"),
        ({"bob": 0.5, "mallory": 0.5}, "no owner's"),
    ],
)
def test_shares_that_the_charter_does_not_allow(weights, why):
    ledger = begun()
    names = list(weights)
    agreed = cohort(ledger, names, signer=FIRST.public, shares=chains.share_list(ledger, names, weights))
    refuse(ledger, round_record(ledger, names, instance=FIRST, agreed=agreed), why)


def test_a_share_may_be_one_rounding_over_the_limit():
    by_rows = chains.charters.agreed_job(chains.PLAN, weights="rows")
    ledger = begun(largest_share=f"{1 / 3!r}", floor="3", jobs=[by_rows], row_buckets="[20]")
    third = float.fromhex((1 / 3).hex())
    weights = {"bob": third, "alice": third, "chuck": 1 - 2 * third}
    assert weights["chuck"] > third
    names = list(weights)
    agreed = cohort(ledger, names, signer=FIRST.public, shares=chains.share_list(ledger, names, weights))
    ledger.append(round_record(ledger, names, instance=FIRST, agreed=agreed))


def test_owners_that_count_the_same_have_the_same_weight():
    ledger = begun()
    weights = {"bob": 0.5, "alice": 0.25, "chuck": 0.25}
    unequal = agree(ledger, shares=chains.share_list(ledger, list(weights), weights))
    refuse(ledger, unequal, "not all alike")


def test_the_rounds_of_a_job_are_counted():
    ledger = begun(jobs=[chains.charters.agreed_job(chains.PLAN, rounds=1)])
    ledger.append(round_record(ledger, instance=FIRST))
    refuse(ledger, round_record(ledger, instance=FIRST), "all 1 rounds of its job")
    anew = agree(ledger, job=chains.digest("begun anew"))
    refuse(ledger, anew, "all 1 rounds of its job")


def test_shares_stand_once_and_in_order():
    ledger = begun()
    one, other = chains.share_list(ledger, ["bob", "alice"])
    refuse(ledger, agree(ledger, shares=(other, one)), "out of order")
    refuse(ledger, agree(ledger, shares=(one, one)), "twice")
    half = Share(one.member, 0.25, digest("second"))
    refuse(ledger, agree(ledger, shares=(replace(one, weight=0.25), half, other)), "twice")


def test_a_contribution_is_in_one_round():
    ledger = begun()
    first = chains.share_list(ledger, ["bob", "alice"])
    ledger.append(agree(ledger, shares=first))
    one, other = chains.share_list(ledger, ["bob", "alice"])
    why = "there twice, or was in an earlier round"
    for at in (ledger, ledger.copy(), Ledger.from_records(ledger.charter, ledger.records), ledger.upto(2)):
        refuse(at, agree(at, shares=(one, replace(other, commitment=first[1].commitment))), why)
        refuse(at, agree(at, shares=(one, replace(other, commitment=first[0].commitment))), why)
        refuse(at, agree(at, shares=(one, replace(other, commitment=one.commitment))), why)
    ledger.append(agree(ledger, shares=(one, other)))
    earlier = ledger.upto(1)  # what was taken back may be in its place again
    earlier.append(agree(earlier, shares=first))


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"accuracy": 0.5}, "does not name"),
        ({"loss": 10.5}, "outside"),
        ({"loss": -0.5}, "outside"),
        ({"loss": float("nan")}, "outside"),
    ],
)
def test_metrics_that_the_charter_does_not_allow(metrics, why):
    ledger = begun()
    refuse(ledger, round_record(ledger, instance=FIRST, metrics=metrics), why)


def test_the_rounds_of_a_charter_are_counted():
    """Whatever job they are of: the second of these has rounds left, and the charter none."""
    jobs = [chains.charters.agreed_job(chains.PLAN, name=name, rounds=1) for name in ("train", "more")]
    ledger = begun(rounds="1", jobs=jobs)
    ledger.append(round_record(ledger, instance=FIRST))
    agreed = cohort(ledger, ["bob", "alice"], signer=FIRST.public, name="more")
    refuse(ledger, round_record(ledger, instance=FIRST, agreed=agreed), "all 1 rounds of the charter")


NOISES = {"owner": Noised("owner", 2.0, 1.0, 1.0), "record": Noised("record", 2.0, 0.25, 1.0)}


@pytest.mark.parametrize("unit", NOISES)
def test_the_noise_of_a_round_is_what_the_charter_and_its_job_say(unit):
    noise = f'{{ unit = "{unit}", multiplier = 2.0, delta = 1e-5 }}'
    drawn = {"steps": 1, "optimizer": SGD(0.5), "sampling": Sampling(rate=0.25, rows=90)} if unit == "record" else {}
    ledger = begun(limits="", noise=noise, jobs=[chains.charters.agreed_job(chains.PLAN, **drawn)])
    right = NOISES[unit]
    for wrong in (
        None,
        replace(right, unit="record" if unit == "owner" else "owner"),
        replace(right, multiplier=1.9),
        replace(right, rate=0.2),
        replace(right, clip=2.0),
    ):
        agreed = replace(cohort(ledger, ["bob", "alice"], signer=FIRST.public), noise=wrong)
        refuse(ledger, round_record(ledger, instance=FIRST, agreed=agreed), "its noise, or the rate or clip")
    agreed = replace(cohort(ledger, ["bob", "alice"], signer=FIRST.public), noise=right)
    ledger.append(round_record(ledger, instance=FIRST, agreed=agreed))
    assert ledger.released == 1


def test_a_round_says_no_noise_where_there_is_none():
    ledger = begun()
    agreed = replace(cohort(ledger, ["bob", "alice"], signer=FIRST.public), noise=NOISES["owner"])
    refuse(ledger, round_record(ledger, instance=FIRST, agreed=agreed), "its noise, or the rate or clip")


def test_a_charter_without_a_first_model_has_no_rounds():
    none = Ledger(chains.charters.charter())
    none.append(FIRST.begin(none))
    refuse(none, agree(none, model=bytes(32)), "another model")


# How an instance begins


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"role": "node"}, "no aggregator's"),
        ({"charter": digest("other")}, "under this charter"),
        ({"nonce": digest("other")}, "nonce"),
        ({"ledger_sequence": 2}, "another place"),
        ({"ledger_head": digest("other")}, "another ledger"),
        ({"ledger_head": b"", "ledger_sequence": 0}, "another ledger"),
    ],
)
def test_an_instance_proves_itself_for_its_place(changed, why):
    ledger = begun()
    second = Instance("second")
    given = {"role": "aggregator"} | changed
    refuse(ledger, second.begin(ledger, transcript=second.transcript(ledger, **given)), why)


def test_an_instance_signs_with_the_key_that_it_proved():
    ledger = begun()
    proved = Instance("second").transcript(ledger)
    refuse(ledger, Instance("other").begin(ledger, transcript=proved), "has not signed it")


def test_an_instance_that_began_elsewhere_has_to_begin_again():
    ledger, other = begun(), chains.chain(1)
    refuse(ledger, Instance("second").begin(other), "record 2 cannot stand")


# Anything


@pytest.mark.slow
@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    refuse(genuine().copy(), data)


@given(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), min_size=1, max_size=4))
def test_any_damage_is_refused(index, damage):
    whole = genuine()
    data = bytearray(whole.records[index])
    for place, value in damage:
        data[place % len(data)] ^= value
    ledger = Ledger.from_records(whole.charter, whole.records[:index])
    if bytes(data) != whole.records[index]:
        refuse(ledger, bytes(data))
