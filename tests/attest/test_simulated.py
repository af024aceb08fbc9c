"""The simulated TEE's reports: made, read back, and refused when one bit is another."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.attest import simulated, simulated_report
from cloister.attest.claims import SimulatedClaims
from cloister.errors import AttestationError, EvidenceError, NotGenuineError

MEASUREMENT, PLATFORM, REPORT_DATA = b"m" * 48, b"p" * 32, b"r" * 64
REPORT = simulated_report.make(REPORT_DATA, measurement=MEASUREMENT, platform=PLATFORM, svn=7)
SIGNED = 176


def root() -> Ed25519PrivateKey:
    """Anyone can have this key: that is what makes the TEE a simulated one."""
    sentence = b"cloister: this simulated TEE's private key is public, so its reports prove nothing"
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(sentence).digest())


def signed(body: bytes) -> bytes:
    return body + root().sign(body)


@given(
    report_data=st.binary(min_size=64, max_size=64),
    measurement=st.binary(min_size=48, max_size=48),
    platform=st.binary(min_size=32, max_size=32),
    svn=st.integers(0, 2**32 - 1),
    debug=st.booleans(),
)
def test_what_is_made_is_what_is_read(report_data, measurement, platform, svn, debug):
    report = simulated_report.make(report_data, measurement=measurement, platform=platform, svn=svn, debug=debug)
    assert simulated.authenticate(report) == SimulatedClaims(
        report_data=report_data, measurement=measurement, svn=svn, debug=debug, platform=platform
    )


def test_the_layout_is_the_documented_one():
    assert len(REPORT) == 240
    assert REPORT[:16] == b"cloister sim TEE"
    assert REPORT[16:32] == bytes([1, 0, 0, 0, 7, 0, 0, 0]) + bytes(8)
    assert REPORT[32:SIGNED] == MEASUREMENT + PLATFORM + REPORT_DATA
    root().public_key().verify(REPORT[SIGNED:], REPORT[:SIGNED])


def test_the_same_report_is_made_by_anyone_who_reads_the_source():
    assert signed(REPORT[:SIGNED]) == REPORT


@pytest.mark.slow
def test_no_other_bit_is_accepted():
    for place in range(8 * len(REPORT)):
        changed = bytearray(REPORT)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(AttestationError):
            simulated.authenticate(bytes(changed))


@pytest.mark.parametrize("place", [*range(8, 24), *range(32, SIGNED, 11), *range(SIGNED, 240, 7)])
def test_every_changed_field_and_signature_has_its_kind_of_refusal(place):
    changed = bytearray(REPORT)
    changed[place] ^= 0x80
    with pytest.raises(EvidenceError if place < 20 else NotGenuineError):
        simulated.authenticate(bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 32, SIGNED, 239, 241, 1184, 1 << 15])
def test_another_length_is_no_report(length):
    with pytest.raises(EvidenceError, match=f"240 bytes, this has {length}"):
        simulated.authenticate((REPORT * 200)[:length])


def test_a_well_signed_report_of_another_kind_is_none():
    for body in (
        b"cloister sim tee" + REPORT[16:SIGNED],
        REPORT[:16] + b"\2" + REPORT[17:SIGNED],
        REPORT[:24] + b"\2" + REPORT[25:SIGNED],  # a flag that has no meaning
        REPORT[:31] + b"\x80" + REPORT[32:SIGNED],
    ):
        with pytest.raises(EvidenceError):
            simulated.authenticate(signed(body))


def test_another_key_signs_nothing():
    with pytest.raises(NotGenuineError, match="does not fit"):
        simulated.authenticate(REPORT[:SIGNED] + Ed25519PrivateKey.generate().sign(REPORT[:SIGNED]))


@given(st.binary(max_size=300))
def test_noise_is_refused(noise):
    with pytest.raises(AttestationError):
        simulated.authenticate(noise)


@pytest.mark.parametrize(
    "parts",
    [
        {"report_data": b"r" * 63},
        {"measurement": b"m" * 32},
        {"platform": b""},
        {"svn": -1},
        {"svn": 1 << 32},
    ],
)
def test_parts_of_wrong_size_make_no_report(parts):
    whole = {"report_data": REPORT_DATA, "measurement": MEASUREMENT, "platform": PLATFORM, **parts}
    with pytest.raises(EvidenceError):
        simulated_report.make(whole.pop("report_data"), **whole)
