"""Attack: have owners train on another frozen tensor than was agreed on: one of the same shape, in the same file.

The charter names files of a base, and its first model which tensor of which file is meant. Whoever has taken over the
aggregator shows an owner that holds the newest model one job more, which says that it starts from this model, and whose
frozen tensors are others. What a job says of its start is a claim.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from cloister.charter import Charter
from cloister.ledger.job import Based, Constant, Tensors
from cloister.node.study.journal import Records
from cloister.wire.tensors import TensorSpec
from tests.support import chains, charters
from tests.support.members import PARTS, START, Aggregator, charter, declined, job, leaves, owner
from tests.support.owners import plan_of

FILE: Final = bytes(range(32))
SPEC: Final = TensorSpec("float32", (4,))
BASE: Final = (Based("frozen", SPEC, False, FILE, "layer.0"),)
CONSTANTS: Final = (Constant("small", SPEC, bytes(16)),)
PLAN: Final = plan_of(PARTS, frozen=BASE)
SWAPPED: Final[list[dict[str, Any]]] = [
    {"base": (msgspec.structs.replace(BASE[0], tensor="layer.1"),)},
    {"base": (msgspec.structs.replace(BASE[0], name="frozen", file=bytes(range(1, 33))),)},
    {"constants": (Constant("small", SPEC, bytes(range(16))),)},
    {"base": (), "constants": (Constant("frozen", SPEC, bytes(range(16))), *CONSTANTS)},
]
HONEST: Final[dict[str, Any]] = {"plan": PLAN, "base": BASE, "constants": CONSTANTS}


def agreed() -> Charter:
    files = ", ".join(f'"{file.hex()}"' for file in (FILE, bytes(range(1, 33))))
    return charter(
        limits=f'{chains.LOSS}[[bases]]\nname = "published"\nfiles = [{files}]\n',
        jobs=[charters.agreed_job(hashlib.sha256(PLAN).digest(), rounds=10, weights="rows")],
        first_model=f'"{Tensors(PARTS, BASE, CONSTANTS).name_of(START).hex()}"',
    )


def proposed(here: Aggregator, number: int, swapped: dict[str, Any]) -> str:
    """Why the owner declines a round of a job that has other frozen tensors, and says that it starts where it may."""
    here.job = job(here.ledger.charter, **HONEST | swapped, start=here.ledger.model)
    here.show()
    return declined(here.member.handle(here.proposal(number)))


@pytest.mark.parametrize("swapped", SWAPPED)
def test_before_the_first_round(swapped: dict[str, Any]) -> None:
    here = Aggregator.facing(owner(agreed=agreed()), **HONEST)
    assert "other frozen tensors" in proposed(here, 1, swapped)


@pytest.mark.parametrize("swapped", SWAPPED)
def test_after_a_round(swapped: dict[str, Any]) -> None:
    here = Aggregator.facing(owner(agreed=agreed()), **HONEST)
    here.round(1)
    assert "other frozen tensors" in proposed(here, 2, swapped)


def test_at_a_node_that_was_started_anew(tmp_path: Path) -> None:
    with closing(Records(tmp_path)) as notes:
        here = Aggregator.facing(owner(agreed=agreed(), notes=notes), **HONEST)
        here.round(1)
        notes.catch_up(whole=True)
    with closing(Records(tmp_path)) as notes:
        again = Aggregator(owner(agreed=agreed(), notes=notes), here.job, here.ledger, here.instance, here.model)
        again.connect()
        again.chain(after=again.ledger.sequence)
        assert "other frozen tensors" in proposed(again, 2, SWAPPED[0])


@pytest.mark.parametrize("anew", [False, True])
def test_a_model_that_is_released_under_another_name(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The aggregator calls what a round came to a model with other frozen tensors, and shows the job that fits."""
    notes = Records(tmp_path)
    here = Aggregator.facing(owner(agreed=agreed(), notes=notes), **HONEST)
    here.round(1)
    if anew:
        notes.catch_up(whole=True)
        notes.close()
        notes = Records(tmp_path)
        here = Aggregator(owner(agreed=agreed(), notes=notes), here.job, here.ledger, here.instance, here.model)
        here.connect()
        here.chain(after=here.ledger.sequence)
        here.show()
    here.contribute(2)
    here.consent(2)
    model = (np.frombuffer(here.model, np.float32) + np.float32(1)).tobytes()
    swapped = job(here.ledger.charter, **HONEST | SWAPPED[0])
    renamed = swapped.tensors.name_of(model)
    monkeypatch.setattr(here, "_next", lambda: (renamed, model))
    here.commit(2)  # owners commit what a round comes to before they see it
    here.job = msgspec.structs.replace(swapped, start=renamed)
    with monkeypatch.context() as told:
        told.setattr(here, "chain", lambda **_: [])
        told.setattr(here, "job", job(here.ledger.charter, **HONEST))
        here.release(2)
    here.show()
    assert "other frozen tensors" in leaves(here.chain(after=here.ledger.sequence - 1, model=model))
    notes.close()


def test_the_job_that_was_agreed_on_goes_on() -> None:
    here = Aggregator.facing(owner(agreed=agreed()), **HONEST)
    here.round(1)
    proposed(here, 2, SWAPPED[0])
    here.job = job(here.ledger.charter, **HONEST)
    here.show()
    assert here.propose(3).model == here.model
