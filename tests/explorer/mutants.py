"""The rules, each switched off: what the explorer has to notice, or it would not notice if the rule were broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from cloister.aggregator.chain_exchange import Chains
from cloister.aggregator.collection import Collection
from cloister.aggregator.signing import Committing, Drafted
from cloister.aggregator.standings import Standings
from cloister.ledger import answers
from cloister.ledger import chain as ledgers
from cloister.ledger.answers import Answer, Committed
from cloister.ledger.chain import Ledger, quorum, votes_to_void
from cloister.ledger.following import Handed
from cloister.node.study import entries
from cloister.node.study.answering import Answering
from cloister.node.study.countersigner import Countersigner
from cloister.node.study.effects import Effect, Say
from cloister.node.study.journal import Records
from cloister.node.study.member import Member
from cloister.node.study.replica import Replica
from cloister.wire import rounds as w

Patch = pytest.MonkeyPatch


# What an owner remembers


def _commits_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "commit", Records.learn)


def _consents_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "consent", Records.learn)


def _contributes_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "take_part", lambda records, entry, seen: records.learn(entry))


def _declines_before_it_writes(patch: Patch) -> None:
    patch.setattr(Records, "answer", Records.learn)


def _keeps_no_ledger(patch: Patch) -> None:
    patch.setattr(Records, "release", lambda records, charter, found, **model: None)


# What it signs


def _commits_a_round_twice(patch: Patch) -> None:
    class Forgetful(dict[int, entries.Committed]):
        def get(self, *_: Any) -> None:
            return None

    commits = Records.commits
    patch.setattr(Records, "commits", lambda records, charter: Forgetful(commits(records, charter)))


def _ignores_later_answers(patch: Patch) -> None:
    def _check_can_commit(signer: Countersigner, cohort: Any, members: frozenset[str]) -> None:
        patched = Records.highest
        Records.highest = lambda records, charter: 0  # type: ignore[method-assign]
        try:
            checked(signer, cohort, members)
        finally:
            Records.highest = patched  # type: ignore[method-assign]

    checked: Any = Countersigner._check_can_commit
    patch.setattr(Countersigner, "_check_can_commit", _check_can_commit)


def _answers_earlier_rounds(patch: Patch) -> None:
    patch.setattr(Records, "highest", lambda records, charter: 0)


def _ignores_differences(patch: Patch) -> None:
    """Of an instance that minds none: one that does hardly ever drafts what its owners would refuse."""
    _drafts_the_same_again(patch)
    patch.setattr(Records, "committed_on", lambda records, model, charter: ())


def _ignores_other_charters(patch: Patch) -> None:
    patch.setattr(Countersigner, "_check_elsewhere", lambda signer, cohort, members: None)


def _asks_for_no_consents(patch: Patch) -> None:
    patch.setattr(Ledger, "check_consents", lambda ledger, cohort, consents, *, encoded: None)


def _ignores_its_budget(patch: Patch) -> None:
    patch.setattr(Countersigner, "check_budget", lambda signer, data, *, number, noise: None)


def _contributes_before_it_consents(patch: Patch) -> None:
    def send(member: Member, number: int) -> list[Effect]:
        held = member._held
        return [] if held is None else [Say(w.Contribution(number, held.salt), (held.vector,))]

    patch.setattr(Member, "_send", send)


# What it tells, and what that shows


def _lists_nothing(patch: Patch) -> None:
    patch.setattr(Answering, "_committed", lambda answering, ledger: ())


def _takes_answers_of(patch: Patch, against: Callable[[Committed, Answer], bool], *, votes: int = 0) -> None:
    def void_entries(cohorts: Any, *, answers: Any, ledger: Ledger) -> frozenset[Committed]:
        told: dict[str, list[Answer]] = {}
        for signed in answers:
            try:
                answer = read(signed, charter=ledger.charter)
            except ledgers.LedgerError:
                continue
            if ledger.passed(answer.sequence, answer.head):
                told.setdefault(signed.signature.member, []).append(answer)
        needed = votes_to_void(ledger.charter) - votes
        return frozenset(
            cohort
            for cohort in cohorts
            if sum(any(against(cohort, each) for each in said) for said in told.values()) >= needed
            and cohort.cohort not in ledger.cohorts
        )

    read = answers.read
    patch.setattr(answers, "void_entries", void_entries)


def _takes_answers_to_the_same_round(patch: Patch) -> None:
    _takes_answers_of(patch, lambda cohort, each: each.round >= cohort.round and cohort not in each.committed)


def _needs_one_answer_fewer(patch: Patch) -> None:
    _takes_answers_of(patch, lambda cohort, each: each.round > cohort.round and cohort not in each.committed, votes=1)


def _takes_unsigned_answers(patch: Patch) -> None:
    decoder = msgspec.msgpack.Decoder(Answer)
    patch.setattr(answers, "read", lambda signed, *, charter: decoder.decode(signed.answer))


def _frees_a_round_by_one_draft(patch: Patch) -> None:
    def free(records: Records, known: Any, voided: Any) -> None:
        agreed = known.consents.get(voided.cohort)
        if agreed is not None:
            records._spent[agreed.data].pop((agreed.charter, agreed.round), None)

    patch.setattr(Records, "_free", free)


# The ledger, and the aggregator


def _follows_a_fork(patch: Patch) -> None:
    def advanced(replica: Replica, handed: Handed) -> Ledger:
        ledger = replica.ledger
        return Ledger.from_records(ledger.charter, (*ledger.records[: handed.first - 1], *handed.records))

    patch.setattr(Replica, "_advanced", advanced)


def _needs_one_commit_fewer(patch: Patch) -> None:
    patch.setattr(ledgers, "quorum", lambda charter: quorum(charter) - 1)
    patch.setattr("cloister.aggregator.signing.quorum", lambda charter: quorum(charter) - 1)


def _needs_one_consent_fewer(patch: Patch) -> None:
    def check_consents(ledger: Ledger, cohort: Any, consents: Any, *, encoded: bytes) -> None:
        if len(consents) < len(cohort.shares) - 1:
            raise ledgers.LedgerError("there are too few consents")

    patch.setattr(Ledger, "check_consents", check_consents)
    missing: Any = Drafted.missing.fget
    patch.setattr(
        Drafted, "missing", property(lambda self: missing(self) if len(missing(self)) > 1 else frozenset[str]())
    )


def _keeps_in_the_sum_who_is_left_out(patch: Patch) -> None:
    def leave_out(collection: Collection, name: str) -> None:
        added = [each for each in islice(collection.answers, collection._added) if each != name]
        del collection.answers[name]
        collection._asked.discard(name)
        collection._arrived.pop(name, None)
        collection._weighing.weigh(collection.answers)
        collection._added = len(added)
        collection._add()

    patch.setattr(Collection, "leave_out", leave_out)


def _lets_one_dominate(patch: Patch) -> None:
    patch.setattr("cloister.aggregator.weighing.scales_of", lambda norms, *, bounds, regions: [])


def _asks_nobody_for_the_model(patch: Patch) -> None:
    patch.setattr(Chains, "ask_for_model", lambda chains, peer, **given: None)


def _shows_nobody_the_answers(patch: Patch) -> None:
    patch.setattr(Standings, "wants_answers", lambda standings, peer: False)


def _waits_for_ever(patch: Patch) -> None:
    patch.setattr(Committing, "hopeless", lambda committing, present, *, now: False)


def _drafts_the_same_again(patch: Patch) -> None:
    patch.setattr("cloister.aggregator.round.choose", lambda trained, **given: trained)


class Mutant(NamedTuple):
    """What is switched off; what is said of it; what is not left to chance, where it would take many schedules."""

    apply: Callable[[Patch], None]
    said: str
    bent: Mapping[str, Any] = {}


LYING: Final = {"lying": True, "chaos": 0.08, "steps": 400}
ROLLING: Final = {**LYING, "shape": (3, 2), "rounds": 8, "wanted": 3}
LEAVING: Final = {"shape": (7, 3), "ambush": 0.8, "chaos": 0.01, "steps": 300, "lying": False, "unordered": False}
TWO: Final = {**LYING, "studies": 2}
CAMPS: Final = {"shape": (7, 3), "chaos": 0.08, "ambush": 0.6, "steps": 400}
QUIET: Final = {"shape": (3, 2), "rounds": 8, "wanted": 3, "chaos": 0.01, "steps": 200, "lying": False, "studies": 1}
SILENT: Final = {"shape": (3, 2), "lost": {"anna": "Settle"}, "studies": 1, "steps": 400}
MUTANTS: Final[dict[str, Mutant]] = {
    "an owner commits before it writes that down": Mutant(_commits_before_it_writes, "commits|keeps quiet"),
    "an owner consents before it writes that down": Mutant(_consents_before_it_writes, "it allows|contributes", LYING),
    "an owner contributes before it writes that down": Mutant(_contributes_before_it_writes, "answers round"),
    "an owner declines before it writes that down": Mutant(_declines_before_it_writes, "answers round"),
    "an owner keeps no ledger": Mutant(_keeps_no_ledger, "gone back|keeps quiet"),
    "an owner commits a round twice": Mutant(_commits_a_round_twice, "commits two cohorts or outcomes", LYING),
    "an owner commits a round before one that it answered": Mutant(_ignores_later_answers, "commits a cohort", LYING),
    "an owner answers earlier rounds": Mutant(_answers_earlier_rounds, "answers round"),
    "an owner ignores differences of cohorts": Mutant(_ignores_differences, "differ in", LYING),
    "an owner ignores other charters": Mutant(_ignores_other_charters, "differ in", TWO),
    "an owner commits what members did not consent to": Mutant(_asks_for_no_consents, "without the consents", LYING),
    "an owner ignores its budget": Mutant(_ignores_its_budget, "it allows"),
    "an owner contributes before it consents": Mutant(_contributes_before_it_consents, "has not consented", LYING),
    "an owner lists nothing": Mutant(_lists_nothing, "keeps quiet"),
    "answers to a round make its own cohorts void": Mutant(_takes_answers_to_the_same_round, "is void to", LYING),
    "one answer fewer makes a cohort void": Mutant(_needs_one_answer_fewer, "is void to", LYING),
    "answers need no signature": Mutant(_takes_unsigned_answers, "is void to", LYING),
    "a void draft frees the round": Mutant(_frees_a_round_by_one_draft, "it allows", LYING),
    "an owner follows a fork": Mutant(_follows_a_fork, "over to a fork", ROLLING),
    "a quorum is one commit fewer": Mutant(_needs_one_commit_fewer, "commits of"),
    "a release lacks a member's consent": Mutant(_needs_one_consent_fewer, "consents of"),
    "who is left out stays in the sum": Mutant(_keeps_in_the_sum_who_is_left_out, "is not the mean", LEAVING),
    "one contribution counts for more than the others": Mutant(_lets_one_dominate, "is not the mean"),
    "nobody is asked for the model": Mutant(_asks_nobody_for_the_model, "comes to a halt", QUIET),
    "nobody is shown the answers": Mutant(_shows_nobody_the_answers, "not told what is void"),
    "a round is waited for that few would commit": Mutant(_waits_for_ever, "comes to a halt", SILENT),
    "a cohort is drafted that few would commit": Mutant(_drafts_the_same_again, "comes to a halt", CAMPS),
}
"""By what is wrong with them."""
