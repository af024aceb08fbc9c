"""A first model that the charter's recipe draws: owners draw it again, and train no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloister.charter.charter import Charter
from cloister.charter.toml import parse_charter
from cloister.errors import JobError
from cloister.ledger.first_model import check_drawn, drawn_vector
from cloister.ledger.job import Tensors
from tests.support import chains, charters
from tests.support.members import PARTS, Aggregator, agreed_job, declined, job, owner

RECIPE = """
[[first_model]]
tensor = "w"
dtype = "float32"
shape = [4]
draw = "uniform"
low = -1.0
high = 1.0
"""


def charter(start: bytes, recipe: str = RECIPE) -> Charter:
    limits = f'first_model = "{start.hex()}"\n{chains.LOSS}'
    given = {"jobs": [agreed_job()], "row_buckets": "[20]", "interactive": "false"}
    return parse_charter(charters.text(limits=limits, **given) + recipe)  # type: ignore[arg-type]


def drawn(recipe: str = RECIPE) -> tuple[Charter, bytes]:
    """A charter whose first model is as its recipe draws, and the model's values."""
    anything = charter(bytes(32), recipe)
    vector = drawn_vector(anything, job(anything).tensors).tobytes()
    return charter(Tensors(PARTS).name_of(vector), recipe), vector


def test_what_is_drawn_is_trained() -> None:
    agreed, vector = drawn()
    assert max(abs(np.frombuffer(vector, np.float32))) <= 1.0
    member = owner(agreed=agreed)
    here = Aggregator(member, job(agreed), chains.Ledger(agreed), model=vector)
    here.ledger.append(here.instance.begin(here.ledger))
    here.connect()
    here.chain(after=0, model=vector)
    here.show()
    assert here.propose().model == vector


def test_a_model_that_somebody_chose_is_not() -> None:
    _, vector = drawn()
    chosen = bytearray(vector)
    chosen[0] ^= 1  # one ulp away
    agreed = charter(Tensors(PARTS).name_of(bytes(chosen)))
    here = Aggregator(owner(agreed=agreed), job(agreed), chains.Ledger(agreed), model=bytes(chosen))
    here.ledger.append(here.instance.begin(here.ledger))
    here.connect()
    here.chain(after=0, model=bytes(chosen))
    here.show()
    assert "not what its recipe draws" in declined(here.member.handle(here.proposal()))


def test_it_is_another_under_any_other_charter() -> None:
    agreed, _ = drawn()
    changed = replace(agreed, limits=replace(agreed.limits, rounds=agreed.limits.rounds - 1))
    with pytest.raises(JobError, match="not what its recipe draws"):
        check_drawn(changed, job(changed))


def test_other_tensors_than_the_recipes_are_named() -> None:
    agreed, _ = drawn()
    other = charter(bytes(32), RECIPE.replace('"w"', '"v"'))
    with pytest.raises(JobError, match=r"they differ in 'v, w'"):
        drawn_vector(other, job(other).tensors)
    later = job(agreed, start=bytes(32))
    check_drawn(agreed, later)  # a job that goes on from a model of the chain
