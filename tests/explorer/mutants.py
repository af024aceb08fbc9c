"""The rules, each switched off: what the explorer has to notice, or it would not notice if the rule were broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from cloister.aggregator import ledger as ledgers
from cloister.aggregator.chains import Chains
from cloister.aggregator.collecting import Collection
from cloister.aggregator.course import Course
from cloister.aggregator.ledger import Ledger
from cloister.aggregator.releasing import Signing
from cloister.node.member import Member
from cloister.node.records import Records

Patch = pytest.MonkeyPatch


def _signs_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "sign", Records._learn)


def _contributes_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "take_part", Records._learn)


def _keeps_no_ledger(patch: Patch) -> None:
    patch.setattr(Records, "release", lambda records, charter, found, *, model=None: None)


def _signs_a_round_twice(patch: Patch) -> None:
    patch.setattr(Records, "signed", lambda records, charter: {})


def _ignores_the_highest_round(patch: Patch) -> None:
    def check_own(member: Member, cohort: Any) -> str | None:
        known = member._records.took_part(member._digest).get(cohort.round)
        return None if known is None else known.data

    patch.setattr(Records, "highest", lambda records, charter: 0)
    patch.setattr(Records, "signed", lambda records, charter: {})
    patch.setattr(Member, "_check_own", check_own)


def _ignores_differences(patch: Patch) -> None:
    patch.setattr(Records, "on_model", lambda records, model: ())


def _ignores_its_budget(patch: Patch) -> None:
    patch.setattr(Records, "spent", lambda records, data: 0)


def _follows_a_fork(patch: Patch) -> None:
    def extended(member: Member, first: int, records: Sequence[bytes]) -> Ledger:
        return Ledger.from_records(member.charter, (*member._ledger.records[: first - 1], *records))

    patch.setattr(Member, "_extended", extended)


def _needs_no_majority(patch: Patch) -> None:
    begun: Any = Course.__init__
    signing: Any = Signing.__init__

    def begin(course: Course, charter: Any, **given: Any) -> None:
        begun(course, charter, **given)
        course._most = charter.limits.floor

    patch.setattr(Course, "__init__", begin)
    patch.setattr(Signing, "__init__", lambda self, **given: signing(self, **{**given, "owners": 0}))
    patch.setattr(ledgers, "quorum", lambda charter: 1)


def _releases_without_a_member(patch: Patch) -> None:
    patch.setattr(Signing, "complete", property(lambda self: 2 * len(self._signatures) > self._owners))
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


def _asks_nobody_for_the_model(patch: Patch) -> None:
    patch.setattr(Chains, "ask_for_model", lambda chains, guest, **given: None)


MUTANTS: Final[dict[str, tuple[Callable[[Patch], None], str]]] = {
    "an owner signs before it writes that down": (_signs_before_it_writes, "signs round"),
    "an owner contributes before it writes that down": (_contributes_before_it_writes, "contributes to round"),
    "an owner keeps no ledger": (_keeps_no_ledger, "gone back"),
    "an owner signs a round twice": (_signs_a_round_twice, "signs round"),
    "an owner ignores the highest round": (_ignores_the_highest_round, "contributes to round|signs round"),
    "an owner ignores differences of cohorts": (_ignores_differences, "differ in"),
    "an owner ignores its budget": (_ignores_its_budget, "it allows"),
    "an owner follows a fork": (_follows_a_fork, "over to a fork"),
    "no majority is needed": (_needs_no_majority, "released twice|signatures of"),
    "a release lacks a member's signature": (_releases_without_a_member, "signatures of"),
    "who is left out stays in the sum": (_keeps_in_the_sum_who_is_left_out, "is not the mean|not finite|weights"),
    "nobody is asked for the model": (_asks_nobody_for_the_model, "comes to a halt"),
}
"""What is switched off, and what is said of it."""
