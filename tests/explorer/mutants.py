"""The rules, each switched off: what the explorer has to notice, or it would not notice if the rule were broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import pytest

from cloister.aggregator.chain_exchange import Chains
from cloister.aggregator.collection import Collection
from cloister.aggregator.releasing import Signing
from cloister.aggregator.round import RoundMachine
from cloister.ledger import chain as ledgers
from cloister.ledger.chain import Ledger
from cloister.ledger.following import Handed
from cloister.node.study.countersigner import Countersigner
from cloister.node.study.journal import Records
from cloister.node.study.replica import Replica

Patch = pytest.MonkeyPatch


def _signs_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "sign", Records.learn)


def _contributes_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "take_part", lambda records, entry, seen: records.learn(entry))


def _keeps_no_ledger(patch: Patch) -> None:
    patch.setattr(Records, "release", lambda records, charter, found, *, model=None, tensors=b"": None)


def _signs_a_round_twice(patch: Patch) -> None:
    patch.setattr(Records, "signed", lambda records, charter: {})


def _ignores_the_highest_round(patch: Patch) -> None:
    def check_own(signer: Countersigner, cohort: Any) -> str | None:
        known = signer._records.took_part(signer._digest).get(cohort.round)
        return None if known is None else known.data

    patch.setattr(Records, "highest", lambda records, charter: 0)
    patch.setattr(Records, "signed", lambda records, charter: {})
    patch.setattr(Countersigner, "_check_own", check_own)


def _ignores_differences(patch: Patch) -> None:
    patch.setattr(Records, "on_model", lambda records, model, charter: ())


def _ignores_its_budget(patch: Patch) -> None:
    patch.setattr(Records, "spent", lambda records, data: 0)


def _follows_a_fork(patch: Patch) -> None:
    def advanced(replica: Replica, handed: Handed) -> Ledger:
        ledger = replica.ledger
        return Ledger.from_records(ledger.charter, (*ledger.records[: handed.first - 1], *handed.records))

    patch.setattr(Replica, "_advanced", advanced)


def _needs_no_quorum(patch: Patch) -> None:
    begun: Any = RoundMachine.__init__
    signing: Any = Signing.__init__

    def begin(course: RoundMachine, charter: Any, **given: Any) -> None:
        begun(course, charter, **given)
        course._quorum = charter.limits.floor

    patch.setattr(RoundMachine, "__init__", begin)
    patch.setattr(Signing, "__init__", lambda self, **given: signing(self, **{**given, "quorum": 0}))
    patch.setattr(ledgers, "quorum", lambda charter: 1)


def _releases_without_a_member(patch: Patch) -> None:
    patch.setattr(Signing, "complete", property(lambda self: len(self._signatures) >= self._quorum))
    patch.setattr(Ledger, "_check_signatures", lambda ledger, record, cohort: None)


def _keeps_in_the_sum_who_is_left_out(patch: Patch) -> None:
    def leave_out(collection: Collection, name: str) -> None:
        del collection.answers[name]
        collection._asked.discard(name)
        collection._arrived.pop(name, None)
        collection._weigh()
        collection._added = [each for each in collection._added if each != name]
        collection._add()

    patch.setattr(Collection, "leave_out", leave_out)


def _lets_one_dominate(patch: Patch) -> None:
    patch.setattr("cloister.aggregator.collection.scales_of", lambda norms, *, bounds, regions: [])


def _asks_nobody_for_the_model(patch: Patch) -> None:
    patch.setattr(Chains, "ask_for_model", lambda chains, peer, **given: None)


def _does_not_tell_what_it_signed(patch: Patch) -> None:
    patch.setattr("cloister.node.study.member.COHORTS", 0)


class Mutant(NamedTuple):
    """What is switched off; what is said of it; what is not left to chance, where it would take many schedules."""

    apply: Callable[[Patch], None]
    said: str
    bent: Mapping[str, Any] = {}


LYING: Final = {"lying": True, "chaos": 0.08, "steps": 400}
ROLLING: Final = {**LYING, "shape": (3, 2), "rounds": 8, "wanted": 3}
LEAVING: Final = {"shape": (7, 3), "ambush": 0.8, "chaos": 0.01, "steps": 300, "lying": False, "unordered": False}
MUTANTS: Final[dict[str, Mutant]] = {
    "an owner signs before it writes that down": Mutant(_signs_before_it_writes, "signs round|differ in|it allows"),
    "an owner contributes before it writes that down": Mutant(_contributes_before_it_writes, "contributes to round"),
    "an owner keeps no ledger": Mutant(_keeps_no_ledger, "gone back"),
    "an owner signs a round twice": Mutant(_signs_a_round_twice, "signs round", LYING),
    "an owner ignores the highest round": Mutant(_ignores_the_highest_round, "contributes to round|signs round"),
    "an owner ignores differences of cohorts": Mutant(_ignores_differences, "differ in"),
    "an owner ignores its budget": Mutant(_ignores_its_budget, "it allows"),
    "an owner follows a fork": Mutant(_follows_a_fork, "over to a fork", ROLLING),
    "no quorum is needed": Mutant(_needs_no_quorum, "released twice|signatures of"),
    "a release lacks a member's signature": Mutant(_releases_without_a_member, "signatures of"),
    "who is left out stays in the sum": Mutant(_keeps_in_the_sum_who_is_left_out, "is not the mean", LEAVING),
    "one contribution counts for more than the others": Mutant(_lets_one_dominate, "is not the mean"),
    "an owner does not tell what it signed": Mutant(
        _does_not_tell_what_it_signed, "comes to a halt", {"shape": (7, 3), "chaos": 0.08, "steps": 400}
    ),
    "nobody is asked for the model": Mutant(_asks_nobody_for_the_model, "comes to a halt"),
}
"""By what is wrong with them."""
