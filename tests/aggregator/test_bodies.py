"""Bodies as they arrive: what is known of a part is not said of the whole."""

from __future__ import annotations

import hashlib
import itertools
import math
import tracemalloc
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.aggregator.bodies import HandedOver, Submission, Update
from cloister.ledger import job as jobs
from cloister.ledger.chain import Ledger
from cloister.ledger.records import commitment
from cloister.wire.layout import Regions
from cloister.wire.rounds import Chain
from tests.support.owners import agree, make_job, parts_of, plan_of


def test_a_contribution_has_norms_and_its_commitment_once_all_of_it_was_looked_at() -> None:
    salt, vector = bytes(range(32)), np.full(4, 2.0, np.float32)
    update = Update(vector, salt=salt, regions=Regions((slice(0, 4),)))
    (room,) = update.buffers()
    assert all(map(math.isnan, update.norms))
    update.update(room[:8])
    assert all(map(math.isnan, update.norms))
    assert update.commitment != commitment(salt, memoryview(vector).cast("B"))
    update.update(room[8:])
    assert update.norms == (4.0, 0.0)
    assert update.commitment == commitment(salt, memoryview(vector).cast("B"))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=6),
    cuts=st.sets(st.integers(1, 53)),
    seed=st.integers(0, 99),
)
def test_norms_are_of_parameters_and_of_buffers_wherever_parts_are_cut(
    sizes: list[tuple[int, bool]], cuts: set[int], seed: int
) -> None:
    ends = [*accumulate(size for size, _ in sizes)]
    regions = Regions(*(
        tuple(slice(end - size, end) for (size, buffer), end in zip(sizes, ends, strict=True) if buffer is kind)
        for kind in (False, True)
    ))  # fmt: skip
    vector = np.random.default_rng(seed).normal(size=ends[-1]).astype(np.float32)
    update = Update(vector, salt=bytes(32), regions=regions)
    (room,) = update.buffers()
    for first, last in pairwise([0, *sorted(cut for cut in cuts if cut < len(vector)), len(vector)]):
        update.update(room[4 * first : 4 * last])
    wanted = [math.sqrt(sum(float(value) ** 2 for each in some for value in vector[each])) for some in regions]
    assert update.norms == pytest.approx(wanted)


# Jobs


def submission(
    *, length: int, plan: bytes = plan_of(parts_of(4)), claimed: int | None = None
) -> tuple[Submission, bytes]:
    """What a job of a model of so many values makes of itself, and the job."""
    charter = agree(job={"plan": hashlib.sha256(plan).digest()})
    data = jobs.encode(make_job(charter, plan=plan, parts=parts_of(length)))
    nbytes = length * 4 if claimed is None else claimed
    return Submission(len(data), body_bytes=len(data) + nbytes, charter=charter, running=None), data


def arrived(body: Submission, data: bytes) -> int:
    """Fills a body with a job and zeros, and returns the most memory that it took meanwhile."""
    tracemalloc.start()
    try:
        at = 0
        for buffer in itertools.islice(body.buffers(), 64):
            buffer[:] = data[at : at + len(buffer)].ljust(len(buffer), b"\0")
            at += len(buffer)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_model_that_holds_other_tensors_than_its_plan_learns_gets_no_memory() -> None:
    for length in (1 << 28, 5, 3):  # larger than the plan has it, and smaller
        body, data = submission(length=length)
        assert arrived(body, data) < 4 << 20
        assert "its vector holds other tensors than its plan learns" in str(body.fault)
        assert body.vector is None
        assert not body.holds


def test_a_model_as_large_as_the_plan_has_it_gets_memory() -> None:
    body, data = submission(length=4)
    arrived(body, data)
    assert body.fault is None
    assert body.vector is not None
    assert body.holds


def test_more_than_the_model_that_the_job_is_of_gets_no_memory() -> None:
    body, data = submission(length=4, claimed=1 << 40)
    assert arrived(body, data) < 4 << 20
    assert "another number of them came with it" in str(body.fault)
    assert not body.holds


def test_a_plan_that_does_not_tell_what_it_learns() -> None:
    for plan in (b"no plan", plan_of(parts_of(1 << 48)) + b"more", plan_of(parts_of((1 << 48) + 1))):
        body, data = submission(length=4, plan=plan)
        arrived(body, data)
        assert "does not tell which tensors of a model it learns" in str(body.fault)
        assert not body.holds


def test_beside_a_job_that_runs_another_gets_no_memory() -> None:
    body, data = submission(length=4)
    body._running, body._occupied = bytes(32), "another job is under way: train of rosa"
    arrived(body, data)
    assert "another job is under way" in str(body.fault)
    assert not body.holds
    again, data = submission(length=4)
    again._running = hashlib.sha256(data).digest()
    arrived(again, data)
    assert again.fault is None
    assert not again.holds


# Models that are handed over


def test_what_is_not_wanted_any_more_gives_its_memory_back() -> None:
    nbytes = 16 << 20
    job = make_job(agree(), parts=parts_of(nbytes // 4))
    tracemalloc.start()
    try:
        body = HandedOver(Chain(1, (), nbytes), chain=Ledger(agree()), job=job)
        seen = 0
        for buffer in body.buffers():
            seen += len(buffer)
            if seen == 4 << 20:
                assert tracemalloc.get_traced_memory()[0] > nbytes
                body.discarded = True
            if seen == 8 << 20:
                del buffer
                assert tracemalloc.get_traced_memory()[0] < 3 << 20
        assert seen == nbytes
        assert body.model is None
    finally:
        tracemalloc.stop()
