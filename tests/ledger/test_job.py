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

from cloister.charter import Charter
from cloister.errors import JobError
from cloister.ledger import job as jobs
from cloister.ledger.job import FROZEN_BYTES, Based, Constant, Job, Part, Tensors, agreed, decode, encode
from cloister.wire.limits import JOB_BYTES
from cloister.wire.tensors import TensorSpec
from tests.laws import examples
from tests.support import chains, charters
from tests.support.owners import plan_of

PARTS = (
    Part("0.bias", TensorSpec("float32", (2,)), False),
    Part("0.weight", TensorSpec("float32", (2, 3)), False),
    Part("1.running_mean", TensorSpec("float32", (2,)), True),
)
CONSTANTS = (Constant("1.num_batches_tracked", TensorSpec("int64", ()), bytes(8)),)
PLAN = plan_of(PARTS)
FILE = chains.digest("a file of the base")
BASES = f'[[bases]]\nname = "a base"\nfiles = ["{FILE.hex()}"]\n'


def charter(plan: bytes = PLAN, **changed: Any) -> Charter:
    """One whose job has this plan."""
    job = charters.agreed_job(hashlib.sha256(plan).digest(), rounds=100)
    return chains.charter(jobs=[job], limits=chains.LOSS + BASES, **changed)


CHARTER = charter(clip_buffers="1.0")
JOB = Job(
    format="cloister job 3",
    charter=CHARTER.digest,
    name="train",
    plan=PLAN,
    tensors=Tensors(PARTS, (), CONSTANTS),
    start=chains.START,
)


