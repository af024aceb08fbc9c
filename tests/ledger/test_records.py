"""Records and cohorts: one spelling, and the digests and labels that docs/ledger.md specifies, derived here by hand."""

from __future__ import annotations

import hashlib
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.aggregation.strategies import State
from cloister.charter import keys
from cloister.errors import LedgerError
from cloister.ledger import records
from cloister.ledger.records import Cohort, InstanceRecord, Noised, RoundRecord, Share, decode, decode_cohort, encode
from cloister.wire.limits import MEMBERS, RECORD_BYTES
from cloister.wire.rounds import MemberSignature
from tests.support import chains

DIGESTS = st.binary(min_size=32, max_size=32)
HEADS = DIGESTS | st.just(b"")
WHOLE = st.integers(0, (1 << 53) - 1)
NAMES = st.text(max_size=20)
PEERS = DIGESTS.map(lambda digest: f"sha256:{digest.hex()}")
SHARES = st.builds(Share, PEERS, st.floats(), DIGESTS)
SIGNATURES = st.builds(MemberSignature, PEERS, st.binary(max_size=256), st.binary(max_size=128))
COHORTS = st.builds(
    Cohort,
    format=st.just("cloister cohort 4"),
    charter=DIGESTS,
    sequence=WHOLE,
    previous=HEADS,
    signer=DIGESTS,
    round=st.integers(1, (1 << 53) - 1),
    job=DIGESTS,
    name=NAMES,
    digest=DIGESTS,
    model=DIGESTS,
    shares=st.lists(SHARES, max_size=3).map(tuple),
    noise=st.none() | st.builds(Noised, st.sampled_from(["record", "owner"]), st.floats(), st.floats(), st.floats()),
)
RECORDS = st.one_of(
    st.builds(
        RoundRecord,
        cohort=COHORTS.map(encode) | st.binary(max_size=50),
        salt=DIGESTS,
        model=DIGESTS,
        state=st.none() | DIGESTS,
        metrics=st.dictionaries(NAMES, st.floats(), max_size=3),
        consents=st.lists(SIGNATURES, max_size=3).map(tuple),
        commits=st.lists(SIGNATURES, max_size=3).map(tuple),
        time=WHOLE,
        signature=st.binary(max_size=128),
    ),
    st.builds(
        InstanceRecord,
        charter=DIGESTS,
        sequence=WHOLE,
        previous=HEADS,
        transcript=st.binary(max_size=100),
        evidence=st.binary(max_size=100),
        collateral=st.none() | st.binary(max_size=100),
        time=WHOLE,
        signature=st.binary(max_size=128),
    ),
)


@given(RECORDS)
def test_a_record_is_read_back_in_its_one_spelling(record):
    data = encode(record)
    again = decode(data)
    assert type(again) is type(record)
    assert encode(again) == data


@given(COHORTS)
def test_a_cohort_is_read_back_in_its_one_spelling(cohort):
    data = encode(cohort)
    assert encode(decode_cohort(data)) == data


@pytest.mark.slow
@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    for read in (decode, decode_cohort):
        with pytest.raises(LedgerError):
            read(data)


@pytest.mark.slow
@settings(max_examples=200)
@given(RECORDS | COHORTS, st.lists(st.tuples(st.integers(0, 500), st.integers(1, 255)), min_size=1, max_size=4))
def test_any_damage_is_another_record_or_refused(value, damage):
    data = bytearray(encode(value))
    for place, change in damage:
        data[place % len(data)] ^= change
    for read in (decode, decode_cohort):
        try:
            again = read(bytes(data))
        except LedgerError:
            continue
        assert encode(again) == bytes(data)


def test_other_spellings_are_refused():
    ledger = chains.chain(1)
    plain = msgspec.msgpack.decode(ledger.records[1])
    for changed in (
        [*plain[:8], float(plain[8]), plain[9]],  # a time as a float
        {"type": "round"},
        [*plain, None],
        plain[:-1],
        ["rounds", *plain[1:]],
    ):
        with pytest.raises(LedgerError):
            decode(msgspec.msgpack.encode(changed))
    head = ledger.records[1]
    assert head[:1] == b"\x9a"
    with pytest.raises(LedgerError, match="one spelling"):
        decode(b"\xdc\x00\x0a" + head[1:])  # an array of ten, its length in two bytes
    cohort = decode(head).cohort
    assert cohort[:1] == b"\x9c"
    with pytest.raises(LedgerError, match="one spelling"):
        decode_cohort(b"\xdc\x00\x0c" + cohort[1:])


