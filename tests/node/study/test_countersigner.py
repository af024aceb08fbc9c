"""The one place where an owner signs: each check of "Before an owner signs" (docs/ledger.md), by its number."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from cloister.charter.owner_limits import Floors
from cloister.errors import LedgerError, RoundError
from cloister.ledger.records import Cohort, encode
from cloister.node.study import countersigner
from cloister.node.study.countersigner import Countersigner, OwnLimits
from cloister.node.study.entries import Signed
from cloister.node.study.journal import Records
from tests.support import charters
from tests.support.members import Aggregator, owner

PAGE = Path(__file__).parents[3] / "docs/ledger.md"
OTHERS = ("alice", "chuck")

Asking: TypeAlias = Callable[[], Signed]


@dataclass
class Asked:
    """Bob, who has contributed to round 1 and is asked to sign; ``sign`` with what a test changes."""

    here: Aggregator
    notes: Records
    floors: Floors | None = None

    @classmethod
    def after_training(cls, *, floors: Floors | None = None) -> Asked:
        notes = Records(None)
        here = Aggregator.facing(owner(notes=notes, floors=floors))
        here.contribute()
        return cls(here, notes, floors)

    def cohort(self, **changed: object) -> Cohort:
        return self.here.cohort(**changed)

    def sign(
        self, cohort: Cohort, *, number: int = 1, proved: bool = True, jobs: dict[bytes, str] | None = None
    ) -> Signed:
        agreed = self.here.ledger.charter
        signer = Countersigner(
            agreed, key=charters.key_of("bob"), limits=OwnLimits(agreed, floors=self.floors), records=self.notes
        )
        return signer.sign(encode(cohort), number=number, ledger=self.here.ledger, proved=proved, jobs=jobs or {})


def another_round(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(), number=2)


def a_second_cohort_of_the_round(asked: Asked) -> Asking:
    asked.sign(asked.cohort())
    return partial(asked.sign, asked.cohort(names=("bob", "alice")))


def an_earlier_round(asked: Asked) -> Asking:
    asked.sign(asked.cohort(number=3, names=OTHERS), number=3)
    return partial(asked.sign, asked.cohort(number=2, names=OTHERS), number=2)


def no_proof(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(), proved=False)


def another_instance(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(signer=bytes(32)))


def another_place(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(previous=bytes(32)))


def another_name(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(), jobs={asked.cohort().job: "more"})


def a_refused_job(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(), jobs={asked.cohort().job: ""})


def too_few_members(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(names=("bob", "alice")))


def too_large_a_share(asked: Asked) -> Asking:
    found = asked.cohort()
    weights = (0.45, 0.3, 0.25)
    shares = tuple(
        msgspec.structs.replace(share, weight=weight) for share, weight in zip(found.shares, weights, strict=True)
    )
    return partial(asked.sign, msgspec.structs.replace(found, shares=shares))


def one_member_less(asked: Asked) -> Asking:
    asked.sign(asked.cohort(number=1))
    asked.here.contribute(number=2)
    return partial(asked.sign, asked.cohort(number=2, names=("bob", "alice")), number=2)


def a_round_that_is_over(asked: Asked) -> Asking:
    asked.here.contribute(number=2)
    return partial(asked.sign, asked.cohort(number=1))


def no_contribution_of_ours(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(number=2), number=2)


def another_contribution(asked: Asked) -> Asking:
    found = asked.cohort()
    shares = tuple(msgspec.structs.replace(share, commitment=bytes([n] * 32)) for n, share in enumerate(found.shares))
    return partial(asked.sign, msgspec.structs.replace(found, shares=shares))


def another_job(asked: Asked) -> Asking:
    return partial(asked.sign, asked.cohort(job=bytes(32)))


def no_budget_left(asked: Asked) -> Asking:
    asked.here.sign()
    asked.here.release()
    asked.floors = Floors(rounds=1)
    asked.here.contribute(number=2)
    return partial(asked.sign, asked.cohort(number=2), number=2)


REFUSED: dict[str, tuple[int, Callable[[Asked], Asking], str]] = {
    "another round than the one it is asked about": (1, another_round, "of another round"),
    "a second cohort of the round": (2, a_second_cohort_of_the_round, "was signed already"),
    "a round before one that was signed": (3, an_earlier_round, "in their order"),
    "an instance that has proved nothing in this round": (4, no_proof, "has not proved, in this round"),
    "a key that was not proved": (4, another_instance, "has not proved, in this round"),
    "another place in the chain": (5, another_place, "follows another record"),
    "a job by another name": (6, another_name, "calls the job otherwise"),
    "a job that the node refuses": (6, a_refused_job, "refused here"),
    "fewer members than the owner asks for": (7, too_few_members, "at least 3 are asked for"),
    "a share above the owner's": (8, too_large_a_share, "counts for more than 0.4"),
    "one member less than a cohort before": (9, one_member_less, "differs in 1 members"),
    "a round after which another has begun": (10, a_round_that_is_over, "has begun since"),
    "a round without a contribution of ours": (11, no_contribution_of_ours, "contributed nothing"),
    "another contribution than ours": (11, another_contribution, "another contribution than ours"),
    "another job than we trained for": (11, another_job, "another job or another round"),
    "more releases than the owner allows": (12, no_budget_left, "its owner's floors allow 1"),
}
FLOORS = {7: Floors(floor=3), 8: Floors(largest_share=0.4)}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_not_signed(what: str) -> None:
    number, ask, says = REFUSED[what]
    asked = Asked.after_training(floors=FLOORS.get(number))
    sign = ask(asked)
    before = dict(asked.notes.signed(asked.here.ledger.charter.digest))
    with pytest.raises((RoundError, LedgerError), match=says):
        sign()
    assert asked.notes.signed(asked.here.ledger.charter.digest) == before


def test_what_passes_all_checks_is_signed_and_written_down() -> None:
    asked = Asked.after_training()
    signed = asked.sign(asked.cohort())
    assert asked.notes.signed(asked.here.ledger.charter.digest) == {1: signed}
    assert asked.sign(asked.cohort()) == signed, "2: the same bytes get the same signature"


def test_a_witness_signs_without_a_contribution() -> None:
    asked = Asked.after_training()
    assert asked.sign(asked.cohort(names=OTHERS)).data is None


def test_the_numbers_are_the_pages() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Before an owner signs")[2].partition("\n## ")[0]
    told = set(map(int, re.findall(r"^(\d+)\. ", section, flags=re.MULTILINE)))
    assert told == set(range(1, 13))
    assert told == {number for number, _, _ in REFUSED.values()}
    source = Path(countersigner.__file__).read_text(encoding="utf-8")
    comments = re.findall(r"  # (\d[\d ,a-z]*)$", source, flags=re.MULTILINE)
    assert {int(each) for comment in comments for each in re.findall(r"\d+", comment)} == told
