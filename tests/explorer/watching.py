"""Who watches the explorer's world: everything that was signed or released to anyone, held against what must hold.

The rules are written down here once more, from what is promised, and not with the code that keeps them.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloister.aggregation.mean import Sum
from cloister.aggregation.strategies import FedAvg, State, apply_to_parameters
from cloister.aggregation.vectors import Vector
from cloister.charter import keys
from cloister.errors import CharterError, LedgerError
from cloister.ledger import answers, records
from cloister.ledger.chain import Receipt
from cloister.ledger.job import model_digest
from cloister.ledger.records import Cohort, cohort_digest, decode_cohort
from cloister.wire import rounds as w
from tests.explorer.setting import BUCKETS, LENGTH, Setting, Study, update_of
from tests.support.owners import examples_of, first_model, key_of


class ViolationError(AssertionError):
    """Something that must never be has been."""


class Releasable(NamedTuple):
    """A cohort with an outcome that was released, or of which nobody honest withholds a signature."""

    cohort: Cohort
    digest: bytes
    members: frozenset[str]


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
    consents: dict[tuple[int, bytes], set[str]] = field(default_factory=lambda: defaultdict(set))
    """The honest owners that have agreed to an encoded cohort."""
    commits: dict[tuple[int, bytes, bytes], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Those that have committed it with an outcome."""
    voids: dict[tuple[int, bytes], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Those that have written a cohort's digest down as void."""
    offers: dict[tuple[int, str, int], bytes] = field(default_factory=dict)
    """Each honest owner's commitment in a round."""
    betrayals: dict[bytes, Vector] = field(default_factory=dict)
    """What traitors contributed, by their commitments; ``claims``: what anybody said of it."""
    claims: dict[bytes, w.Ready] = field(default_factory=dict)
    releasable: list[dict[tuple[bytes, bytes], Releasable]] = field(default_factory=list)
    """By the encoded cohort and the outcome."""
    receipts: dict[bytes, Receipt] = field(default_factory=dict)
    """All that were ever released, by the heads of their records."""
    chains: dict[tuple[str, int], tuple[bytes, ...]] = field(default_factory=dict)
    models: dict[bytes, Vector] = field(default_factory=dict)
    _answered: dict[tuple[str, int], int] = field(default_factory=dict)
    """The highest round that an owner has answered."""
    _committed: dict[tuple[str, int], dict[int, tuple[bytes, bytes]]] = field(default_factory=lambda: defaultdict(dict))
    """What an owner has committed in each round."""

    def __post_init__(self) -> None:
        self.names = {key_of(name): name for name in self.setting.owners}
        self.releasable = [{} for _ in self.studies]
        for study in self.studies:
            self.models[study.job.start] = first_model(LENGTH)

    # What honest owners do

    def offered(self, name: str, study: int, message: w.Ready) -> None:
        """An owner offers a contribution: one a round, and in their order, over its whole life."""
        self.answered(name, study, message.round, message.standing.answer)
        self.offers[study, name, message.round] = message.commitment
        self.claims[message.commitment] = message

    def answered(self, name: str, study: int, number: int, signed: w.SignedAnswer) -> None:
        """An owner answers a round: later ones alone, and with all that it has committed and that may be released."""
        try:
            answer = answers.read(signed, charter=self.studies[study].charter)
        except LedgerError as fault:
            raise ViolationError(f"{name}'s answer to round {number} is none: {fault}") from None
        if (answer.round, signed.signature.member) != (number, key_of(name)):
            raise ViolationError(f"{name}'s answer to round {number} is another's, or to another round")
        before = self._highest(name, study)
        if number <= before:
            raise ViolationError(f"{name} answers round {number} after round {before}")
        self._answered[name, study] = number
        chain = self.chains.get((name, study), ())
        if (answer.sequence, answer.head) != (len(chain), records.head_of(chain[-1]) if chain else b""):
            raise ViolationError(f"{name}'s answer to round {number} names another record than its newest")
        known, listed = {_released_by(record) for record in chain}, set(answer.committed)
        for earlier, (data, _) in self._committed[name, study].items():
            cohort, digest = decode_cohort(data), cohort_digest(data)
            members = answers.mask((share.member for share in cohort.shares), charter=self.studies[study].charter)
            entry = answers.Committed(earlier, digest, cohort.model, members)
            if entry not in listed and digest not in known and name not in self.voids[study, digest]:
                raise ViolationError(
                    f"{name} answers round {number} and keeps quiet about its commit of round {earlier}"
                )

    def consented(self, name: str, study: int, message: w.Consent, *, asked: Sequence[bytes]) -> None:
        """An owner gives its consent to a cohort away."""
        data = next((each for each in asked if cohort_digest(each) == message.cohort), None)
        if data is None or not _is_of(message.signature, records.consent_to_be_signed(data)):
            raise ViolationError(f"{name} consents to what nobody asked it to")
        cohort, members = decode_cohort(data), self._members(decode_cohort(data))
        number = cohort.round
        if number < (after := self._highest(name, study)):
            raise ViolationError(f"{name} consents to a cohort of round {number} after round {after}")
        if name in self.voids[study, message.cohort]:
            raise ViolationError(f"{name} consents to a cohort of round {number}, which is void to it")
        if name not in members:
            raise ViolationError(f"{name} consents to a cohort of round {number} without it")
        self.consents[study, data].add(name)
        self._check_spent(name)
        for (other, known), agreed in self.consents.items():
            if other != study and name in agreed and name not in self.voids[other, cohort_digest(known)]:
                self._check_far(cohort, members, decode_cohort(known), what=f"{name} consents to two cohorts that")
        for outcome in {outcome for at, each, outcome in self.commits if (at, each) == (study, data)}:
            self._look(study, data, outcome)

    def contributed(self, name: str, study: int, message: w.Contribution) -> None:
        """An owner gives its contribution away: to somebody who has its consent."""
        agreed = (decode_cohort(data) for (at, data), owners in self.consents.items() if at == study and name in owners)
        if all(cohort.round != message.round for cohort in agreed):
            raise ViolationError(f"{name} contributes to round {message.round} and has not consented to a cohort of it")

    def committed(self, name: str, study: int, message: w.Commit, *, asked: Sequence[tuple[bytes, bytes]]) -> None:
        """An owner gives its commit of a cohort and an outcome away."""
        found = next((each for each in asked if _is_of(message.signature, records.commit_to_be_signed(*each))), None)
        if found is None:
            raise ViolationError(f"{name} commits what nobody asked it to")
        data, outcome = found
        cohort, members = decode_cohort(data), self._members(decode_cohort(data))
        number, known = cohort.round, self._committed[name, study].get(cohort.round)
        if known is not None and known != found:
            raise ViolationError(f"{name} commits two cohorts or outcomes of round {number}")
        if known is None:
            if number < (after := self._highest(name, study)):
                raise ViolationError(f"{name} commits a cohort of round {number} after round {after}")
            if name in self.voids[study, cohort_digest(data)]:
                raise ViolationError(f"{name} commits a cohort of round {number}, which is void to it")
            for (other, at), all_of_it in self._committed.items():
                for each, _ in all_of_it.values() if other == name else ():
                    if name not in self.voids[at, cohort_digest(each)]:
                        self._check_far(cohort, members, decode_cohort(each), what=f"{name} commits two cohorts that")
            self._committed[name, study][number] = found
        if silent := members - self.setting.traitors - self.consents[study, data]:
            raise ViolationError(f"{name} commits round {number} without the consents of {sorted(silent)}")
        self.commits[study, data, outcome].add(name)
        self._look(study, data, outcome)

    def voided(self, name: str, study: int, digest: bytes) -> None:
        """An owner has written down that a cohort is void."""
        self.voids[study, digest].add(name)
        for releasable in self.releasable[study].values():
            if releasable.digest == digest:
                raise ViolationError(f"a cohort of round {releasable.cohort.round} is void to {name}, and released")

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
        members, record = self._members(cohort), receipt.record
        outcome = records.outcome_digest(record.salt, model=record.model, state=record.state, metrics=record.metrics)
        consents = frozenset(self.names.get(each.member, "?") for each in record.consents)
        commits = frozenset(self.names.get(each.member, "?") for each in record.commits)
        if len(members) < self.setting.floor:
            raise ViolationError(f"round {cohort.round} is a mean of {len(members)} owners")
        if consents != members:
            raise ViolationError(f"round {cohort.round} is released with the consents of {sorted(consents)} only")
        if len(commits) < self._quorum or not commits <= set(self.setting.owners):
            raise ViolationError(f"round {cohort.round} is released with the commits of {sorted(commits)} only")
        forged = (consents - self.consents[study, data]) | (commits - self.commits[study, data, outcome])
        if forged - self.setting.traitors:
            raise ViolationError(f"{sorted(forged - self.setting.traitors)} have never signed round {cohort.round}")
        self._release(study, data, outcome)
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

    def _highest(self, name: str, study: int) -> int:
        return max(self._answered.get((name, study), 0), *self._committed[name, study], 0)

    def _look(self, study: int, data: bytes, outcome: bytes) -> None:
        """Whether a cohort with an outcome can be released now, if all traitors sign whatever is wanted."""
        traitors = self.setting.traitors
        consents, commits = self.consents[study, data] | traitors, self.commits[study, data, outcome] | traitors
        if self._members(decode_cohort(data)) <= consents and len(commits) >= self._quorum:
            self._release(study, data, outcome)

    def _release(self, study: int, data: bytes, outcome: bytes) -> None:
        if (data, outcome) in self.releasable[study]:
            return
        cohort, digest = decode_cohort(data), cohort_digest(data)
        new = Releasable(cohort, digest, self._members(cohort))
        self.releasable[study][data, outcome] = new
        if self.voids[study, digest]:
            void = sorted(self.voids[study, digest])
            raise ViolationError(f"a cohort of round {cohort.round} is void to {void}, and can be released")
        self._check_number(study, new)
        self._check_differences(new)
        self._check_budgets()
        self._check_commitments(study, new)

    def _others(self, new: Releasable) -> Iterator[tuple[int, Releasable]]:
        for study, found in enumerate(self.releasable):
            yield from ((study, each) for each in found.values() if each is not new)

    def _check_number(self, study: int, new: Releasable) -> None:
        """One release for a round: there are never so many traitors that two quorums have none but them in common."""
        for at, other in self._others(new):
            if at == study and other.cohort.round == new.cohort.round:
                raise ViolationError(f"round {new.cohort.round} of study {study} can be released twice")

    def _check_differences(self, new: Releasable) -> None:
        """No two means of one model tell of fewer than ``floor`` owners, whatever the charter."""
        for _, other in self._others(new):
            self._check_far(new.cohort, new.members, other.cohort, what="two cohorts on one model")

    def _check_far(self, cohort: Cohort, members: frozenset[str], other: Cohort, *, what: str) -> None:
        difference = len(members ^ self._members(other))
        if cohort.model == other.model and 0 < difference < self.setting.floor:
            raise ViolationError(f"{what} differ in {difference} owners")

    def _check_spent(self, name: str) -> None:
        """An owner agrees to no more rounds than its data set allows, apart from those of which all is void."""
        spent = {
            (study, decode_cohort(data).round)
            for (study, data), owners in self.consents.items()
            if name in owners and name not in self.voids[study, cohort_digest(data)]
        }
        if len(spent) > self.setting.rounds:
            raise ViolationError(f"{name} consents to {len(spent)} rounds, and it allows {self.setting.rounds}")

    def _check_budgets(self) -> None:
        for name in set(self.setting.owners) - self.setting.traitors:
            spent = sum(name in each.members for found in self.releasable for each in found.values())
            if spent > self.setting.rounds:
                raise ViolationError(f"{name}'s data set is in {spent} releases, and it allows {self.setting.rounds}")

    def _check_commitments(self, study: int, new: Releasable) -> None:
        for share in new.cohort.shares:
            name = self.names.get(share.member, "?")
            if name in self.setting.traitors:
                continue
            if self.offers.get((study, name, new.cohort.round)) != share.commitment:
                raise ViolationError(f"round {new.cohort.round} uses what {name} did not offer for it")
            for _, other in self._others(new):
                if any(each.commitment == share.commitment for each in other.cohort.shares):
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


def _is_of(signature: w.MemberSignature, message: bytes) -> bool:
    try:
        keys.verify(signature.signature, message=message, public_key=signature.public_key)
    except CharterError:
        return False
    return True


@functools.lru_cache(1 << 10)
def _released_by(data: bytes) -> bytes:
    """The digest of the cohort that a record releases; empty where it is an instance's."""
    record = records.decode(data)
    return cohort_digest(record.cohort) if isinstance(record, records.RoundRecord) else b""