def test_what_is_too_long():
    with pytest.raises(LedgerError, match="over the limit"):
        decode(bytes(RECORD_BYTES + 1))
    many = tuple(MemberSignature("sha256:" + "0" * 64, b"", b"") for _ in range(MEMBERS + 1))
    record = decode(chains.chain(1).records[1])
    for which in ("consents", "commits"):
        decode(encode(msgspec.structs.replace(record, **{which: many[:MEMBERS]})))
        with pytest.raises(LedgerError):
            decode(encode(msgspec.structs.replace(record, **{which: many})))


def test_records_and_cohorts_of_an_earlier_version_are_refused():
    """With one list of signatures, and the outcome in the cohort."""
    plain = msgspec.msgpack.decode(chains.chain(1).records[1])
    with pytest.raises(LedgerError, match="no record of this version"):
        decode(msgspec.msgpack.encode([*plain[:6], *plain[7:]]))
    cohort = msgspec.msgpack.decode(plain[1])
    for earlier in (["cloister cohort 2", *cohort[1:]], ["cloister cohort 2", *cohort[1:], bytes(32)]):
        with pytest.raises(LedgerError, match="no cohort of this version"):
            decode_cohort(msgspec.msgpack.encode(earlier))


def test_what_is_signed_begins_with_a_label_of_its_own():
    ledger = chains.chain(1)
    record = decode(ledger.records[1])
    plain = msgspec.msgpack.decode(ledger.records[1])
    unsigned = msgspec.msgpack.encode([*plain[:-1], b""])
    label = b"cloister record signature 1\0"
    assert records.to_be_signed(record) == label + hashlib.sha256(unsigned).digest()
    cohort, outcome = hashlib.sha256(record.cohort).digest(), chains.digest("outcome")
    assert records.cohort_digest(record.cohort) == cohort
    assert records.consent_to_be_signed(record.cohort) == b"cloister consent signature 1\0" + cohort
    assert records.commit_to_be_signed(record.cohort, outcome) == b"cloister commit signature 1\0" + cohort + outcome


def test_what_a_genuine_round_is_signed_with():
    """By hand: each consent, and each commit, verifies over the bytes that docs/ledger.md names."""
    record = decode(chains.chain(1).records[1])
    cohort = hashlib.sha256(record.cohort).digest()
    released = msgspec.msgpack.encode([record.model, record.state, record.metrics], order="deterministic")
    outcome = hashlib.sha256(b"cloister outcome 1\0" + record.salt + released).digest()
    for each in record.consents:
        message = b"cloister consent signature 1\0" + cohort
        keys.verify(each.signature, message=message, public_key=each.public_key)
    for each in record.commits:
        message = b"cloister commit signature 1\0" + cohort + outcome
        keys.verify(each.signature, message=message, public_key=each.public_key)
    assert len(record.consents) == len(record.commits) == 2


def test_digests():
    salt, model = chains.digest("salt"), chains.digest("model")
    values = struct.pack("<3f", 1.0, 2.0, 3.0)
    assert records.commitment(salt, memoryview(values)) == hashlib.sha256(salt + values).digest()
    assert (
        records.commitment(salt, memoryview(np.array([1, 2, 3], "<f4")).cast("B"))
        == hashlib.sha256(salt + values).digest()
    )
    outcome = b"cloister outcome 1\0" + salt + msgspec.msgpack.encode([model, None, {"a": 1.0, "b": 2.0}])
    found = records.outcome_digest(salt, model=model, state=None, metrics={"b": 2.0, "a": 1.0})
    assert found == hashlib.sha256(outcome).digest()
    assert records.nonce_of(b"") == bytes(32)
    assert records.nonce_of(model) == model
    assert records.head_of(b"record") == hashlib.sha256(b"record").digest()


def test_the_digest_of_what_a_rule_remembers():
    momentum, squares = np.array([0.5, -1.0]), np.array([4.0, 9.0])
    label = b"cloister rule state 1\0"
    assert records.state_digest(7, ()) is None
    count = bytes(7) + b"\7"
    both = label + count + b"\1" + struct.pack("<2d", 0.5, -1.0) + b"\1" + struct.pack("<2d", 4.0, 9.0)
    assert records.state_digest(7, State(7, momentum, squares).averages) == hashlib.sha256(both).digest()
    one = label + count + b"\1" + struct.pack("<2d", 0.5, -1.0) + b"\0"
    assert records.state_digest(7, State(7, momentum).averages) == hashlib.sha256(one).digest()
