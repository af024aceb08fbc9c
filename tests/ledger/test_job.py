"""Jobs: one spelling, one digest, and what is refused before a model or a data set is looked at."""

from __future__ import annotations

import contextlib
import hashlib
import math
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
from cloister.ledger.job import Constant, Job, Part, check, decode, encode
from cloister.wire.limits import JOB_BYTES
from cloister.wire.optimizers import SGD, Adam, AdamW, CosineDecay, StepDecay
from cloister.wire.tensors import TensorSpec
from tests.laws import examples
from tests.support import chains

PLAN = b"the plan"
assert hashlib.sha256(PLAN).digest() == chains.PLAN
CHARTER = chains.charter()
OPTIMIZER = SGD(0.1, 0.0, None, None, 0.9, 0.0, False)
JOB = Job(
    format="cloister job 1",
    charter=CHARTER.digest,
    plan=PLAN,
    parts=(
        Part("0.bias", TensorSpec("float32", (2,)), False),
        Part("0.weight", TensorSpec("float32", (2, 3)), False),
        Part("1.running_mean", TensorSpec("float32", (2,)), True),
    ),
    constants=(Constant("1.num_batches_tracked", TensorSpec("int64", ()), bytes(8)),),
    start=chains.START,
    optimizer=OPTIMIZER,
    batch_size=32,
    local_epochs=1,
    seed=7,
    data="#mri",
    strategy="FedAvg",
    numbers={"lr": 1.0},
    rounds=20,
    seconds=600.0,
)


def test_a_job_has_one_spelling():
    data = encode(JOB)
    assert decode(data) == JOB
    assert encode(decode(data)) == data
    check(decode(data), charter=CHARTER)
    again = replace(JOB, numbers=dict(reversed({"lr": 1.0, "momentum": 0.5}.items())))
    assert encode(again) == encode(replace(JOB, numbers={"momentum": 0.5, "lr": 1.0}))


def test_other_spellings_are_refused():
    items = msgspec.msgpack.decode(encode(JOB))
    for changed in (
        msgspec.msgpack.encode([*items[:-1], 600]),  # an integer for a float
        encode(JOB).replace(b"\x20", b"\xcc\x20", 1),  # an integer longer than it needs to be
        msgspec.msgpack.encode(items).replace(b"\x81\xa2lr", b"\x82\xa2lr\xcb" + bytes(8) + b"\xa2lr"),  # a key twice
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
    assert JOB.buffers == [slice(8, 10)]
    assert JOB.proximal == 0.0
    assert replace(JOB, strategy="FedProx", numbers={"mu": 0.1}).proximal == 0.1


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


def test_the_seed_of_an_owner():
    expected = int.from_bytes(hashlib.sha256(b"7 3 bob").digest()[:8], "big")
    assert jobs.owner_seed(7, number=3, owner="bob") == expected
    assert jobs.owner_seed(7, number=3, owner="alice") != expected
    assert jobs.owner_seed(7, number=4, owner="bob") != expected


# What a charter does not allow


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"charter": bytes(32)}, "for another charter"),
        ({"plan": b"another plan"}, "not one of the charter's"),
        ({"rounds": 101}, "100 in all"),
        ({"data": ""}, "names no data set"),
        ({"data": "#mri\n"}, "names no data set"),
        ({"seconds": 0.0}, "time for a round"),
        ({"seconds": math.nan}, "time for a round"),
        ({"seconds": math.inf}, "time for a round"),
        ({"seconds": 1e9}, "time for a round"),
        ({"seed": 1 << 64}, "64 bits"),
        ({"optimizer": replace(OPTIMIZER, lr=0.0)}, "learning rate"),
        ({"optimizer": replace(OPTIMIZER, lr=-1.0)}, "lr is -1, and must be finite and at least 0"),
        ({"optimizer": replace(OPTIMIZER, lr=math.nan)}, "lr is nan, and must be"),
        ({"optimizer": replace(OPTIMIZER, momentum=math.nan)}, "optimizer: momentum is nan, and must be"),
        ({"optimizer": replace(OPTIMIZER, schedule=StepDecay(1, 2.0))}, "optimizer: the schedule's factor is 2"),
        ({"parts": (replace(JOB.parts[0], buffer=True),)}, "no parameters"),
        ({"strategy": "Krum"}, "no server rule 'Krum'"),
        ({"strategy": "FedProx"}, "other numbers"),
        ({"numbers": {"self": 1.0}}, "other numbers"),
        ({"numbers": {"lr": math.nan}}, "positive"),
        ({"numbers": {"lr": 0.0}}, "positive"),
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
        check(replace(JOB, **changed), charter=CHARTER)


