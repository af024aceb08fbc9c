"""Evidence of any kind is recognised and read for a person, and hostile bytes get a typed refusal."""

from __future__ import annotations

import random

import pytest

from cloister.attest import simulated_report
from cloister.attest.evidence import Evidence, encode
from cloister.attest.inspect import recognise, unverified
from cloister.attest.reference import MEASURED
from cloister.errors import AttestationError, EvidenceError
from cloister.wire.limits import EVIDENCE_BYTES
from tests.attest.genuine import dcap, dcap_names, needs_vectors, ratls, snp, snp_names

REPORT = simulated_report.make(bytes(range(64)), measurement=b"\x3f" * 48, platform=bytes(32))


def test_a_simulated_report_says_what_it_was_made_of():
    told = unverified(recognise(REPORT))
    assert (told.tee, told.software["measurement"], told.report_data) == ("simulated", "3f" * 48, bytes(range(64)))
    assert told.collateral_issued is None


@needs_vectors
@pytest.mark.parametrize("name", dcap_names())
def test_every_quote_is_read(name):
    quote = dcap(name).quote
    told = unverified(recognise(quote))
    assert told.tee == name[:3]
    assert told.report_data in quote
    measured = bytes.fromhex(str(told.software[MEASURED[told.tee][0]]))
    assert measured in quote
    assert told.software["debug"] is ("debug" in name)
    assert unverified(recognise(encode(Evidence(tee=told.tee, quote=quote)))).software == told.software


@needs_vectors
@pytest.mark.parametrize("name", snp_names())
def test_every_report_is_read(name):
    vector = snp(name)
    told = unverified(recognise(vector.report))
    assert told.tee == "snp"
    assert told.report_data == vector.report[0x50:0x90]
    assert told.software["measurement"] == vector.report[0x90:0xC0].hex()
    assert told.software["vmpl"] == vector.meta["vmpl"]
    assert told.platform["signer"] == name.split("_")[1].lower()


@pytest.mark.parametrize("size", [0, EVIDENCE_BYTES + 1])
def test_nothing_and_too_much_are_no_evidence(size):
    with pytest.raises(EvidenceError, match=f"{size} bytes"):
        recognise(bytes(size))


@pytest.mark.slow
@needs_vectors
def test_mutants_are_read_or_refused_and_never_anything_else():
    chance = random.Random(11)
    seeds = [dcap(name).quote for name in dcap_names()] + [snp(name).report for name in snp_names()]
    seeds += [ratls("ccc-gramine-cert"), ratls("ccc-rats-tls-cert"), REPORT, encode(Evidence(tee="snp", quote=REPORT))]
    outcomes = {True: 0, False: 0}
    for _ in range(1500):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(len(data))
            if chance.random() < 0.8:
                data[at] = chance.choice((0, 0xFF, chance.randrange(256)))
            else:
                data[at:] = data[at : at + chance.randrange(500)] + chance.randbytes(chance.randrange(9))
            data = data or bytearray(1)
        try:
            unverified(recognise(bytes(data)))
            outcomes[True] += 1
        except AttestationError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 100
