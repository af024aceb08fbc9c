"""Attack: where values travel in two bytes, send what is no contribution, or a step that leads elsewhere.

A bfloat16 that is not finite looks like any other number of 16 bits, and rounding may lengthen a vector: the aggregator
looks at what has travelled, widened. A step is believed by nobody: whoever is sent one computes the model that it leads
to, and holds it against the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cloister.aggregation.strategies import FedAvgM
from cloister.ledger.job import model_digest
from cloister.ledger.records import commitment
from cloister.node.study.effects import Effect
from cloister.node.study.journal import Records
from cloister.wire import rounds as w
from cloister.wire.halves import HELD_AS, packed, widened
from cloister.wire.layout import Half
from tests.support import chains, charters
from tests.support.members import OWNERS as MEMBERS
from tests.support.members import START, Aggregator, agreed_job, leaves, owner, terms
from tests.support.owners import LENGTH, Owner, agree, norms_of
from tests.support.rounds import Study

HALVES: tuple[Half, ...] = ("bfloat16", "float16")


def study_in(half: Half, **limits: Any) -> Study:
    return Study(agree(job={"rounds": 1, "precision": half}, **limits))


def contributing(member: Owner, values: Any, *, norms: tuple[float, float] = (1.0, 0.0)) -> None:
    """An honest commitment to these, and a word on how long they are."""

    def spoil(message: Any, body: bytes) -> list[tuple[Any, bytes]]:
        match message:
            case w.Ready():
                committed = commitment(member.salt, memoryview(values.tobytes()))
                told = {"commitment": committed, "norm": norms[0], "buffers": norms[1]}
                return [(msgspec.structs.replace(message, **told), b"")]
            case w.Contribution():
                return [(message, values.tobytes())]
        return [(message, body)]

    member.spoil = spoil


def refused(study: Study) -> str:
    """Why bob is refused; the others' round is released, to the bits of one in which he never was."""
    cohort = study.instance.ledger.receipts[0].cohort
    assert len(cohort.shares) == 2
    assert study.model.tobytes() == study.expected(("alice", "chuck"), numbers=[cohort.round]).tobytes()
    (why,) = (each.text for each in study.said["bob"] if isinstance(each, w.Refused))
    return str(why)


PATTERNS = {
    "bfloat16": [0x7F80, 0xFF80, 0x7FC0, 0xFFC0, 0x7F81, 0x7FFF],
    "float16": [0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0x7FFF],
}
"""Infinities, quiet NaNs, a NaN that would signal, and the last of all."""


