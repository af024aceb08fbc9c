"""What has to hold after a soak: of the chain, of what owners have on their disks, and of every number of a round."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from cloister.charter import Charter
from cloister.ledger.audit import audit
from cloister.ledger.chain import Ledger
from cloister.ledger.jsonl import read_lines
from cloister.ledger.records import cohort_digest
from cloister.net.collateral import no_collateral
from cloister.node.study.journal import Records
from tools.soak.job import TAG


@dataclass(frozen=True)
class Account:
    """What became of every number from 1 to the last one that anybody knows of.

    ``said``: void, and an instance said so. ``shown``: members agreed to a cohort, which every one of them knows to be
    void. ``died``: with its instance, before any owner agreed to a cohort. ``open``: of no consequence yet.
    """

    last: int
    released: int
    said: int
    shown: int
    died: int
    open: tuple[int, ...]
    again: int
    """How many numbers were proposed once more, by another instance that knew nothing of the first time."""
    spent: Mapping[str, int]
    members: Mapping[str, int]
    """In how many released rounds each owner was."""


def account(folder: Path, charter: Charter, chain: Path, *, instances: Sequence[str]) -> tuple[Account, list[str]]:
    """Looks at everything that was left behind, and returns what is wrong with it too.

    ``instances``: the logs of the aggregator's lives.
    """
    faults: list[str] = []
    records = read_lines(chain.read_bytes().splitlines(keepends=True))
    report = audit(records, charter=charter, collateral=no_collateral, accept_simulated=True)
    ledger = report.ledger
    released = {receipt.cohort.round: cohort_digest(receipt.record.cohort) for receipt in ledger.receipts}
    names = {owner.key: owner.name for owner in charter.owners}
    members = dict.fromkeys(names.values(), 0)
    for receipt in ledger.receipts:
        for share in receipt.cohort.shares:
            members[names[share.member]] += 1
    agreed: dict[int, set[bool]] = {}
    spent: dict[str, int] = {}
    committed: dict[int, bytes] = {}
    highest = max(released, default=0)
    with ExitStack() as stack:
        for name in names.values():
            kept = stack.enter_context(closing(Records(folder / f"{name}.state", read_only=True)))
            faults += [f"{name}: {each}" for each in _disk(kept, ledger, released, committed, members[name])]
            spent[name] = kept.spent(TAG)
            highest = max(highest, kept.highest(charter.digest))
            for each in kept.consents(charter.digest):
                agreed.setdefault(each.round, set()).add(kept.is_void(charter.digest, each.cohort))
    lives = [_numbers(log, "proposed") for log in instances]
    proposed = {number for life in lives for number in life}
    void = {number for log in instances for number in _numbers(log, "void")}
    highest = max(highest, *proposed, *void)
    faults += [f"round {each} is released, and an instance called it void" for each in sorted(void & released.keys())]
    faults += [f"an instance did not count up: {life}" for life in lives if life != sorted(set(life))]
    again = sum(map(len, lives)) - len(proposed)
    rest = set(range(1, highest + 1)) - released.keys()
    open_ = {number for number in rest if False in agreed.get(number, set())}
    shown = {number for number in rest - open_ if number in agreed}
    said = (rest - open_ - shown) & void
    died = rest - open_ - shown - said
    faults += [f"nobody knows of round {each}" for each in sorted(died - proposed)]
    found = Account(
        highest, len(released), len(said), len(shown), len(died), tuple(sorted(open_)), again, spent, members
    )
    return found, faults


def _disk(
    kept: Records, ledger: Ledger, released: Mapping[int, bytes], committed: dict[int, bytes], member: int
) -> Iterator[str]:
    """What does not fit of one owner's records: with the chain, and with what the others committed."""
    digest = ledger.charter.digest
    chain, known = kept.chain(digest), kept.released(digest)
    if ledger.records[: len(chain)] != chain or known != tuple(released)[: len(known)]:
        yield "its chain is another one"
    if len(chain) < len(ledger.records):
        yield f"it has {len(chain)} of {len(ledger.records)} records"
    consents = kept.consents(digest)
    void = {each.cohort for each in consents if kept.is_void(digest, each.cohort)}
    both = void & set(released.values())
    if both:
        yield f"{len(both)} cohorts are released, and void here"
    if not set(kept.took_part(digest)) >= {each.round for each in consents}:
        yield "it agreed to be in a round that it had not trained for"
    own = {each.round for each in consents if each.cohort in released.values()}
    if len(own) != member:
        yield f"it agreed to {len(own)} released cohorts, and was in {member}"
    left = {each.round for each in consents if each.cohort not in void}
    if kept.spent(TAG) != len(left) or not left >= own:
        yield f"it spent {kept.spent(TAG)} rounds: {len(own)} were released, {len(left - own)} are open"
    for number, commit in kept.commits(digest).items():
        if committed.setdefault(number, commit.cohort) != commit.cohort:
            yield f"two cohorts of round {number} were committed"
        if number in released and released[number] != commit.cohort:
            yield f"another cohort of round {number} was committed than released"


def _numbers(log: str, what: str) -> list[int]:
    """The rounds of which an instance's log says so."""
    return [int(number) for number in re.findall(rf"round (\d+) is {what}", log)]
