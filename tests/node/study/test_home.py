"""Buffers that stay at home: what a training makes of them counts once its round is released, and not before."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloister.charter import Charter
from cloister.ledger.job import Constant, Job, Part, Tensors
from cloister.node.study.effects import Train
from cloister.node.study.home import HomeBuffers
from cloister.node.study.journal import Records
from cloister.wire.tensors import TensorSpec
from tests.support import charters
from tests.support.members import NORMS, PARTS, START, UPDATE, Aggregator, charter, job, owner
from tests.support.owners import plan_of

STATISTIC = Part("m", TensorSpec("float32", (2,)), buffer=True)
CONSTANTS = (Constant("m", STATISTIC.spec, bytes(8)),)
PLAN = plan_of((STATISTIC, *PARTS))
ONE, TWO, THREE = (bytes([number]) * 8 for number in (1, 2, 3))


def agreed(**changed: Any) -> Charter:
    """A charter under which they stay at home."""
    given = {
        "home_buffers": "true",
        "jobs": [charters.agreed_job(hashlib.sha256(PLAN).digest(), rounds=10, weights="rows")],
        "first_model": f'"{Tensors(PARTS, (), CONSTANTS).name_of(START).hex()}"',
    }
    return charter(**given | changed)


def a_job(under: Charter, **changed: Any) -> Job:
    return job(under, **{"plan": PLAN, "constants": CONSTANTS} | changed)


def facing(notes: Records | None = None, under: Charter | None = None) -> Aggregator:
    member = owner(agreed=under or agreed(), notes=notes)
    return Aggregator.facing(member, plan=PLAN, constants=CONSTANTS)


def train(here: Aggregator, number: int, made: bytes) -> Train:
    """Has the owner train, and come to these buffers."""
    asked = here.propose(number)
    here.member.trained(number, UPDATE, examples=23, norms=NORMS, metrics={"loss": 0.5}, home=made)
    return asked


def release(here: Aggregator, number: int) -> None:
    here.consent(number)
    here.commit(number)
    here.release(number)


def test_the_first_round_begins_with_those_of_the_job_and_the_next_with_what_came_of_it() -> None:
    here = facing()
    first = train(here, 1, ONE)
    assert (first.home, first.home_bytes) == (b"", 8)
    release(here, 1)
    assert train(here, 2, TWO).home == ONE
    release(here, 2)
    assert here.propose(3).home == TWO


def test_after_a_void_round_an_owner_begins_where_it_began() -> None:
    """And so contributes the very same again."""
    here = facing()
    train(here, 1, ONE)
    release(here, 1)
    assert train(here, 2, TWO).home == ONE  # of which nothing comes
    assert train(here, 3, THREE).home == ONE
    release(here, 3)
    assert here.propose(4).home == THREE


def test_they_are_kept_beside_the_records(tmp_path: Path) -> None:
    with closing(Records(tmp_path)) as notes:
        here = facing(notes)
        train(here, 1, ONE)
        release(here, 1)
        train(here, 2, TWO)
    with closing(Records(tmp_path)) as notes:
        kept = HomeBuffers(agreed(), records=notes)
        assert kept.before(a_job(agreed()), data="#mri") == ONE
        other = agreed(limits="")
        assert HomeBuffers(other, records=notes).before(a_job(other), data="#mri") == b""


def held(folder: Path | None = None) -> HomeBuffers:
    found = HomeBuffers(agreed(), records=Records(folder))
    found.made(1, ONE, job=a_job(agreed()), data="#mri")
    found.released(1)
    return found


def test_what_a_training_of_another_round_made_does_not_count() -> None:
    found = held()
    found.made(3, TWO, job=a_job(agreed()), data="#mri")
    found.released(2)
    assert found.before(a_job(agreed()), data="#mri") == ONE
    found.released(3)  # which was let go
    assert found.before(a_job(agreed()), data="#mri") == ONE


def test_they_are_of_one_data_set_and_of_one_models_tensors() -> None:
    found = held()
    assert found.before(a_job(agreed()), data="#mri") == ONE
    assert found.before(a_job(agreed()), data="#ct") == b""
    other = a_job(agreed(), constants=(Constant("m", STATISTIC.spec, ONE),))
    assert found.before(other, data="#mri") == b""


def test_without_such_buffers_nothing_is_kept() -> None:
    plain = charter()
    found = HomeBuffers(plain, records=(notes := Records(None)))
    assert found.nbytes(job(plain)) == 0
    found.made(1, b"", job=job(plain), data="#mri")
    found.released(1)
    assert notes.home(plain.digest) is None
    assert found.before(job(plain), data="#mri") == b""
    sent = charter(clip_buffers="1.0")  # where buffers are written, and sent
    assert HomeBuffers(sent, records=notes).nbytes(a_job(sent)) == 0


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x93\xc4\x20" + bytes(32) + b"\xa4#mri\xc4\x04" + bytes(4)])
def test_a_damaged_file_is_none(tmp_path: Path, damage: bytes) -> None:
    """They are learned again: no promise hangs on them."""
    found = held(tmp_path)
    (file,) = tmp_path.glob("*.home")
    assert found.before(a_job(agreed()), data="#mri") == ONE
    file.write_bytes(damage)
    assert found.before(a_job(agreed()), data="#mri") == b""
    tensors = a_job(agreed()).tensors.digest
    file.write_bytes(b"\x93\xc4\x20" + tensors + b"\xa4#mri\xc4\x04" + bytes(4))  # of another length
    assert found.before(a_job(agreed()), data="#mri") == b""
