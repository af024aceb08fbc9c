"""The pull of contributions."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cloister.aggregator import collection as pulling
from cloister.aggregator.bodies import Update
from cloister.aggregator.collection import Collection
from cloister.aggregator.weighing import Answer, WeightedMean
from cloister.charter.charter import Member
from cloister.charter.jobs import Weights
from cloister.errors import RoundError
from cloister.ledger.records import commitment
from cloister.wire.layout import Regions, lay_out, regions_of
from cloister.wire.tensors import TensorSpec
from tests.aggregation.means import Contribution, Level, mean
from tests.support.owners import agree
from tests.support.rounds import fill

LENGTH = 1 << 18
SALT = bytes(32)


def pulled(count: int, *, length: int = LENGTH) -> tuple[np.ndarray, int]:
    """The mean of so many contributions, and the most bytes that were held at once to come to it."""
    values = np.linspace(-1, 1, length, dtype=np.float32)
    update, norm = values.tobytes(), float(np.linalg.norm(values.astype(np.float64))) * (1 + 1e-12)
    committed = commitment(SALT, memoryview(update))
    names = [f"owner {at:03}" for at in range(count)]
    answers = {
        name: Answer(Member(name=name, role="owner", key=name, id=name), 10 + at, (norm, 0.0), {}, committed)
        for at, name in enumerate(names)
    }
    limits, layout = agree(clip="1e6").limits, lay_out({"weight": TensorSpec("float32", (length,))})
    tracemalloc.start()
    try:
        regions = regions_of(layout, buffers=())
        weighing = WeightedMean(limits, layout, by_rows=True, regions=regions)
        collection = Collection(answers, limits=limits, weighing=weighing, layout=layout, regions=regions)
        while asked := collection.next():
            buffers = {name: collection.buffer(name, salt=SALT) for name in asked}
            for name in reversed(asked):
                fill(buffers[name], update)
                collection.take(name, buffers[name])
        assert collection.complete
        return collection.mean(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_members() -> None:
    """A sum of twice a contribution's size, two contributions, and a few blocks; the mean takes the sum's place."""
    found, few = pulled(4)
    _, many = pulled(40)
    assert many < few + LENGTH // 4
    assert many < 4 * LENGTH * 4 + 8 * (1 << 20)
    update = np.linspace(-1, 1, LENGTH, dtype=np.float32)
    wanted = mean({f"owner {at:03}": Contribution(update, 10 + at) for at in range(4)})
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("nbytes", [25 << 20, 28 << 20, 56 << 20])
def test_a_process_takes_three_models_and_64_mib_at_most_and_no_more_in_later_rounds(nbytes):
    """Up to 60 MiB; with the model that a round starts from, the next one, and whatever else is in the process."""
    empty, *_ = peaks(0, 4, rounds=1)
    _, early, *_, late = (peak - empty for peak in peaks(5, nbytes, rounds=5))
    assert late < 3 * nbytes / (1 << 20) + 64
    assert late - early < 4


def peaks(count: int, nbytes: int, *, rounds: int) -> list[float]:
    """The most memory, in MiB, that a process has held after each round of so many contributions."""
    command = [sys.executable, "-m", "bench.crowd", str(count), str(nbytes), str(rounds)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [float(line.split()[1]) for line in lines]


def collecting(
    names: str, *, large: bool, monkeypatch: pytest.MonkeyPatch, weights: Weights = "rows"
) -> tuple[Collection, dict[str, bytes]]:
    """A collection of these owners, each of whom counts as many examples as its place, and what they contribute."""
    monkeypatch.setattr(pulling, "SPARE_BYTES", 0 if large else 56 << 20)
    updates = {name: np.full(4, 1.0 + at, np.float32).tobytes() for at, name in enumerate(names)}
    answers = {
        name: Answer(
            Member(name=name, role="owner", key=name, id=name),
            1 + at,
            (2.0 * (1 + at), 0.0),
            {},
            commitment(SALT, memoryview(updates[name])),
        )
        for at, name in enumerate(names)
    }
    limits, layout = agree(clip="1e6", floor=2).limits, lay_out({"weight": TensorSpec("float32", (4,))})
    regions = regions_of(layout, buffers=())
    weighing = WeightedMean(limits, layout, by_rows=weights == "rows", regions=regions)
    return Collection(answers, limits=limits, weighing=weighing, layout=layout, regions=regions), updates


def arrive(collection: Collection, name: str, updates: dict[str, bytes]) -> Update:
    buffer = collection.buffer(name, salt=SALT)
    fill(buffer, updates[name])
    collection.take(name, buffer)
    return buffer


def test_the_next_is_asked_before_what_arrived_is_added(monkeypatch):
    """One contribution's memory is enough, and the next is on its way while that is not free yet."""
    collection, updates = collecting("abc", large=True, monkeypatch=monkeypatch)
    assert collection.next() == ["a"]
    first = arrive(collection, "a", updates)
    vector = first.vector
    assert collection.next() == ["b"]
    assert first.vector is vector  # it waits for its memory to be wanted
    assert collection.next() == []
    second = collection.buffer("b", salt=SALT)
    assert second.vector is vector
    assert len(first.vector) == 0