@pytest.mark.parametrize(("half", "pattern"), [(half, each) for half, some in PATTERNS.items() for each in some])
def test_a_pattern_that_is_no_finite_number(half: Half, pattern: int) -> None:
    study = study_in(half)
    values = np.full(LENGTH, 0x2000, np.uint16)
    values[LENGTH // 2] = pattern
    contributing(study.owners["bob"], values.view(HELD_AS[half]), norms=(10.0, 10.0))
    study.run()
    assert "norm is not a number of at most what its owner declared" in refused(study)


@pytest.mark.parametrize("half", HALVES)
def test_a_smaller_norm_than_the_rounded_vector_has(half: Half) -> None:
    """As that of the vector before it was rounded may be."""
    study = study_in(half)
    values = packed(np.linspace(0.1, 1, LENGTH, dtype=np.float32), to=half)
    parameters, buffers = norms_of(widened(values))
    contributing(study.owners["bob"], values, norms=(parameters * (1 - 2**-20), buffers))
    study.run()
    assert "norm is not a number of at most what its owner declared" in refused(study)


@pytest.mark.parametrize("half", HALVES)
def test_a_norm_above_the_clip_is_no_excuse_of_rounding(half: Half) -> None:
    study = study_in(half, clip="1.0")
    contributing(study.owners["bob"], packed(np.ones(LENGTH, np.float32), to=half), norms=(1.0 + 2**-8, 1.0))
    study.run()
    assert "norms are numbers of at most the charter's clip" in refused(study)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_values_of_another_length_than_two_bytes(half: Half, dtype: Any) -> None:
    """None of it is read."""
    study = study_in(half)
    contributing(study.owners["bob"], np.ones(LENGTH, dtype))
    study.run()
    assert "bob" not in {study.charter.member(share).name for share in _members(study)}  # type: ignore[union-attr]
    assert study.model.tobytes() == study.expected(("alice", "chuck"), numbers=[1]).tobytes()


def test_two_bytes_a_value_in_a_study_in_full() -> None:
    study = Study(agree(job={"rounds": 1}))
    contributing(study.owners["bob"], np.ones(LENGTH, np.uint16))
    study.run()
    assert study.model.tobytes() == study.expected(("alice", "chuck"), numbers=[1]).tobytes()


def _members(study: Study) -> Sequence[str]:
    return [share.member for share in study.instance.ledger.receipts[0].cohort.shares]


# An aggregator that sends a step


STEP = packed(np.ones(4, np.float32), to="bfloat16").tobytes()
"""What leads to the model that the support's aggregator releases: each value is one more."""


def facing(folder: Path | None = None, **job: Any) -> Aggregator:
    """An aggregator whose round bob has committed, and whose next record is the release of it."""
    agreed = terms(jobs=[agreed_job(**{"precision": "bfloat16", **job})])
    here = Aggregator.facing(owner(agreed=charters.charter(**agreed), notes=Records(folder)))
    here.contribute(1, vector=packed(np.full(4, 0.25, np.float32), to="bfloat16").tobytes())
    here.consent(1)
    here.commit(1)
    return here


def release(here: Aggregator, *, step: bytes, model: bytes = b"", to: bytes | None = None) -> list[Effect]:
    """The round's record, which names the model ``to``, comes with a step, and perhaps a model."""
    named = (np.frombuffer(here.model, np.float32) + 1).tobytes() if to is None else to
    digest = model_digest(here.job, named)
    record = chains.round_record(
        here.ledger, MEMBERS, instance=here.instance, agreed=here.cohort(1), salt=bytes(32), model=digest, metrics={}
    )
    message = w.Chain(here.ledger.sequence + 1, (len(record),), len(model), 0, (), len(step))
    return here.member.handle(message, record + model + step)


def test_an_honest_step_leads_to_the_model(tmp_path: Path) -> None:
    here = facing(tmp_path)
    assert not leaves(release(here, step=STEP))
    replica = here.member._replica
    assert replica.ledger.released == 1
    assert replica.whole is not None
    assert bytes(replica.whole.vector) == (np.frombuffer(START, np.float32) + 1).tobytes()
    assert here.member._records.model(here.ledger.charter.digest) == replica.whole  # it is kept like any other


WRONG = {
    "another value": packed(np.array([1, 1, 1, 1.0078125], np.float32), to="bfloat16").tobytes(),
    "another sign of nothing": packed(np.array([1, 1, 1, -1], np.float32), to="bfloat16").tobytes(),
    "NaN": np.full(4, 0x7FC0, np.uint16).tobytes(),
    "a value short": STEP[:-2],
    "a value long": STEP + STEP[:2],
    "half a value long": STEP + b"\0",
    "in full": np.ones(4, np.float32).tobytes(),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_step_that_leads_elsewhere_is_noticed(case: str) -> None:
    here = facing()
    why = leaves(release(here, step=WRONG[case]))
    assert "the newest record came with a step" in why
    _as_before(here)


def test_a_step_and_a_record_that_names_another_model() -> None:
    here = facing()
    assert "leads to another model than it released" in leaves(release(here, step=STEP, to=START))
    _as_before(here)


def test_a_step_from_another_model_than_the_one_that_is_held() -> None:
    here = facing()
    here.member._replica._model = None
    assert "from a model that is not held here" in leaves(release(here, step=STEP))


def test_a_step_of_a_job_that_was_not_shown() -> None:
    here = facing()
    here.member._work = None
    assert "of a job that was not shown" in leaves(release(here, step=STEP))
    _as_before(here)


def test_a_model_beside_its_step() -> None:
    here = facing()
    model = (np.frombuffer(START, np.float32) + 1).tobytes()
    assert "do not fit their body" in leaves(release(here, step=STEP, model=model))
    _as_before(here)


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_a_step_where_a_model_travels_or_a_state_is_not_what_the_record_names(precision: str) -> None:
    """In full, FedAvg has no steps; and a step under momentum leads to a state, which this record does not name."""
    strategy = {} if precision == "full" else {"strategy": FedAvgM().to_wire()}
    here = facing(precision=precision, **strategy)
    step = np.ones(4, np.float32).tobytes() if precision == "full" else STEP
    assert "the newest record came with a step" in leaves(release(here, step=step))
    _as_before(here)


def test_the_same_step_twice() -> None:
    """A record that is known, and its step, are no release: the model would go on without one."""
    here = facing()
    assert not leaves(release(here, step=STEP))
    record = here.member._replica.ledger.records[-1]
    again = w.Chain(2, (len(record),), step=len(STEP))
    assert "from a model that is not held here" in leaves(here.member.handle(again, record + STEP))


def _as_before(here: Aggregator) -> None:
    replica = here.member._replica
    assert replica.ledger.released == 0
    assert replica.model is not None
    assert bytes(replica.model.vector) == START
