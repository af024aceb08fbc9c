"""Whatever an aggregator sends, what is known of the chain is only ever gone on with."""

from __future__ import annotations

import pytest

from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.study.client import Received, follow
from tests import chains


def grown(ledger: Ledger, rounds: int, instance: str) -> Ledger:
    longer = ledger.copy()
    chains.extend(longer, rounds, instance=instance)
    return longer


def sent(ledger: Ledger, *, after: int) -> Received:
    return Received(after + 1, ledger.since(after), None)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_records_that_go_on(after: int) -> None:
    known = chains.chain(2)
    longer = grown(known, 2, "second")
    found = follow(known, sent(longer, after=after))
    assert found.records == longer.records
    assert known.sequence == 3


def test_an_instance_that_released_nothing_gives_way_to_another() -> None:
    settled = chains.chain(2)
    known, other = grown(settled, 0, "second"), grown(settled, 1, "third")
    assert follow(known, sent(other, after=settled.sequence)).records == other.records
    assert follow(known, Received(known.sequence + 1, (), None)).records == known.records


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_round_never_gives_way(after: int) -> None:
    known = chains.chain(2)
    fork = chains.chain(1)
    chains.extend(fork, 3, instance="second")
    with pytest.raises(LedgerError, match="leaves the one that is known"):
        follow(known, sent(fork, after=after))


def test_a_chain_that_is_cut_short() -> None:
    known = chains.chain(3)
    with pytest.raises(LedgerError, match="leaves"):
        follow(known, Received(1, known.records[:2], None))


@pytest.mark.parametrize("first", [0, 5, 1 << 40])
def test_records_from_nowhere(first: int) -> None:
    known = chains.chain(2)
    with pytest.raises(LedgerError, match="do not follow"):
        follow(known, Received(first, (), None))


def test_records_that_are_none() -> None:
    known = chains.chain(1)
    with pytest.raises(LedgerError):
        follow(known, Received(3, (b"garbage",), None))
