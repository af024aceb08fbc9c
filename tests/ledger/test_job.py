"""Jobs: one spelling, one digest, and what is refused before a model or a data set is looked at."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloister.errors import JobError
from cloister.ledger import job as jobs
from cloister.ledger.job import Constant, Job, Part, agreed, decode, encode
from cloister.wire.limits import JOB_BYTES
from cloister.wire.tensors import TensorSpec
from tests.laws import examples
from tests.support import chains

PLAN = b"the plan"
assert hashlib.sha256(PLAN).digest() == chains.PLAN
CHARTER = chains.charter(clip_buffers="1.0")
JOB = Job(
    format="cloister job 2",
    charter=CHARTER.digest,
    name="train",
    plan=PLAN,
    parts=(
        Part("0.bias", TensorSpec("float32", (2,)), False),
        Part("0.weight", TensorSpec("float32", (2, 3)), False),
        Part("1.running_mean", TensorSpec("float32", (2,)), True),
    ),
    constants=(Constant("1.num_batches_tracked", TensorSpec("int64", ()), bytes(8)),),
    start=chains.START,
)


def test_a_job_has_one_spelling():
    data = encode(JOB)
    assert decode(data) == JOB
    assert encode(decode(data)) == data
    assert agreed(decode(data), charter=CHARTER) == CHARTER.jobs[0]


def test_other_spellings_are_refused():
    items = msgspec.msgpack.decode(encode(JOB))
    for changed in (
        msgspec.msgpack.encode([*items, None]),
        msgspec.msgpack.encode(items[:-1]),
        encode(JOB).replace(b"\xa5train", b"\xd9\x05train", 1),  # a length longer than it needs to be
    ):
        assert changed != encode(JOB)
        with pytest.raises(JobError):
            decode(changed)


def test_a_job_over_its_limit():
    with pytest.raises(JobError, match="over the limit"):
        decode(bytes(JOB_BYTES + 1))


def test_where_its_tensors_stand():
    assert [(place.name, place.start, place.stop) for place in JOB.layout.places] == [
        ("0.bias", 0, 2),
        ("0.weight", 2, 8),
        ("1.running_mean", 8, 10),
    ]
    assert JOB.regions == ((slice(0, 8),), (slice(8, 10),))


def test_the_digest_of_a_model_is_about_its_tensors_and_its_values():
    vector = np.arange(10, dtype=np.float32)
    tensors = hashlib.sha256(
        msgspec.msgpack.encode(
            [
                [
                    ["0.bias", ["float32", [2]], False],
                    ["0.weight", ["float32", [2, 3]], False],
                    ["1.running_mean", ["float32", [2]], True],
                ],
                [["1.num_batches_tracked", ["int64", []], bytes(8)]],
            ]
        )
    ).digest()
    values = struct.pack("<10f", *range(10))
    expected = hashlib.sha256(b"cloister model 1\0" + tensors + values).digest()
    assert jobs.model_digest(JOB, vector) == expected == jobs.describe(JOB.parts, JOB.constants, values)
    moved = vector.copy()
    moved[3] = np.nextafter(moved[3], np.float32(9))
    others = {
        jobs.model_digest(JOB, moved),
        jobs.model_digest(replace(JOB, constants=()), vector),
        jobs.model_digest(replace(JOB, parts=JOB.parts[:2]), vector),
        expected,
    }
    assert len(others) == 4


def test_the_digest_of_a_round():
    job, charter, model, head = (chains.digest(name) for name in ("job", "charter", "model", "head"))
    digest = jobs.round_digest(job, charter=charter, number=258, model=model, head=head)
    number = bytes([0, 0, 0, 0, 0, 0, 1, 2])
    assert digest == hashlib.sha256(b"cloister round 1\0" + charter + job + number + model + head).digest()
    first = jobs.round_digest(job, charter=charter, number=1, model=model, head=b"")
    assert first == jobs.round_digest(job, charter=charter, number=1, model=model, head=bytes(32))
    assert first != digest


# What a charter does not allow


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"charter": bytes(32)}, "for another charter"),
        ({"plan": b"another plan"}, "that of the charter's job"),
        ({"name": "other"}, "no job 'other'; it has train"),
        ({"name": ""}, "no job ''"),
        ({"parts": (replace(JOB.parts[0], buffer=True),)}, "no parameters"),
        ({"parts": ()}, "no parameters"),
        ({"parts": (Part("x", TensorSpec("float32", (0,)), False),)}, "no parameters"),
        ({"parts": JOB.parts[::-1]}, "in order"),
        ({"parts": (*JOB.parts, JOB.parts[-1])}, "in order"),
        ({"parts": (Part("x", TensorSpec("int64", (2,)), False),)}, "floating-point"),
        ({"parts": (Part("x", TensorSpec("object", (2,)), False),)}, "floating-point"),
        ({"parts": (Part("x", TensorSpec("float32", (1 << 48,) * 16), False),)}, "limit"),
        ({"constants": (Constant("0.bias", TensorSpec("int64", ()), bytes(8)),)}, "in order"),
        ({"constants": (Constant("n", TensorSpec("int64", ()), bytes(7)),)}, "longer or shorter"),
        ({"constants": (Constant("n", TensorSpec("object", ()), b""),)}, "does not travel"),
        ({"constants": (Constant("n", TensorSpec("uint8", (1 << 48,) * 16), b""),)}, "limit"),
    ],
)
def test_what_is_refused(changed, why):
    with pytest.raises(JobError, match=why):
        agreed(replace(JOB, **changed), charter=CHARTER)


def test_all_faults_are_told_at_once():
    with pytest.raises(JobError, match=r"another charter.*its plan is.*no parameters"):
        agreed(replace(JOB, charter=bytes(32), plan=b"", parts=()), charter=CHARTER)


def test_a_model_with_buffers_needs_a_bound_for_them():
    strict = chains.charter()
    with pytest.raises(JobError, match="has buffers, and the charter does not say how far"):
        agreed(replace(JOB, charter=strict.digest), charter=strict)
    agreed(replace(JOB, charter=strict.digest, parts=JOB.parts[:2]), charter=strict)


def test_a_refusal_steers_no_terminal():
    name = "\x1b[2J\n"
    for changed in (
        {"name": name},
        {"parts": (Part(name, TensorSpec(name, (2,)), False),)},
        {"constants": (Constant(name, TensorSpec(name, (2,)), b""),)},
    ):
        with pytest.raises(JobError) as caught:
            agreed(replace(JOB, **changed), charter=CHARTER)
        assert str(caught.value).isprintable()


# Laws

NAMES = st.text(max_size=20)
SPECS = st.builds(
    TensorSpec,
    st.sampled_from(["float32", "float64", "int64", "bool", "object", ""]),
    st.lists(st.integers(0, 1 << 48), max_size=16).map(tuple),
)
DIGESTS = st.binary(min_size=32, max_size=32)
JOBS = st.builds(
    Job,
    format=st.just("cloister job 2"),
    charter=DIGESTS | st.just(CHARTER.digest),
    name=NAMES | st.just("train"),
    plan=st.binary(max_size=20) | st.just(PLAN),
    parts=st.lists(st.builds(Part, NAMES, SPECS, st.booleans()), max_size=4).map(tuple),
    constants=st.lists(st.builds(Constant, NAMES, SPECS, st.binary(max_size=9)), max_size=3).map(tuple),
    start=DIGESTS,
)


@pytest.mark.slow
@settings(max_examples=examples(100))
@given(JOBS)
def test_any_job_is_read_back_and_allowed_or_refused(job):
    data = encode(job)
    again = decode(data)
    assert encode(again) == data
    with contextlib.suppress(JobError):
        agreed(again, charter=CHARTER)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_job_or_refused(data):
    with pytest.raises(JobError):
        decode(data)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 255)), min_size=1, max_size=4))
def test_any_damage_is_another_job_or_refused(damage):
    data = bytearray(encode(JOB))
    for place, value in damage:
        data[place % len(data)] ^= value
    changed: Any = bytes(data)
    try:
        job = decode(changed)
    except JobError:
        return
    assert encode(job) == changed
    with contextlib.suppress(JobError):
        agreed(job, charter=CHARTER)