@pytest.mark.parametrize("large", [True, False])
def test_one_on_its_way_whose_turn_it_is_no_more_is_asked_again(large, monkeypatch):
    """Somebody leaves, so that all begins again, while another's contribution arrives."""
    collection, updates = collecting("abcdef", large=large, monkeypatch=monkeypatch)
    for name in collection.next():
        arrive(collection, name, updates)
    *others, late = collection.next()
    for name in others:
        arrive(collection, name, updates)
    buffer = collection.buffer(late, salt=SALT)
    collection.leave_out("f")
    fill(buffer, updates[late])
    collection.take(late, buffer)
    asked = []
    while pulled := collection.next():
        asked += pulled
        for name in pulled:
            arrive(collection, name, updates)
    assert collection.complete
    assert asked[0] == "a"
    level = Level(2, (1e6, None), Regions((slice(0, 4),)))
    wanted = mean(
        {name: Contribution(np.frombuffer(updates[name], np.float32), 1 + at) for at, name in enumerate("abcde")},
        level=level,
    )
    assert collection.mean().tobytes() == wanted.tobytes()


def test_a_contribution_that_changes_nothing_is_refused(monkeypatch):
    collection, _ = collecting("abc", large=False, monkeypatch=monkeypatch)
    nothing = bytes(16)
    collection.answers["a"] = replace(collection.answers["a"], commitment=commitment(SALT, memoryview(nothing)))
    collection.next()
    with pytest.raises(RoundError, match="changes nothing"):
        arrive(collection, "a", {"a": nothing})


def test_a_contribution_of_more_than_was_declared_is_refused(monkeypatch):
    collection, updates = collecting("abc", large=False, monkeypatch=monkeypatch)
    collection.answers["a"] = replace(collection.answers["a"], norms=(1.99, 0.0))
    collection.next()
    with pytest.raises(RoundError, match="at most what its owner declared"):
        arrive(collection, "a", updates)


def test_the_sum_begins_anew_where_one_that_leaves_changes_what_others_count_for(monkeypatch):
    """``f`` was the second largest: without it the fifth is scaled down to the fourth."""
    collection, updates = collecting("abcdef", large=True, monkeypatch=monkeypatch, weights="uniform")
    while pulled := collection.next():
        for name in pulled:
            if name != "f":
                arrive(collection, name, updates)
    collection.leave_out("f")
    while pulled := collection.next():
        for name in pulled:
            arrive(collection, name, updates)
    values = {name: np.frombuffer(updates[name], np.float32).astype(np.float64) for name in "abcde"}
    values["e"] = values["d"]  # along the same direction, and as long
    assert collection.mean() == pytest.approx(np.mean(list(values.values()), axis=0))


@pytest.mark.parametrize("large", [True, False])
def test_what_is_on_its_way_when_another_draft_takes_others_in_is_used(large, monkeypatch):
    before, updates = collecting("bc", large=large, monkeypatch=monkeypatch)
    on_their_way = {name: before.buffer(name, salt=SALT) for name in before.next()}
    after, updates = collecting("abc", large=large, monkeypatch=monkeypatch)
    after.take_over(before)
    for name, buffer in on_their_way.items():
        assert after.expects(name)
        fill(buffer, updates[name])
        after.take(name, buffer)
    while pulled := after.next():
        for name in pulled:
            arrive(after, name, updates)
    assert after.complete
    alone, _ = collecting("abc", large=large, monkeypatch=monkeypatch)
    while pulled := alone.next():
        for name in pulled:
            arrive(alone, name, updates)
    assert after.mean().tobytes() == alone.mean().tobytes()