def test_all_faults_are_told_at_once():
    with pytest.raises(JobError, match=r"another charter.*not one of the charter's.*lr is inf.*no server rule"):
        check(
            replace(JOB, charter=bytes(32), plan=b"", optimizer=replace(OPTIMIZER, lr=math.inf), strategy="x"),
            charter=CHARTER,
        )


def test_a_refusal_steers_no_terminal():
    name = "\x1b[2J\n"
    for changed in (
        {"numbers": {name: 1.0}},
        {"strategy": name},
        {"data": name},
        {"parts": (Part(name, TensorSpec(name, (2,)), False),)},
        {"constants": (Constant(name, TensorSpec(name, (2,)), b""),)},
    ):
        with pytest.raises(JobError) as caught:
            check(replace(JOB, **changed), charter=CHARTER)
        assert str(caught.value).isprintable()


# Laws

WHOLE = st.integers(1, (1 << 53) - 1)
NAMES = st.text(max_size=20)
SPECS = st.builds(
    TensorSpec,
    st.sampled_from(["float32", "float64", "int64", "bool", "object", ""]),
    st.lists(st.integers(0, 1 << 48), max_size=16).map(tuple),
)
DIGESTS = st.binary(min_size=32, max_size=32)
NUMBERS = st.floats()
SCHEDULES = (
    st.none()
    | st.builds(StepDecay, st.integers(0, 1 << 48), NUMBERS)
    | st.builds(CosineDecay, st.integers(0, 1 << 48), NUMBERS)
)
OPTIMIZERS = st.one_of(
    st.builds(SGD, NUMBERS, NUMBERS, st.none() | NUMBERS, SCHEDULES, NUMBERS, NUMBERS, st.booleans()),
    *(
        st.builds(
            kind,
            NUMBERS,
            NUMBERS,
            st.none() | NUMBERS,
            SCHEDULES,
            st.tuples(NUMBERS, NUMBERS),
            NUMBERS,
            st.booleans(),
        )
        for kind in (Adam, AdamW)
    ),
)
JOBS = st.builds(
    Job,
    format=st.just("cloister job 1"),
    charter=DIGESTS | st.just(CHARTER.digest),
    plan=st.binary(max_size=20) | st.just(PLAN),
    parts=st.lists(st.builds(Part, NAMES, SPECS, st.booleans()), max_size=4).map(tuple),
    constants=st.lists(st.builds(Constant, NAMES, SPECS, st.binary(max_size=9)), max_size=3).map(tuple),
    start=DIGESTS,
    optimizer=OPTIMIZERS,
    batch_size=WHOLE,
    local_epochs=WHOLE,
    seed=st.integers(0, (1 << 64) - 1),
    data=NAMES,
    strategy=st.sampled_from(["FedAvg", "FedProx", "FedAvgM", "FedAdagrad", "FedYogi", "FedAdam"]) | NAMES,
    numbers=st.dictionaries(st.sampled_from(["lr", "mu", "momentum", "beta1", "beta2", "tau"]) | NAMES, NUMBERS),
    rounds=WHOLE,
    seconds=NUMBERS,
)


@pytest.mark.slow
@settings(max_examples=examples(100))
@given(JOBS.filter(lambda job: len(job.numbers) <= 16))
def test_any_job_is_read_back_and_allowed_or_refused(job):
    data = encode(job)
    again = decode(data)
    assert encode(again) == data
    with contextlib.suppress(JobError):
        check(again, charter=CHARTER)


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
        check(job, charter=CHARTER)