def with_tensors(**changed: Any) -> Job:
    """The job with other tensors."""
    return replace(JOB, tensors=replace(JOB.tensors, **changed))


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
    found = Tensors(PARTS, (Based("embedding", TensorSpec("float32", (4,)), False, FILE, "wte"),), CONSTANTS)
    tensors = hashlib.sha256(
        msgspec.msgpack.encode(
            [
                [
                    ["0.bias", ["float32", [2]], False],
                    ["0.weight", ["float32", [2, 3]], False],
                    ["1.running_mean", ["float32", [2]], True],
                ],
                [["embedding", ["float32", [4]], False, FILE, "wte"]],
                [["1.num_batches_tracked", ["int64", []], bytes(8)]],
            ]
        )
    ).digest()
    values = struct.pack("<10f", *range(10))
    expected = hashlib.sha256(b"cloister model 2\0" + tensors + values).digest()
    assert found.digest == tensors
    assert jobs.model_digest(replace(JOB, tensors=found), vector) == expected == found.name_of(values)
    moved = vector.copy()
    moved[3] = np.nextafter(moved[3], np.float32(9))
    others = {
        found.name_of(moved),
        replace(found, base=()).name_of(vector),
        replace(found, base=(replace(found.base[0], file=bytes(32)),)).name_of(vector),
        replace(found, constants=()).name_of(vector),
        replace(found, parts=PARTS[:2]).name_of(vector),
        expected,
    }
    assert len(others) == 6


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
    ],
)
def test_what_is_refused(changed, why):
    with pytest.raises(JobError, match=why):
        agreed(replace(JOB, **changed), charter=CHARTER)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"parts": PARTS[::-1]}, "in order"),
        ({"parts": (*PARTS, PARTS[-1])}, "in order"),
        ({"constants": (Constant("0.bias", TensorSpec("int64", ()), bytes(8)),)}, "in order"),
        ({"base": (Based("0.bias", TensorSpec("float32", (2,)), False, FILE, "bias"),)}, "in order"),
        ({"base": tuple(Based(name, TensorSpec("float32", ()), False, FILE, name) for name in "ba")}, "in order"),
        (
            {"base": (Based("a", TensorSpec("float32", (2,)), False, bytes(32), "a"),)},
            r"'a' is in a file that the charter does not name under \[\[bases\]\]",
        ),
        ({"constants": (Constant("n", TensorSpec("int64", ()), bytes(7)),)}, "longer or shorter"),
        ({"constants": (Constant("n", TensorSpec("bool", (3,)), bytes([0, 1, 2])),)}, "other than 0 and 1"),
        ({"constants": (Constant("n", TensorSpec("object", ()), b""),)}, "does not travel"),
        ({"constants": (Constant("n", TensorSpec("uint8", (1 << 48,) * 16), b""),)}, "limit"),
        (
            {"constants": (Constant("n", TensorSpec("uint8", (FROZEN_BYTES + 1,)), bytes(FROZEN_BYTES + 1)),)},
            "",
        ),
        (
            {"constants": (Constant("n", TensorSpec("float16", (FROZEN_BYTES // 2,)), bytes(FROZEN_BYTES)),)},
            "",
        ),
        (
            {
                "constants": tuple(
                    Constant(name, TensorSpec("float32", (FROZEN_BYTES // 8 + 1,)), bytes(FROZEN_BYTES // 2 + 4))
                    for name in "ab"
                )
            },
            "hold more than 1048576 bytes of floating-point tensors: they belong into a base",
        ),
        ({"base": (Based("a", TensorSpec("float32", (2,)), False, FILE, "elsewhere"),)}, ""),
    ],
)
def test_tensors_that_a_model_may_not_have(changed, why):
    """And some that it may, where there is no ``why``."""
    with pytest.raises(JobError, match=why) if why else contextlib.nullcontext():
        agreed(with_tensors(**changed), charter=CHARTER)


def test_a_vector_holds_what_the_plan_learns_and_nothing_else():
    """Whoever could have another tensor moved would have everybody sign for it."""
    more = Part("2.bias", TensorSpec("float32", (2,)), False)
    for parts, differing in (
        (PARTS[:2], "'1.running_mean'"),
        (PARTS[1:], "'0.bias'"),
        ((*PARTS, more), "'2.bias'"),
        ((replace(PARTS[0], buffer=True), *PARTS[1:]), "'0.bias'"),
        ((replace(PARTS[0], spec=TensorSpec("float32", (3,))), *PARTS[1:]), "'0.bias'"),
        ((replace(PARTS[0], spec=TensorSpec("float64", (2,))), *PARTS[1:]), "'0.bias'"),
        ((replace(PARTS[0], spec=TensorSpec("int64", (2,))), *PARTS[1:]), "'0.bias'"),
        ((replace(PARTS[0], spec=TensorSpec("object", (2,))), *PARTS[1:]), "'0.bias'"),
        ((replace(PARTS[0], spec=TensorSpec("float32", (1 << 48,) * 16)), *PARTS[1:]), "'0.bias'"),
        ((), "'0.bias, 0.weight, 1.running_mean'"),
    ):
        with pytest.raises(JobError, match=f"other tensors than its plan learns: they differ in {differing}"):
            agreed(with_tensors(parts=parts), charter=CHARTER)


def test_what_a_plan_does_not_learn_is_no_part_of_the_vector():
    plan = plan_of(PARTS[1:], frozen=PARTS[:1])
    strict = charter(plan, clip_buffers="1.0")
    frozen = Constant("0.bias", PARTS[0].spec, bytes(8))
    held = {"charter": strict.digest, "plan": plan}
    with pytest.raises(JobError, match=r"other tensors than its plan learns: they differ in '0\.bias'"):
        agreed(replace(JOB, **held), charter=strict)
    agreed(replace(JOB, tensors=Tensors(PARTS[1:], (), (frozen, *CONSTANTS)), **held), charter=strict)
    based = Based("0.bias", PARTS[0].spec, False, FILE, "bias")
    agreed(replace(JOB, tensors=Tensors(PARTS[1:], (based,), CONSTANTS), **held), charter=strict)


@pytest.mark.parametrize("parts", [(), PARTS[2:], (Part("n", TensorSpec("int64", (2,)), False),)])
def test_a_plan_that_learns_no_parameters(parts: tuple[Part, ...]):
    plan = plan_of(parts)
    idle = charter(plan)
    vector = tuple(part for part in parts if part.spec.dtype != "int64")
    with pytest.raises(JobError, match="its plan learns no parameters: owners would contribute nothing"):
        agreed(replace(JOB, charter=idle.digest, plan=plan, tensors=Tensors(vector)), charter=idle)


def test_all_faults_are_told_at_once():
    wrong = replace(JOB, charter=bytes(32), plan=b"", tensors=Tensors(PARTS[::-1]))
    with pytest.raises(JobError, match=r"another charter.*its plan is.*in order"):
        agreed(wrong, charter=CHARTER)
    with pytest.raises(JobError, match=r"another charter.*they differ in '0\.bias'; .*in order"):
        agreed(replace(wrong, plan=PLAN, tensors=Tensors(PARTS[:0:-1])), charter=CHARTER)


def test_written_buffers_need_a_bound_or_stay_at_home():
    strict = charter()
    with pytest.raises(JobError, match=r"writes buffers, .* nor that they stay at home \(home_buffers\)"):
        agreed(replace(JOB, charter=strict.digest), charter=strict)
    plan = plan_of(PARTS[:2], frozen=PARTS[2:])  # which only reads them
    strict = charter(plan)
    frozen = Constant("1.running_mean", PARTS[2].spec, bytes(8))
    tensors = Tensors(PARTS[:2], (), (*CONSTANTS, frozen))
    agreed(replace(JOB, charter=strict.digest, plan=plan, tensors=tensors), charter=strict)


def test_buffers_that_stay_at_home_are_no_part_of_the_vector():
    home = charter(home_buffers="true")
    with pytest.raises(JobError, match=r"they differ in '1\.running_mean'"):
        agreed(replace(JOB, charter=home.digest), charter=home)
    begin = Constant("1.running_mean", PARTS[2].spec, bytes(8))
    agreed(replace(JOB, charter=home.digest, tensors=Tensors(PARTS[:2], (), (*CONSTANTS, begin))), charter=home)


def test_a_refusal_steers_no_terminal():
    name = "\x1b[2J\n"
    for changed in (
        replace(JOB, name=name),
        with_tensors(parts=(Part(name, TensorSpec(name, (2,)), False),)),
        with_tensors(base=(Based(name, TensorSpec(name, (2,)), False, bytes(32), name),)),
        with_tensors(constants=(Constant(name, TensorSpec(name, (2,)), b""),)),
    ):
        with pytest.raises(JobError) as caught:
            agreed(changed, charter=CHARTER)
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
    format=st.just("cloister job 3"),
    charter=DIGESTS | st.just(CHARTER.digest),
    name=NAMES | st.just("train"),
    plan=st.binary(max_size=20) | st.just(PLAN),
    tensors=st.builds(
        Tensors,
        st.lists(st.builds(Part, NAMES, SPECS, st.booleans()), max_size=4).map(tuple),
        st.lists(st.builds(Based, NAMES, SPECS, st.booleans(), DIGESTS | st.just(FILE), NAMES), max_size=3).map(tuple),
        st.lists(st.builds(Constant, NAMES, SPECS, st.binary(max_size=9)), max_size=3).map(tuple),
    ),
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
