"""Attack: run the aggregator twice and show each copy other owners, to have two releases for one round.

Here the copies and the chains that they make; that a node commits once a round is tested where nodes are.
"""

from __future__ import annotations

import pytest

from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger, quorum
from cloister.ledger.records import Cohort
from tests.support import chains
from tests.support.chains import Instance, cohort, round_record
from tests.support.charters import fingerprint_of

OWNERS = ("alice", "bob", "chuck", "dave")
CHARTER = chains.charter(owners=OWNERS)


def copies() -> tuple[Ledger, Ledger, Instance]:
    """Two copies of one instance that has released one round, each with its ledger."""
    ledger = chains.chain(0, agreed=CHARTER)
    instance = Instance("first")
    ledger.append(round_record(ledger, instance=instance, witnesses=["chuck"]))
    return ledger, ledger.copy(), instance


def test_neither_half_of_the_owners_is_enough():
    one, other, instance = copies()
    for ledger, half in ((one, OWNERS[:2]), (other, OWNERS[2:])):
        with pytest.raises(LedgerError, match="2 of 4 owners have committed it, and 3 have to"):
            ledger.append(round_record(ledger, half, instance=instance))


def test_a_majority_is_not_enough_where_an_owner_signs_for_both():
    """Five owners, a floor of three, so that one of them may break its word: eve signs for either copy."""
    agreed = chains.charter(owners=("alice", "bob", "chuck", "dave", "eve"), floor=3)
    for members in (["alice", "bob", "eve"], ["chuck", "dave", "eve"]):
        ledger, instance = chains.chain(0, agreed=agreed), Instance("first")
        with pytest.raises(LedgerError, match="3 of 5 owners have committed it, and 4 have to"):
            ledger.append(round_record(ledger, members, instance=instance))


def test_two_releases_for_a_round_name_the_owner_who_signed_both():
    one, other, instance = copies()
    one.append(round_record(one, ["alice", "bob"], instance=instance, witnesses=["chuck"]))
    other.append(round_record(other, ["chuck", "dave"], instance=instance, witnesses=["bob"]))
    assert one.last_round == other.last_round
    assert one.head != other.head
    signed = [{each.member for each in ledger.receipts[-1].record.commits} for ledger in (one, other)]
    assert all(len(signers) >= quorum(CHARTER) for signers in signed)
    assert signed[0] & signed[1] == {fingerprint_of("bob"), fingerprint_of("chuck")}


def test_a_release_of_one_copy_does_not_go_on_from_the_others():
    one, other, instance = copies()
    fork = round_record(other, ["chuck", "dave"], instance=instance, witnesses=["bob"])
    one.append(round_record(one, ["alice", "bob"], instance=instance, witnesses=["chuck"]))
    with pytest.raises(LedgerError, match="record 4 cannot stand"):
        one.append(fork)
    assert not one.passed(3, Ledger.from_records(CHARTER, [*other.records, fork]).head)


def test_signatures_for_one_copy_do_not_serve_the_other():
    """The same cohort, for the same round: what differs is the chain before it, and with it what is signed."""
    one, other, instance = copies()
    other.append(Instance("second").begin(other))
    agreed: Cohort = cohort(one, ["alice", "bob"], signer=instance.public)
    encoded = chains.records.encode(agreed)
    consents = chains.consents(encoded, ["alice", "bob"])
    commits = chains.commits(encoded, chains.outcome(one), ["alice", "bob", "chuck"])
    second = Instance("second")
    with pytest.raises(LedgerError, match="follows another record"):
        other.append(round_record(other, ["alice", "bob"], instance=second, agreed=agreed))
    with pytest.raises(LedgerError, match="in its list of consents is not one of what it releases"):
        other.append(round_record(other, ["alice", "bob"], instance=second, consents=consents))
    with pytest.raises(LedgerError, match="in its list of commits is not one of what it releases"):
        other.append(round_record(other, ["alice", "bob"], instance=second, commits=commits))
