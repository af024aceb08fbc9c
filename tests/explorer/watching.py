"""Who watches the explorer's world: everything that was signed or released to anyone, held against what must hold.

The rules are written down here once more, from what is promised, and not with the code that keeps them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.mean import Sum
from cloister.aggregation.strategies import FedAvg, State, apply_to_parameters
from cloister.aggregation.vectors import Vector
from cloister.charter import keys
from cloister.errors import CharterError
from cloister.ledger.chain import Receipt
from cloister.ledger.job import model_digest
from cloister.ledger.records import Cohort, cohort_to_be_signed, decode_cohort
from cloister.wire import rounds as w
from tests.explorer.setting import BUCKETS, LENGTH, Setting, Study, update_of
from tests.support.owners import examples_of, first_model, key_of


class ViolationError(AssertionError):
    """Something that must never be has been."""


@dataclass
class Released:
    """A cohort that was released, or of which nobody honest withholds a signature."""

    cohort: Cohort
    members: frozenset[str]
    signers: frozenset[str]


class Contributed(NamedTuple):
    """What an owner contributed, and the rows and the norm that it told of it."""

    update: Vector
    rows: int
    norm: float


@dataclass
class Watch:
    """What has happened. Names are those of owners; studies go by their number."""

    setting: Setting
    studies: Sequence[Study]
    signatures: dict[tuple[int, bytes], set[str]] = field(default_factory=lambda: defaultdict(set))
    offers: dict[tuple[int, str, int], bytes] = field(default_factory=dict)
    """Each honest owner's commitment in a round."""
    betrayals: dict[bytes, Vector] = field(default_factory=dict)
    """What traitors contributed, by their commitments; ``claims``: what anybody said of it."""
    claims: dict[bytes, w.Ready] = field(default_factory=dict)
    releasable: list[dict[bytes, Released]] = field(default_factory=list)
    receipts: dict[bytes, Receipt] = field(default_factory=dict)
    """All that were ever released, by the heads of their records."""
    chains: dict[tuple[str, int], tuple[bytes, ...]] = field(default_factory=dict)
    models: dict[bytes, Vector] = field(default_factory=dict)
    _highest: dict[tuple[str, int, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = {key_of(name): name for name in self.setting.owners}
        self.releasable = [{} for _ in self.studies]
        for study in self.studies:
            self.models[study.job.start] = first_model(LENGTH)

    # What honest owners do

    def offered(self, name: str, study: int, message: w.Ready) -> None:
        """An owner offers a contribution: one a round, and in their order, over its whole life."""
        self._rises(name, study, "contributes to", message.round)
        self.offers[study, name, message.round] = message.commitment
        self.claims[message.commitment] = message

    def signed(self, name: str, study: int, message: w.Signature, *, asked: Sequence[bytes]) -> None:
        """An owner gives a signature away."""
        cohort = next((each for each in asked if _is_of(message, each)), None)
        if cohort is None:
            raise ViolationError(f"{name} signs what nobody asked it to")
        decoded = decode_cohort(cohort)
        if name not in self.signatures[study, cohort]:
            self._rises(name, study, "signs", decoded.round)
            self.signatures[study, cohort].add(name)
        members = self._members(decoded)
        signers = self.signatures[study, cohort] | self.setting.traitors
        if members <= signers and len(signers) >= self._quorum and cohort not in self.releasable[study]:
            self._release(study, cohort, Released(decoded, members, frozenset(signers)))

    def knows(self, name: str, study: int, chain: tuple[bytes, ...]) -> None:
        """What an owner's ledger is, up to its newest round."""
        before = self.chains.get((name, study), ())
        if chain[: len(before)] != before:
            raise ViolationError(f"{name}'s ledger has gone back, or over to a fork")
        self.chains[name, study] = chain

    # What instances do

    def released(self, study: int, receipt: Receipt) -> None:
        """An instance's ledger has this round; called for each ledger that ever had it."""
        if receipt.head in self.receipts:
            return
        self.receipts[receipt.head] = receipt
        cohort, data = receipt.cohort, receipt.record.cohort
        members = self._members(cohort)
        signers = frozenset(self.names.get(each.member, "?") for each in receipt.record.signatures)
        if len(members) < self.setting.floor:
            raise ViolationError(f"round {cohort.round} is a mean of {len(members)} owners")
        if not members <= signers or len(signers) < self._quorum or not signers <= set(self.setting.owners):
            raise ViolationError(f"round {cohort.round} is released with the signatures of {sorted(signers)} only")
        forged = signers - self.setting.traitors - self.signatures[study, data]
        if forged:
            raise ViolationError(f"{sorted(forged)} have never signed round {cohort.round}")
        self._release(study, data, Released(cohort, members, signers))
        self._check_mean(study, receipt)

    def contribution(self, name: str, number: int, commitment: bytes) -> Contributed:
        """What an owner contributed to a round, and how it says to count it. The honest tell no more than a bucket of
        their rows, and the norm that it has."""
        claimed = self.claims[commitment]
        if commitment in self.betrayals:
            return Contributed(self.betrayals[commitment], claimed.examples, claimed.norm)
        update, rows = update_of(name, number), max(each for each in BUCKETS if each <= examples_of(name))
        if claimed.examples != rows or not math.isclose(claimed.norm, float(np.linalg.norm(update.astype(np.float64)))):
            raise ViolationError(f"{name} says of its contribution to round {number} what is not so")
        return Contributed(update, rows, claimed.norm)

    def average(self, found: Mapping[str, Contributed]) -> NDArray[np.float64]:
        """What these contributions come to, by hand."""
        rows = np.array([each.rows if self.setting.weights == "rows" else 1 for each in found.values()], np.float64)
        parts = np.array([each.update.astype(np.float64) * self._scales(found)[name] for name, each in found.items()])
        average: NDArray[np.float64] = (rows[:, None] * parts).sum(0) / rows.sum()
        return average

    # What must hold

    def _scales(self, found: Mapping[str, Contributed]) -> dict[str, float]:
        """No contribution counts for more than the ``floor``-th largest norm that was told."""
        most = sorted(each.norm for each in found.values())[-self.setting.floor]
        return {name: 1.0 if each.norm <= most else most / each.norm for name, each in found.items()}

    @property
    def _quorum(self) -> int:
        return (len(self.setting.owners) + self.setting.floor) // 2

    def _members(self, cohort: Cohort) -> frozenset[str]:
        return frozenset(self.names.get(share.member, "?") for share in cohort.shares)

    def _rises(self, name: str, study: int, does: str, number: int) -> None:
        if number <= self._highest.get((name, study, does), 0):
            raise ViolationError(f"{name} {does} round {number} after round {self._highest[name, study, does]}")
        self._highest[name, study, does] = number

    def _release(self, study: int, data: bytes, new: Released) -> None:
        known = self.releasable[study].get(data)
        if known is not None:
            known.signers |= new.signers
        else:
            self.releasable[study][data] = new
        self._check_number(study, data, new)
        self._check_differences(data, new)
        self._check_budgets()
        self._check_commitments(study, data, new)

    def _check_number(self, study: int, data: bytes, new: Released) -> None:
        """One release for a round: there are never so many traitors that two quorums have none but them in common."""
        for other, released in self.releasable[study].items():
            if other == data or released.cohort.round != new.cohort.round:
                continue
            raise ViolationError(f"round {new.cohort.round} of study {study} can be released twice")

    def _check_differences(self, data: bytes, new: Released) -> None:
        """No two means of one model tell of fewer than ``floor`` owners, whatever the charter."""
        for releasable in self.releasable:
            for other, released in releasable.items():
                if other == data or released.cohort.model != new.cohort.model:
                    continue
                difference = len(released.members ^ new.members)
                if 0 < difference < self.setting.floor:
                    raise ViolationError(f"two cohorts on one model differ in {difference} owners")

    def _check_budgets(self) -> None:
        for name in set(self.setting.owners) - self.setting.traitors:
            spent = sum(name in each.members for found in self.releasable for each in found.values())
            if spent > self.setting.rounds:
                raise ViolationError(f"{name}'s data set is in {spent} releases, and it allows {self.setting.rounds}")

    def _check_commitments(self, study: int, data: bytes, new: Released) -> None:
        for share in new.cohort.shares:
            name = self.names.get(share.member, "?")
            if name in self.setting.traitors:
                continue
            if self.offers.get((study, name, new.cohort.round)) != share.commitment:
                raise ViolationError(f"round {new.cohort.round} uses what {name} did not offer for it")
            for found in self.releasable:
                for other, released in found.items():
                    if other != data and any(each.commitment == share.commitment for each in released.cohort.shares):
                        raise ViolationError(f"{name}'s contribution to round {new.cohort.round} is used twice")

    def _check_mean(self, study: int, receipt: Receipt) -> None:
        """The model is what its cohort's contributions come to, computed here."""
        cohort, job = receipt.cohort, self.studies[study].job
        found = {}
        for share in cohort.shares:
            name = self.names[share.member]
            found[name] = self.contribution(name, cohort.round, share.commitment)
        counts = {name: each.rows if self.setting.weights == "rows" else 1 for name, each in found.items()}
        weights = {self.names[share.member]: share.weight for share in cohort.shares}
        if not all(math.isclose(weights[name], count / sum(counts.values())) for name, count in counts.items()):
            raise ViolationError(f"the weights of round {cohort.round} are not those that were agreed on")
        scales = self._scales(found)
        exact = Sum(LENGTH)
        for name in sorted(found):
            exact.add(found[name].update, weight=weights[name], scales=[(slice(LENGTH), scales[name])])
        average = exact.mean()
        if not np.allclose(average, self.average(found)):
            raise ViolationError("the mean is no mean")
        before = self.models[cohort.model]
        model, _ = apply_to_parameters(FedAvg(), before, mean=average, state=State(), buffers=[])
        if model_digest(job, model) != receipt.record.model:
            raise ViolationError(f"the model of round {cohort.round} is not the mean of its cohort's contributions")
        self.models[receipt.record.model] = model


def _is_of(message: w.Signature, cohort: bytes) -> bool:
    try:
        keys.verify(message.signature, message=cohort_to_be_signed(cohort), public_key=message.public_key)
    except CharterError:
        return False
    return True
