"""Attack: move weights that the plan leaves as they are.

A researcher and an owner are in league. The plan, which all have read, trains the bias alone; the researcher's job
lists all tensors of the model as learned. What an owner contributes to the other entries is then averaged like the
rest, and everybody signs a base model that nobody agreed to change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from cloister.charter.toml import parse_charter
from cloister.errors import JobError
from cloister.ledger import job as jobs
from cloister.ledger.job import agreed
from cloister.node.study.effects import Note
from cloister.wire import rounds as w
from tests.enclave.test_server import heard_out, researching, seated
from tests.support import members
from tests.support.lines import Table
from tests.support.owners import OWNERS, PARTS, agree, charter_text, first_model, make_job, plan_of

BIAS, *FROZEN = PARTS
PLAN: Final = plan_of([BIAS], frozen=FROZEN)
AGREED: Final = {"plan": hashlib.sha256(PLAN).digest(), "rounds": 1}


def test_the_aggregator_refuses_the_job(tmp_path: Path) -> None:
    table = Table(tmp_path, agreed=AGREED, job={"plan": PLAN})
    with table.serving(), seated(table, *OWNERS):
        line = researching(table)
        table.submit(line)
        refused = line.until(w.Refused)
        line.close()
    assert refused.code == "job"
    assert "its vector holds other tensors than its plan learns: they differ in 'mean, weight'" in refused.text


def test_an_owner_refuses_the_job_of_an_aggregator_that_took_it() -> None:
    charter = parse_charter(charter_text(job=AGREED))
    data = jobs.encode(make_job(charter, plan=PLAN))
    member = members.owner(OWNERS[0], agreed=charter)
    (note,) = [each for each in member.handle(w.Work(jobs.job_digest(data)), data) if isinstance(each, Note)]
    assert note.warns
    assert "its vector holds other tensors than its plan learns" in note.text


def test_the_job_with_what_the_plan_learns_is_taken() -> None:
    charter = agree(job=AGREED)
    narrow = make_job(charter, plan=PLAN, parts=(BIAS,), constants=())
    assert agreed(narrow, charter=charter).name == "train"
    with pytest.raises(JobError, match="they differ in 'mean, weight'"):
        agreed(make_job(charter, plan=PLAN), charter=charter)


def test_without_that_rule_the_base_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "vector_faults", lambda tensors, plan, *, charter: [])
    table = Table(tmp_path, agreed=AGREED, job={"plan": PLAN})
    with table.serving(), seated(table, *OWNERS):
        line = researching(table)
        table.submit(line)
        over = heard_out(table, line)
        line.close()
    assert over.done == 1
    released = np.frombuffer(table.rosa.model[1], np.float32)[: table.length]
    place = next(place for place in table.job.layout.places if place.name == "weight")
    assert (released[place.start : place.stop] != first_model()[place.start : place.stop]).all()
