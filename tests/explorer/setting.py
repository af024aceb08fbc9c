"""What a schedule is played with: keys, charters and jobs, of which there are few, so that they are made once."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from cloister.aggregation.vectors import Vector
from cloister.charter import Charter, keys
from cloister.charter.jobs import WEIGHTS, AgreedJob, Weights
from cloister.ledger import chain as ledgers
from cloister.ledger import job as jobs
from cloister.ledger.job import Job
from cloister.ledger.records import to_be_signed
from tests.support import charters
from tests.support import owners as members

NAMES: Final = ("anna", "bert", "chris", "dora", "emil", "fred", "gina")
RESEARCHER: Final = "rosa"
LENGTH: Final = 3
TAG: Final = "#mri"
SHAPES: Final = ((3, 2), (4, 2), (4, 3), (5, 2), (5, 2), (5, 3), (5, 4), (6, 2), (6, 4), (7, 3), (7, 5))
"""Owners and floors."""
DIES: Final = "dies"
FATES: Final = (DIES, DIES, "Propose", "Draft", "Send", "Settle")
"""What may become of owners that are lost."""
BUCKETS: Final = (20, 30, 40)
"""What owners' rows are told as, beside the least number, 10, where they count by them."""


@dataclass(frozen=True)
class Setting:
    """One seed's world, before anything has happened."""

    seed: int
    owners: tuple[str, ...]
    floor: int
    traitors: frozenset[str]
    """Owners who do whatever harms; at most ``floor`` - 2 of them."""
    studies: int
    """How many charters there are; they share owners, data sets and the first model."""
    rounds: int
    """How many releases each charter allows."""
    wanted: int
    """How many rounds the researcher's job has."""
    chaos: float
    """How likely a step is the adversary's rather than a message's."""
    ambush: float
    """How likely it strikes when a round is released, before anybody knows."""
    unordered: bool
    """Whether it also reorders, repeats and replays single messages, as if there were no TLS."""
    lying: bool
    """Whether it also has instances ask for signatures of any cohort, as if a TEE had been broken."""
    steps: int
    weights: Weights
    """How much owners count."""
    liars: frozenset[str]
    """Traitors that are still there once the adversary has stopped."""
    lost: Mapping[str, str]
    """Honest owners that are lost for good, without traitors no more than a quorum can do without; how: some die, and
    some never hear messages of this kind again, though they are there."""

    @classmethod
    def drawn(cls, seed: int, **bent: Any) -> Setting:
        """That of a seed; ``bent``: fields that are not left to chance."""
        chance = random.Random(f"setting {seed}")
        count, floor = bent.pop("shape", None) or chance.choice(SHAPES)
        owners = NAMES[:count]
        rounds = chance.choice((2, 4, 8))
        traitors = frozenset(chance.sample(owners, chance.randint(0, floor - 2)))
        found = cls(
            seed=seed,
            owners=owners,
            floor=floor,
            traitors=traitors,
            studies=chance.choice((1, 1, 2)),
            rounds=rounds,
            wanted=chance.randint(1, min(rounds, 3)),
            chaos=chance.choice((0.01, 0.03, 0.08, 0.2)),
            ambush=chance.choice((0.0, 0.2, 0.6)),
            unordered=chance.random() < 0.25,
            lying=chance.random() < 0.25,
            steps=chance.choice((100, 200, 600)),
            weights=chance.choice(WEIGHTS),
            liars=frozenset(chance.sample(sorted(traitors), chance.randint(0, len(traitors)))),
            lost=_lost(chance, sorted(set(owners) - traitors), quorum=(count + floor) // 2),
        )
        return replace(found, **bent)


def _lost(chance: random.Random, honest: Sequence[str], *, quorum: int) -> Mapping[str, str]:
    names = chance.sample(honest, chance.randint(0, max(0, len(honest) - quorum)))
    return {name: chance.choice(FATES) for name in names}


@dataclass(frozen=True)
class Study:
    """A charter and the job that the researcher submits under it."""

    charter: Charter
    agreed: AgreedJob
    job: Job
    data: bytes

    @property
    def digest(self) -> bytes:
        """The job's."""
        return jobs.job_digest(self.data)


@functools.cache
def study(owners: tuple[str, ...], floor: int, rounds: int, wanted: int, weights: Weights, serial: int) -> Study:
    """The charter with that serial, and its job."""
    before = None if serial == 1 else bytes(32)
    limits = {"floor": str(floor), "rounds": str(rounds), "row_buckets": str(list(BUCKETS))}
    numbers = {"rounds": wanted, "data": TAG, "weights": weights}
    charter = members.agree(owners=owners, length=LENGTH, serial=serial, supersedes=before, job=numbers, **limits)
    job = members.make_job(charter, parts=members.parts_of(LENGTH), constants=members.CONSTANTS)
    return Study(charter, charter.jobs[0], job, jobs.encode(job))


@functools.cache
def update_of(name: str, number: int) -> Vector:
    """What an honest owner finds in a round."""
    return members.update_of(name, number, LENGTH)


def studies(setting: Setting) -> list[Study]:
    """All of a setting's."""
    numbers = range(1, setting.studies + 1)
    return [
        study(setting.owners, setting.floor, setting.rounds, setting.wanted, setting.weights, serial)
        for serial in numbers
    ]


@contextmanager
def remembered() -> Iterator[None]:
    """Within it, what is a function of its arguments is computed once: keys, valid signatures.

    Thousands of schedules check the same few signatures again and again.
    """
    checked: Any = ledgers._check_signed
    valid: set[tuple[bytes, bytes, bytes]] = set()

    def is_signed(record: ledgers.Record, *, signer: bytes) -> None:
        found = record.signature, to_be_signed(record), signer
        if found not in valid:
            checked(record, signer=signer)
            valid.add(found)

    verify = functools.lru_cache(1 << 12)(keys.verify)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_check_signed", is_signed)
        patch.setattr(charters, "key_of", functools.cache(charters.key_of))
        patch.setattr(charters, "fingerprint_of", functools.cache(charters.fingerprint_of))
        patch.setattr(
            keys,
            "verify",
            lambda signature, *, message, public_key: verify(signature, message=message, public_key=public_key),
        )
        yield
