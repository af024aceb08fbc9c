"""The audit: what a genuine chain shows, and that nobody can change what an instance proved."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cloister.attest import evidence as evidence_form
from cloister.attest.attester.simulated import SimulatedAttester
from cloister.attest.dcap.collateral import SnpCollateral
from cloister.attest.evidence import Evidence
from cloister.charter.jobs import Sampling
from cloister.charter.toml import parse_charter
from cloister.errors import (
    CloisterError,
    CollateralError,
    EvidenceError,
    LedgerError,
    NotGenuineError,
    UnacceptableError,
)
from cloister.ledger.audit import Report, audit, used_once
from cloister.ledger.chain import Ledger
from cloister.ledger.records import decode
from tests.charter.test_noise import drawn, noisy
from tests.support import chains
from tests.support.chains import Instance, cohort, round_record
from tests.support.charters import NOW, SGX
from tests.tampering import changes

FIRST = Instance("first")


def look(ledger: Ledger, **changed: Any) -> Report:
    """The audit of a ledger's records."""
    given: dict[str, Any] = {"charter": ledger.charter, "collateral": lambda *_: None, "accept_simulated": True}
    return audit(ledger.records, **given | changed)


def began(**changed: Any) -> Ledger:
    """A ledger with the record of one instance, with fields that it changed and signed."""
    ledger = Ledger(chains.charter())
    ledger.append(FIRST.begin(ledger, **changed))
    return ledger


def test_what_a_genuine_chain_shows():
    ledger = chains.chain(2)
    chains.extend(ledger, 1, names=["bob", "chuck"])
    report = look(ledger)
    assert report.ledger.head == ledger.head
    assert [verified.entry.name for verified in report.verified] == ["rehearsal", "rehearsal"]
    assert report.contributed == {"alice": 2, "bob": 3, "chuck": 1}
    assert report.committed == {"alice": 2, "bob": 3, "chuck": 1}
    assert report.gaps == ()


def test_how_often_each_owner_was_in_a_round_with_which_noise():
    """Another job's rounds have another rate. Who commits as a witness spends nothing."""
    wide = drawn(name="wide", sampling=Sampling(rate=0.5, rows=90))
    limits = f'first_model = "{chains.START.hex()}"\n'
    ledger = chains.chain(2, agreed=parse_charter(noisy(drawn(), wide, limits=limits)))
    for names, witnesses in ((["bob", "chuck"], ["alice"]), (["alice", "chuck"], ["bob"])):
        agreed = cohort(ledger, names, signer=FIRST.public, name="wide", job=bytes(32))
        ledger.append(round_record(ledger, names, instance=FIRST, agreed=agreed, witnesses=witnesses))
    report = look(ledger)
    assert report.spent == {
        "alice": {(2.0, 0.25): 2, (2.0, 0.5): 1},
        "bob": {(2.0, 0.25): 2, (2.0, 0.5): 1},
        "chuck": {(2.0, 0.5): 2},
    }
    assert report.committed == {"alice": 4, "bob": 4, "chuck": 2}
    assert look(chains.chain(2)).spent == {"alice": {}, "bob": {}, "chuck": {}}


def test_rounds_that_were_void():
    ledger = chains.chain(0)
    for number in (2, 3, 7):
        agreed = cohort(ledger, ["bob", "alice"], signer=FIRST.public, round=number)
        ledger.append(round_record(ledger, instance=FIRST, agreed=agreed, witnesses=["chuck"]))
    report = look(ledger)
    assert report.gaps == (range(1, 2), range(4, 7))
    assert report.contributed == {"alice": 3, "bob": 3, "chuck": 0}
    assert report.committed == {"alice": 3, "bob": 3, "chuck": 3}


def test_records_that_are_no_chain():
    ledger = chains.chain(2)
    with pytest.raises(LedgerError, match="record 2"):
        audit(ledger.records[:1] + ledger.records[2:], charter=ledger.charter, collateral=lambda *_: None)


def test_a_simulated_instance_passes_only_where_it_is_asked_for():
    with pytest.raises(UnacceptableError, match="the instance of record 1: a simulated TEE proves nothing"):
        look(chains.chain(1), accept_simulated=False)


