"""No released round is ever lost, whatever comes in whatever parts; instances that released nothing may be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import LedgerError
from cloister.ledger.chain import Ledger
from cloister.ledger.following import advance, cut, hand_over, sizes, unpack
from cloister.ledger.sync import ModelState, messages, reconcile
from cloister.wire import limits
from tests.support import chains

CHARTER: Final = chains.charter()
ROUNDS: Final = {".": ("bob", "alice"), ",": ("bob", "chuck")}
"""What is said for a round, and who is in it."""


@cache
def chain_of(steps: str) -> Ledger:
    """The chain of these steps, letters for instances that begin: "a..b" is two rounds of a, and b. The same steps
    make the same records, so that chains which begin alike share them."""
    if not steps:
        return Ledger(CHARTER)
    ledger = chain_of(steps[:-1]).copy()
    if steps[-1] in ROUNDS:
        runs = chains.Instance(next(step for step in reversed(steps) if step not in ROUNDS))
        ledger.append(chains.round_record(ledger, ROUNDS[steps[-1]], instance=runs))
    else:
        ledger.append(chains.Instance(steps[-1]).begin(ledger))
    return ledger


ledgers = st.from_regex(r"\A([ab][ab.,]{0,4})?\Z").map(chain_of)


def rounds_of(ledger: Ledger) -> list[bytes]:
    return [receipt.head for receipt in ledger.receipts]


def begins(one: Sequence[bytes], other: Sequence[bytes]) -> bool:
    return list(one) == list(other[: len(one)])


@pytest.mark.slow
@given(ledgers, ledgers)
def test_no_round_is_lost(ours: Ledger, theirs: Ledger) -> None:
    if begins(rounds_of(ours), rounds_of(theirs)) or begins(rounds_of(theirs), rounds_of(ours)):
        found = reconcile(ours, theirs)
        assert found is ours or found is theirs
        assert len(rounds_of(found)) == max(ours.released, theirs.released)
        assert begins(rounds_of(ours), rounds_of(found))
        assert begins(rounds_of(theirs), rounds_of(found))
    else:
        with pytest.raises(LedgerError, match="a fork"):
            reconcile(ours, theirs)


@pytest.mark.slow
@given(ledgers, ledgers, st.data())
def test_a_member_has_all_that_it_was_given_or_nothing_of_it(
    known: Ledger, theirs: Ledger, data: st.DataObject
) -> None:
    first = data.draw(st.integers(1, min(known.sequence, theirs.sequence) + 1))
    last = data.draw(st.integers(first - 1, theirs.sequence))
    records, before = theirs.records[first - 1 : last], known.records
    try:
        found = advance(known, first, records)
    except LedgerError:
        lacking = (
            known.settled().sequence > last or known.settled().records != theirs.records[: known.settled().sequence]
        )
        assert lacking or known.records[: first - 1] != theirs.records[: first - 1]
        assert known.records == before
        return
    assert found.records[first - 1 : last] == records
    assert begins(rounds_of(known), rounds_of(found))
    assert advance(found, first, records) is found
    assert Ledger.from_records(CHARTER, found.records).head == found.head


@pytest.mark.slow
@given(ledgers, ledgers, st.data())
def test_parts_come_to_what_the_whole_comes_to(known: Ledger, theirs: Ledger, data: st.DataObject) -> None:
    try:
        whole = advance(known, 1, theirs.records)
    except LedgerError:
        return
    at = data.draw(st.integers(known.settled().sequence, max(theirs.sequence, known.settled().sequence)))
    first = advance(known, 1, theirs.records[:at])
    assert advance(first, len(theirs.records[:at]) + 1, theirs.records[at:]).records == whole.records


def test_an_instance_that_released_nothing_gives_way_to_another() -> None:
    known, other = chain_of("a..b"), chain_of("a..a")
    assert advance(known, 4, other.since(3)).records == other.records
    assert advance(known, known.sequence + 1, ()) is known


def test_what_lags_behind_cannot_be_gone_on_with() -> None:
    known, behind = chain_of("a.."), chain_of("a.b")
    assert reconcile(known, behind) is known
    with pytest.raises(LedgerError, match="at record 3, and lacks rounds that were released"):
        advance(known, 3, behind.since(2))
    assert advance(known, 1, known.records[:2]) is known


@pytest.mark.parametrize("first", [-1, 0, 5, 1 << 40])
def test_records_from_nowhere(first: int) -> None:
    with pytest.raises(LedgerError, match="do not follow"):
        advance(chain_of("a.."), first, ())


def test_records_that_are_none() -> None:
    known = chain_of("a.")
    with pytest.raises(LedgerError):
        advance(known, 3, (b"garbage",))
    assert known.sequence == 2


MODEL = ModelState(b"m" * 32, b"vector", (b"momentum", b"squares."), 7)


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, MODEL], ids=["records", "and a model"])
@pytest.mark.parametrize("items", [1, 2, 5])
def test_what_is_packed_is_unpacked(monkeypatch: pytest.MonkeyPatch, items: int, model: ModelState | None) -> None:
    monkeypatch.setattr("cloister.ledger.sync.LIST_ITEMS", items)
    ledger = chain_of("a..b.")
    for after in range(ledger.sequence + 1):
        there, found = Ledger.from_records(CHARTER, ledger.records[:after]), None
        for message, bodies in messages(ledger, after=after, model=model):
            assert len(message.records) <= items <= limits.LIST_ITEMS
            body = memoryview(b"".join(bodies))
            handed = unpack(message, cut(body, sizes(message, body_bytes=len(body))))
            assert found is None  # a model comes with the last records
            there = advance(there, handed.first, handed.records)
            if handed.vector is not None:
                found = ModelState(MODEL.digest, handed.vector, handed.averages, handed.rounds)
        assert there.records == ledger.records
        assert (found is None) == (model is None)
        if found is not None:
            assert (bytes(found.vector), found.state_digest) == (MODEL.vector, MODEL.state_digest)


def test_lengths_that_do_not_fit() -> None:
    ((message, bodies),) = messages(chain_of("a."), after=2, model=MODEL)
    length = sum(map(len, bodies))
    assert sum(sizes(message, body_bytes=length)) == length
    for wrong in (length - 1, length + 1, 0):
        with pytest.raises(LedgerError, match="lengths"):
            sizes(message, body_bytes=wrong)
    without = type(message)(first=3, records=(), state=(8,))
    with pytest.raises(LedgerError, match="lengths"):
        sizes(without, body_bytes=8)


def test_a_member_hands_over_records_and_then_the_model() -> None:
    ledger = chain_of("a..")
    ((records, _),) = hand_over(ledger, after=1, model=MODEL)
    assert (len(records.records), records.model) == (2, 0)
    ((model, _),) = hand_over(ledger, after=3, model=MODEL)
    assert (model.records, model.model) == ((), len(MODEL.vector))
    ((nothing, _),) = hand_over(ledger, after=3, model=None)
    assert (nothing.records, nothing.model) == ((), 0)
    with pytest.raises(LedgerError, match="4 are asked for, and 3 are known"):
        hand_over(ledger, after=4, model=MODEL)


def test_a_model_is_the_newest_by_its_name_and_by_what_the_strategy_remembers() -> None:
    ledger = chain_of("a.")
    assert ledger.model is not None
    newest = ModelState(ledger.model, b"vector")
    assert newest.is_newest(ledger) is (ledger.state is None)
    assert not ModelState(ledger.model, b"vector", (bytes(8),), 1).is_newest(ledger)
    assert not ModelState(bytes(32), b"vector").is_newest(ledger)