def test_nothing_that_an_instance_proved_can_be_changed_by_the_holder_of_its_key():
    """What the ledger alone lets pass (``test_ledger``), the evidence does not. The time is its own to say."""
    ledger = Ledger(chains.charter())
    survivors = set()
    for where, changed in changes(decode(FIRST.begin(ledger))):
        try:
            look(Ledger.from_records(ledger.charter, [FIRST.sign(changed)]))
        except CloisterError:
            continue
        survivors.add(where)
    assert survivors == {".time", ".signature"}


def test_other_software_than_the_charter_names():
    attester = SimulatedAttester(measurement=bytes(48), platform=bytes(32))
    ledger = Ledger(chains.charter())
    ledger.append(Instance("other", attester).begin(ledger))
    with pytest.raises(UnacceptableError, match="the instance of record 1: "):
        look(ledger)


def test_every_instance_is_judged():
    attester = SimulatedAttester(measurement=bytes(48), platform=bytes(32))
    ledger = chains.chain(1)
    ledger.append(Instance("other", attester).begin(ledger))
    with pytest.raises(UnacceptableError, match="the instance of record 3: "):
        look(ledger)


def test_an_instance_at_another_address():
    ledger = Ledger(chains.charter())
    transcript = FIRST.transcript(ledger, name="elsewhere.example:7443")
    ledger.append(FIRST.begin(ledger, transcript=transcript))
    with pytest.raises(UnacceptableError, match="no aggregator at its address"):
        look(ledger)


def test_an_instance_that_calls_itself_of_another_kind():
    ledger = Ledger(chains.charter())
    ledger.append(FIRST.begin(ledger, transcript=FIRST.transcript(ledger, tee="sgx")))
    with pytest.raises(UnacceptableError, match="another"):
        look(ledger)


def test_evidence_that_is_none_or_not_genuine():
    report = FIRST.attester.evidence(bytes(64)).quote
    damaged = Evidence(tee="simulated", quote=report[:-1] + bytes([report[-1] ^ 1]))
    with pytest.raises(EvidenceError, match="the instance of record 1: "):
        look(began(evidence=b"x"))
    with pytest.raises(NotGenuineError, match="the instance of record 1: "):
        look(began(evidence=evidence_form.encode(damaged)))


def test_evidence_is_judged_as_of_its_record_unless_another_time_is_named():
    """By collateral from outside, and by the record's own if it brings some: here of the wrong kind."""
    asked = []

    def source(evidence: Evidence, now: datetime) -> None:
        asked.append(now)

    ledger = Ledger(chains.charter(software=SGX))
    transcript = FIRST.transcript(ledger, tee="sgx")
    sgx = evidence_form.encode(Evidence(tee="sgx", quote=b"a quote"))
    without = FIRST.begin(ledger, transcript=transcript, evidence=sgx)
    later = datetime(2026, 9, 1, tzinfo=UTC)
    for now in (None, later):
        with pytest.raises(CollateralError, match="the instance of record 1: sgx evidence is judged by DCAP"):
            audit([without], charter=ledger.charter, collateral=source, now=now)
    assert asked == [NOW, later]
    own = SnpCollateral(vek=b"x", ask=None, ark=None, crl=None).encode()
    brought = FIRST.begin(ledger, transcript=transcript, evidence=sgx, collateral=own)
    with pytest.raises(CollateralError):
        audit([brought], charter=ledger.charter, collateral=source)
    broken = FIRST.begin(ledger, transcript=transcript, evidence=sgx, collateral=b"{")
    with pytest.raises(CollateralError, match="the instance of record 1: the collateral is no JSON"):
        audit([broken], charter=ledger.charter, collateral=source)
    assert len(asked) == 2


def test_a_time_beyond_any_calendar():
    with pytest.raises(LedgerError, match="beyond any calendar"):
        look(began(time=(1 << 53) - 1))
    assert look(began(time=(1 << 53) - 1), now=NOW).ledger.sequence == 1


def test_a_contribution_was_used_once():
    ledger = chains.chain(3)
    for receipt in ledger.receipts:
        for share in receipt.cohort.shares:
            assert used_once(ledger, share.commitment) == receipt


def test_a_contribution_that_was_not_used_and_none_that_is_used_twice():
    ledger = chains.chain(1)
    shares = ledger.receipts[0].cohort.shares
    with pytest.raises(LedgerError, match="no round"):
        used_once(ledger, bytes(32))
    agreed = cohort(ledger, ["bob", "alice"], signer=FIRST.public, shares=shares)
    with pytest.raises(LedgerError, match="there twice, or was in an earlier round"):
        ledger.append(round_record(ledger, instance=FIRST, agreed=agreed))
